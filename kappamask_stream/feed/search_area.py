"""Where to search for the products that a filter wants: polygons that an API understands.

They are wider than the filter, never narrower: what is found is filtered all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from kappamask_stream.errors import UsageError
from kappamask_stream.mgrs import SIDE_M, place_of_tile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kappamask_stream.aoi import AreaOfInterest
    from kappamask_stream.feed.filter import FeedFilter

#: APIs limit what a request may hold, and what a search may take.
_MOST_POINTS, _MOST_TILES = 500, 100
_WGS84 = "EPSG:4326"
_TURN, _HALF_TURN = 360.0, 180.0
_EDGE_POINTS = 21


def search_geometry(wanted: FeedFilter) -> dict[str, Any] | None:
    """Return a GeoJSON MultiPolygon that holds all products that are wanted; None where the filter names no place.

    Raises
    ------
    UsageError
        If an area cannot be told in longitude and latitude.
    """
    if wanted.within is not None:
        parts = _of_area(wanted.within.area)
    elif wanted.tiles and wanted.tiles == wanted.exact_tiles and len(wanted.tiles) <= _MOST_TILES:
        parts = _of_tiles(sorted(wanted.tiles))
    else:
        return None
    return _geojson(parts) if parts else None


def _of_area(area: AreaOfInterest) -> list[shapely.Geometry]:
    parts = list(shapely.get_parts(area.geometry))
    if not area.crs.is_geographic:
        return [box for part in parts for box in _boxes(area.crs.to_string(), part.bounds)]
    if shapely.get_num_coordinates(area.geometry) > _MOST_POINTS:
        parts = [shapely.box(*part.bounds) for part in parts]
    if shapely.get_num_coordinates(shapely.GeometryCollection(parts)) > _MOST_POINTS:
        parts = [shapely.box(*area.geometry.bounds)]
    return parts


def _of_tiles(tiles: Iterable[str]) -> list[shapely.Geometry]:
    places = [place for tile in tiles if (place := place_of_tile(tile)) is not None]
    return [
        box
        for place in places
        for box in _boxes(f"EPSG:{place.epsg}", (place.ulx, place.uly - SIDE_M, place.ulx + SIDE_M, place.uly))
    ]


def _boxes(crs: str, bounds: tuple[float, float, float, float]) -> list[shapely.Geometry]:
    """Return the longitudes and latitudes of a projected box; one over the antimeridian goes on beyond 180."""
    try:
        west, south, east, north = transform_bounds(crs, _WGS84, *bounds, densify_pts=_EDGE_POINTS)
    except RasterioError as error:
        raise UsageError(
            f"--within cannot be told in longitude and latitude ({error}), which a search needs: give it so"
        ) from error
    return [shapely.box(west, south, east + (_TURN if west > east else 0), north)]


def _geojson(parts: list[shapely.Geometry]) -> dict[str, Any]:
    """Write polygons as one MultiPolygon, cut at the antimeridian (RFC 7946, 3.1.9)."""
    united = shapely.union_all(parts)
    world = shapely.box(-_HALF_TURN, -90, _HALF_TURN, 90)
    pieces = [
        shapely.intersection(shapely.transform(united, lambda xy, turn=turn: xy + np.array([turn, 0.0])), world)
        for turn in (-_TURN, 0.0, _TURN)
    ]
    polygons = [p for piece in pieces for p in shapely.get_parts(piece) if p.geom_type == "Polygon" and p.area > 0]
    found: dict[str, Any] = shapely.geometry.mapping(shapely.MultiPolygon(polygons))
    return {"type": "MultiPolygon", "coordinates": _lists(found["coordinates"])}


def _lists(coordinates: Any) -> Any:
    """Return nested tuples as lists, which JSON has."""
    return coordinates if isinstance(coordinates, float) else [_lists(part) for part in coordinates]
