"""Where a mask lies on the globe, as GeoJSON wants it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rasterio.warp import transform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.frame import MaskFrame

#: Longest piece of a side, metres: the straight line in degrees between two points leaves the true edge by a third of a
#: metre at 55 degrees north, by less than 2 metres at 83.
_PIECE_M = 3500.0
#: Decimals of degrees, a tenth of a metre: what PROJ's versions agree on.
_DECIMALS = 6
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
    longitudes, latitudes = transform(f"EPSG:{frame.epsg}", "EPSG:4326", eastings, northings)[:2]
    central = 6 * (frame.epsg % 100) - 183
    return [
        (central + (lon - central + _TURN / 2) % _TURN - _TURN / 2, lat)
        for lon, lat in zip(longitudes, latitudes, strict=True)
    ]


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
