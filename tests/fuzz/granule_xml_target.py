"""A granule's XML, MTD_TL.xml: `kappamask_stream.metadata.tile_metadata`, and whether it is the product's."""

from __future__ import annotations

import math

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import product_metadata, require_agreement, tile_metadata
from kappamask_stream.names import parse_product_name
from tests.fuzz.told import require_telling
from tests.fuzz.xml_edits import edited, edits
from tests.unit.safe_product import SafeProduct

_PRODUCT = SafeProduct()
_TEMPLATE, _NAME = _PRODUCT.tile_xml().encode(), parse_product_name(_PRODUCT.name)
_METADATA = product_metadata(_PRODUCT.product_xml().encode(), "MTD")
#: Real files have 600 KB, nearly all of it angles that are not read.
LONGEST = 1 << 17
_VALUES = (
    b"EPSG:32760",
    b"EPSG:32661",
    b"499980",
    b"600000",
    b"1e400",
    b"-60",
    b"65536",
    b"60",
    b"",
    b"<b/>120",
    b"10980",
)


def seeds() -> list[bytes]:
    """Return a whole file and edits of it."""
    return [_TEMPLATE, b"<a/>", *(edits((number, text)) for number in range(4, 40) for text in _VALUES)]


def large() -> dict[str, bytes]:
    """Return files near the limits of 8 MB, 50,000 elements and as many attributes."""
    size = b'<Size resolution="10"><NROWS>120</NROWS><NCOLS>240</NCOLS></Size>'
    place = (
        b'<Geoposition resolution="20"><ULX>499980</ULX><ULY>5900040</ULY><XDIM>20</XDIM><YDIM>-20</YDIM></Geoposition>'
    )
    row = b"<VALUES>" + b" ".join([b"57.8123"] * 23) + b"</VALUES>"
    grids = b'<Viewing_Incidence_Angles_Grids bandId="1" detectorId="2"><Zenith>%s</Zenith></Viewing_Incidence_Angles_Grids>'
    angles, end = grids % (row * 23), b"</Tile_Angles>"
    assert size in _TEMPLATE
    assert place in _TEMPLATE
    return {
        "sizes": _TEMPLATE.replace(size, size * 16_600),
        "places": _TEMPLATE.replace(place, place * 9_900),
        "angles of 13 bands and 12 detectors": _TEMPLATE.replace(end, angles * 156 + end),
        "angles of 8 MB": _TEMPLATE.replace(end, angles * 1700 + end),
        "elements in each other": _TEMPLATE.replace(size, (b"<a>" * 50 + b"</a>" * 50) * 990 + size),
        "a number of 8 MB": _TEMPLATE.replace(b">499980<", b">" + b"4" * 8_380_000 + b"<", 1),
    }


def dictionary() -> list[bytes]:
    """Return words of these files."""
    return [
        b"resolution",
        b"Geoposition",
        b"Size",
        b"NROWS",
        b"ULX",
        b"XDIM",
        b"HORIZONTAL_CS_CODE",
        b"TILE_ID",
        b"EPSG:327",
    ]


def one_input(data: bytes) -> None:
    """Read a granule's XML, whatever it is, and hold it against the product's name."""
    try:
        found = tile_metadata(edited(_TEMPLATE, data), "MTD_TL")
    except ProductError as error:
        require_telling(error, "MTD_TL")
        return
    assert found.epsg // 100 in {326, 327}
    assert 1 <= found.epsg % 100 <= 60
    assert all(map(math.isfinite, (found.ulx, found.uly)))
    extents = {gsd_m: tuple(count * gsd_m for count in size) for gsd_m, size in found.sizes.items()}
    assert extents.keys() <= {10, 20, 60}
    assert all(
        abs(one[axis] - other[axis]) < 120 for one in extents.values() for other in extents.values() for axis in (0, 1)
    )
    try:
        require_agreement("P", _NAME, _METADATA, found, "MTD_TL")
    except ProductError:
        return
    assert (found.tile_id, found.epsg) == ("T29UNU", 32629)
    assert abs(found.ulx - 499980) <= 100
