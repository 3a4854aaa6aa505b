"""The fields of a product's XML that masks need.

Fields are found by local name, whatever the namespace: versions of the Products Specification Document (PSD) differ
in it. Names of PSD 14.2 (L2A of 2017 and early 2018) are read too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata.hardened_xml import Fields, parse_xml
from kappamask_stream.names import checked_path, is_time

if TYPE_CHECKING:
    from collections.abc import Mapping

#: ``band_id`` of the offset lists -> band.
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")

_LEVELS = {"Level-1C": "L1C", "Level-2A": "L2A", "Level-2Ap": "L2A"}
_OFFSETS = {
    "L1C": ("Radiometric_Offset_List", "RADIO_ADD_OFFSET"),
    "L2A": ("BOA_ADD_OFFSET_VALUES_LIST", "BOA_ADD_OFFSET"),
}
_LARGEST_DN = 65535
#: A reflectance of 1 has so many DN; all products so far say 10000 (AOT and WVP 1000).
_LEAST_QUANTIFICATION = 1.0
_FARTHEST_M = 2e7

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?Z?", re.ASCII)
_UTM = re.compile(r"EPSG:(32[67](0[1-9]|[1-5]\d|60))", re.ASCII | re.IGNORECASE)
_TILE = re.compile(r".*_(T\d{2}[A-Z]{3})(_N\d\d\.\d\d)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ProductMetadata:
    """Fields of MTD_MSIL1C.xml or MTD_MSIL2A.xml.

    Attributes
    ----------
    uri : PRODUCT_URI, as it stands; not checked.
    level : ``L1C`` or ``L2A``.
    baseline : ``04.00``.
    satellite : ``Sentinel-2A``.
    sensing_time : start of the datatake, ``20221005T115411``.
    generation_time : as it stands; None where it is left out.
    offsets : band -> additive offset in DN, for each of the level's bands; 0 where the metadata lists none.
    quantification : band -> DN per unit, with AOT and WVP where they are given.
    image_files : paths of the image files, without extension.
    """

    uri: str
    level: str
    baseline: str
    satellite: str
    sensing_time: str
    generation_time: str | None
    offsets: Mapping[str, float]
    quantification: Mapping[str, float]
    image_files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TileMetadata:
    """Fields of a granule's MTD_TL.xml.

    Attributes
    ----------
    tile_id : ``T29UNU``.
    epsg : a UTM zone's code.
    ulx, uly : upper-left corner of the upper-left pixel, metres.
    sizes : gsd_m -> (rows, columns).
    sensing_time : of the granule, as it stands; None where it is left out.
    sun_zenith_deg, sun_azimuth_deg : means over the tile; None where they are left out.
    """

    tile_id: str
    epsg: int
    ulx: float
    uly: float
    sizes: Mapping[int, tuple[int, int]]
    sensing_time: str | None
    sun_zenith_deg: float | None
    sun_azimuth_deg: float | None


def product_metadata(data: bytes, where: str) -> ProductMetadata:
    """Read the product-level XML.

    Raises
    ------
    ProductError
        Naming file and field, where one is missing, doubled or nonsense.
    """
    fields = Fields(parse_xml(data, where), where)
    level = _LEVELS.get(fields.text("PROCESSING_LEVEL"))
    if level is None:
        raise fields.error("PROCESSING_LEVEL", "Level-1C or Level-2A")
    bands = tuple(band for band in BAND_IDS if band != "B10" or level == "L1C")
    return ProductMetadata(
        uri=fields.text("PRODUCT_URI", "PRODUCT_URI_2A"),
        level=level,
        baseline=fields.matching(r"\d\d\.\d\d", "PROCESSING_BASELINE", wanted="two digits, a point, two digits"),
        satellite=fields.matching(r"Sentinel-2[A-Z]", "SPACECRAFT_NAME", wanted="Sentinel-2 and a letter"),
        sensing_time=_time(fields, "DATATAKE_SENSING_START"),
        generation_time=fields.optional("GENERATION_TIME"),
        offsets=_offsets(fields, level, bands),
        quantification=_quantification(fields, level, bands),
        image_files=tuple(
            checked_path(path, said_by=f"{where}: IMAGE_FILE") for path in fields.texts("IMAGE_FILE", "IMAGE_FILE_2A")
        ),
    )


def tile_metadata(data: bytes, where: str) -> TileMetadata:
    """Read a granule's XML.

    Raises
    ------
    ProductError
        Naming file and field, where one is missing, doubled or nonsense.
    """
    fields = Fields(parse_xml(data, where), where)
    tile = _TILE.fullmatch(fields.text("TILE_ID", "TILE_ID_2A"))
    if tile is None:
        raise fields.error("TILE_ID", "an identifier that ends in the tile, such as _T29UNU_N04.00")
    zone = _UTM.fullmatch(fields.text("HORIZONTAL_CS_CODE"))
    if zone is None:
        raise fields.error("HORIZONTAL_CS_CODE", "a UTM zone, EPSG:32601 to 32660 or 32701 to 32760")
    ulx, uly = _corner(fields)
    sun = fields.inside("Mean_Sun_Angle")
    return TileMetadata(
        tile_id=tile[1],
        epsg=int(zone[1]),
        ulx=ulx,
        uly=uly,
        sizes=_sizes(fields),
        sensing_time=fields.optional("SENSING_TIME"),
        sun_zenith_deg=sun[0].optional_number("ZENITH_ANGLE") if sun else None,
        sun_azimuth_deg=sun[0].optional_number("AZIMUTH_ANGLE") if sun else None,
    )


def _sizes(fields: Fields) -> dict[int, tuple[int, int]]:
    """Return rows and columns of each resolution, which must be of one extent, to less than a pixel."""
    sizes = {gsd_m: (size.count("NROWS"), size.count("NCOLS")) for gsd_m, size in fields.by_resolution("Size").items()}
    finest = min(sizes)
    for gsd_m, size in sizes.items():
        if any(abs(count * gsd_m - fine * finest) >= gsd_m for count, fine in zip(size, sizes[finest], strict=True)):
            raise ProductError(
                f"{fields.where}: Size is {size[0]} x {size[1]} at {gsd_m} m and {sizes[finest][0]} x "
                f"{sizes[finest][1]} at {finest} m, which are not of one extent: the metadata contradicts itself"
            )
    return sizes


def _corner(fields: Fields) -> tuple[float, float]:
    """Return the upper-left corner, which all resolutions must share, and hold the pixel spacing to the resolution."""
    places = fields.by_resolution("Geoposition")
    if places.keys() != fields.by_resolution("Size").keys():
        raise ProductError(f"{fields.where}: Geoposition is given for {sorted(places)} m, Size for other resolutions")
    for gsd_m, place in places.items():
        spacing = place.number("XDIM"), place.number("YDIM")
        if spacing != (gsd_m, -gsd_m):
            raise ProductError(f"{place.where}: XDIM and YDIM are {spacing[0]:g} and {spacing[1]:g}, not ±{gsd_m}")
    corners = {(place.number("ULX"), place.number("ULY")) for place in places.values()}
    if len(corners) != 1 or max(map(abs, *corners)) > _FARTHEST_M:
        raise ProductError(f"{fields.where}: ULX, ULY give the upper-left corners {sorted(corners)}, one is expected")
    return corners.pop()


def _time(fields: Fields, name: str) -> str:
    """Return a time as file names have it."""
    found = _TIME.fullmatch(fields.text(name))
    text = "{}{}{}T{}{}{}".format(*found.groups()[:6]) if found else ""
    if not is_time(text):
        raise fields.error(name, "a time such as 2022-10-05T11:54:11.024Z")
    return text


def _offsets(fields: Fields, level: str, bands: tuple[str, ...]) -> dict[str, float]:
    """Return the additive offset (DN) of each band: all 0, or all that the list gives."""
    container, name = _OFFSETS[level]
    found: dict[str, float] = {}
    for element in fields.inside(name):
        identifier = element.attribute("band_id")
        if identifier not in map(str, range(len(BAND_IDS))):
            raise ProductError(f"{fields.where}: {name} has band_id {identifier[:40]!r}, not 0 to {len(BAND_IDS) - 1}")
        band, value = BAND_IDS[int(identifier)], element.own_number()
        if abs(value) > _LARGEST_DN or found.get(band, value) != value:
            raise ProductError(
                f"{fields.where}: {name} of {band} is {value:g}"
                + (f" and {found[band]:g}" if band in found else f", beyond ±{_LARGEST_DN}")
            )
        found[band] = value
    missing = [band for band in bands if band not in found]
    if missing and (found or fields.inside(container)):
        # A half-read list would leave bands 1000 DN too bright, silently.
        raise ProductError(f"{fields.where}: {container} has no {name} for {', '.join(missing)}")
    return {band: found.get(band, 0.0) for band in bands}


def _quantification(fields: Fields, level: str, bands: tuple[str, ...]) -> dict[str, float]:
    """Return DN per unit of reflectance, and of AOT and WVP where they are given."""
    if level == "L1C":
        return dict.fromkeys(bands, _dn_per_unit(fields, "QUANTIFICATION_VALUE"))
    values = dict.fromkeys(bands, _dn_per_unit(fields, "BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE"))
    for band in ("AOT", "WVP"):
        names = f"{band}_QUANTIFICATION_VALUE", f"L2A_{band}_QUANTIFICATION_VALUE"
        if fields.texts(*names):
            values[band] = _dn_per_unit(fields, *names)
    return values


def _dn_per_unit(fields: Fields, *names: str) -> float:
    value = fields.positive(*names)
    if not _LEAST_QUANTIFICATION <= value <= _LARGEST_DN:
        raise fields.error(names[0], f"{_LEAST_QUANTIFICATION:g} to {_LARGEST_DN}")
    return value
