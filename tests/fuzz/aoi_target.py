"""Areas of interest that people give: `kappamask_stream.aoi.parse`, and where one lies on a product."""

from __future__ import annotations

import numpy as np
import shapely

from kappamask_stream.aoi.parse import parse_aoi
from kappamask_stream.errors import UsageError
from tests.fuzz.told import require_telling

_POLYGON = '{"type":"Polygon","coordinates":[[[-9,52],[-8,52],[-8,53],[-9,53],[-9,52]]]}'
_RING = "((-9 52,-8 52,-8 53,-9 53,-9 52))"


def seeds() -> list[bytes]:
    """Return areas in each form, and broken ones."""
    texts = (
        "-9,52,-8,53",
        "499980,5800000,509980,5900040,EPSG:32629",
        "170,-10,-170,10",
        f"POLYGON{_RING}",
        f"SRID=4326;MULTIPOLYGON({_RING})",
        f"GEOMETRYCOLLECTION(POLYGON{_RING},POINT(1 2))",
        "POLYGON((0 0,1 1,1 0,0 1,0 0))",
        "POLYGON((0 0,nan 1,1e999 0,0 0))",
        _POLYGON,
        f'{{"type":"FeatureCollection","features":[{{"type":"Feature","geometry":{_POLYGON}}}]}}',
        _POLYGON[:-1] + ',"crs":{"type":"name","properties":{"name":"urn:ogc:def:crs:EPSG::32629"}}}',
        _POLYGON[:-1] + ',"crs":{"type":"name","properties":{"name":"http://127.0.0.1:9/x"}}}',
        '{"type":"GeometryCollection","geometries":[' * 40,
        '{"a":' + "9" * 4000 + "}",
        "GEOMETRYCOLLECTION(" * 200,
    )
    return [text.encode() for text in texts]


def large() -> dict[str, bytes]:
    """Return areas that cost much for their length - one that crosses itself, the square - and megabytes that are none."""
    saw = ",".join(f"{-9 + number / 500} {52 + number % 2}" for number in range(500))
    crossed = ",".join(
        f"{-9 + number * 7919 % 5000 / 5000} {52 + number * 104729 % 4999 / 5000}" for number in range(100)
    )
    small = ",".join(f"(({x} 52,{x + 0.4} 52,{x} 53,{x} 52))" for x in range(-180, 179))
    return {
        "a saw": f"POLYGON(({saw},-8 51,-9 52))".encode(),
        "crossings": f"POLYGON(({crossed},-9 52))".encode(),
        "parts": f"MULTIPOLYGON({small})".encode(),
        "digits": b"-9,52,-8," + b"5" * 1_000_000,
        "spaces": b" " * 1_000_000 + b"-9,52,-8,53",
        "brackets": b"POLYGON" + b"(" * 1_000_000,
        "lists in lists": b"{" + b'"a":[' * 200_000,
        "a system": b"SRID=" + b"9" * 1_000_000 + b";POLYGON EMPTY",
    }


def dictionary() -> list[bytes]:
    """Return words of the forms."""
    return [
        b"POLYGON",
        b"MULTIPOLYGON",
        b"GEOMETRYCOLLECTION",
        b"EMPTY",
        b"SRID=",
        b"EPSG:32629",
        b'"coordinates"',
        b'"type"',
    ]


def one_input(data: bytes) -> None:
    """Read an area, whatever it is; what names a file is not looked for."""
    text = data.decode(errors="replace")
    if "/" in text[:1]:
        return
    try:
        area = parse_aoi(text)
    except UsageError as error:
        require_telling(error, "--aoi")
        return
    assert shapely.area(area.geometry) > 0
    assert np.isfinite(area.geometry.bounds).all()
    assert area.geometry.is_valid
    try:
        on = area.on_product(name="P", epsg=32629, ulx=499980, uly=5900040, height=1098, width=1098, gsd_m=100)
    except UsageError:
        return
    assert 0 <= on.window.row < on.window.row_end <= 1098
    assert 0 <= on.window.col < on.window.col_end <= 1098
