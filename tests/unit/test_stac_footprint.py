"""Outlines on the globe, against pyproj and shapely."""

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Point, shape

from kappamask_stream.frame import MaskFrame
from kappamask_stream.grid import Window
from kappamask_stream.stac import Footprint, footprint


def frame(*, epsg: int, ulx: float, uly: float, size: int = 10980, gsd_m: int = 10) -> MaskFrame:
    return MaskFrame(window=Window(0, 0, size, size), ulx=ulx, uly=uly, gsd_m=gsd_m, epsg=epsg)


def place_of(longitude: float, latitude: float) -> tuple[int, float, float]:
    """EPSG code and corner of a tile there, as the tiling grid would have it."""
    zone = int((longitude + 180) // 6) % 60 + 1
    epsg = (32600 if latitude >= 0 else 32700) + zone
    x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude, latitude)
    return epsg, round(x, -1), round(y, -1)


def unwrapped(outline: Footprint, near: float) -> shapely.Geometry:
    """The outline in one piece, its longitudes within half a turn of `near`."""
    parts = shapely.get_parts(shapely.geometry.shape(outline.geometry)).tolist()
    centred = [shapely.affinity.translate(part, round((near - part.centroid.x) / 360) * 360.0) for part in parts]
    return shapely.union_all(centred)


@pytest.mark.parametrize(("epsg", "ulx", "uly"), [(32629, 499980, 6100020), (32733, 399960, 7900000)])
def test_the_edges_follow_the_tile(epsg: int, ulx: float, uly: float) -> None:
    """Points of the true edge, 97 a side, are nowhere further from the outline than half a metre."""
    outline = footprint(frame(epsg=epsg, ulx=ulx, uly=uly))
    assert outline.geometry["type"] == "Polygon"
    to_utm = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    ring = shapely.segmentize(shape(outline.geometry).exterior, 0.001)
    drawn = shapely.LinearRing(np.column_stack(to_utm.transform(*np.asarray(ring.coords).T)))
    true = shapely.box(ulx, uly - 109800, ulx + 109800, uly).exterior
    assert shapely.hausdorff_distance(drawn, true, densify=0.01) < 0.5
    assert outline.bbox == pytest.approx(shape(outline.geometry).bounds, abs=1e-9)


@given(
    longitude=st.one_of(st.floats(-180, 179.9), st.floats(-180, -175), st.floats(175, 179.9)),
    latitude=st.floats(-56, 83),
)
def test_an_outline_is_valid_geojson_anywhere(longitude: float, latitude: float) -> None:
    epsg, ulx, uly = place_of(longitude, latitude)
    outline = footprint(frame(epsg=epsg, ulx=ulx, uly=uly))
    geometry = shape(outline.geometry)
    assert geometry.is_valid
    for part in shapely.get_parts(geometry):
        assert part.exterior.is_ccw
        west, _, east, _ = part.bounds
        assert -180 <= west < east <= 180
        assert east - west < 60  # no part goes round the world
    # Split or not, it is the same ground: the transformed middle lies in it, the area is the tile's.
    to_degrees = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True)
    middle = to_degrees.transform(ulx + 54900, uly - 54900)
    whole = unwrapped(outline, middle[0])
    assert whole.buffer(1e-5).contains(Point(middle))
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.geometry.polygon.orient(whole.buffer(1e-7)))
    assert area == pytest.approx(109800**2, rel=0.01)
    west, south, east, north = outline.bbox
    assert (west > east) == (outline.geometry["type"] == "MultiPolygon")
    assert south == pytest.approx(geometry.bounds[1])
    assert north == pytest.approx(geometry.bounds[3])


@pytest.mark.parametrize(("longitude", "latitude"), [(179.0, 66.0), (-179.9, -17.0), (179.5, 71.0), (-179.99, 65.0)])
def test_a_tile_over_the_antimeridian_is_cut_there(longitude: float, latitude: float) -> None:
    """Chukotka and Fiji: two parts that meet at 180 degrees, and a box that goes over it."""
    epsg, ulx, uly = place_of(longitude, latitude)
    outline = footprint(frame(epsg=epsg, ulx=ulx - 20_000, uly=uly))
    assert outline.geometry["type"] == "MultiPolygon"
    west_part, east_part = (shape({"type": "Polygon", "coordinates": c}) for c in outline.geometry["coordinates"])
    assert west_part.bounds[2] == 180
    assert east_part.bounds[0] == -180
    assert (outline.bbox[0], outline.bbox[2]) == (west_part.bounds[0], east_part.bounds[2])


def test_a_part_of_an_image_has_its_own_outline() -> None:
    part = MaskFrame(window=Window(5000, 6000, 300, 400), ulx=559980, uly=6050020, gsd_m=10, epsg=32629)
    to_utm = pyproj.Transformer.from_crs(4326, 32629, always_xy=True)
    points = [to_utm.transform(*point) for point in footprint(part).geometry["coordinates"][0]]
    # The longer sides have a point in their middle.
    expected = [
        (559980, 6050020), (559980, 6047020), (561980, 6047020), (563980, 6047020), (563980, 6050020),
        (561980, 6050020), (559980, 6050020),
    ]  # fmt: skip
    assert np.allclose(points, expected, atol=0.1)
