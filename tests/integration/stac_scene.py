"""A synthetic product published as a STAC Item: as COGs in the way of Earth Search, or as the JPEG 2000 of its SAFE."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.shutil import copy as copy_dataset

from kappamask_stream.bands import choose_files, fitted
from kappamask_stream.grid import TileGrid
from kappamask_stream.jp2 import DecodePlan, TileStream, bands_of, index_bands
from tests.unit.cog_files import write_cog
from tests.unit.stac_items import BAND_KEYS, earth_search

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.product import Product
    from tests.stream.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Published:
    """Files by path, and the Item that links them relative to itself; `shift` is what was added to the DN."""

    files: dict[str, bytes]
    item: dict[str, Any]
    shift: int

    def with_properties(self, **properties: Any) -> dict[str, bytes]:
        """Return the files with the Item among them, some of its properties replaced (None: left out)."""
        said = {**self.item["properties"], **properties}
        item = {**self.item, "properties": {key: value for key, value in said.items() if value is not None}}
        return {**self.files, "item.json": json.dumps(item).encode()}


def publish_cogs(scene: Scene, folder: Path, *, shift: int) -> Published:
    """Make COGs of a product's JPEG 2000, `shift` added to the DN of reflectance bands, as Earth Search does (-1000)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for band, gsd_m in BAND_KEYS.values():
        source = scene.band_file(band, gsd_m)
        with rasterio.open(source) as file:
            pixels, place = file.read(1).astype(np.int64), file.transform
        if band.startswith("B") and shift:
            pixels = np.where(pixels == 0, 0, np.maximum(pixels + shift, 1))
        path = folder / f"{band}.tif"
        if band == "B08":  # a real COG: overviews, leaders, 15 bits as in the JPEG 2000
            plain = write_cog(
                folder / "plain.tif", pixels.astype(np.uint16), nbits=15, transform=place, crs=_crs(source)
            )
            copy_dataset(plain, path, driver="COG", compress="deflate", blocksize="128")
        else:
            options = {"SPARSE_OK": True, "nodata": 0, "predictor": 2} if band != "SCL" else {}
            dtype = np.uint8 if band == "SCL" else np.uint16
            write_cog(path, pixels.astype(dtype), transform=place, crs=_crs(source), **options)
        files[f"cogs/{band}.tif"] = path.read_bytes()
    item = earth_search(
        "./cogs/{band}.tif", name=scene.name, side_10m=600, corner=(place.c, place.f), epsg=_crs(source).to_epsg()
    )
    return Published(files=files, item=item, shift=shift)


def _crs(path: Path) -> Any:
    with rasterio.open(path) as file:
        return file.crs


async def tiles_of(product: Product, contract: ModelContract) -> list[dict[str, NDArray[np.uint16]]]:
    """Return the pixels of all tiles of the contract's grid; zeros where a tile is empty."""
    files = choose_files(product, contract, allow_coarser=True)
    opened = await index_bands(product.source, [file.path for file in files.values()])
    indexes = {key: fitted(opened[file.path], file, key[1]) for key, file in files.items()}
    bands = bands_of(contract, indexes, {key: file.path for key, file in files.items()})
    plan = DecodePlan.of(bands, TileGrid.of(contract, *product.sizes[contract.gsd_m]))
    zeros = {g.tensor: np.zeros((len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs}
    with ThreadPoolExecutor(2) as executor:
        async with TileStream(product.source, plan, executor=executor, workers=2) as stream:
            return [tile.tensors or zeros async for tile in stream]


def without(contract: ModelContract, *bands: str) -> ModelContract:
    """Return a contract that does not ask for these bands."""
    inputs = tuple(
        replace(group, bands=tuple(band for band in group.bands if band not in bands)) for group in contract.inputs
    )
    channels = tuple(band for group in inputs for band in group.bands)
    return replace(contract, inputs=inputs, channels=channels, divisors=(1.0,) * len(channels))
