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
