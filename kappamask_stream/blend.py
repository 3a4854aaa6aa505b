"""Tiles into finished blocks: probabilities of overlapping tiles, weighed. Pure numpy.

Weights are integers and sums are uint32, so the order of arrival cannot matter. The weights of all tiles over a pixel
are the same for every class, so the class with the largest sum is the class with the largest weighted mean. A tile has
no say in pixels that hold no data in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.errors import ContractError
from kappamask_stream.grid import Tile, TileGrid, Window
from kappamask_stream.mosaic import BLOCK_SIZE, Block, PendingBlocks, TileLedger, blocks_meeting

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Sums:
    """What a block has so far.

    Attributes
    ----------
    weighted : uint32 ``[classes, block, block]``, probability (255 = 1.0) times weight.
    has_data : bool ``[block, block]``, True where a tile saw data.
    """

    weighted: NDArray[np.uint32]
    has_data: NDArray[np.bool_]


class BlendMosaic:
    """Weighs overlapping tiles with a ramp over the overlap; a block is finished when all tiles over it are in.

    Parameters
    ----------
    grid : of the tiles.
    class_values : values of the classes in the order of the probabilities, ascending: ties go to the lower one.
    nodata : value of pixels that no tile saw data in, and beyond the mask.
    frame : the pixels of the image that the mask shows; None: all. Blocks are laid from its corner.

    Raises
    ------
    ContractError
        If the tiles are so large and overlap so much that a sum could pass 32 bits.
    """

    def __init__(
        self,
        grid: TileGrid,
        *,
        class_values: tuple[int, ...],
        nodata: int,
        frame: Window | None = None,
        block_size: int = BLOCK_SIZE,
    ) -> None:
        if largest_sum(grid.tile_size, grid.margin) >= 2**32:
            raise ContractError(
                f"tiles of {grid.tile_size} pixels with a margin of {grid.margin} may sum to "
                f"{largest_sum(grid.tile_size, grid.margin)}, a blend holds {2**32 - 1}: use --mosaic crop"
            )
        self.block_size = block_size
        self._grid, self._nodata = grid, nodata
        self._values = np.array(class_values, np.uint8)
        self._frame = frame or Window(0, 0, grid.height, grid.width)
        self._ramp = ramp(grid.tile_size, grid.margin)
        self._ledger = TileLedger(tile for tile in grid if self.shows(tile))
        self._pending: PendingBlocks[_Sums] = PendingBlocks()

    @property
    def missing(self) -> int:
        """Number of tiles not yet added."""
        return self._ledger.missing

    @property
    def pending_bytes(self) -> int:
        """Bytes of blocks begun and not finished."""
        return len(self._pending) * self.block_size**2 * (4 * len(self._values) + 1)

    def shows(self, tile: Tile) -> bool:
        """Tell whether a tile has a say in a pixel of the mask: exactly those tiles are to be added."""
        return self.share(tile) is not None

    def share(self, tile: Tile) -> Window | None:
        """Return the pixels of the image that a tile has a say in; None where there are none."""
        common = tile.window.intersection(self._frame)
        return None if common.is_empty else common

    def add(
        self, tile: Tile, probabilities: NDArray[np.uint8], nodata_mask: NDArray[np.bool_] | None = None
    ) -> list[Block]:
        """Add a tile; returns the blocks that this completes.

        Parameters
        ----------
        probabilities : uint8 ``[classes, tile, tile]``, 255 is 1.0.
        nodata_mask : bool ``[tile, tile]``, True where there is no data; None: data everywhere.
        """
        return self._blend(tile, probabilities, nodata_mask)

    def add_constant(self, tile: Tile, value: int) -> list[Block]:
        """Add a tile without data (`value` is the nodata value): it has no say where others saw data."""
        if value != self._nodata:
            raise ValueError(f"only tiles without data ({self._nodata}) are constant, not {value}")
        return self._blend(tile, None, None)

    def _blend(
        self, tile: Tile, probabilities: NDArray[np.uint8] | None, nodata_mask: NDArray[np.bool_] | None
    ) -> list[Block]:
        self._ledger.add(tile)
        seen = tile.window.intersection(self._frame)
        finished = []
        for row, col, placed in blocks_meeting(seen.seen_from(self._frame), self.block_size):
            window = placed.placed_in(self._frame)
            sums = self._pending.get((row, col)) or self._begin(row, col, window)
            if probabilities is not None:
                self._accumulate(sums, tile, window.intersection(seen), window, probabilities, nodata_mask)
            if self._pending.contribute((row, col), 1) is not None:
                finished.append(self._finish(row, col, sums))
        return finished

    def _begin(self, row: int, col: int, window: Window) -> _Sums:
        size = self.block_size
        sums = _Sums(np.zeros((len(self._values), size, size), np.uint32), np.zeros((size, size), np.bool_))
        inside = window.intersection(self._frame)
        rows = self._tiles_over(inside.row, inside.row_end, self._grid.rows)
        cols = self._tiles_over(inside.col, inside.col_end, self._grid.cols)
        self._pending.begin((row, col), sums, len(rows) * len(cols))
        return sums

    def _tiles_over(self, start: int, end: int, count: int) -> range:
        """Return positions of the tiles (of one axis) whose window meets pixels [start, end)."""
        stride, size = self._grid.stride, self._grid.tile_size
        first = max(0, (start - size) // stride + 1)
        return range(first, min(count - 1, (end - 1) // stride) + 1)

    def _accumulate(
        self,
        sums: _Sums,
        tile: Tile,
        common: Window,
        window: Window,
        probabilities: NDArray[np.uint8],
        nodata_mask: NDArray[np.bool_] | None,
    ) -> None:
        rows, cols = common.relative_to(tile.window)
        weight = weights(self._ramp, rows, cols, nodata_mask)
        target = common.relative_to(window)
        if nodata_mask is None:
            sums.has_data[target] = True
        else:
            sums.has_data[target] |= ~nodata_mask[rows, cols]
        sums.weighted[(slice(None), *target)] += probabilities[:, rows, cols].astype(np.uint32) * weight

    def _finish(self, row: int, col: int, sums: _Sums) -> Block:
        classes = self._values[sums.weighted.argmax(axis=0)]
        return Block(row=row, col=col, pixels=np.where(sums.has_data, classes, np.uint8(self._nodata)))


def ramp(tile_size: int, margin: int) -> NDArray[np.uint32]:
    """Return uint32 ``[tile]`` weights: 1, 2, … over the overlap with a neighbour (2 * margin pixels), level between.

    At an outer edge of the image a tile has no neighbour, so its ramp there weighs nothing down.
    """
    distance = np.arange(1, tile_size + 1)
    weights: NDArray[np.uint32] = np.minimum(np.minimum(distance, distance[::-1]), max(1, 2 * margin)).astype(np.uint32)
    return weights


def weights(
    ramp: NDArray[np.uint32], rows: slice, cols: slice, nodata_mask: NDArray[np.bool_] | None
) -> NDArray[np.uint32]:
    """Return uint32 weights of a part of a tile: the ramps of both axes multiplied, 0 where the tile holds no data."""
    weight: NDArray[np.uint32] = ramp[rows, np.newaxis] * ramp[np.newaxis, cols]
    return weight if nodata_mask is None else np.where(nodata_mask[rows, cols], np.uint32(0), weight)


def largest_sum(tile_size: int, margin: int) -> int:
    """Return a bound on the weighted sum of one class in one pixel: 1.0 in every tile, all at their largest weight."""
    tiles = -(-tile_size // (tile_size - 2 * margin))
    return int(255 * (tiles * int(ramp(tile_size, margin).max())) ** 2)
