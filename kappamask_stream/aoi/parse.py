"""Read an area of interest from text or a file: WKT, EWKT, GeoJSON, or a bounding box."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rasterio import Env
from rasterio.crs import CRS
from rasterio.errors import CRSError

from kappamask_stream.aoi.area import AreaOfInterest
from kappamask_stream.aoi.crossings import require_few_crossings
from kappamask_stream.errors import UsageError

_LARGEST_FILE = 16 * 1024 * 1024
#: Collections inside collections; GEOS goes into them without asking how deep its stack is.
_DEEPEST = 32
#: No place on Earth is farther from any projection's origin, in metres, feet or degrees.
_FARTHEST = 1e9
_WGS84 = "EPSG:4326"
#: No part of it can match in two ways: a long text that is none costs one look at each character.
_NUMBER = r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?"
_BOX = re.compile(
    rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*(?:,\s*([\w:]+)\s*)?", re.ASCII
)
_EWKT = re.compile(r"\s*(?:SRID=(?P<srid>\d{1,9})|(?P<crs>[A-Za-z]\w*:\w+))\s*;(?P<wkt>.*)", re.DOTALL | re.ASCII)
#: What else a name may be - a URL, a file, parameters that name files - PROJ and GDAL would go and read.
_CODE = re.compile(r"[A-Za-z]\w{0,15}:\w{1,16}", re.ASCII)
_WKT = re.compile(
    r"\s*(?:(?:MULTI)?(?:POINT|LINESTRING|POLYGON)|GEOMETRYCOLLECTION|LINEARRING)\s*(?:Z|M|ZM)?\s*(?:\(|EMPTY)",
    re.IGNORECASE,
)
#: Names of coordinate systems that hold a code: URNs and URLs of OGC (OGC 09-048r3, GML 2). Nothing is fetched.
_NAMED = tuple(
    re.compile(form, re.IGNORECASE | re.ASCII)
    for form in (
        r"urn:(?:x-)?ogc:def:crs:(?P<authority>\w{1,16}):(?:[\d.]{0,16}:)?(?P<code>\w{1,16})",
        r"https?://(?:www\.)?opengis\.net/def/crs/(?P<authority>\w{1,16})/[\d.]{1,16}/(?P<code>\w{1,16})",
        r"https?://(?:www\.)?opengis\.net/gml/srs/(?P<authority>epsg)\.xml#(?P<code>\d{1,16})",
    )
)
#: The same for us: x is the longitude in all of them.
_LIKE_WGS84 = frozenset({"OGC:CRS84", "CRS84", "WGS84", "WGS 84"})
_FORMS = (
    "a bounding box WEST,SOUTH,EAST,NORTH[,EPSG:CODE], WKT, EWKT (SRID=CODE;POLYGON((…))), GeoJSON, or a file with one "
    "of these"
)
_SHOWN = 80
_HALF_TURN = 180.0
#: Neighbouring vertices so many degrees of longitude apart are joined over the antimeridian, the short way.
_CROSSING = 300.0


def parse_aoi(text: str, *, flag: str = "--aoi") -> AreaOfInterest:
    """Read an area of interest.

    Parameters
    ----------
    flag : the option that it was given with, for messages.
    text : ``WEST,SOUTH,EAST,NORTH[,EPSG:CODE]``, WKT or EWKT, GeoJSON (geometry, Feature or FeatureCollection), or the
        path of a file that holds one of these. Without a code coordinates are longitude and latitude in degrees
        (WGS 84). A box whose west is greater than its east crosses the antimeridian, and so does a ring with two
        neighbouring vertices 300 degrees of longitude apart, or more.

    Raises
    ------
    UsageError
        If it is none of these, no area, or of an unknown coordinate system.
    """
    if not text.strip():
        raise UsageError(f"{flag} is empty: give {_FORMS}")
    if (box := _BOX.fullmatch(text)) is not None:
        return _box(box, said=f"{flag} {text.strip()}")
    if text.lstrip().startswith("{"):
        return _geojson(text, said=flag)
    if _EWKT.fullmatch(text) or _WKT.match(text):
        return _wkt(text, said=flag)
    return _file(Path(text), flag)


def _file(path: Path, flag: str) -> AreaOfInterest:
    try:
        with path.open("rb") as file:  # it may be a pipe or a device, whose size nobody knows
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise UsageError(f"{flag} {path} has more than {_LARGEST_FILE} bytes: simplify the geometry")
        content = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no text, or no path (a null byte)
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{flag} {str(path)[:_SHOWN]!r} cannot be read ({reason}): give {_FORMS}") from error
    said = f"{flag} {path}"
    if content.lstrip().startswith("{"):
        return _geojson(content, said=said)
    if (box := _BOX.fullmatch(content)) is not None:
        return _box(box, said=said)
    return _wkt(content, said=said)


def _box(found: re.Match[str], *, said: str) -> AreaOfInterest:
    west, south, east, north = (float(found[i]) for i in range(1, 5))
    crs = _crs(found[5] or _WGS84, said=said)
    if max(map(abs, (west, south, east, north))) > _FARTHEST:
        raise _too_far(said)
    if crs.is_geographic and west > east:
        east += 360.0
    if west >= east or south >= north:
        raise UsageError(
            f"{said} is an empty box: west {west:g} must be less than east {east:g}, "
            f"south {south:g} less than north {north:g}"
        )
    return AreaOfInterest(geometry=shapely.box(west, south, east, north), crs=crs)


def _wkt(text: str, *, said: str) -> AreaOfInterest:
    found = _EWKT.fullmatch(text)
    code, wkt = (_WGS84, text) if found is None else (found["crs"] or f"EPSG:{found['srid']}", found["wkt"])
    crs = _crs(code, said=said)
    if "\0" in wkt:  # where GEOS would stop to read
        raise UsageError(f"{said} holds a null character: give {_FORMS}")
    if _depth(wkt) > _DEEPEST:
        raise UsageError(f"{said} has brackets {_depth(wkt)} deep, at most {_DEEPEST} are read: simplify the geometry")
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # a coordinate that is no number is refused below, in words
            geometry = shapely.from_wkt(wkt.strip())
    except (shapely.errors.ShapelyError, ValueError) as error:
        raise UsageError(f"{said} is no WKT ({error}): give {_FORMS}") from error
    return _area(geometry, crs, said)


def _depth(wkt: str) -> int:
    """Return how deep brackets lie in each other."""
    steps = np.array([1 if character == "(" else -1 for character in wkt if character in "()"], np.int64)
    return int(np.cumsum(steps).max(initial=0))


def _geojson(text: str, *, said: str) -> AreaOfInterest:
    try:
        document = json.loads(text)
        parts = [shapely.from_geojson(json.dumps(part)) for part in _geometries(document)]
    except (ValueError, RecursionError, TypeError, shapely.errors.ShapelyError) as error:
        raise UsageError(f"{said} is no GeoJSON ({error}): give {_FORMS}") from error
    # Joined when each is known to be valid and in one piece, also over the antimeridian.
    return _area(shapely.GeometryCollection(parts), _crs(_crs_of(document), said=said), said)


def _geometries(document: dict[str, Any]) -> list[Any]:
    features = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(features, list):
        raise TypeError("its features are no list")
    features = [feature for feature in features if feature is not None]  # as some programs write what they leave out
    if not all(isinstance(feature, dict) for feature in features):
        raise TypeError("one of its features is no object")
    parts = [f.get("geometry") if f.get("type") == "Feature" else f for f in features]
    if any(_nesting(part) > _DEEPEST for part in parts):
        raise TypeError(f"its collections are nested deeper than {_DEEPEST}")
    return [part for part in parts if part is not None]


def _nesting(part: Any) -> int:
    """Return how deep collections lie in each other; `json` has kept them from being endless."""
    inner = part.get("geometries") if isinstance(part, dict) else None
    return 1 + max(map(_nesting, inner), default=0) if isinstance(inner, list) else 0


def _crs_of(document: dict[str, Any]) -> str:
    """Return the coordinate system of the GeoJSON of 2008; RFC 7946 knows WGS 84 only."""
    member = document.get("crs")
    properties = member.get("properties") if isinstance(member, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    if not isinstance(name, str):
        return _WGS84
    found = next(filter(None, (form.fullmatch(name) for form in _NAMED)), None)
    return f"{found['authority'].upper()}:{found['code']}" if found else name


def _crs(code: str, *, said: str) -> CRS:
    if code.isdigit():
        code = f"EPSG:{code}"
    if code.upper() in _LIKE_WGS84:
        code = _WGS84
    unknown = UsageError(
        f"{said} is in {code[:_SHOWN]!r}, which is no coordinate system known here: give a code such as EPSG:32633"
    )
    if _CODE.fullmatch(code) is None:
        raise unknown
    try:
        with Env():  # what PROJ has to say of it goes to a log instead of the terminal
            return CRS.from_user_input(code)
    except (CRSError, ValueError) as error:
        raise unknown from error


def _area(geometry: shapely.Geometry, crs: CRS, said: str) -> AreaOfInterest:
    geometry = shapely.force_2d(geometry)
    coordinates = shapely.get_coordinates(geometry)
    if not np.isfinite(coordinates).all():
        raise UsageError(f"{said} has a coordinate that is no finite number")
    if np.abs(coordinates).max(initial=0.0) > _FARTHEST:
        raise _too_far(said)
    if crs.is_geographic:
        geometry = _unwrapped(geometry, said)
    try:
        # Two rings of a bow tie become two triangles; what is no area in a collection falls away.
        parts = _flat(geometry)
        require_few_crossings(parts, said)
        valid = [shapely.make_valid(part) for part in parts]
        polygons = [p for part in valid for p in _flat(part) if shapely.area(p) > 0]
        joined = shapely.union_all(polygons)
    except shapely.errors.ShapelyError as error:
        raise UsageError(f"{said} is no area that can be mended ({error}): simplify the geometry") from error
    if not polygons:
        kind = "empty" if geometry.is_empty else f"a {geometry.geom_type}"
        raise UsageError(f"{said} is {kind}, an area is needed: give a polygon or a bounding box")
    return AreaOfInterest(geometry=joined, crs=crs)


def _too_far(said: str) -> UsageError:
    return UsageError(f"{said} has a coordinate beyond ±{_FARTHEST:g}, which is no place on Earth")


def _unwrapped(geometry: shapely.Geometry, said: str) -> shapely.Geometry:
    """Continue polygons that cross the antimeridian beyond 180 degrees east; all the way round is no crossing."""

    def one(polygon: shapely.Polygon) -> shapely.Geometry:
        ring = shapely.get_coordinates(polygon.exterior)[:, 0]
        jump = float(np.abs(np.diff(ring)).max(initial=0.0))
        if jump <= _HALF_TURN or np.ptp(ring) >= 2 * _HALF_TURN:
            return polygon
        if jump < _CROSSING:
            raise UsageError(
                f"{said} has neighbouring vertices {jump:g} degrees of longitude apart: that is a very wide area, or "
                "one over the antimeridian; give more vertices, or split it at 180 degrees"
            )
        return shapely.transform(polygon, lambda xy: np.column_stack([np.mod(xy[:, 0], 360.0), xy[:, 1]]))

    parts = [one(p) if isinstance(p, shapely.Polygon) else p for p in _flat(geometry)]
    return parts[0] if len(parts) == 1 else shapely.GeometryCollection(parts)


def _flat(geometry: shapely.Geometry) -> list[shapely.Geometry]:
    parts = list(shapely.get_parts(geometry))
    if parts == [geometry] or not parts:
        return [geometry]
    return [inner for part in parts for inner in _flat(part)]
