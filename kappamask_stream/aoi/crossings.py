"""How often an area's outline crosses itself: mending it costs the square of that, minutes for a text of 3 KB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

#: Mending so many takes half a second; an outline that was drawn by hand or cut by a raster has a few.
_MOST_CROSSINGS = 1000
#: Pairs of segments that are looked at in one go: bounds memory, 16 bytes for each.
_PAIRS = 1_000_000


def require_few_crossings(parts: Iterable[shapely.Geometry], said: str) -> None:
    """Refuse an area whose parts cross themselves in more places than can be mended in a moment.

    Parameters
    ----------
    parts : geometries without parts; of those that are valid, or no polygons, nothing is counted.
    said : where the area was given, for the message.

    Raises
    ------
    UsageError
        If there are more than 1,000 such places.
    """
    crossings = 0
    for part in parts:
        if not isinstance(part, shapely.Polygon) or shapely.is_valid(part):
            continue
        segments = _segments(part)
        tree = shapely.STRtree(segments)
        # More and more at once: where many cross, the first ones tell.
        start, step, most = 0, 1, max(_PAIRS // max(len(segments), 1), 1)
        while start < len(segments):
            own, other = tree.query(segments[start : start + step], predicate="intersects")
            # Neighbours in a ring always meet.
            crossings += int(np.count_nonzero(own + start < other - 1))
            if crossings > _MOST_CROSSINGS:
                raise UsageError(
                    f"{said} has a polygon of {len(segments)} sides that cross in {crossings} places or more, at most "
                    f"{_MOST_CROSSINGS} are mended: put its vertices in order, or simplify the geometry"
                )
            start, step = start + step, min(2 * step, most)


def _segments(polygon: shapely.Polygon) -> NDArray[np.object_]:
    """Return the sides of all rings, as lines; those without length left out."""
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    sides = np.concatenate([np.stack([ring[:-1], ring[1:]], axis=1) for ring in rings])
    sides = sides[(sides[:, 0] != sides[:, 1]).any(axis=1)]
    lines: NDArray[np.object_] = shapely.linestrings(sides)
    return lines
