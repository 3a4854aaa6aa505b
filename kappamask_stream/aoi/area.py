"""An area of interest, and what it is on one product: a polygon in the product's projection, windows, pixels."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask
from rasterio.transform import Affine
from rasterio.warp import transform

from kappamask_stream.errors import UsageError
from kappamask_stream.grid import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: An edge, straight in its own coordinate system, is bent by reprojection: it gets so many vertices per product width.
_VERTICES = 256
#: The neighbourhood of a product in which edges are reprojected, as a share of its size: beyond it they may leave the
#: domain of the projection.
_MARGIN = 0.1
_FULL_TURN = 360.0
#: Neighbouring points of a product's outline that are so many times farther apart than others lie on two edges.
_JUMP = 100


@dataclass(frozen=True, kw_only=True)
class AreaOfInterest:
    """Polygons in some coordinate system.

    Attributes
    ----------
    geometry : Polygon or MultiPolygon, valid, 2D; x is longitude or easting. Longitudes may pass 180.
    crs : its coordinate system.
    """

    geometry: shapely.Geometry = field(repr=False)
    crs: CRS

    @property
    def identity(self) -> str:
        """SHA-256 of coordinates and coordinate system: the same for the same area, in whatever form it was given."""
        digest = hashlib.sha256(self.crs.to_string().encode())
        turns = math.floor((self.geometry.bounds[0] + _FULL_TURN / 2) / _FULL_TURN) if self.crs.is_geographic else 0
        geometry = shapely.normalize(_shifted(self.geometry, -turns * _FULL_TURN))
        digest.update(shapely.to_wkb(geometry, byte_order=1))
        return digest.hexdigest()

    def on_product(
        self, *, name: str, epsg: int, ulx: float, uly: float, height: int, width: int, gsd_m: int
    ) -> ProductArea:
        """Bring the area into a product's projection and cut it to the product.

        Parameters
        ----------
        name : of the product, for messages.
        epsg, ulx, uly : projection, upper-left corner of the image in metres.
        height, width, gsd_m : pixels of the mask and their size in metres.

        Raises
        ------
        UsageError
            If the two do not meet; says where both are.
        """
        bounds = shapely.box(ulx, uly - height * gsd_m, ulx + width * gsd_m, uly)
        shape = self._projected(bounds, epsg)
        if not shapely.area(shape) > 0:
            raise UsageError(
                f"--aoi misses {name}: the area lies at {_place(self.geometry, self.crs)}, the product at "
                f"{_place(bounds, CRS.from_epsg(epsg))}"
            )
        west, south, east, north = shape.bounds
        first_row, last_row = math.floor((uly - north) / gsd_m), math.ceil((uly - south) / gsd_m)
        first_col, last_col = math.floor((west - ulx) / gsd_m), math.ceil((east - ulx) / gsd_m)
        window = Window(first_row, first_col, last_row - first_row, last_col - first_col).intersection(
            Window(0, 0, height, width)
        )
        return ProductArea(shape=shape, window=window, transform=Affine(gsd_m, 0, ulx, 0, -gsd_m, uly))

    def _projected(self, bounds: shapely.Geometry, epsg: int) -> shapely.Geometry:
        """Return what of the area lies in `bounds` (of the projection `epsg`), in that projection; may be empty."""
        nearby = self._neighbourhood(bounds, epsg)
        if nearby is None:
            return shapely.Polygon()
        turns = (-_FULL_TURN, 0.0, _FULL_TURN) if self.crs.is_geographic else (0.0,)
        pieces = [_shifted(self.geometry, turn).intersection(nearby) for turn in turns]
        piece = shapely.union_all([p for p in pieces if not p.is_empty])
        if piece.is_empty:
            return shapely.Polygon()
        dense = shapely.segmentize(piece, min(map(_extent, shapely.get_parts(nearby))) / _VERTICES)
        try:
            bent = shapely.transform(dense, lambda xy: _reprojected(xy, self.crs, f"EPSG:{epsg}"))
        except RasterioError:
            return shapely.Polygon()
        met = shapely.make_valid(bent).intersection(bounds)
        return shapely.union_all([p for p in shapely.get_parts(met) if shapely.area(p) > 0])

    def _neighbourhood(self, bounds: shapely.Geometry, epsg: int) -> shapely.Geometry | None:
        """Return a box around the product in the area's own coordinate system; None if it cannot be there.

        Two boxes, where a product lies on both sides of a projection's edge, as Mercator's at 180 degrees.
        """
        edge = shapely.get_coordinates(shapely.segmentize(bounds.exterior, bounds.length / _VERTICES))
        try:
            outline = _reprojected(edge, f"EPSG:{epsg}", self.crs)
        except RasterioError:
            return None
        if not np.isfinite(outline).all():
            return None
        if self.crs.is_geographic:  # a product on the antimeridian is one piece, not a belt around the world
            outline[:, 0] = np.unwrap(outline[:, 0], period=_FULL_TURN)
        steps = np.abs(np.diff(outline[:, 0]))
        if steps.max() > _JUMP * np.median(steps) + _JUMP * np.median(np.abs(np.diff(outline[:, 1]))):
            middle = (outline[:, 0].min() + outline[:, 0].max()) / 2
            sides = [outline[outline[:, 0] < middle], outline[outline[:, 0] >= middle]]
        else:
            sides = [outline]
        return shapely.union_all([_box_around(side) for side in sides])


@dataclass(frozen=True, kw_only=True)
class ProductArea:
    """An area of interest on one product.

    Attributes
    ----------
    shape : polygons in the product's projection, cut to the product.
    window : the smallest window of the mask's pixels that holds it.
    transform : of the product's image at the mask's resolution.
    """

    shape: shapely.Geometry = field(repr=False)
    window: Window
    transform: Affine

    def __post_init__(self) -> None:
        shapely.prepare(self.shape)

    def meets(self, window: Window) -> bool:
        """Tell whether a window of the image shares more than an edge with the area."""
        if window.is_empty:
            return False
        box = self._box(window)
        return bool(self.shape.intersects(box)) and not self.shape.touches(box)

    def grown(self, metres: float) -> ProductArea:
        """Return the area with all that lies within so many metres; the window stays."""
        return replace(self, shape=self.shape.buffer(metres))

    def outside(self, window: Window) -> NDArray[np.bool_] | None:
        """Return bool ``[height, width]``, True where a pixel's centre is outside; None where the area covers all."""
        box = self._box(window)
        if self.shape.covers(box):
            return None
        # Cut first: an area of many vertices would be drawn as a whole for every block.
        part = shapely.clip_by_rect(self.shape, *box.buffer(self.transform.a).bounds)
        if part.is_empty:
            return np.ones((window.height, window.width), np.bool_)
        shifted = self.transform @ Affine.translation(window.col, window.row)
        mask: NDArray[np.bool_] = geometry_mask([part], (window.height, window.width), shifted)
        return mask

    def _box(self, window: Window) -> shapely.Geometry:
        west, north = self.transform @ (window.col, window.row)
        east, south = self.transform @ (window.col_end, window.row_end)
        return shapely.box(west, south, east, north)


