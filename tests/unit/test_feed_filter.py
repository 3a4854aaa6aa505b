"""Which products a filter lets pass, and what it says of the others."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from kappamask_stream.errors import UsageError
from kappamask_stream.feed import FeedFilter, ProductRef, parse_message
from kappamask_stream.feed.filter_texts import parse_moment
from kappamask_stream.feed.search_area import search_geometry
from kappamask_stream.feed.stac_search import StacSearch
from kappamask_stream.mgrs import SIDE_M, place_of_tile
from kappamask_stream.names import parse_product_name
from tests.unit import feed_messages as feed

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 7, 31, 12, tzinfo=UTC)


def ref(name: str = feed.L2A, **fields: Any) -> ProductRef:
    return ProductRef(name=parse_product_name(name), kind="name", **fields)


def named(
    *, satellite: str = "S2A", level: str = "L2A", time: str = "20221005T115411", baseline: str = "_N0400",
    orbit: int = 23, tile: str = "29UNU",
) -> ProductRef:  # fmt: skip
    return ref(f"{satellite}_MSI{level}_{time}{baseline}_R{orbit:03d}_T{tile}_20221005T164454")


def test_empty_filter_lets_everything_pass() -> None:
    assert FeedFilter.parse() == FeedFilter()
    assert FeedFilter.parse().reason(named()) is None


@pytest.mark.parametrize(
    ("options", "passes", "fails", "said"),
    [
        ({"level": "L2A"}, named(), named(level="L1C"), "its level is L1C, L2A is wanted"),
        ({"tile": ["T29unu"]}, named(), named(tile="29UNV"), "its tile 29UNV is none of those"),
        ({"tile": ["33UUU", "29U*"]}, named(tile="29UQZ"), named(tile="29VNU"), "29VNU"),
        ({"tile": ["29U?U"]}, named(), named(tile="29UNV"), "29UNV"),
        ({"tile": ["1CCV"]}, named(tile="01CCV"), named(), "29UNU"),
        ({"tile": ["1C*"]}, named(tile="01CDV"), named(tile="11CDV"), "11CDV"),
        ({"satellite": ["s2b", "S2C"]}, named(satellite="S2C"), named(), "its satellite is S2A, wanted: S2B, S2C"),
        ({"orbit": [23, 8]}, named(), named(orbit=80), "its relative orbit is 80, wanted: 8, 23"),
        ({"baseline_from": "05.00"}, named(baseline="_N0510"), named(), "its baseline is 04.00, 05.00 or later"),
        ({"baseline_from": "N0400"}, named(), named(baseline="_N0214"), "02.14"),
        ({"baseline_from": "9999"}, named(baseline=""), named(), "04.00"),
        ({"cloud_below": 20}, ref(cloud_cover=20.0), ref(cloud_cover=20.1), "its cloud cover is 20.1 %, at most 20 %"),
        ({"cloud_below": 0}, ref(cloud_cover=None), ref(cloud_cover=1.0), "at most 0 %"),
        ({"since": "2022-10-05"}, named(), named(time="20221004T235959"), "before 2022-10-05T00:00:00Z (--since)"),
        ({"until": "2022-10-05"}, named(time="20221005T235959"), named(time="20221006T000000"), "(--until)"),
        ({"until": "20221005"}, named(time="20221005T235959"), named(time="20221006T000000"), "(--until)"),
        ({"since": "2022-10-05T13:54:11+02:00"}, named(), named(time="20221005T115410"), "2022-10-05T11:54:11Z"),
        ({"until": "2022-10-05T11:54:11"}, named(), named(time="20221005T115412"), "after 2022-10-05T11:54:11Z"),
        ({"since": "30d"}, named(time="20260701T120000"), named(time="20260701T115959"), "before 2026-07-01T12:00:00Z"),
        ({"since": "12h", "until": "1H"}, named(time="20260731T030000"), named(time="20260731T113000"), "(--until)"),
        ({"since": "4w"}, named(time="20260703T120000"), named(time="20260703T115959"), "2026-07-03T12:00:00Z"),
    ],
)  # fmt: skip
def test_each_option(options: dict[str, Any], passes: ProductRef, fails: ProductRef, said: str) -> None:
    wanted = FeedFilter.parse(**options)
    assert wanted.reason(passes, NOW) is None
    reason = wanted.reason(fails, NOW)
    assert reason is not None
    assert said in reason


def test_relative_time_moves_on_with_the_clock() -> None:
    wanted, product = FeedFilter.parse(since="30d"), named(time="20260701T120000")
    assert wanted.reason(product, NOW) is None
    assert wanted.reason(product, NOW + timedelta(seconds=1)) is not None
    assert wanted.reason(named(time=datetime.now(UTC).strftime("%Y%m%dT%H%M%S"))) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cloud_below": 101}, "--cloud-below is 101"),
        ({"cloud_below": -0.5}, "--cloud-below is -0.5"),
        ({"cloud_below": float("nan")}, "--cloud-below is nan"),
        ({"orbit": [0]}, "--orbit is 0"),
        ({"orbit": [144]}, "--orbit is 144"),
        ({"satellite": ["Landsat"]}, "--satellite is 'Landsat'"),
        ({"baseline_from": "5"}, "--baseline-from is '5'"),
        ({"tile": ["29UN"]}, "'29UN' is no tile"),
        ({"tile": ["29UNUX"]}, "is no tile"),
        ({"tile": ["é*"]}, "is no tile"),
        ({"since": "yesterday"}, "--since is 'yesterday'"),
        ({"until": "2022-W40"}, "--until is '2022-W40': a day"),
        ({"since": "2022W40"}, "--since is '2022W40': a day"),
        ({"until": "2022-w40-7T10:00"}, "--until is '2022-w40-7T10:00': a day"),
        ({"until": "2026-13-01"}, "--until is '2026-13-01'"),
        ({"since": "2026-07-02", "until": "2026-07-01"}, "--since 2026-07-02 is later than --until 2026-07-01"),
        ({"since": "1d", "until": "2d"}, "is later than"),
        ({"within": ""}, "--within is empty"),
        ({"within": "nowhere"}, "--within 'nowhere' cannot be read"),
        ({"within": "3,2,1,0"}, "--within 3,2,1,0 is an empty box"),
        ({"within": "1,2,3,4,EPSG:x"}, "--within 1,2,3,4,EPSG:x is in 'EPSG:x'"),
        ({"within": "POLYGON((--aoi"}, "--within is no WKT"),
        ({"within": '{"type": "Polygon"'}, "--within is no GeoJSON"),
        ({"within": "POLYGON((-120 10,80 10,80 20,-120 20,-120 10))"}, "--within has neighbouring vertices 200"),
        ({"tiles_file": "/nowhere/tiles"}, "--tiles-file /nowhere/tiles cannot be read: No such file"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        FeedFilter.parse(**options)
    assert said in str(caught.value)


def test_search_from_the_first_day_to_the_last_has_a_time() -> None:
    wanted = FeedFilter.parse(since="0001-01-01", until="9999-12-31")
    search = StacSearch.of_filter("https://x.example", ("c",), wanted)
    assert search.parameters == {"datetime": "0001-01-01T00:00:00Z/9999-12-31T23:59:59Z"}


@given(st.text(max_size=30))
def test_any_text_for_a_time_is_one_or_refused_in_words(text: str) -> None:
    try:
        moment = parse_moment(text, flag="--since", is_end=True)
    except UsageError:
        return
    assert moment.at(NOW).tzinfo is UTC


def test_file_of_tiles(tmp_path: Path) -> None:
    file = tmp_path / "tiles.txt"
    file.write_text("\ufeff# Ireland\n29UNU\n\n  T29UNV \n30U*\n")
    wanted = FeedFilter.parse(tile=["33UUU"], tiles_file=str(file))
    assert wanted.tiles == {"29UNU", "29UNV", "30U*", "33UUU"}
    assert wanted.exact_tiles == {"29UNU", "29UNV", "33UUU"}
    file.write_text("# none yet\n")
    with pytest.raises(UsageError, match="names no tile"):
        FeedFilter.parse(tiles_file=str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="it is no text"):
        FeedFilter.parse(tiles_file=str(file))


# Where tiles are.


@pytest.mark.parametrize(
    ("tile", "epsg", "ulx", "uly"),
    [
        # As products' metadata says: T29UNU and T33UUU are this project's own samples.
        ("T29UNU", 32629, 499980, 5900040), ("T33UUU", 32633, 300000, 5900040), ("T32VKM", 32632, 199980, 6700020),
        ("T28PHQ", 32628, 799980, 1000020),
    ],
)  # fmt: skip
def test_corner_of_a_tile(tile: str, epsg: int, ulx: int, uly: int) -> None:
    place = place_of_tile(tile)
    assert place is not None
    assert (place.epsg, place.ulx, place.uly) == (epsg, ulx, uly)


@given(st.integers(1, 60), st.integers(-79, 83), st.integers(1, 99), st.integers(0, 99))
def test_square_that_a_point_is_named_by_lies_where_the_point_does(zone: int, south: int, east: int, rest: int) -> None:
    """MGRS the other way round: from a point to its square's letters, with PROJ for the projection."""
    longitude = zone * 6 - 186 + east * 0.06
    latitude = south + rest * 0.01
    to_utm = Transformer.from_crs("EPSG:4326", f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}", always_xy=True)
    easting, northing = to_utm.transform(longitude, latitude)
    band = "CDEFGHJKLMNPQRSTUVWXX"[int((latitude + 80) // 8)]
    column = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3][int(easting // 100_000) - 1]
    row = "ABCDEFGHJKLMNPQRSTUV"[(int(northing // 100_000) + (0 if zone % 2 else 5)) % 20]
    place = place_of_tile(f"T{zone:02d}{band}{column}{row}")
    assert place is not None
    assert place.epsg == int(to_utm.target_crs.to_epsg())
    assert -100 <= easting - place.ulx <= 100_100
    assert -100 <= place.uly - northing <= 100_100


@pytest.mark.parametrize("tile", ["T00UNU", "T61UNU", "T29INU", "T29UAU", "T29UNW", "T29ZNU", "", "T29UN"])
def test_squares_that_mgrs_does_not_have(tile: str) -> None:
    assert place_of_tile(tile) is None


# Areas.

#: T29UNU spans 9.00 to 7.36 degrees west, 52.24 to 53.25 degrees north.
INSIDE, BESIDE = "-8.6,52.5,-8.5,52.6", "-6,52.5,-5,52.6"


def test_area_is_met_by_a_tile_where_the_message_has_no_footprint() -> None:
    assert FeedFilter.parse(within=INSIDE).reason(named()) is None
    assert FeedFilter.parse(within=BESIDE).reason(named()) == "it lies outside the area (--within)"


@pytest.mark.parametrize("form", ["Polygon", "MultiPolygon"])
def test_area_is_met_by_the_footprint_where_there_is_one(form: str) -> None:
    ring = [feed.square(-8.8, 52.4, 0.5)]
    product = dataclasses.replace(
        named(), footprint={"type": form, "coordinates": ring if form == "Polygon" else [ring]}
    )
    assert FeedFilter.parse(within=INSIDE).reason(product) is None
    assert FeedFilter.parse(within="-8.2,52.5,-8.1,52.6").reason(product) == "it lies outside the area (--within)"
    assert FeedFilter.parse(within="-8.2,52.5,-8.1,52.6").reason(named()) is None


@pytest.mark.parametrize(
    "footprint",
    [
        {"type": "Polygon", "coordinates": [[[0, 0], [0, 0], [0, 0], [0, 0]]]},
        {"type": "Polygon", "coordinates": [feed.square(-100, -50, 100)]},
    ],
)
def test_footprint_that_makes_no_sense_leaves_the_tile_to_decide(footprint: dict[str, Any]) -> None:
    product = dataclasses.replace(named(), footprint=footprint)
    assert FeedFilter.parse(within=BESIDE).reason(product) is not None
    assert FeedFilter.parse(within=INSIDE).reason(product) is None


def test_tile_that_does_not_exist_passes_an_area() -> None:
    assert FeedFilter.parse(within=BESIDE).reason(named(tile="29UNW")) is None


@pytest.mark.parametrize(
    "ring",
    [
        [[179.5, -17], [180.5, -17], [180.5, -16], [179.5, -16], [179.5, -17]],
        [[-180.5, -17], [-179.5, -17], [-179.5, -16], [-180.5, -16], [-180.5, -17]],
        [[179.5, -17], [-179.5, -17], [-179.5, -16], [179.5, -16], [179.5, -17]],
    ],
)
def test_footprint_over_the_antimeridian_in_any_way_of_writing(ring: list[list[float]]) -> None:
    # T60KZG and T01KAB lie on both sides of 180 degrees at 17 degrees south.
    footprint = {"type": "Polygon", "coordinates": [ring]}
    for tile in ("60KZG", "01KAB"):
        product = dataclasses.replace(named(tile=tile), footprint=footprint)
        assert FeedFilter.parse(within="179.6,-16.9,179.9,-16.1").reason(product) is None, tile
        assert FeedFilter.parse(within="179.9,-16.9,-179.9,-16.1").reason(product) is None, tile
        assert FeedFilter.parse(within="178.0,-16.9,178.9,-16.1").reason(product) is not None, tile


def test_area_in_another_coordinate_system() -> None:
    assert FeedFilter.parse(within="520000,5830000,530000,5840000,EPSG:32629").reason(named()) is None
    assert FeedFilter.parse(within="520000,5730000,530000,5740000,EPSG:32629").reason(named()) is not None


def test_captured_footprint_lies_on_its_tile(shared_dir: Path) -> None:
    body = (shared_dir / "data" / "messages" / "cdse_push_notification_2024.json").read_text()
    (product,) = parse_message(body)
    assert FeedFilter.parse(within="-12.27,8.05,-12.2,8.1").reason(product) is None
    on_tile_beside_swath = "-11.95,8.05,-11.9,8.1"
    assert FeedFilter.parse(within=on_tile_beside_swath).reason(product) == "it lies outside the area (--within)"
    assert FeedFilter.parse(within=on_tile_beside_swath).reason(dataclasses.replace(product, footprint=None)) is None


# Where to search.


def searched(**options: Any) -> Any:
    found = search_geometry(FeedFilter.parse(**options))
    assert found is None or found["type"] == "MultiPolygon"
    return None if found is None else shapely.from_geojson(json.dumps(found))


def test_search_is_where_the_area_is() -> None:
    assert searched(within=INSIDE).equals(shapely.box(-8.6, 52.5, -8.5, 52.6))
    assert searched() is None
    assert searched(tile=["29U*"]) is None


def test_search_over_the_antimeridian_is_cut_there() -> None:
    found = searched(within="179,-17,-179,-16")
    assert found.equals(shapely.MultiPolygon([shapely.box(179, -17, 180, -16), shapely.box(-180, -17, -179, -16)]))


def test_search_of_a_projected_area_holds_it() -> None:
    found = searched(within="520000,5830000,530000,5840000,EPSG:32629")
    corners = Transformer.from_crs("EPSG:32629", "EPSG:4326", always_xy=True)
    for x, y in [(520000, 5830000), (530000, 5840000), (525000, 5835000)]:
        assert found.buffer(1e-9).contains(shapely.Point(corners.transform(x, y)))
    assert found.area < 0.03


def test_search_of_an_area_with_very_many_corners_is_simpler_and_holds_it(tmp_path: Path) -> None:
    rough = shapely.Point(10, 50).buffer(1, quad_segs=1000)
    file = tmp_path / "area.wkt"
    file.write_text(rough.wkt)
    found = searched(within=str(file))
    assert found.contains(rough.buffer(-1e-6))
    assert shapely.get_num_coordinates(found) <= 500


@pytest.mark.parametrize("tile", ["29UNU", "60KZG", "01KAB", "33XWJ"])
def test_search_of_a_tile_holds_its_corners(tile: str) -> None:
    found, place = searched(tile=[tile]), place_of_tile(tile)
    assert place is not None
    to_degrees = Transformer.from_crs(f"EPSG:{place.epsg}", "EPSG:4326", always_xy=True)
    for x in (place.ulx, place.ulx + SIDE_M // 2, place.ulx + SIDE_M):
        for y in (place.uly, place.uly - SIDE_M):
            assert found.buffer(1e-4).contains(shapely.Point(to_degrees.transform(x, y)))
