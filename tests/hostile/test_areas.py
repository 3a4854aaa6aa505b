"""Areas of interest of strangers: what a parser of geometries can be made to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SQUARE = {"type": "Polygon", "coordinates": [[[-9, 52], [-8, 52], [-8, 53], [-9, 53], [-9, 52]]]}


def with_crs(name: str) -> str:
    return json.dumps(SQUARE | {"crs": {"type": "name", "properties": {"name": name}}})


def collections(depth: int, inner: str) -> str:
    return '{"type":"GeometryCollection","geometries":[' * depth + inner + "]}" * depth


RING = "((-9 52,-8 52,-8 53,-9 53,-9 52))"
#: What it is -> the text, and what is said.
REFUSED = {
    "collections that overflow a stack (WKT)": (
        "GEOMETRYCOLLECTION(" * 100_000 + "POINT(1 1)" + ")" * 100_000, "brackets 100001 deep, at most 32 are read",
    ),
    "collections in collections (WKT)": (
        "GEOMETRYCOLLECTION(" * 40 + f"POLYGON{RING}" + ")" * 40, "brackets 42 deep, at most 32 are read",
    ),
    "collections in collections (GeoJSON)": (collections(40, json.dumps(SQUARE)), "is no GeoJSON .its collections are nested"),
    "lists in lists": ('{"type":' + "[" * 100_000, "is no GeoJSON"),
    "a number of 5000 digits": ('{"a":' + "9" * 5000 + "}", "is no GeoJSON"),
    "a million digits": ("1" * 1_000_000 + "x", "cannot be read"),
    "a box with a million digits": ("1" * 1_000_000 + ",2,3,4", "cannot be read"),
    "an infinite box": ("-1e999,-1e999,1e999,1e999", "has a coordinate beyond .1e.09, which is no place on Earth"),
    "a huge box": ("-1e300,0,1e300,1", "has a coordinate beyond"),
    "huge coordinates": ("POLYGON((-1e308 -1e308,1e308 1e308,1e308 -1e308,-1e308 1e308,-1e308 -1e308))", "beyond"),
    "infinite coordinates": ("POLYGON((0 0,inf 0,1 1,0 0))", "has a coordinate that is no finite number"),
    "null": (f"POLYGON{RING}\0;rm", "holds a null character"),
    "Arabic digits": ("\u0661,\u0662,\u0663,\u0664", "cannot be read"),
    "a URL of another server": (with_crs("http://evil.example/def/crs/EPSG/0/32629"), "which is no coordinate system"),
    "a URL that only begins as one": (with_crs("http://www.opengis.net.evil.example/def/crs/EPSG/0/32629"), "is no"),
    "a URL with more behind it": (with_crs("http://www.opengis.net/def/crs/EPSG/0/32629/../x"), "is no coordinate system"),
    "a URL's code that is a path": (with_crs("http://www.opengis.net/def/crs/EPSG/0//etc/passwd"), "is no coordinate"),
    "features that are nothing": (json.dumps({"type": "FeatureCollection", "features": [None, None]}), "an area is needed"),
    "a feature that is none": (
        json.dumps({"type": "FeatureCollection", "features": [1, {"type": "Feature", "geometry": SQUARE}]}),
        "one of its features is no object",
    ),
    "a file as a coordinate system": (with_crs("/etc/passwd"), "is in '/etc/passwd', which is no coordinate system"),
    "PROJ's files as a coordinate system": (with_crs("+init=/etc/passwd:x"), "which is no coordinate system known here"),
    "a grid file in parameters": (with_crs("+proj=longlat +nadgrids=/etc/passwd"), "which is no coordinate system"),
    "a megabyte as a coordinate system": (with_crs("x" * 1_000_000), "which is no coordinate system known here"),
    "WKT as a coordinate system": (with_crs('GEOGCS["x"]'), "which is no coordinate system known here"),
    "a code that nobody gave": (with_crs("EPSG:99999999"), "which is no coordinate system known here"),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_area_is_refused_in_words(what: str) -> None:
    text, says = REFUSED[what]
    begun = time.process_time()
    with pytest.raises(UsageError, match=rf"(?s)^--aoi.*{says}") as caught:
        parse_aoi(text)
    assert time.process_time() - begun < 20, "a text of 50,000 digits once took minutes"
    assert len(str(caught.value)) < 1000


def test_stacks_that_overflow_end_no_process() -> None:
    """GEOS goes into collections without a limit; it once ended the process with signal 11."""
    script = "import sys; from kappamask_stream.aoi import parse_aoi; parse_aoi(sys.stdin.read())"
    given = REFUSED["collections that overflow a stack (WKT)"][0]
    ended = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True, check=False)
    assert (ended.returncode, "UsageError" in ended.stderr) == (1, True)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


UTM_29 = {
    "EPSG:32629", "urn:ogc:def:crs:EPSG::32629", "urn:ogc:def:crs:EPSG:9.9.1:32629", "urn:x-ogc:def:crs:EPSG:32629",
    "urn:x-ogc:def:crs:EPSG:6.9:32629", "http://www.opengis.net/def/crs/EPSG/0/32629",
    "https://www.opengis.net/def/crs/EPSG/0/32629", "http://www.opengis.net/gml/srs/epsg.xml#32629",
}  # fmt: skip
DEGREES = {
    "WGS84", "WGS 84", "OGC:CRS84", "urn:ogc:def:crs:OGC:1.3:CRS84", "urn:ogc:def:crs:OGC::CRS84",
    "http://www.opengis.net/def/crs/OGC/1.3/CRS84",
}  # fmt: skip


@pytest.mark.parametrize(("names", "epsg"), [(UTM_29, 32629), (DEGREES, 4326)])
def test_the_names_that_programs_give_coordinate_systems_are_read_as_their_codes(names: set[str], epsg: int) -> None:
    for name in sorted(names):
        assert parse_aoi(with_crs(name)).crs.to_epsg() == epsg, name


def test_a_code_of_the_moon_is_one() -> None:
    for text in (with_crs("IAU_2015:30100"), f"IAU_2015:30100;POLYGON{RING}"):
        assert parse_aoi(text).crs.to_string() == "IAU_2015:30100"


def test_a_feature_that_was_left_out_is_passed_over() -> None:
    text = json.dumps({"type": "FeatureCollection", "features": [None, {"type": "Feature", "geometry": SQUARE}]})
    assert parse_aoi(text).geometry.bounds == (-9, 52, -8, 53)


@pytest.mark.parametrize("form", ["{}", "http://{}/crs.wkt", "https://{}/x", "/vsicurl/http://{}/x", "urn:{}"])
def test_a_coordinate_system_is_not_fetched(listener: socket.socket, form: str) -> None:
    """GDAL fetches a definition from any URL that it gets for one."""
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(UsageError, match="which is no coordinate system known here: give a code such as EPSG:32633"):
        parse_aoi(with_crs(form.format(address)))
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("text", ["4990,5000,50998050,90040,EPSG:32629", "0,0,1,1,EPSG:4978", "4,2,9,4,2301"])
def test_an_area_beyond_its_projection_misses_in_words(text: str) -> None:
    """Found by fuzzing: GDAL's own errors are of no class that rasterio exports."""
    area = parse_aoi(text)
    with pytest.raises(UsageError, match=r"^--aoi misses P"):
        area.on_product(name="P", epsg=32629, ulx=499980, uly=5900040, height=1098, width=1098, gsd_m=100)
