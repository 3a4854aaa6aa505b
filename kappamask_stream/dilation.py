"""Classes grown over their neighbours, block by block. Pure numpy.

A pixel is reached by a class where the centre of one of the class's pixels, as the network gave them, lies within the
class's radius of its own centre. Of several classes that reach a pixel the one that was asked for first has it, so a
grown class covers all others but those before it. What one class grows over does not keep another from growing: all
grow from the mask as it was. Pixels without data stay so and grow nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.errors import UsageError
from kappamask_stream.mosaic import BLOCK_SIZE, Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.frame import MaskFrame

#: Distances down a column are kept in 8 bits.
_LARGEST = 254


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One class that grows.

    Attributes
    ----------
    value : pixel value of the class.
    radius : in pixels.
    """

    value: int
    radius: float

    def half_width(self, rows: int) -> int | None:
        """Return how far to the side a disc reaches so many rows from its centre, pixels; None: it does not."""
        rest = self.radius**2 - rows**2
        return None if rest < 0 else math.isqrt(math.floor(rest))

    @property
    def reach(self) -> int:
        """Rows and columns that a disc reaches from its centre."""
        return math.floor(self.radius)


def parse_dilation(text: str) -> tuple[str, float]:
    """Read ``CLASS=METRES``, e.g. ``CLOUD=60``; returns name and metres, which `growths` compares with a model.

    Raises
    ------
    UsageError
        If it is of another form, or the distance is no positive number.
    """
    name, _, metres = text.partition("=")
    try:
        radius_m = float(metres)
    except ValueError:
        radius_m = math.nan
    if not name.strip() or not math.isfinite(radius_m) or radius_m <= 0:
        raise UsageError(f"--dilate {text[:80]}: give CLASS=METRES with a positive number of metres, e.g. CLOUD=200")
    return name.strip().upper(), radius_m


def growths(dilate: Sequence[tuple[str, float]], contract: ModelContract) -> tuple[Growth, ...]:
    """Translate (class name, metres) into pixels of a model's masks.

    Raises
    ------
    UsageError
        If a name is none of the model's classes, is that of pixels without data, or comes twice; if a radius is less
        than a pixel, or larger than blocks can be grown by.
    """
    names = {c.name: c.value for c in contract.classes if c.value != contract.nodata_class}
    values = {name.upper(): value for name, value in names.items()}
    largest_m = min(_LARGEST, BLOCK_SIZE) * contract.gsd_m
    grown: list[Growth] = []
    for name, radius_m in dilate:
        said = f"--dilate {name}={radius_m:g}"
        value = values.get(name.upper())
        if value is None:
            raise UsageError(f"{said}: {contract.name} has no such class to grow; there are {', '.join(names)}")
        if any(value == growth.value for growth in grown):
            raise UsageError(f"{said}: the class is named twice: give each one radius")
        if not contract.gsd_m <= radius_m <= largest_m:
            raise UsageError(
                f"{said}: masks of {contract.name} have pixels of {contract.gsd_m} m: give {contract.gsd_m} to "
                f"{largest_m} m"
            )
        grown.append(Growth(value=value, radius=radius_m / contract.gsd_m))
    return tuple(grown)


