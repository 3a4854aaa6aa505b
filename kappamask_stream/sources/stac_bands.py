"""A STAC Item read: whose product it is, and which asset is which band. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kappamask_stream.errors import ProductError
from kappamask_stream.names import band_of_file
from kappamask_stream.sources.hrefs import checked_href, shown_url
from kappamask_stream.sources.stac_fields import Node, Place, epsg_of, parse_object, place_of, raster_of
from kappamask_stream.sources.stac_naming import item_product_name, require_one

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.names import ProductName

Format = Literal["cog", "jp2"]

_MOST_ASSETS = 500
#: Keys of Earth Search and stactools; the others call bands by their names.
_COLOURS = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
    "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09", "cirrus": "B10", "swir16": "B11", "swir22": "B12",
    "aot": "AOT", "wvp": "WVP", "scl": "SCL",
}  # fmt: skip
_KEY = re.compile(r"(?P<name>[a-z0-9]+?)(?:[_-](?P<gsd>10|20|60)m)?(?:-jp2)?", re.ASCII)
_BAND = re.compile(r"B\d[\dA]|AOT|WVP|SCL", re.ASCII)
#: As ESA names band files; others copy that.
_FILE = re.compile(r"(?:L2A_)?(?P<tile>T\d{2}[A-Z]{3})_(?P<time>\d{8}T\d{6})_", re.ASCII)
_BASELINE = re.compile(r"\d\d\.\d\d", re.ASCII)
_METADATA = {
    "product_metadata": "product", "product-metadata": "product",
    "granule_metadata": "granule", "granule-metadata": "granule",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BandAsset:
    """An asset that is one band.

    Attributes
    ----------
    key : in the Item.
    band, gsd_m : which band, and the size of its pixels in metres.
    format : ``cog`` or ``jp2``.
    href : where it is, as `hrefs.checked_href` returns it.
    nbytes : of the file; None where the Item does not say.
    scale, offset : of the raster extension, reflectance per DN and reflectance; None where they are left out.
    place, size : of its pixels; None where the Item does not say.
    """

    key: str
    band: str
    gsd_m: int
    format: Format
    href: str
    nbytes: int | None
    scale: float | None
    offset: float | None
    place: Place | None
    size: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class StacItem:
    """What an Item says about a product.

    Attributes
    ----------
    where : the Item's place, for messages.
    name : of the product.
    baseline : processing baseline, ``04.00``; None where neither name nor properties have it.
    epsg : None where the Item does not say it.
    bands : all assets that are bands, COG and JPEG 2000.
    metadata : ``product`` and ``granule`` -> href of ESA's XML, where the Item links it.
    offset_applied : Earth Search's ``boa_offset_applied``; None where it is left out.
    """

    where: str
    name: ProductName
    baseline: str | None
    epsg: int | None
    bands: tuple[BandAsset, ...]
    metadata: Mapping[str, str]
    offset_applied: bool | None

    def of_format(self) -> tuple[Format, dict[tuple[str, int], BandAsset]]:
        """Return the bands of one format, whose radiometry is one: COG where there are any, else JPEG 2000.

        Raises
        ------
        ProductError
            If the Item has no bands, or two files for one band.
        """
        there = {asset.format for asset in self.bands if asset.band.startswith("B")}
        if not there:
            raise ProductError(
                f"{self.where} has no bands of Sentinel-2 among its assets: give an Item of a Sentinel-2 product"
            )
        form: Format = "cog" if "cog" in there else "jp2"
        found: dict[tuple[str, int], BandAsset] = {}
        for asset in self.bands:
            if asset.format == form:
                other = found.setdefault((asset.band, asset.gsd_m), asset)
                if other.href != asset.href:
                    raise ProductError(
                        f"{self.where}: the assets {other.key} and {asset.key} both claim to be {asset.band} at "
                        f"{asset.gsd_m} m"
                    )
        return form, found


def parse_item(data: bytes, where: str, base: str) -> StacItem:
    """Read a STAC Item.

    Parameters
    ----------
    where : its place as it may be shown.
    base : its place, which relative links start from.

    Raises
    ------
    ProductError
        If it is no Item of a Sentinel-2 product, contradicts itself, or links what is not followed.
    """
    item = parse_object(data, where)
    kind = item.text("type")
    if kind != "Feature":
        raise ProductError(f"{where} is a {kind or 'JSON object without type'}: give a single STAC Item (a Feature)")
    properties, assets = item.node("properties"), item.node("assets")
    if len(assets.fields) > _MOST_ASSETS:
        raise ProductError(f"{where} has {len(assets.fields)} assets, at most {_MOST_ASSETS} are read")
    name = item_product_name(item)
    nodes = {key: Node(assets.node(key).fields, f"{where}, asset {key[:40]}") for key in assets.fields}
    bands = [asset for key, node in nodes.items() if (asset := _band(key, node, properties, base, name)) is not None]
    zones = {epsg for node in nodes.values() if (epsg := epsg_of(node, properties)) is not None}
    if len(zones) > 1:
        raise ProductError(f"{where}: its assets lie in {len(zones)} projections ({sorted(zones)}), one is expected")
    return StacItem(
        where=where,
        name=name,
        baseline=_baseline(properties, name),
        epsg=next(iter(zones), None),
        bands=tuple(bands),
        metadata={
            _METADATA[key]: checked_href(_href(node), base, said_by=node.where)
            for key, node in nodes.items()
            if key in _METADATA
        },
        offset_applied=properties.flag("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"),
    )


def self_link(data: bytes, where: str) -> str | None:
    """Return where an Item says that it was published; None where it does not say."""
    links = parse_object(data, where).fields.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "self" and isinstance(link.get("href"), str):
            return str(link["href"])
    return None


def _baseline(properties: Node, name: ProductName) -> str | None:
    said = properties.text("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
    found = {text for text in (said, name.baseline) if text is not None and _BASELINE.fullmatch(text)}
    require_one(properties.where, "processing baseline", found)
    return next(iter(found), None)


def _band(key: str, asset: Node, properties: Node, base: str, name: ProductName) -> BandAsset | None:
    """Read an asset; None where it is no band."""
    parsed = _KEY.fullmatch(key.lower())
    upper = parsed["name"].upper() if parsed else ""
    band = _COLOURS.get(parsed["name"]) if parsed else None
    band = band or (upper if _BAND.fullmatch(upper) else None)
    form = _format(asset) if band is not None else None
    if parsed is None or band is None or form is None:
        return None
    href = checked_href(_href(asset), base, said_by=asset.where)
    named = band_of_file(href.partition("?")[0])
    if named is not None and named[0] != band:
        raise ProductError(f"{asset.where} is {band}, it links a file of {named[0]}: {shown_url(href)[:200]}")
    _require_own(asset, href, name)
    place, size = place_of(asset, properties)
    spacing = asset.first("raster:bands").number("spatial_resolution"), asset.number("raster:spatial_resolution")
    gsds = (place.gsd_m if place else None, *spacing, parsed["gsd"], asset.number("gsd"), named and named[1])
    gsd_m = next((int(gsd) for gsd in gsds if gsd is not None), 0)
    if gsd_m not in {10, 20, 60}:
        raise ProductError(
            f"{asset.where}: pixels of {band} have {gsd_m or 'an unknown number of'} m, not 10, 20 or 60"
        )
    nbytes, (scale, offset) = asset.number("file:size"), raster_of(asset)
    return BandAsset(
        key=key,
        band=band,
        gsd_m=gsd_m,
        format=form,
        href=href,
        nbytes=int(nbytes) if nbytes is not None and 1 <= nbytes < 2**40 else None,
        scale=scale,
        offset=offset,
        place=place,
        size=size,
    )


def _require_own(asset: Node, href: str, name: ProductName) -> None:
    """Refuse a file that is named after another product."""
    file = shown_url(href).rpartition("/")[2]
    found = _FILE.match(file)
    if found is not None and (found["tile"], found["time"]) != (name.tile_id, name.sensing_time):
        raise ProductError(
            f"{asset.where} links {file[:100]}, the Item is of {name.tile_id} at {name.sensing_time}: they are of two "
            "products, look for another copy"
        )


def _format(asset: Node) -> Format | None:
    """Return how an asset is stored: as its type says, else as its name ends."""
    kind = (asset.text("type") or "").lower()
    end = _href(asset).partition("?")[0].lower()
    if kind.startswith("image/tiff") or (not kind.startswith("image/") and end.endswith((".tif", ".tiff"))):
        return "cog"
    is_jp2 = kind.startswith(("image/jp2", "image/jpx")) or (not kind.startswith("image/") and end.endswith(".jp2"))
    return "jp2" if is_jp2 else None


def _href(asset: Node) -> str:
    href = asset.fields.get("href")
    if not isinstance(href, str):
        raise asset.error("href", "a link")
    return href
