"""Probabilities of tiles into finished blocks. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.blend import ramp, weights
from kappamask_stream.mosaic import BLOCK_SIZE, Block, PendingBlocks, blocks_meeting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kappamask_stream.grid import Tile, TileGrid, Window
    from kappamask_stream.mask_options import MosaicKind


class ProbabilityMosaic:
    """Joins tiles as the mask's mosaic does: each tile's core (`crop`), or the mean by the ramp's weights (`blend`).

    A block is finished when every tile over it is in. Unfinished ones take a byte per pixel and class under `crop`,
    four (and four more per pixel) under `blend`: 70 and 320 MB at most for a full mask of six classes.

    Parameters
    ----------
    grid : of the tiles.
    frame : the pixels of the image that the mask shows. Blocks are laid from its corner.
    classes : number of classes.
    kind : of the mask's mosaic.
    block_size : height and width of a block, pixels.
    """

    def __init__(
        self, grid: TileGrid, frame: Window, *, classes: int, kind: MosaicKind, block_size: int = BLOCK_SIZE
    ) -> None:
        self._frame, self._classes, self._size = frame, classes, block_size
        self._ramp = ramp(grid.tile_size, grid.margin) if kind == "blend" else None
        self._rows = [self._decided(grid.tile(row, 0)) for row in range(grid.rows)]
        self._cols = [self._decided(grid.tile(0, col)) for col in range(grid.cols)]
        self._pending: PendingBlocks[NDArray[np.uint8] | NDArray[np.uint32]] = PendingBlocks()

    def add(
        self, tile: Tile, probabilities: NDArray[np.uint8] | None, missing: NDArray[np.bool_] | None = None
    ) -> list[Block]:
        """Add a tile; returns the blocks that this completes, uint8 ``[classes, block, block]``.

        Parameters
        ----------
        probabilities : uint8 ``[classes, tile, tile]``, 255 is 1.0; None: the tile holds no data.
        missing : bool ``[tile, tile]``, True where there is no data, which has no weight under `blend`.
        """
        share = self._decided(tile).intersection(self._frame)
        finished = []
        for row, col, placed in blocks_meeting(share.seen_from(self._frame), self._size):
            block = placed.placed_in(self._frame)
            sums = self._pending.get((row, col))
            if sums is None:
                sums = self._begin((row, col), block)
            common = block.intersection(share)
            if probabilities is not None:
                self._put(sums[(slice(None), *common.relative_to(block))], tile, common, probabilities, missing)
            if self._pending.contribute((row, col), common.height * common.width) is not None:
                finished.append(Block(row=row, col=col, pixels=_mean(sums)))
        return finished

    def _decided(self, tile: Tile) -> Window:
        """Return the pixels that a tile has a say in."""
        return tile.core if self._ramp is None else tile.window

    def _begin(self, key: tuple[int, int], block: Window) -> NDArray[np.uint8] | NDArray[np.uint32]:
        shape = (self._size, self._size)
        sums: NDArray[np.uint8] | NDArray[np.uint32]
        if self._ramp is None:
            sums = np.zeros((self._classes, *shape), np.uint8)
        else:
            sums = np.zeros((self._classes + 1, *shape), np.uint32)  # the last: the weights
        inside = block.intersection(self._frame)
        rows = sum(_common(inside.row, inside.row_end, window.row, window.row_end) for window in self._rows)
        cols = sum(_common(inside.col, inside.col_end, window.col, window.col_end) for window in self._cols)
        self._pending.begin(key, sums, rows * cols)
        return sums

    def _put(
        self,
        target: NDArray[np.uint8] | NDArray[np.uint32],
        tile: Tile,
        common: Window,
        probabilities: NDArray[np.uint8],
        missing: NDArray[np.bool_] | None,
    ) -> None:
        rows, cols = common.relative_to(tile.window)
        if self._ramp is None:
            target[...] = probabilities[:, rows, cols]
            return
        weight = weights(self._ramp, rows, cols, missing)
        target[:-1] += probabilities[:, rows, cols].astype(np.uint32) * weight
        target[-1] += weight


def _mean(sums: NDArray[np.uint8] | NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return uint8 ``[classes, block, block]``, halves rounded up; 0 where no tile saw data."""
    if sums.dtype == np.uint8:
        return sums.astype(np.uint8, copy=False)
    total = np.maximum(sums[-1], 1)
    mean: NDArray[np.uint8] = ((2 * sums[:-1] + total) // (2 * total)).astype(np.uint8)
    return mean


def _common(start: int, end: int, other_start: int, other_end: int) -> int:
    return max(0, min(end, other_end) - max(start, other_start))
