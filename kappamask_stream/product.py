"""A Sentinel-2 product: what its metadata says and where its bands are."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import XML_LIMIT, product_metadata, remarks, require_agreement, tile_metadata
from kappamask_stream.names import ProductName, band_of_file, parse_product_name, scene_of_file
from kappamask_stream.sources import SubSource
from kappamask_stream.sources.stac_source import StacItemSource
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kappamask_stream.metadata import ProductMetadata
    from kappamask_stream.sources import Source

T = TypeVar("T")

_PRODUCT_XML = re.compile(r"(?:(?P<folder>.+)/)?MTD_MSIL(?:1C|2A)\.xml")
_GRANULE_XML = re.compile(r"GRANULE/[^/]+/MTD_TL\.xml")
#: Before December 2016 a product held all granules of a datatake, under other names.
_OLD_XML = re.compile(r"(?:GRANULE/[^/]+/)?S2[A-Z]_\w{4}_MTD_\w+\.xml")


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product whose metadata has been read; pixels are not touched.

    Attributes
    ----------
    source : its files; read through this one, the place that was given may be the folder around it.
    name : without ``.SAFE``, as PRODUCT_URI says: the same wherever the product lies.
    level : ``L1C`` or ``L2A``, as the metadata says.
    baseline : processing baseline, e.g. ``04.00``.
    satellite : e.g. ``Sentinel-2A``.
    tile_id : e.g. ``T29UNU``.
    sensing_time : as in file names, e.g. ``20221005T115411``.
    epsg, ulx, uly : projection and upper-left corner of the upper-left pixel, metres.
    sizes : gsd_m -> (rows, columns).
    offsets : band -> additive offset in DN, 0 where the metadata lists none.
    quantification : band (AOT and WVP too, where given) -> DN per unit.
    files : (band, gsd_m) -> path in the source; not all need be there: ask `band_path`.
    listing : path -> size in bytes, all files that are there.
    metadata_sha256 : of the product-level XML: the product's identity in fingerprints.
    notes : what people should know, e.g. that the directory's name says something else than the metadata.
    allow_coarser : True lets a model take a band that is there only coarser than it asks, its pixels replicated.
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
    offsets: Mapping[str, float] = field(repr=False)
    quantification: Mapping[str, float] = field(repr=False)
    files: Mapping[tuple[str, int], str] = field(repr=False)
    listing: Mapping[str, int] = field(repr=False)
    metadata_sha256: str
    notes: tuple[str, ...] = ()
    allow_coarser: bool = False

    def band_path(self, band: str, gsd_m: int) -> str:
        """Return the path of a band's JPEG 2000 file in `source`.

        Raises
        ------
        ProductError
            If the product does not have it; says what is missing and what there is.
        """
        path = self.files.get((band, gsd_m))
        if path is not None and path in self.listing:
            return path
        there = sorted(gsd for (name, gsd), at in self.files.items() if name == band and at in self.listing)
        other = next((p for p in self.listing if path and p.rpartition(".")[0] == path.rpartition(".")[0]), None)
        if other is not None:
            raise ProductError(f"{self.source.label} has {other}, but {band} is read from JPEG 2000 files only: {path}")
        bands = sorted({name for (name, gsd), at in self.files.items() if gsd == gsd_m and at in self.listing})
        raise ProductError(
            f"{self.source.label} has no file of {band} at {gsd_m} m"
            + (f" ({path})" if path else "")
            + (f"; it has {band} at {', '.join(f'{gsd} m' for gsd in there)}" if there else "")
            + (f"; at {gsd_m} m it has {', '.join(bands)}" if bands else f"; it has nothing at {gsd_m} m")
            + (": the product is incomplete, fetch it again" if path else ": its metadata lists no such file either")
        )


async def open_product(source: Source) -> Product:
    """Read a product's metadata; of its bands only the names.

    Raises
    ------
    ProductError
        If it is no product, or its metadata is incomplete, damaged or contradicts itself.
    """
    if isinstance(source, StacItemSource):
        from kappamask_stream.sources.stac_product import open_item_product

        return await open_item_product(source)
    source = await product_source(source)
    listing = await source.files()
    product_xml, granule_xml = _metadata_paths(source.label, listing)
    try:
        async with asyncio.TaskGroup() as tasks:
            product = tasks.create_task(_read_xml(source, product_xml, product_metadata))
            granule = tasks.create_task(_read_xml(source, granule_xml, tile_metadata))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    (metadata, sha256), (tile, _) = product.result(), granule.result()
    name, notes = _name(source.label, product_xml, metadata)
    require_agreement(source.label, name, metadata, tile, granule_xml)
    return Product(
        source=source,
        name=name.text,
        level=metadata.level,
        baseline=metadata.baseline,
        satellite=metadata.satellite,
        tile_id=tile.tile_id,
        sensing_time=name.sensing_time,
        epsg=tile.epsg,
        ulx=tile.ulx,
        uly=tile.uly,
        sizes=MappingProxyType(dict(tile.sizes)),
        offsets=MappingProxyType(dict(metadata.offsets)),
        quantification=MappingProxyType(dict(metadata.quantification)),
        files=MappingProxyType(_band_files(source.label, name, metadata.image_files, listing, granule_xml)),
        listing=listing,
        metadata_sha256=sha256,
        notes=(*notes, *remarks(name, metadata)),
    )


def is_read(path: str) -> bool:
    """Tell what masks are made from, bands and the XML of product and granule, from whatever else lies in a product."""
    is_xml = ("/" not in path and _PRODUCT_XML.fullmatch(path)) or _GRANULE_XML.fullmatch(path)
    return bool(is_xml) or ("/IMG_DATA/" in path and _band_of_image(path) is not None)


def _band_of_image(path: str) -> tuple[str, int] | None:
    """Return band and ground sampling distance of a JPEG 2000 file; macOS puts a second one, ``._NAME``, beside it."""
    name = path.rpartition("/")[2]
    return band_of_file(path) if name.lower().endswith(".jp2") and not name.startswith("._") else None


async def product_source(source: Source) -> Source:
    """Return the source whose top level is the product's: `source`, or the only product folder in it.

    Raises
    ------
    ProductError
        If there is none, or there are several; says what was given and what to give.
    """
    listing = await source.files()
    folders = {found["folder"] or "" for path in listing if (found := _PRODUCT_XML.fullmatch(path))}
    if "" in folders:
        return source
    if len(folders) == 1:
        return SubSource(source, folders.pop())
    if folders:
        first = ", ".join(sorted(folders)[:3]) + (", …" if len(folders) > 3 else "")  # noqa: PLR2004
        raise ProductError(f"{source.label} holds {len(folders)} products ({first}): give each by itself")
    raise ProductError(f"{source.label} is no Sentinel-2 product: {_what_it_is(source.label, listing)}")


def _what_it_is(label: str, listing: Mapping[str, int]) -> str:
    """Guess what people gave instead of a product, and say the remedy."""
    inner = re.match(r"(.*?\.SAFE)/.", label, re.IGNORECASE)
    if inner is not None:
        return f"it is a folder inside one, give {inner[1]}"
    if not listing:
        return "it is empty"
    if any(_OLD_XML.fullmatch(path) for path in listing):
        return "it has the format from before December 2016, with many granules, which is not read"
    if "tileInfo.json" in listing:
        return "it is a copy of a tile folder of AWS's buckets: give s3://BUCKET/tiles/…/ itself, or a SAFE directory"
    return "MTD_MSIL1C.xml or MTD_MSIL2A.xml is missing; give the .SAFE directory itself, or fetch the product again"


def _metadata_paths(label: str, listing: Mapping[str, int]) -> tuple[str, str]:
    """Return the paths of the product's and its one granule's XML."""
    products = sorted(path for path in listing if "/" not in path and _PRODUCT_XML.fullmatch(path))
    if len(products) > 1:
        raise ProductError(f"{label} has {' and '.join(products)}: they are two products, keep them apart")
    granules = sorted(path for path in listing if _GRANULE_XML.fullmatch(path))
    if not granules:
        old = any(_OLD_XML.fullmatch(path) for path in listing)
        remedy = "the format from before December 2016 is not read" if old else "fetch the product again"
        raise ProductError(f"{label} has no GRANULE/*/MTD_TL.xml: {remedy}")
    if len(granules) > 1:
        raise ProductError(
            f"{label} has {len(granules)} granules ({granules[0]}, {granules[1]}, …); products of one granule are read "
            "(the format since December 2016)"
        )
    return products[0], granules[0]


async def _read_xml(source: Source, path: str, parse: Callable[[bytes, str], T]) -> tuple[T, str]:
    """Read and parse an XML file; returns its fields and its SHA-256."""
    data = await source.read_all(path, limit=XML_LIMIT)
    # Half a megabyte of XML would hold the event loop for 10 ms.
    fields = await in_thread(None, parse, data, f"{source.label}/{path}")
    return fields, hashlib.sha256(data).hexdigest()


def _name(label: str, path: str, metadata: ProductMetadata) -> tuple[ProductName, tuple[str, ...]]:
    """Return the product's name as the metadata says, else as its directory does, and notes where they differ."""
    folder = _folder_name(label)
    try:
        name = parse_product_name(metadata.uri)
    except ProductError as error:
        if folder is None:
            raise ProductError(f"{label}/{path}: PRODUCT_URI {error}") from error
        return folder, (f"PRODUCT_URI is {metadata.uri[:80]!r}, the directory's name is used instead",)
    said = (name.level, name.tile_id, name.sensing_time)
    if folder is not None and said != (folder.level, folder.tile_id, folder.sensing_time):
        return name, (f"the directory is named {folder.text}, its metadata says {name.text}: read as the latter",)
    return name, ()


