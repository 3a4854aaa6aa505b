"""A `Product` out of a STAC Item: what SAFE's metadata says otherwise is taken from the Item, and checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from kappamask_stream.bands import require_place
from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import XML_LIMIT, product_metadata, tile_metadata
from kappamask_stream.names import parse_product_name
from kappamask_stream.product import Product
from kappamask_stream.sources.stac_offsets import decide_offsets
from kappamask_stream.sources.stac_pixels import dark_pixels
from kappamask_stream.sources.stac_source import path_of
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kappamask_stream.metadata import ProductMetadata
    from kappamask_stream.sources.stac_bands import StacItem
    from kappamask_stream.sources.stac_offsets import BandFloor, OffsetDecision
    from kappamask_stream.sources.stac_source import StacItemSource

_DN_PER_UNIT = {"AOT": 1000.0, "WVP": 1000.0}
_DN_PER_REFLECTANCE = 10000.0
_LARGEST_DN = 65535
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-5, 1e-2
_FIRST_WITH_OFFSET = "04.00"


async def open_item_product(source: StacItemSource) -> Product:
    """Read what an Item and the metadata that it links say about a product, and a few blocks to check its offset.

    Raises
    ------
    ProductError
        If that is incomplete or contradicts itself.
    """
    item, listing = source.item, await source.files()
    files = {key: path_of(asset) for key, asset in source.bands.items()}
    metadata, sha256 = await _product_xml(source, listing)
    baseline = item.baseline or (metadata.baseline if metadata else None)
    _require_same(item, metadata, baseline)
    geometry = await _geometry(source, listing)
    floors = []
    # Pixels of JPEG 2000 are ESA's own; before 04.00 there was no offset.
    if source.form == "cog" and (baseline is None or baseline >= _FIRST_WITH_OFFSET):
        floors = await dark_pixels(source, files, listing)
        for _, index in floors:
            require_place(item.where, index.name, index, epsg=geometry.epsg, ulx=geometry.ulx, uly=geometry.uly)
    decision = _decide(source, metadata, baseline, [floor for floor, _ in floors])
    quantification = _quantification(source, metadata)
    return Product(
        source=source,
        name=item.name.text,
        level=item.name.level,
        baseline=baseline or "unknown",
        satellite=metadata.satellite if metadata else f"Sentinel-{item.name.satellite[1:]}",
        tile_id=item.name.tile_id,
        sensing_time=item.name.sensing_time,
        epsg=geometry.epsg,
        ulx=geometry.ulx,
        uly=geometry.uly,
        sizes=MappingProxyType(dict(geometry.sizes)),
        offsets=MappingProxyType(dict(decision.offsets)),
        quantification=MappingProxyType(quantification),
        files=MappingProxyType(files),
        listing=listing,
        # Pixels of JPEG 2000 are those of the SAFE product, and so is the identity of what is made of them.
        metadata_sha256=sha256
        if sha256 is not None and source.form == "jp2"
        else _identity(source, sha256, decision, quantification, geometry),
        notes=(decision.note,) if decision.note else (),
    )


@dataclass(frozen=True, kw_only=True)
class _Geometry:
    epsg: int
    ulx: float
    uly: float
    sizes: Mapping[int, tuple[int, int]]


async def _product_xml(source: StacItemSource, listing: Mapping[str, int]) -> tuple[ProductMetadata | None, str | None]:
    """Read the product's XML, where the Item links it and it is there; returns its SHA-256, too."""
    path = f"MTD_MSI{source.item.name.level}.xml"
    if path not in listing:
        return None, None
    data = await source.read_all(path, limit=XML_LIMIT)
    metadata = await in_thread(None, product_metadata, data, f"{source.label}/{path}")
    return metadata, hashlib.sha256(data).hexdigest()


def _require_same(item: StacItem, metadata: ProductMetadata | None, baseline: str | None) -> None:
    """Refuse the metadata of another product."""
    if metadata is None:
        return
    uri = parse_product_name(metadata.uri)
    pairs = (
        ("level", item.name.level, metadata.level),
        ("tile", item.name.tile_id, uri.tile_id),
        ("time", item.name.sensing_time, uri.sensing_time),
        ("processing baseline", baseline, metadata.baseline),
    )
    for what, said, found in pairs:
        if said != found:
            raise ProductError(
                f"{item.where}: its {what} is {said}, that of the product metadata which it links is {found} "
                f"({metadata.uri[:80]}): they are of two products"
            )


