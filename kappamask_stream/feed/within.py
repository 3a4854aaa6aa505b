"""Whether a product meets an area, by its footprint on its tile."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.errors import RasterioError
from rasterio.warp import transform

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.errors import UsageError
from kappamask_stream.mgrs import SIDE_M, TilePlace, place_of_tile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.aoi import AreaOfInterest
    from kappamask_stream.feed.types import ProductRef

_GSD_M = 60
#: A feed names the same tiles again every few days; all land has some 19,000.
_REMEMBERED = 20_000
#: Edges of footprints follow a swath, straight on the ground: degrees are bent to metres in pieces of so many degrees.
_PIECE = 0.1
#: Degrees that a tile may have: at 84 degrees north its width is 10. What is larger is no footprint of one.
_WIDEST, _HIGHEST = 20.0, 5.0


class WithinArea:
    """An area that products should meet.

    Parameters
    ----------
    area : polygons.

    State: the part of the area on each tile that was asked for.
    """

    def __init__(self, area: AreaOfInterest) -> None:
        self.area = area
        self._on_tile = lru_cache(maxsize=_REMEMBERED)(self._shape)

    def __repr__(self) -> str:
        return f"<WithinArea {self.area.identity[:8]}>"

    @classmethod
    def parse(cls, text: str) -> WithinArea:
        """Read an area as `aoi.parse_aoi` does.

        Raises
        ------
        UsageError
            If it is none.
        """
        return cls(parse_aoi(text, flag="--within"))

    def is_met_by(self, ref: ProductRef) -> bool:
        """Tell whether a product may have pixels in the area: of its tile, and of its footprint where that is said.

        A tile that MGRS does not have passes: whoever opens the product knows better.
        """
        place = place_of_tile(ref.name.tile_id)
        if place is None:
            return True
        shape = self._on_tile(place)
        if shape is None:
            return False
        outline = None if ref.footprint is None else _outline(ref.footprint, place)
        return outline is None or bool(shape.intersects(outline))

    def _shape(self, place: TilePlace) -> shapely.Geometry | None:
        pixels = SIDE_M // _GSD_M
        try:
            on_tile = self.area.on_product(
                name="a tile", epsg=place.epsg, ulx=place.ulx, uly=place.uly, height=pixels, width=pixels, gsd_m=_GSD_M
            )
        except UsageError:  # the two do not meet
            return None
        return on_tile.shape


def _outline(footprint: Mapping[str, Any], place: TilePlace) -> shapely.Geometry | None:
    """Return a footprint in the tile's projection; None where it makes no sense."""
    middle = transform(f"EPSG:{place.epsg}", "EPSG:4326", [place.ulx + SIDE_M / 2], [place.uly - SIDE_M / 2])[0][0]

    def unwrapped(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring longitudes within half a turn of the tile, however the polygon was written at the antimeridian."""
        return np.column_stack([middle + np.mod(xy[:, 0] - middle + 180.0, 360.0) - 180.0, xy[:, 1]])

    def projected(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transform("EPSG:4326", f"EPSG:{place.epsg}", xy[:, 0], xy[:, 1]))

    try:
        near = shapely.transform(shapely.geometry.shape(footprint), unwrapped)
        west, south, east, north = near.bounds
        if east - west > _WIDEST or north - south > _HIGHEST:
            return None
        outline = shapely.make_valid(shapely.transform(shapely.segmentize(near, _PIECE), projected))
    except (RasterioError, ValueError, shapely.errors.ShapelyError):
        return None
    return outline if np.isfinite(shapely.get_coordinates(outline)).all() and outline.area > 0 else None
