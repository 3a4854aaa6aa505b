"""Where the codestream tiles of an image lie: known from its main header, before any tile is found. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.grid import Window

if TYPE_CHECKING:
    from kappamask_stream.bands.types import BandIndex


@dataclass(frozen=True, kw_only=True)
class TileGeometry:
    """An image cut into codestream tiles, in raster order.

    Attributes
    ----------
    height, width : pixels of the image.
    tile_height, tile_width : nominal size of a codestream tile.
    first_height, first_width : size of the first one: smaller where the image begins inside a tile or ends there.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    first_height: int
    first_width: int

    @classmethod
    def of(cls, index: BandIndex) -> TileGeometry:
        """Return that of a band's file: its pieces are codestream tiles, or blocks of a TIFF."""
        first = index.tiles[0].window
        return cls(
            height=index.height,
            width=index.width,
            tile_height=index.tile_height,
            tile_width=index.tile_width,
            first_height=first.height,
            first_width=first.width,
        )

    @property
    def across(self) -> int:
        """Codestream tiles in a row."""
        return -(-(self.width - self.first_width) // self.tile_width) + 1

    def covering(self, window: Window) -> list[int]:
        """Return the positions of the codestream tiles that a window meets, in raster order."""
        inside = window.intersection(Window(0, 0, self.height, self.width))
        if inside.is_empty:
            return []
        rows = _span(inside.row, inside.row_end, self.first_height, self.tile_height)
        cols = _span(inside.col, inside.col_end, self.first_width, self.tile_width)
        return [row * self.across + col for row in rows for col in cols]


def _span(start: int, end: int, first: int, size: int) -> range:
    """Return rows (or columns) of codestream tiles that pixels [start, end) meet; the first may be smaller."""

    def at(pixel: int) -> int:
        return 0 if pixel < first else 1 + (pixel - first) // size

    return range(at(start), at(end - 1) + 1)
