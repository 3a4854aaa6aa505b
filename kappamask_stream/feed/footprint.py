"""Footprints in messages: GeoJSON polygons that may be believed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kappamask_stream.feed.strict_json import is_number

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Those of products have 5 to 50.
_MOST_POINTS = 1000
_FEWEST_OF_RING = 4
#: Longitudes of polygons over the antimeridian may go on beyond 180.
_FARTHEST_EAST, _FARTHEST_NORTH = 360.0, 90.0


def checked_footprint(value: object) -> Mapping[str, Any] | None:
    """Return a Polygon or MultiPolygon with longitudes and latitudes only; None for all else.

    A footprint chooses products and does nothing else, so one that makes no sense counts as one that is not there.
    """
    if not isinstance(value, dict):
        return None
    coordinates = value.get("coordinates")
    if value.get("type") == "Polygon":
        polygons = [_polygon(coordinates)]
    elif value.get("type") == "MultiPolygon" and isinstance(coordinates, list) and coordinates:
        polygons = [_polygon(polygon) for polygon in coordinates]
    else:
        return None
    checked = [polygon for polygon in polygons if polygon is not None]
    if len(checked) != len(polygons) or sum(len(ring) for polygon in checked for ring in polygon) > _MOST_POINTS:
        return None
    return {"type": value["type"], "coordinates": checked if value["type"] == "MultiPolygon" else checked[0]}


def _polygon(rings: object) -> list[list[list[float]]] | None:
    if not isinstance(rings, list) or not rings:
        return None
    checked = [_ring(ring) for ring in rings]
    return None if None in checked else [ring for ring in checked if ring is not None]


def _ring(points: object) -> list[list[float]] | None:
    if not isinstance(points, list) or not _FEWEST_OF_RING <= len(points) <= _MOST_POINTS:
        return None
    checked = [_point(point) for point in points]
    found = [point for point in checked if point is not None]
    return found if len(found) == len(checked) and found[0] == found[-1] else None


def _point(point: object) -> list[float] | None:
    if not isinstance(point, list) or len(point) not in {2, 3} or not all(map(is_number, point)):
        return None
    east, north = float(point[0]), float(point[1])
    return [east, north] if abs(east) <= _FARTHEST_EAST and abs(north) <= _FARTHEST_NORTH else None
