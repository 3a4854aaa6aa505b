"""Where a mask lies on the globe, as GeoJSON wants it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.warp import transform
from shapely.geometry.polygon import orient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from kappamask_stream.extras import MaskJob
    from kappamask_stream.frame import MaskFrame

#: Longest piece of a side, metres: the straight line in degrees between two points leaves the true edge by a third of a
#: metre at 55 degrees north, by less than 2 metres at 83.
_PIECE_M = 3500.0
#: Decimals of degrees, a tenth of a metre: what PROJ's versions agree on.
_DECIMALS = 6
#: An area of more vertices is told by the mask's frame.
_MOST_VERTICES = 5000
_ANTIMERIDIAN = 180.0
_TURN = 360.0

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The outline of a mask in WGS 84.

    Attributes
    ----------
    geometry : GeoJSON Polygon, or MultiPolygon where it is cut at the antimeridian (RFC 7946, section 3.1.9);
        rings go round counter-clockwise.
    bbox : west, south, east, north in degrees; west is more than east across the antimeridian (section 5.2).
    """

    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]


def job_footprint(job: MaskJob) -> Footprint:
    """Return the outline of what a mask shows: of its frame, or of the area of interest on the product."""
    frame = job.frame
    if job.options.aoi is None:
        return footprint(frame)
    ulx = frame.ulx - frame.window.col * frame.gsd_m
    uly = frame.uly + frame.window.row * frame.gsd_m
    height, width = job.product.sizes[frame.gsd_m]
    area = job.options.aoi.on_product(
        name=job.product.name, epsg=frame.epsg, ulx=ulx, uly=uly, height=height, width=width, gsd_m=frame.gsd_m
    )
    # Half a pixel: less is not to be seen in the mask.
    outline = shapely.simplify(area.shape, frame.gsd_m / 2)
    if outline.is_empty or shapely.get_num_coordinates(outline) > _MOST_VERTICES:
        return footprint(frame)
    return _area_footprint(shapely.segmentize(outline, _PIECE_M), frame.epsg) or footprint(frame)


def _area_footprint(shape: shapely.Geometry, epsg: int) -> Footprint | None:
    """Return polygons of a projection in WGS 84, cut at the antimeridian; None of what is no area at its precision."""
    unwrapped = shapely.transform(shape, lambda xy: _degrees(xy, epsg))
    world = shapely.box(-_ANTIMERIDIAN, -90.0, _ANTIMERIDIAN, 90.0)
    pieces = [
        shapely.set_precision(
            shapely.intersection(shapely.transform(unwrapped, _turned(turn)), world), 10.0**-_DECIMALS
        )
        for turn in (-_TURN, 0.0, _TURN)
    ]
    polygons = [orient(part) for piece in pieces for part in shapely.get_parts(piece) if shapely.area(part) > 0]
    if not polygons:
        return None
    united = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
    west, south, east, north = unwrapped.bounds
    geometry = shapely.geometry.mapping(united)
    return Footprint(
        geometry={"type": geometry["type"], "coordinates": _lists(geometry["coordinates"])},
        bbox=_bbox(_normal(west), south, _normal(east), north),
    )


def _turned(turn: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda xy: xy + np.array([turn, 0.0])


def _normal(longitude: float) -> float:
    """Return a longitude between -180 and 180."""
    return (
        longitude - _TURN
        if longitude > _ANTIMERIDIAN
        else longitude + _TURN
        if longitude < -_ANTIMERIDIAN
        else longitude
    )


def _lists(coordinates: Any) -> Any:
    """Return nested tuples of numbers as lists of rounded numbers."""
    if isinstance(coordinates, float):
        return _rounded(coordinates)
    return [_lists(part) for part in coordinates]


def footprint(frame: MaskFrame) -> Footprint:
    """Return the outline of a mask's frame, with as many points as its curved edges need."""
    ring = _outline(frame)
    (west, east), (south, north) = _span(ring, 0), _span(ring, 1)
    for edge in (-_ANTIMERIDIAN, _ANTIMERIDIAN):
        if west < edge < east:
            # What lies beyond the antimeridian goes to the other end of the map.
            west_shift, east_shift = (_TURN, 0.0) if edge < 0 else (0.0, -_TURN)
            pieces = [_clipped(ring, edge, -1, west_shift), _clipped(ring, edge, 1, east_shift)]
            return Footprint(
                geometry={"type": "MultiPolygon", "coordinates": [[_closed(piece)] for piece in pieces]},
                bbox=_bbox(west + west_shift, south, east + east_shift, north),
            )
    return Footprint(geometry={"type": "Polygon", "coordinates": [_closed(ring)]}, bbox=_bbox(west, south, east, north))


def _outline(frame: MaskFrame) -> list[Point]:
    """Return longitude and latitude around the frame, counter-clockwise from its upper-left corner.

    Longitudes are within half a turn of the zone's central meridian, so beyond 180 degrees where the frame is.
    """
    right = frame.ulx + frame.width * frame.gsd_m
    bottom = frame.uly - frame.height * frame.gsd_m
    corners = [(frame.ulx, frame.uly), (frame.ulx, bottom), (right, bottom), (right, frame.uly)]
    eastings, northings = [], []
    for (x, y), (to_x, to_y) in zip(corners, [*corners[1:], corners[0]], strict=True):
        pieces = max(1, math.ceil(max(abs(to_x - x), abs(to_y - y)) / _PIECE_M))
        for piece in range(pieces):
            eastings.append(x + (to_x - x) * piece / pieces)
            northings.append(y + (to_y - y) * piece / pieces)
    points = _degrees(np.column_stack([eastings, northings]), frame.epsg)
    return [(float(lon), float(lat)) for lon, lat in points]


def _degrees(xy: NDArray[np.float64], epsg: int) -> NDArray[np.float64]:
    """Return longitude and latitude of points, float64 ``[n, 2]``; see `_outline`."""
    longitudes, latitudes = (
        np.array(values) for values in transform(f"EPSG:{epsg}", "EPSG:4326", xy[:, 0], xy[:, 1])[:2]
    )
    central = 6 * (epsg % 100) - 183
    return np.column_stack([central + (longitudes - central + _TURN / 2) % _TURN - _TURN / 2, latitudes])


def _clipped(ring: Sequence[Point], edge: float, side: int, shift: float) -> list[Point]:
    """Return the part of a ring west (-1) or east (1) of a meridian that it crosses twice, moved by `shift`."""
    kept: list[Point] = []
    for (lon, lat), (next_lon, next_lat) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if (lon - edge) * side >= 0:
            kept.append((lon + shift, lat))
        if (lon - edge) * (next_lon - edge) < 0:
            kept.append((edge + shift, lat + (next_lat - lat) * (edge - lon) / (next_lon - lon)))
    return kept


def _closed(ring: Sequence[Point]) -> list[list[float]]:
    points = [[_rounded(lon), _rounded(lat)] for lon, lat in ring]
    return [*points, points[0]]


def _span(ring: Sequence[Point], axis: int) -> tuple[float, float]:
    values = [point[axis] for point in ring]
    return min(values), max(values)


def _bbox(west: float, south: float, east: float, north: float) -> tuple[float, float, float, float]:
    return _rounded(west), _rounded(south), _rounded(east), _rounded(north)


def _rounded(degrees: float) -> float:
    return round(degrees, _DECIMALS) + 0.0  # never -0.0
