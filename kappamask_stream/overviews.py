"""Overviews of a mask, block by block as the mask is finished. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.mosaic import Block, PendingBlocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


_LAST = np.uint8(255)


@dataclass(frozen=True, kw_only=True)
class OverviewBlock:
    """A finished block of one overview; level 1 has half the resolution of the mask."""

    level: int
    block: Block


def overview_sizes(height: int, width: int, block_size: int) -> list[tuple[int, int]]:
    """Return (rows, columns) of all overviews, down to the first that fits into one block."""
    sizes = []
    while height > block_size or width > block_size:
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    return sizes


def decimate(pixels: NDArray[np.uint8], nodata: int) -> NDArray[np.uint8]:
    """Halve a block by the majority of each 2 x 2 pixels; uint8 ``[2h, 2w]`` to ``[h, w]``.

    Pixels without data have no vote unless all four are so; of several majorities the lowest class wins.
    """
    upper, lower = pixels[::2], pixels[1::2]
    if (upper == lower).all() and (upper[:, ::2] == upper[:, 1::2]).all():
        return np.ascontiguousarray(upper[:, ::2])
    # nodata sorts last as 255, so that among equal counts data is before it and lower classes before higher.
    votes = _chosen(pixels == nodata, _LAST, pixels)
    # A network of five comparisons: np.sort takes ten times as long.
    low, high = np.minimum(votes[::2], votes[1::2]), np.maximum(votes[::2], votes[1::2])
    first, middle = np.minimum(low[:, ::2], low[:, 1::2]), np.maximum(low[:, ::2], low[:, 1::2])
    other, fourth = np.minimum(high[:, ::2], high[:, 1::2]), np.maximum(high[:, ::2], high[:, 1::2])
    second, third = np.minimum(middle, other), np.maximum(middle, other)
    # Sorted, a majority is a run of two or more: at the start (where it wins ties), in the middle, or at the end.
    winner = _chosen(third == fourth, third, first)
    winner = _chosen(first == second, first, _chosen(second == third, second, winner))
    winner = _chosen(winner == _LAST, first, winner)  # nodata outvotes nothing
    return _chosen(winner == _LAST, np.uint8(nodata), winner)


def _chosen(
    condition: NDArray[np.bool_], yes: NDArray[np.uint8] | np.uint8, no: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return what np.where does, with bits as masks: it branches at each pixel, and takes many times as long."""
    bits: NDArray[np.uint8] = no ^ ((yes ^ no) & np.negative(condition.view(np.uint8)))
    return bits


def average(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve a block of several bands by the mean of each 2 x 2 pixels; uint8 ``[bands, 2h, 2w]`` to ``[bands, h, w]``.

    A pixel that is 0 in all bands holds no data and does not count; halves are rounded up.
    """
    if not pixels.any():
        return np.zeros((len(pixels), pixels.shape[1] // 2, pixels.shape[2] // 2), np.uint8)
    four = [pixels[:, row::2, col::2] for row in (0, 1) for col in (0, 1)]
    total = np.sum(four, axis=0, dtype=np.uint16)
    count = np.sum([part.any(axis=0) for part in four], axis=0, dtype=np.uint16)
    divisor = np.maximum(count, 1)
    mean: NDArray[np.uint8] = ((2 * total + divisor) // (2 * divisor)).astype(np.uint8)
    return mean


class OverviewPyramid:
    """Takes finished blocks of the mask in any order and gives the overview blocks that they complete.

    Holds, per level, the blocks whose four children are not all there.

    Parameters
    ----------
    height, width : of the image, pixels.
    nodata : value beyond the image.
    block_size : height and width of a block, pixels.
    halve : makes one pixel of four, ``[…, 2h, 2w]`` to ``[…, h, w]``; None: their majority.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        nodata: int,
        block_size: int,
        halve: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    ) -> None:
        self._nodata, self._block_size = nodata, block_size
        self._halve = halve or (lambda pixels: decimate(pixels, nodata))
        self._sizes = [(height, width), *overview_sizes(height, width, block_size)]
        self._pending: list[PendingBlocks[NDArray[np.uint8]]] = [PendingBlocks() for _ in self._sizes]

    def add(self, block: Block) -> list[OverviewBlock]:
        """Add a block of the mask; returns finished overview blocks, finest first."""
        finished = []
        for level in range(1, len(self._sizes)):
            parent = self._contribute(level, block)
            if parent is None:
                break
            finished.append(OverviewBlock(level=level, block=parent))
            block = parent
        return finished

    def _contribute(self, level: int, child: Block) -> Block | None:
        """Put a child into its parent at `level`; returns the parent when all its children are in."""
        size, half = self._block_size, self._block_size // 2
        key = (child.row // 2, child.col // 2)
        pixels = self._pending[level].get(key)
        if pixels is None:
            pixels = np.full((*child.pixels.shape[:-2], size, size), self._nodata, np.uint8)
            self._pending[level].begin(key, pixels, self._children(level, *key))
        top, left = (child.row % 2) * half, (child.col % 2) * half
        pixels[..., top : top + half, left : left + half] = self._halve(child.pixels)
        if self._pending[level].contribute(key, 1) is None:
            return None
        return Block(row=key[0], col=key[1], pixels=pixels)

    def _children(self, level: int, row: int, col: int) -> int:
        height, width = self._sizes[level - 1]
        rows, cols = -(-height // self._block_size), -(-width // self._block_size)
        return min(2, rows - 2 * row) * min(2, cols - 2 * col)