class Dilation:
    """Takes the blocks of a mask once each, in any order, and gives them back grown.

    A block is ready when all neighbours are there from which a class can reach into it. Holds the blocks that one of
    their neighbours still waits for: about three rows of blocks where they come in raster order.

    Parameters
    ----------
    frame : of the mask.
    classes : what grows, the first before the second; radii of at most a block and 254 pixels.
    nodata : value of pixels without data.
    block_size : height and width of a block, pixels.
    """

    def __init__(
        self, frame: MaskFrame, classes: Sequence[Growth], *, nodata: int, block_size: int = BLOCK_SIZE
    ) -> None:
        largest = max((growth.radius for growth in classes), default=0.0)
        if largest > min(_LARGEST, block_size):
            raise ValueError(f"a radius of {largest} pixels, at most {min(_LARGEST, block_size)} can be grown by")
        self._classes, self._nodata, self._size = tuple(classes), nodata, block_size
        self._rows, self._cols = -(-frame.height // block_size), -(-frame.width // block_size)
        self._reach = math.floor(largest)
        self._steps = [(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1)] if self._reach else [(0, 0)]
        self._held: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._given: set[tuple[int, int]] = set()

    def __repr__(self) -> str:
        return f"<Dilation {len(self._given)}/{self._rows * self._cols} blocks given, {len(self._held)} held>"

    def add(self, block: Block) -> list[Block]:
        """Take a block (uint8 ``[block, block]``); returns those that are ready now, in raster order."""
        key = (block.row, block.col)
        if key in self._held or key in self._given:
            raise ValueError(f"block at row {block.row}, column {block.col} was added before")
        self._held[key] = block.pixels
        around = self._around(key)
        ready = [near for near in around if near in self._held and self._is_ready(near)]
        grown = [Block(row=near[0], col=near[1], pixels=self._grown(near)) for near in ready]
        self._given.update(ready)
        for near in {other for given in ready for other in self._around(given)}:
            if all(other in self._given for other in self._around(near)):
                self._held.pop(near, None)
        return grown

    def _around(self, key: tuple[int, int]) -> list[tuple[int, int]]:
        """Return a block and its neighbours, in raster order."""
        near = [(key[0] + row, key[1] + col) for row, col in self._steps]
        return [(row, col) for row, col in near if 0 <= row < self._rows and 0 <= col < self._cols]

    def _is_ready(self, key: tuple[int, int]) -> bool:
        return key not in self._given and all(near in self._held for near in self._around(key))

    def _grown(self, key: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a block with its classes grown; the block itself where nothing changes."""
        pixels = self._held[key]
        surroundings = self._surroundings(key)
        undecided = pixels != self._nodata
        result = pixels
        for growth in self._classes:
            seeds = surroundings == growth.value
            if not seeds.any():
                continue
            reached = self._reached(seeds, growth) & undecided
            result = np.where(reached, np.uint8(growth.value), result)
            undecided &= ~reached
        return result

    def _surroundings(self, key: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a block with the pixels around it that can reach into it; beyond the mask there is no data."""
        size, reach = self._size, self._reach
        whole = np.full((3 * size, 3 * size), self._nodata, np.uint8)
        for near in self._around(key):
            row, col = (near[0] - key[0] + 1) * size, (near[1] - key[1] + 1) * size
            whole[row : row + size, col : col + size] = self._held[near]
        inner = slice(size - reach, 2 * size + reach)
        return whole[inner, inner]

    def _reached(self, seeds: NDArray[np.bool_], growth: Growth) -> NDArray[np.bool_]:
        """Return which pixels of the block a class reaches; `seeds` are its pixels in the surroundings.

        Per pixel the distance to the nearest seed in its column, then over the columns that a disc covers: is that
        distance within the disc there?
        """
        size, reach = self._size, self._reach
        distance = _column_distances(seeds, growth.reach)[reach : reach + size]
        reached = np.zeros((size, size), np.bool_)
        for step in range(-growth.reach, growth.reach + 1):
            height = growth.half_width(abs(step))
            if height is not None:
                reached |= distance[:, reach + step : reach + step + size] <= height
        return reached


def _column_distances(seeds: NDArray[np.bool_], most: int) -> NDArray[np.uint8]:
    """Return the rows to the nearest True in the same column, uint8; ``most + 1`` where it is farther."""
    rows = np.arange(len(seeds), dtype=np.int32)[:, np.newaxis]
    far = np.int32(2 * len(seeds) + most)
    above = np.maximum.accumulate(np.where(seeds, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(seeds, rows, far)[::-1], axis=0)[::-1]
    return np.minimum(np.minimum(rows - above, below - rows), most + 1).astype(np.uint8)
