"""Tiles into finished blocks: each tile's core, exactly, as km_predict does. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from kappamask_stream.grid import Tile, TileGrid, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

BLOCK_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class Block:
    """A finished square of the mask.

    Attributes
    ----------
    row, col : position in the grid of blocks.
    pixels : uint8 ``[block, block]``; beyond the image it holds the nodata value.
    """

    row: int
    col: int
    pixels: NDArray[np.uint8]

    @property
    def window(self) -> Window:
        """Its pixels, in rows and columns of the mask; at the mask's edges it reaches beyond."""
        size = len(self.pixels)
        return Window(self.row * size, self.col * size, size, size)


def blocks_meeting(window: Window, size: int) -> Iterator[tuple[int, int, Window]]:
    """Yield (row, column, window) of the blocks of `size` pixels that a window meets, in raster order."""
    if window.is_empty:
        return
    for row in range(window.row // size, (window.row_end - 1) // size + 1):
        for col in range(window.col // size, (window.col_end - 1) // size + 1):
            yield row, col, Window(row * size, col * size, size, size)


S = TypeVar("S")


class PendingBlocks(Generic[S]):
    """Blocks begun and not finished: what they hold so far, and how many pixels or tiles they wait for."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, int], S] = {}
        self._waits: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._states)

    def get(self, key: tuple[int, int]) -> S | None:
        """Return what a block holds so far, None if it was not begun."""
        return self._states.get(key)

    def begin(self, key: tuple[int, int], state: S, waits: int) -> None:
        """Begin a block that waits for so many contributions."""
        self._states[key], self._waits[key] = state, waits

    def contribute(self, key: tuple[int, int], amount: int) -> S | None:
        """Count contributions; return the block's state, and forget it, when it has them all."""
        self._waits[key] -= amount
        if self._waits[key]:
            return None
        del self._waits[key]
        return self._states.pop(key)


class TileLedger:
    """Which tiles are still to be added; each may be once."""

    def __init__(self, tiles: Iterable[Tile]) -> None:
        self._missing = {tile.index for tile in tiles}

    def add(self, tile: Tile) -> None:
        """Note a tile; a second time, or one that is no part of the mask, is an error of the program."""
        if tile.index not in self._missing:
            raise ValueError(f"tile at row {tile.row}, column {tile.col} was added before, or is no part of the mask")
        self._missing.remove(tile.index)

    @property
    def missing(self) -> int:
        """Number of tiles not yet added."""
        return len(self._missing)


class BlockCanvas:
    """Windows of pixels become blocks: every pixel of the frame is to be placed once.

    Parameters
    ----------
    frame : the pixels of the image that are shown; blocks are laid from its corner.
    nodata : value of pixels beyond the frame in blocks at its edge.
    block_size : height and width of a block, pixels.
    """

    def __init__(self, frame: Window, *, nodata: int, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        self._frame, self._nodata = frame, nodata
        self._pending: PendingBlocks[NDArray[np.uint8]] = PendingBlocks()

    @property
    def pending_bytes(self) -> int:
        """Bytes of blocks begun and not finished."""
        return len(self._pending) * self.block_size**2

    def place(self, window: Window, pixels: NDArray[np.uint8]) -> list[Block]:
        """Put pixels (uint8 ``[window.height, window.width]``) of the image in place; what lies beyond the frame falls.

        Returns the blocks that this completes.
        """
        shown = window.intersection(self._frame)
        finished = []
        for row, col, placed in blocks_meeting(shown.seen_from(self._frame), self.block_size):
            block = placed.placed_in(self._frame)
            held = self._pending.get((row, col))
            if held is None:
                held = np.full((self.block_size, self.block_size), self._nodata, np.uint8)
                inside = block.intersection(self._frame)
                self._pending.begin((row, col), held, inside.height * inside.width)
            common = block.intersection(shown)
            held[common.relative_to(block)] = pixels[common.relative_to(window)]
            if self._pending.contribute((row, col), common.height * common.width) is not None:
                finished.append(Block(row=row, col=col, pixels=held))
        return finished


class CropMosaic:
    """Keeps each tile's core; holds only blocks that were begun and are not finished.

    Parameters
    ----------
    grid : of the tiles.
    nodata : value of pixels beyond the mask in blocks at its edge.
    frame : the pixels of the image that the mask shows; None: all. Blocks are laid from its corner.
    block_size : height and width of a block, pixels.
    """

    def __init__(
        self, grid: TileGrid, *, nodata: int, frame: Window | None = None, block_size: int = BLOCK_SIZE
    ) -> None:
        self.block_size = block_size
        self._frame = frame or Window(0, 0, grid.height, grid.width)
        self._ledger = TileLedger(tile for tile in grid if self.shows(tile))
        self._canvas = BlockCanvas(self._frame, nodata=nodata, block_size=block_size)

    @property
    def missing(self) -> int:
        """Number of tiles not yet added."""
        return self._ledger.missing

    @property
    def pending_bytes(self) -> int:
        """Bytes of blocks begun and not finished."""
        return self._canvas.pending_bytes

    def shows(self, tile: Tile) -> bool:
        """Tell whether a tile decides a pixel of the mask: exactly those tiles are to be added."""
        return self.share(tile) is not None

    def share(self, tile: Tile) -> Window | None:
        """Return the pixels of the image that a tile decides in the mask; None where there are none."""
        common = tile.core.intersection(self._frame)
        return None if common.is_empty else common

    def add(self, tile: Tile, labels: NDArray[np.uint8]) -> list[Block]:
        """Put a tile's core in place; `labels` is uint8 ``[tile, tile]``. Returns the blocks that this completes."""
        return self._place(tile, labels[tile.core.relative_to(tile.window)])

    def add_constant(self, tile: Tile, value: int) -> list[Block]:
        """Put a core of one value in place."""
        return self._place(tile, np.broadcast_to(np.uint8(value), (tile.core.height, tile.core.width)))

    def _place(self, tile: Tile, core: NDArray[np.uint8]) -> list[Block]:
        self._ledger.add(tile)
        return self._canvas.place(tile.core, core)
