"""Geometry of the tile grid: which pixels a tile reads and which it owns. No I/O, no arrays.

Tiles start at multiples of the stride and all have the same size; the last ones reach beyond the image and
are padded with zeros there. A tile owns its *core*: without the margin on inner edges, up to the image's
edge on outer ones. The cores of a grid partition the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.contract import BandGroup, ModelContract


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: first row and column, height and width."""

    row: int
    col: int
    height: int
    width: int

    @property
    def row_end(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def col_end(self) -> int:
        """First column right of the window."""
        return self.col + self.width

    @property
    def is_empty(self) -> bool:
        """True where the window holds no pixel."""
        return self.height <= 0 or self.width <= 0

    def intersection(self, other: Window) -> Window:
        """Return the pixels common to both; height or width is 0 where there are none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        return Window(
            row,
            col,
            max(0, min(self.row_end, other.row_end) - row),
            max(0, min(self.col_end, other.col_end) - col),
        )

    def around(self, other: Window) -> Window:
        """Return the least window that holds both."""
        row, col = min(self.row, other.row), min(self.col, other.col)
        return Window(row, col, max(self.row_end, other.row_end) - row, max(self.col_end, other.col_end) - col)

    def seen_from(self, origin: Window) -> Window:
        """Return the same pixels in rows and columns counted from another window's corner."""
        return Window(self.row - origin.row, self.col - origin.col, self.height, self.width)

    def placed_in(self, origin: Window) -> Window:
        """Return the same pixels where they were counted from another window's corner: undoes `seen_from`."""
        return Window(self.row + origin.row, self.col + origin.col, self.height, self.width)

    def relative_to(self, origin: Window) -> tuple[slice, slice]:
        """Return row and column slices of this window in an array that holds `origin`."""
        row, col = self.row - origin.row, self.col - origin.col
        return slice(row, row + self.height), slice(col, col + self.width)


@dataclass(frozen=True)
class Tile:
    """One tile of a grid.

    Attributes
    ----------
    index : position in row-major order.
    row, col : position in the grid.
    window : the pixels that the network sees, in the mask's grid; may reach beyond the image.
    core : the pixels that this tile decides under `crop`; empty where the previous tile reaches the edge.
    """

    index: int
    row: int
    col: int
    window: Window
    core: Window


@dataclass(frozen=True)
class TileGrid:
    """Overlapping tiles over an image of `height` x `width` pixels (of the mask).

    Attributes
    ----------
    height, width : size of the image, pixels.
    tile_size : height and width of each tile, pixels.
    margin : pixels dropped on inner edges; the stride is ``tile_size - 2 * margin``.
    """

    height: int
    width: int
    tile_size: int
    margin: int

    @classmethod
    def of(cls, contract: ModelContract, height: int, width: int) -> TileGrid:
        """Lay a contract's tiles over an image of `height` x `width` pixels of the mask's resolution."""
        return cls(height, width, contract.tile_size, contract.margin)

    @property
    def stride(self) -> int:
        """Distance between the first rows (columns) of two neighbours."""
        return self.tile_size - 2 * self.margin

    @property
    def rows(self) -> int:
        """Tiles from top to bottom."""
        return max(1, -(-self.height // self.stride))

    @property
    def cols(self) -> int:
        """Tiles from left to right."""
        return max(1, -(-self.width // self.stride))

    def __len__(self) -> int:
        return self.rows * self.cols

    def __iter__(self) -> Iterator[Tile]:
        """Yield all tiles in row-major order."""
        return (self.tile(row, col) for row in range(self.rows) for col in range(self.cols))

    def tile(self, row: int, col: int) -> Tile:
        """Return the tile at a position of the grid."""
        top, bottom = self._core_span(row, self.rows, self.height)
        left, right = self._core_span(col, self.cols, self.width)
        return Tile(
            index=row * self.cols + col,
            row=row,
            col=col,
            window=Window(row * self.stride, col * self.stride, self.tile_size, self.tile_size),
            core=Window(top, left, bottom - top, right - left),
        )

    def _core_span(self, position: int, count: int, size: int) -> tuple[int, int]:
        start = position * self.stride
        first = start if position == 0 else min(start + self.margin, size)
        last = size if position == count - 1 else min(start + self.tile_size - self.margin, size)
        return first, last


def source_window(tile: Tile, group: BandGroup) -> Window:
    """Return the pixels that a tile reads from the files of one resolution (60 m: 85 pixels for 512 at 10 m)."""
    return Window(tile.row * group.stride, tile.col * group.stride, group.tile, group.tile)