def _folder_name(label: str) -> ProductName | None:
    try:
        return parse_product_name(label.rstrip("/").rpartition("/")[2])
    except ProductError:
        return None


def _band_files(
    label: str, name: ProductName, image_files: Iterable[str], listing: Mapping[str, int], granule_xml: str
) -> dict[tuple[str, int], str]:
    """Map (band, gsd_m) to paths: as the metadata lists them, or else as they are found in IMG_DATA."""
    files: dict[tuple[str, int], str] = {}
    for path in (path if path.lower().endswith(".jp2") else f"{path}.jp2" for path in image_files):
        key = band_of_file(path)
        if key is not None and files.setdefault(key, path) != path:
            raise ProductError(
                f"{label}: IMAGE_FILE names {files[key]} and {path} for {key[0]} at {key[1]} m: the metadata "
                "contradicts itself, fetch the product again"
            )
    folder = granule_xml.removesuffix("MTD_TL.xml") + "IMG_DATA/"
    found: dict[tuple[str, int], str] = {}
    for path in listing:
        key = _band_of_image(path) if path.startswith(folder) else None
        if key is None or files.get(key) in listing:
            continue
        if key in found:
            raise ProductError(f"{found[key]} and {path} both claim to be {key[0]} at {key[1]} m: remove one")
        found[key] = path
    files |= found
    for path in files.values():
        if scene_of_file(path) not in (None, (name.tile_id, name.sensing_time)):
            raise ProductError(f"{label}: {path} is no file of {name.text}: files of two products are mixed")
    return files