def _reprojected(xy: NDArray[np.float64], source: CRS | str, target: CRS | str) -> NDArray[np.float64]:
    try:
        return np.column_stack(transform(source, target, xy[:, 0], xy[:, 1]))
    except RasterioError:
        raise
    except Exception as error:  # GDAL's own errors, whose classes rasterio does not export
        raise RasterioError(str(error)) from error


def _box_around(points: NDArray[np.float64]) -> shapely.Geometry:
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    margin = _MARGIN * max(east - west, north - south)
    return shapely.box(west - margin, south - margin, east + margin, north + margin)


def _extent(geometry: shapely.Geometry) -> float:
    west, south, east, north = geometry.bounds
    return float(max(east - west, north - south))


def _shifted(geometry: shapely.Geometry, degrees: float) -> shapely.Geometry:
    return geometry if degrees == 0 else shapely.transform(geometry, lambda xy: xy + np.array([degrees, 0.0]))


def _place(geometry: shapely.Geometry, crs: CRS) -> str:
    """Say where a geometry is: longitudes and latitudes, or its own coordinates where these cannot be had."""
    west, south, east, north = geometry.bounds
    corners = np.array([[west, south], [west, north], [east, south], [east, north]])
    if not crs.is_geographic:
        try:
            corners = _reprojected(corners, crs, "EPSG:4326")
        except RasterioError:
            corners = np.full(2, np.nan)
        if not np.isfinite(corners).all():
            return f"{west:.0f} to {east:.0f}, {south:.0f} to {north:.0f} in {crs.to_string()[:80]}"
        corners[:, 0] = np.unwrap(corners[:, 0], period=_FULL_TURN)
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    return f"{west:.3f} to {east:.3f} degrees east, {south:.3f} to {north:.3f} degrees north"
