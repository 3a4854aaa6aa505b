"""Areas of interest: every form that people write, brought into a product's projection exactly."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.warp import transform

from kappamask_stream.aoi import AreaOfInterest, ProductArea, parse_aoi
from kappamask_stream.errors import UsageError
from kappamask_stream.grid import Window

#: T29UNU, in miniature: 110 x 110 pixels of 1 km.
IRELAND = {
    "name": "S2A_X",
    "epsg": 32629,
    "ulx": 499980.0,
    "uly": 5800020.0,
    "height": 110,
    "width": 110,
    "gsd_m": 1000,
}
#: T01TCJ in miniature: reaches over the antimeridian from zone 1.
PACIFIC = {
    "name": "S2A_Y",
    "epsg": 32601,
    "ulx": 199980.0,
    "uly": 5000040.0,
    "height": 110,
    "width": 110,
    "gsd_m": 1000,
}


def mask_of(area: ProductArea, product: dict) -> np.ndarray:
    """All pixels of the product's image: True inside."""
    inside = np.zeros((product["height"], product["width"]), bool)
    outside = area.outside(area.window)
    rows, cols = area.window.relative_to(Window(0, 0, 0, 0))
    inside[rows, cols] = True if outside is None else ~outside
    return inside


def naive(product: dict, contains, crs: str) -> np.ndarray:
    """Each pixel's centre, brought into the area's own coordinates, asked one by one."""
    centres = (np.arange(product["height"]) + 0.5) * product["gsd_m"]
    ys, xs = np.meshgrid(product["uly"] - centres, product["ulx"] + centres, indexing="ij")
    lons, lats = transform(f"EPSG:{product['epsg']}", crs, xs.ravel(), ys.ravel())
    return np.array([contains(x, y) for x, y in zip(lons, lats, strict=True)]).reshape(ys.shape)


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for pixels whose centre lies on the edge, to the precision of a vertex per 400 m."""
    assert expected.any()
    assert not expected.all()
    assert (found != expected).sum() <= 2


FORMS = [
    "-8.5,51.9,-7.8,52.2",
    "-8.5, 51.9, -7.8, 52.2, EPSG:4326",
    "POLYGON((-8.5 51.9, -7.8 51.9, -7.8 52.2, -8.5 52.2, -8.5 51.9))",
    "polygon Z((-8.5 51.9 1, -7.8 51.9 2, -7.8 52.2 3, -8.5 52.2 4, -8.5 51.9 1))",
    "SRID=4326;MULTIPOLYGON(((-8.5 51.9, -7.8 51.9, -7.8 52.2, -8.5 52.2, -8.5 51.9)))",
    "OGC:CRS84;POLYGON((-8.5 51.9, -7.8 51.9, -7.8 52.2, -8.5 52.2, -8.5 51.9))",
    '{"type": "Polygon", "coordinates": [[[-8.5, 51.9], [-7.8, 51.9], [-7.8, 52.2], [-8.5, 52.2], [-8.5, 51.9]]]}',
    (
        '{"type": "Feature", "properties": null, "geometry": {"type": "Polygon", "coordinates": '
        "[[[-8.5, 51.9], [-7.8, 51.9], [-7.8, 52.2], [-8.5, 52.2], [-8.5, 51.9]]]}}"
    ),
    (
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": null}, {"type": "Feature", "geometry": '
        '{"type": "Polygon", "coordinates": [[[-8.5, 51.9], [-8, 51.9], [-8, 52.2], [-8.5, 52.2], [-8.5, 51.9]]]}}, '
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": '
        "[[[-8, 51.9], [-7.8, 51.9], [-7.8, 52.2], [-8, 52.2], [-8, 51.9]]]}}]}"
    ),
]


@pytest.mark.parametrize("text", FORMS, ids=range(len(FORMS)))
@pytest.mark.parametrize("as_file", [False, True], ids=["text", "file"])
def test_every_form_is_the_same_area(text: str, tmp_path: Path, *, as_file: bool) -> None:
    if as_file:
        (tmp_path / "area").write_text(text)
        text = str(tmp_path / "area")
    area = parse_aoi(text).on_product(**IRELAND)
    agree(mask_of(area, IRELAND), naive(IRELAND, lambda x, y: -8.5 < x < -7.8 and 51.9 < y < 52.2, "EPSG:4326"))


def test_projected_coordinates_are_read_in_their_system() -> None:
    area = parse_aoi("SRID=3035;POLYGON((3050000 3320000,3110000 3320000,3110000 3390000,3050000 3320000))")
    shape = shapely.Polygon([(3050000, 3320000), (3110000, 3320000), (3110000, 3390000)])
    expected = naive(IRELAND, lambda x, y: shape.contains(shapely.Point(x, y)), "EPSG:3035")
    agree(mask_of(area.on_product(**IRELAND), IRELAND), expected)


def test_geojson_of_2008_may_name_a_system() -> None:
    document = {
        "type": "Polygon",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32629"}},
        "coordinates": [
            [[510000, 5790000], [530000, 5790000], [530000, 5770000], [510000, 5770000], [510000, 5790000]]
        ],
    }
    area = parse_aoi(json.dumps(document)).on_product(**IRELAND)
    assert area.window == Window(10, 10, 21, 21)
    same = parse_aoi("510000,5770000,530000,5790000,EPSG:32629").on_product(**IRELAND)
    assert same.window == area.window


def test_an_edge_is_bent_by_reprojection_and_followed() -> None:
    """Along a parallel, 1.6 degrees of longitude at 52 degrees north: the chord is off by hundreds of metres."""
    area = parse_aoi("-9,52,-7.4,60").on_product(**{**IRELAND, "height": 11000, "width": 11000, "gsd_m": 10})
    west, south, east, _ = area.shape.bounds
    xs = np.linspace(west + 1000, east - 1000, 50)
    edge = shapely.intersection(
        area.shape.boundary, [shapely.LineString([(x, south - 9e3), (x, south + 9e3)]) for x in xs]
    )
    ys = [min(c[1] for c in shapely.get_coordinates(point)) for point in edge]
    _, lats = transform("EPSG:32629", "EPSG:4326", list(xs), ys)
    assert max(abs(np.array(lats) - 52)) * 111_000 < 1  # metres
    assert np.ptp(ys) > 100


@pytest.mark.parametrize(
    "text",
    [
        "179.5,44.2,-179.6,44.9",
        "179.5,44.2,180.4,44.9",
        "-180.5,44.2,-179.6,44.9",
        "POLYGON((179.5 44.2,-179.6 44.2,-179.6 44.9,179.5 44.9,179.5 44.2))",
        (
            "MULTIPOLYGON(((179.5 44.2,180 44.2,180 44.9,179.5 44.9,179.5 44.2)),"
            "((-180 44.2,-179.6 44.2,-179.6 44.9,-180 44.9,-180 44.2)))"
        ),
    ],
)
def test_the_antimeridian_is_crossed(text: str) -> None:
    area = parse_aoi(text).on_product(**PACIFIC)
    expected = naive(PACIFIC, lambda x, y: (x > 179.5 or x < -179.6) and 44.2 < y < 44.9, "EPSG:4326")
    agree(mask_of(area, PACIFIC), expected)


@pytest.mark.parametrize("text", ["170,44,178,46", "-179,44,-170,46", "0,44,1,45"])
def test_one_side_of_the_antimeridian_is_not_the_other(text: str) -> None:
    product = {**PACIFIC, "width": 60}
    with pytest.raises(UsageError, match="misses S2A_Y") as caught:
        parse_aoi(text).on_product(**product)
    assert f"{float(text.split(',', maxsplit=1)[0]):.3f} to" in str(caught.value)


def test_a_miss_says_where_both_are() -> None:
    with pytest.raises(UsageError) as caught:
        parse_aoi("10,20,11,21").on_product(**IRELAND)
    assert str(caught.value) == (
        "--aoi misses S2A_X: the area lies at 10.000 to 11.000 degrees east, 20.000 to 21.000 degrees north, the product "
        "at -9.000 to -7.386 degrees east, 51.351 to 52.350 degrees north"
    )


def test_parts_of_geojson_keep_apart_where_one_crosses_the_antimeridian() -> None:
    crossing = [[179, 44.2], [-179, 44.2], [-179, 44.9], [179, 44.9], [179, 44.2]]
    other = [[-8.5, 51.9], [-7.8, 51.9], [-7.8, 52.2], [-8.5, 52.2], [-8.5, 51.9]]
    collection = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in (crossing, other)
        ],
    }
    several = {"type": "MultiPolygon", "coordinates": [[crossing], [other]]}
    for document in (collection, several):
        area = parse_aoi(json.dumps(document))
        assert area.geometry.area == pytest.approx(2 * 0.7 + 0.7 * 0.3)
        assert area.on_product(**IRELAND).window.height < 60


def test_a_bow_tie_among_overlapping_features_is_mended() -> None:
    tie = [[-8.5, 51.9], [-7.8, 52.2], [-7.8, 51.9], [-8.5, 52.2], [-8.5, 51.9]]
    square = [[-8.4, 51.8], [-8.0, 51.8], [-8.0, 52.1], [-8.4, 52.1], [-8.4, 51.8]]
    document = {"type": "MultiPolygon", "coordinates": [[tie], [square]]}
    assert parse_aoi(json.dumps(document)).geometry.is_valid


def test_mercators_edge_runs_through_a_product() -> None:
    """EPSG:3857 ends at 180 degrees: the same box as in degrees, to a pixel of 1 km, and bent edges followed."""
    xs, ys = transform("EPSG:4326", "EPSG:3857", [179.5, 179.999999], [44.3, 44.8])
    boxed = parse_aoi(f"{xs[0]},{ys[0]},{xs[1]},{ys[1]},EPSG:3857").on_product(
        **{**PACIFIC, "gsd_m": 100, "height": 1100, "width": 1100}
    )
    plain = parse_aoi("179.5,44.3,179.999999,44.8").on_product(
        **{**PACIFIC, "gsd_m": 100, "height": 1100, "width": 1100}
    )
    assert shapely.symmetric_difference(boxed.shape, plain.shape).area / plain.shape.area < 1e-4


def test_a_file_with_brackets_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "map (1).geojson"
    path.write_text("1,2,3,4")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert parse_aoi(path.name).identity == parse_aoi("1,2,3,4").identity


@given(st.integers(0, 2**32))
def test_a_detailed_area_is_cut_before_it_is_drawn(seed: int) -> None:
    """The same pixels as drawing all of it."""
    draw = random.Random(seed)
    centre = (499980 + draw.uniform(0, 11e4), 5800020 - draw.uniform(0, 11e4))
    angles = sorted(draw.uniform(0, 6.283) for _ in range(30))
    star = [
        (centre[0] + draw.uniform(5e3, 6e4) * np.cos(a), centre[1] + draw.uniform(5e3, 6e4) * np.sin(a)) for a in angles
    ]
    from rasterio.crs import CRS
    from rasterio.features import geometry_mask

    shape = shapely.make_valid(shapely.Polygon(star))
    area = AreaOfInterest(geometry=shape, crs=CRS.from_epsg(32629)).on_product(**IRELAND)
    whole = geometry_mask([area.shape], (110, 110), area.transform)
    for row in range(0, 110, 37):
        for col in range(0, 110, 37):
            window = Window(row, col, min(37, 110 - row), min(37, 110 - col))
            found = area.outside(window)
            expected = whole[window.relative_to(Window(0, 0, 0, 0))]
            np.testing.assert_array_equal(np.zeros_like(expected) if found is None else found, expected)


def test_the_whole_world_covers_a_product() -> None:
    for text in ("-180,-89,180,89", "-180,-90,180,90", "POLYGON((-180 -89,180 -89,180 89,-180 89,-180 -89))"):
        area = parse_aoi(text).on_product(**IRELAND)
        assert area.window == Window(0, 0, 110, 110)
        assert area.outside(area.window) is None


def test_an_area_on_the_other_side_of_the_world_in_metres_misses() -> None:
    with pytest.raises(UsageError, match="misses"):
        parse_aoi("SRID=32760;POLYGON((500000 5000000,600000 5000000,600000 5100000,500000 5000000))").on_product(
            **IRELAND
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("POINT(1 2)", "is a Point, an area is needed"),
        ("LINESTRING(1 2, 3 4)", "is a LineString"),
        ("POLYGON EMPTY", "is empty, an area"),
        ("POLYGON((0 0, 1 1", "no WKT"),
        ("SRID=999999;POLYGON((0 0,1 0,1 1,0 0))", "EPSG:999999"),
        ("1,2,3,4,EPSG:x", "EPSG:x"),
        ("5,5,1,9,EPSG:32629", "west 5 must be less than east 1"),
        ("1,9,2,5", "south 9 less than north 5"),
        ("POLYGON((-120 10,80 10,80 20,-120 20,-120 10))", "200 degrees of longitude apart"),
        ('{"type": "FeatureCollection", "features": 5}', "no GeoJSON"),
        ('{"type": "Point", "coordinates": [1, 2], "crs": {"properties": null}}', "an area is needed"),
        ('{"type": "Point", "coordinates": [1, 2], "crs": []}', "an area is needed"),
        ('{"type": "Polygon"', "no GeoJSON"),
        ('{"type": "Nonsense"}', "no GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "is empty"),
        ('{"type": "Polygon", "coordinates": [[["a", 1], [2, 3], [4, 5], ["a", 1]]]}', "no GeoJSON"),
        ("POLYGON((nan 0,1 0,1 1,nan 0))", "no finite number|no WKT"),
        ("no/such/file.geojson", "No such file"),
        ("a\0b", "cannot be read"),
    ],
)
def test_what_is_no_area_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_aoi(text)


def test_large_and_binary_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80" * 10)
    with pytest.raises(UsageError, match="it is no text"):
        parse_aoi(str(tmp_path / "binary"))
    monkeypatch.setattr("kappamask_stream.aoi.parse._LARGEST_FILE", 10)
    (tmp_path / "large").write_text("POLYGON((0 0,1 0,1 1,0 0))")
    with pytest.raises(UsageError, match="has more than 10 bytes"):
        parse_aoi(str(tmp_path / "large"))


def test_a_file_with_an_empty_box_is_named_after_the_option_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "box").write_text("5,5,1,9,EPSG:32629\n")
    with pytest.raises(UsageError, match=rf"^--within {tmp_path}/box is an empty box: west 5"):
        parse_aoi(f"{tmp_path}/box", flag="--within")


def test_a_bow_tie_is_two_triangles() -> None:
    area = parse_aoi("SRID=32629;POLYGON((510000 5790000,530000 5770000,530000 5790000,510000 5770000,510000 5790000))")
    assert area.geometry.area == pytest.approx(2 * 100e6)


def test_identity_is_the_areas_and_not_the_texts() -> None:
    first = parse_aoi("1,2,3,4")
    assert first.identity == parse_aoi("POLYGON((3 4,1 4,1 2,3 2,3 4))").identity
    assert first.identity == parse_aoi("361,2,363,4").identity
    assert first.identity == parse_aoi("1,2,3,4,OGC:CRS84").identity
    assert first.identity != parse_aoi("1,2,3,4.5").identity
    assert first.identity != parse_aoi("1,2,3,4,EPSG:4258").identity


@given(st.integers(0, 2**32))
def test_tiles_that_hold_a_pixel_of_the_area_meet_it(seed: int) -> None:
    draw = random.Random(seed)
    points = [(499980 + draw.uniform(-2e4, 13e4), 5800020 - draw.uniform(-2e4, 13e4)) for _ in range(3)]
    triangle = shapely.Polygon(points)
    if triangle.intersection(shapely.box(499980, 5690020, 609980, 5800020)).area == 0:
        return
    from rasterio.crs import CRS

    area = AreaOfInterest(geometry=triangle, crs=CRS.from_epsg(32629)).on_product(**IRELAND)
    inside = mask_of(area, IRELAND)
    assert not area.meets(Window(0, 0, 0, 10))
    for row in range(0, 110, 22):
        for col in range(0, 110, 22):
            window = Window(row, col, 22, 22)
            if inside[window.relative_to(Window(0, 0, 0, 0))].any():
                assert area.meets(window)
