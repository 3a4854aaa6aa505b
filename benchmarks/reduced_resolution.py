"""Files of 10 m at half their resolution for csmask, against means of 2 x 2 pixels: masks first, then what it costs.

    benchmarks/reduced_resolution.py L1C.SAFE ... [--stand-in L2A.SAFE ... [--stand-in-gsd 60]] [--json FILE]

* **L1C products** (`kappamask-stream synth --level L1C`): `csmask_l1c` and `csmask_l1c_reduced` by `kappamask-stream
  run`; the share of equal pixels, cloud against the truth beside the product, and the CPU seconds of decoding each
  needed codestream tile once, taking turns.
* **Stand-ins**: an L2A product whose files of some resolution (60: ESA's own pixels) are taken for 10 m ones, and
  Sen2Cor's classes for the truth. `csmask_l2a` sees blue, green, red and near infrared as means of 2 x 2 (`means`), as
  the low-pass band stands in the file (`low-pass`), and moved by a quarter of a pixel (`recentred`, as the reduced
  model does); both short-wave bands are means in all three.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from full_product import command, labels_of

from kappamask_stream.bench.floor import compressed_units, decode_floor
from kappamask_stream.evaluation import Confusion, crosswalk_table
from kappamask_stream.grid import TileGrid, Window, source_window
from kappamask_stream.inference import TileRequest, TritonClient
from kappamask_stream.jp2 import ImagecodecsDecoder, ReducedBand, index_bands
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.opening import opened_product
from kappamask_stream.planning import Layout, plan_decoding
from kappamask_stream.s3 import Stores
from kappamask_stream.server import lease_local_server
from kappamask_stream.settings import load_settings
from kappamask_stream.sources import DirectorySource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

MODELS = ("csmask_l1c", "csmask_l1c_reduced")
FINE, COARSE = ("B02", "B03", "B04", "B8A"), ("B11", "B12")
#: As server_models.recentring has it, which the client must not import.
QUARTER = {-1: -1 / 64, 0: 49 / 64, 1: 17 / 64, 2: -1 / 64}
#: Of the stand-in products: baseline 04.00.
OFFSET, QUANTIFICATION = -1000.0, 10000.0
CLOUD, MISSING = 4, 5


def cloud_scores(mask: NDArray[np.uint8], labels: NDArray[np.uint8], crosswalk: str) -> dict[str, float | None]:
    """Compare with labels of half the mask's pixel size; any kind of cloud is cloud."""
    confusion = Confusion()
    confusion.add(crosswalk_table(crosswalk)[labels], mask.repeat(2, axis=0).repeat(2, axis=1))
    scores = confusion.scores(3, CLOUD)
    return {"precision": scores.precision, "recall": scores.recall}


def compared(masks: dict[str, NDArray[np.uint8]], labels: NDArray[np.uint8], crosswalk: str) -> dict[str, Any]:
    """Compare masks with the first of them and with labels."""
    first = next(iter(masks.values()))
    figures: dict[str, Any] = {}
    for name, mask in masks.items():
        there = first != MISSING
        figures[name] = {
            "agreement": float((mask == first)[there].mean()),
            "no data, pixels": int((mask == MISSING).sum()),
            "cloud": cloud_scores(mask, labels, crosswalk),
        }
        print(f"  {name}: {figures[name]}")
    return figures