async def _geometry(source: StacItemSource, listing: Mapping[str, int]) -> _Geometry:
    """Return projection, corner and sizes: the Item's, or the granule metadata's where the Item leaves some out."""
    item, assets = source.item, source.bands.values()
    corners = {(asset.place.ulx, asset.place.uly) for asset in assets if asset.place}
    sizes: dict[int, tuple[int, int]] = {}
    for asset in assets:
        if asset.size and sizes.setdefault(asset.gsd_m, asset.size) != asset.size:
            raise ProductError(
                f"{item.where}: bands of {asset.gsd_m} m have {sizes[asset.gsd_m]} and {asset.size} rows and columns"
            )
    if len(corners) > 1:
        raise ProductError(f"{item.where}: its bands begin at the corners {sorted(corners)}, one is expected")
    if item.epsg is not None and corners and sizes.keys() == {asset.gsd_m for asset in assets}:
        ulx, uly = corners.pop()
        return _Geometry(epsg=item.epsg, ulx=ulx, uly=uly, sizes=sizes)
    if "MTD_TL.xml" not in listing:
        raise ProductError(
            f"{item.where} does not say where its pixels lie: proj:code (or proj:epsg), proj:transform and proj:shape "
            "are needed, or a granule_metadata asset"
        )
    data = await source.read_all("MTD_TL.xml", limit=XML_LIMIT)
    tile = await in_thread(None, tile_metadata, data, f"{source.label}/MTD_TL.xml")
    same = tile.tile_id == item.name.tile_id and item.epsg in {None, tile.epsg}
    if not same or corners - {(tile.ulx, tile.uly)} or any(tile.sizes.get(gsd) != size for gsd, size in sizes.items()):
        raise ProductError(
            f"{item.where} is of {item.name.tile_id}, EPSG {item.epsg}, corner {sorted(corners)}, sizes {sizes}; the "
            f"granule metadata which it links of {tile.tile_id}, EPSG {tile.epsg}, corner "
            f"{(tile.ulx, tile.uly)}, sizes {dict(tile.sizes)}: they contradict each other"
        )
    return _Geometry(epsg=tile.epsg, ulx=tile.ulx, uly=tile.uly, sizes=tile.sizes)


def _decide(
    source: StacItemSource, metadata: ProductMetadata | None, baseline: str | None, floors: Sequence[BandFloor]
) -> OffsetDecision:
    declared = dict(metadata.offsets) if metadata else _raster_offsets(source)
    return decide_offsets(
        where=source.label,
        bands=sorted({band for band, _ in source.bands if band.startswith("B")}),
        baseline=baseline,
        declared=declared,
        # The flag is about the COGs that Earth Search makes; the JPEG 2000 files beside them are ESA's.
        applied=source.item.offset_applied if source.form == "cog" else None,
        floors=floors,
    )


def _raster_offsets(source: StacItemSource) -> dict[str, float]:
    """Return band -> offset in DN, of the raster extension's reflectances."""
    found: dict[str, float] = {}
    for (band, _), asset in source.bands.items():
        if asset.offset is None or not band.startswith("B"):
            continue
        scale = asset.scale if asset.scale not in {None, 1.0} else 1 / _DN_PER_REFLECTANCE
        offset = round(asset.offset / scale, 6)
        if abs(offset) > _LARGEST_DN or found.setdefault(band, offset) != offset:
            raise ProductError(
                f"{source.label}: the raster offset of {band} is {offset:g} DN"
                + (f" and {found[band]:g}" if band in found else f", beyond ±{_LARGEST_DN}")
            )
    return found


def _quantification(source: StacItemSource, metadata: ProductMetadata | None) -> dict[str, float]:
    """Return DN per unit: ESA's, else the raster extension's, else what it has always been."""
    if metadata is not None:
        return dict(metadata.quantification)
    found = {band: asset.scale for (band, _), asset in source.bands.items() if band != "SCL"}
    for band, scale in found.items():
        if scale not in {None, 1.0} and not _SMALLEST_SCALE <= scale <= _LARGEST_SCALE:
            raise ProductError(
                f"{source.label}: the raster scale of {band} is {scale:g}, Sentinel-2 has 0.0001 or 0.001"
            )
    # Some catalogues write a scale of 1 where they mean that there is none.
    return {
        band: _DN_PER_UNIT.get(band, _DN_PER_REFLECTANCE) if scale in {None, 1.0} else round(1 / scale, 6)
        for band, scale in found.items()
    }


def _identity(
    source: StacItemSource,
    sha256: str | None,
    decision: OffsetDecision,
    quantification: Mapping[str, float],
    geometry: _Geometry,
) -> str:
    """Hash what decides a mask: not where files lie or how their links are signed, which changes by the hour."""
    ingredients = {
        "product": source.item.name.text,
        "product_xml_sha256": sha256,
        "format": source.form,
        "offsets": dict(decision.offsets),
        "quantification": dict(quantification),
        "place": [geometry.epsg, geometry.ulx, geometry.uly],
        "sizes": {str(gsd): list(size) for gsd, size in geometry.sizes.items()},
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
