"""A Sentinel-2 product: what its metadata says and where its bands are."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import XML_LIMIT, product_metadata, tile_metadata
from kappamask_stream.names import parse_product_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.sources import Source

_PRODUCT_XML = re.compile(r"MTD_MSIL(1C|2A)\.xml")
_GRANULE_XML = re.compile(r"GRANULE/[^/]+/MTD_TL\.xml")
#: `T29UNU_20221005T115411_B02_10m` (L2A) or `T46RER_20210908T042701_B02` (L1C), in any folder of IMG_DATA.
_BAND_FILE = re.compile(
    r"(?:L2A_)?T\d{2}[A-Z]{3}_(?P<sensing>\d{8}T\d{6})_(?P<band>B\d[\dA]|AOT|WVP|SCL)(?:_(?P<gsd>\d0)m)?"
)
_L1C_GSD = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product whose metadata has been read; pixels are not touched.

    Attributes
    ----------
    source : its files.
    name : without ``.SAFE``.
    level : ``L1C`` or ``L2A``.
    baseline : processing baseline, e.g. ``04.00``.
    satellite : as the metadata names it, e.g. ``Sentinel-2A``.
    tile_id : e.g. ``T29UNU``.
    sensing_time : as in file names, e.g. ``20221005T115411``.
    epsg, ulx, uly : projection and upper-left corner of the upper-left pixel, metres.
    sizes : gsd_m -> (rows, columns).
    offsets : band -> additive offset in DN, 0 where the metadata lists none.
    quantification : band (AOT and WVP too) -> DN per unit.
    files : (band, gsd_m) -> path in the source; not all need exist.
    metadata_sha256 : of the product-level XML.
    """

    source: Source
    name: str
    level: str
    baseline: str
    satellite: str
    tile_id: str
    sensing_time: str
    epsg: int
    ulx: float
    uly: float
    sizes: Mapping[int, tuple[int, int]]
    offsets: Mapping[str, float]
    quantification: Mapping[str, float]
    files: Mapping[tuple[str, int], str]
    listing: Mapping[str, int]
    metadata_sha256: str

    def band_path(self, band: str, gsd_m: int) -> str:
        """Return the path of a band's file.

        Raises
        ------
        ProductError
            If the product does not have it, saying what it has.
        """
        path = self.files.get((band, gsd_m))
        if path is not None and path in self.listing:
            return path
        others = sorted(g for (b, g), p in self.files.items() if b == band and p in self.listing)
        has = f"it has {band} at {', '.join(map(str, others))} m only" if others else f"it has no {band} at all"
        where = f" (expected {path})" if path else ""
        raise ProductError(
            f"{self.source.label} has no file of {band} at {gsd_m} m{where}; {has}: the product is incomplete, "
            "fetch it again"
        )


async def open_product(source: Source) -> Product:
    """Read a product's metadata.

    Raises
    ------
    ProductError
        If it is no product, or its metadata is incomplete, damaged or contradicts itself.
    """
    listing = await source.files()
    product_xml, granule_xml = _metadata_paths(source.label, listing)
    product_data, granule_data = await asyncio.gather(
        source.read_all(product_xml, limit=XML_LIMIT), source.read_all(granule_xml, limit=XML_LIMIT)
    )
    # Parsing a megabyte of XML would hold the loop for tens of milliseconds.
    metadata = await asyncio.to_thread(product_metadata, product_data, f"{product_xml} of {source.label}")
    tile = await asyncio.to_thread(tile_metadata, granule_data, f"{granule_xml} of {source.label}")
    name = parse_product_name(metadata.uri)
    if name.level != metadata.level:
        raise ProductError(f"{product_xml} of {source.label}: {metadata.uri} is said to be {metadata.level}")
    return Product(
        source=source,
        name=name.text,
        level=metadata.level,
        baseline=metadata.baseline,
        satellite=metadata.satellite,
        tile_id=name.tile_id,
        sensing_time=name.sensing_time,
        epsg=tile.epsg,
        ulx=tile.ulx,
        uly=tile.uly,
        sizes=tile.sizes,
        offsets=metadata.offsets,
        quantification=metadata.quantification,
        files=_band_files(metadata.image_files, listing),
        listing=listing,
        metadata_sha256=hashlib.sha256(product_data).hexdigest(),
    )


def _metadata_paths(label: str, listing: Mapping[str, int]) -> tuple[str, str]:
    """Find the two XML files, or say what the directory is instead."""
    products = [path for path in listing if _PRODUCT_XML.fullmatch(path)]
    granules = [path for path in listing if _GRANULE_XML.fullmatch(path)]
    if not products:
        inside = sorted({path.split("/")[0] for path in listing if ".SAFE/" in path})
        remedy = f"give {label}/{inside[0]}" if inside else "give the .SAFE directory itself"
        raise ProductError(f"{label} has no MTD_MSIL1C.xml or MTD_MSIL2A.xml at its top: it is no product; {remedy}")
    if len(products) > 1 or len(granules) != 1:
        raise ProductError(
            f"{label} has {len(products)} product metadata files and {len(granules)} granules (GRANULE/*/MTD_TL.xml); "
            "products of one granule are read (the format since December 2016)"
        )
    return products[0], granules[0]


def _band_files(image_files: tuple[str, ...], listing: Mapping[str, int]) -> dict[tuple[str, int], str]:
    """Map (band, gsd_m) to paths: those that the metadata lists, then those that are there."""
    listed = [f"{path}.jp2" for path in image_files if not path.startswith("/") and ".." not in path.split("/")]
    there = [path for path in listing if path.startswith("GRANULE/") and "/IMG_DATA/" in path and path.endswith(".jp2")]
    files: dict[tuple[str, int], str] = {}
    for path in (*listed, *there):
        found = _BAND_FILE.fullmatch(PurePosixPath(path).stem)
        if found is None:
            continue
        band = found["band"]
        gsd = int(found["gsd"]) if found["gsd"] else _L1C_GSD.get(band)
        if gsd is not None and (files.get((band, gsd)) not in listing):
            files[band, gsd] = path
    return files