def pixels_of(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        pixels: NDArray[Any] = file.read(1)
    return pixels


@asynccontextmanager
async def connected(model: str) -> AsyncIterator[TritonClient]:
    """Connect to the local server, which stays: the next part needs it again."""
    async with lease_local_server(model=model, env=load_settings().server_env, keep=True) as server:
        client = await TritonClient.connect(f"grpc://{server.grpc_address}", model)
        async with client:
            yield client


async def contract_of(model: str) -> ModelContract:
    async with connected(model) as client:
        return client.contract


async def decoding(product_path: Path, contracts: list[ModelContract], rounds: int) -> dict[str, dict[str, float]]:
    """Return the least CPU seconds of decoding what each model needs, in one thread."""
    figures: dict[str, dict[str, float]] = {}
    async with Stores() as stores, opened_product(str(product_path), stores) as product:
        plans = {}
        for contract in contracts:
            layout = Layout.of(product, contract, MaskOptions())
            plan = await plan_decoding(product, contract, layout.read)
            plans[contract.name] = plan, await compressed_units(product.source, plan)
    for _ in range(rounds):
        for contract in contracts:
            floor = await decode_floor(*plans[contract.name], threads=1)
            before = figures.get(contract.name, {}).get("cpu_s", float("inf"))
            figures[contract.name] = {
                "cpu_s": min(before, floor.cpu_s),
                "megapixels": floor.megapixels,
                "mb_a_tile_on_the_wire": contract.tile_bytes / 1e6,
            }
    print(f"  decoding: {figures}")
    return figures


async def measured(product: Path, rounds: int, work: Path) -> dict[str, Any]:
    """Mask an L1C product both ways and compare."""
    contracts = [await contract_of(model) for model in MODELS]
    labels, crosswalk = labels_of(product)
    masks = {}
    for model in MODELS:
        arguments: tuple[object, ...] = ("run", product, "--model", model, "--output", work / model, "--overwrite")
        result = await asyncio.to_thread(command, *arguments)
        masks[model] = pixels_of(Path(result["output"]))
    return {
        "masks": compared(masks, pixels_of(labels), crosswalk),
        "decoding": await decoding(product, contracts, rounds),
    }


def means(pixels: NDArray[np.uint16]) -> NDArray[np.float32]:
    height, width = pixels.shape
    squares = pixels.astype(np.float32).reshape(height // 2, 2, width // 2, 2)
    found: NDArray[np.float32] = squares.mean(axis=(1, 3))
    return found


def moved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Move an image down by a quarter of a pixel, as the served graph does."""
    padded = np.pad(values, ((1, 2), (0, 0)), mode="edge")
    beside = {at: padded[1 + at : 1 + at + len(values)] for at in QUARTER}
    total = sum(np.float32(weight) * np.where(beside[at] == 0, values, beside[at]) for at, weight in QUARTER.items())
    return np.where(values == 0, np.float32(0), total)


async def low_pass_of(product: Path, paths: list[str]) -> list[NDArray[np.float32]]:
    """Read files at half their resolution as the client does."""
    source, bands = DirectorySource(product), []
    for path, index in (await index_bands(source, paths)).items():
        band = ReducedBand(index)
        pixels = np.zeros((band.height, band.width), np.float32)
        for tile in band.tiles:
            parts = [await source.read(path, *part) for part in tile.parts]
            place = tile.window.relative_to(Window(0, 0, band.height, band.width))
            pixels[place] = band.decode_tile(tile, parts, ImagecodecsDecoder())
        bands.append(pixels)
    return bands


async def stand_in(product: Path, gsd_m: int) -> dict[str, Any]:
    """Compare three inputs made of an L2A product's files of one resolution."""
    folder = next(product.glob(f"GRANULE/*/IMG_DATA/R{gsd_m}m"))
    files = {file.stem.split("_")[-2]: file for file in folder.glob(f"*_{gsd_m}m.jp2")}
    coarse = [means(pixels_of(files[band])) for band in COARSE]
    fine = [means(pixels_of(files[band])) for band in FINE]
    low = await low_pass_of(product, [files[band].relative_to(product).as_posix() for band in FINE])
    scenes = {"means": fine, "low-pass": low, "recentred": [moved(moved(band).T).T for band in low]}
    no_data = ~np.stack(fine + coarse).any(axis=0)
    masks = {}
    async with connected("csmask_l2a") as client:
        for name, bands in scenes.items():
            scene = np.floor(np.stack(bands + coarse) + np.float32(0.5)).clip(0).astype(np.uint16)
            masks[name] = await masked(client, scene)
            masks[name][no_data] = MISSING
    return compared(masks, pixels_of(files["SCL"]), "scl")


async def masked(client: TritonClient, scene: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Mask a scene in memory, uint16 ``[bands, height, width]``, tile by tile as `crop` does."""
    (group,), (bands, height, width) = client.contract.inputs, scene.shape
    image, limit = Window(0, 0, height, width), asyncio.Semaphore(8)
    mask = np.full((height, width), MISSING, np.uint8)
    offset, scale = np.full(bands, OFFSET, np.float32), np.full(bands, 1 / QUANTIFICATION, np.float32)

    async def one(tile: Any) -> None:
        wanted = source_window(tile, group)
        common = wanted.intersection(image)
        pixels = np.zeros((bands, group.tile, group.tile), np.uint16)
        pixels[:, *common.relative_to(wanted)] = scene[:, *common.relative_to(image)]
        if not pixels.any() or tile.core.is_empty:
            return
        request = TileRequest(name=f"tile {tile.index}", tensors={group.tensor: pixels}, offset=offset, scale=scale)
        async with limit:
            answer = await client.infer(request)
        mask[tile.core.relative_to(image)] = answer.labels[tile.core.relative_to(tile.window)]

    async with asyncio.TaskGroup() as tasks:
        for tile in TileGrid.of(client.contract, height, width):
            tasks.create_task(one(tile))
    return mask


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"products": {}, "stand-ins": {}}
    for product in arguments.products:
        print(product.name)
        figures["products"][product.name] = await measured(product, arguments.rounds, arguments.work)
    for product in arguments.stand_in:
        name = f"{product.name}, {arguments.stand_in_gsd} m"
        print(name)
        figures["stand-ins"][name] = await stand_in(product, arguments.stand_in_gsd)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", nargs="*", type=Path, help="L1C products with their truth beside them")
    parser.add_argument("--stand-in", nargs="*", default=[], type=Path, help="L2A products")
    parser.add_argument(
        "--stand-in-gsd", type=int, choices=(20, 60), default=60, help="metres of the files taken for 10 m ones"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of decoding")
    parser.add_argument("--work", type=Path, default=Path("bench-output/reduced"), help="for the masks")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
