"""A band at another resolution than its file's, made of it piece by piece. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.errors import ProductError
from kappamask_stream.grid import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kappamask_stream.bands.types import BandIndex, BandTile
    from kappamask_stream.jp2.decode import TileDecoder

_BYTES_PER_PIXEL = 2


@dataclass(frozen=True)
class ReplicatedIndex:
    """A `BandIndex` in which each pixel of `inner` stands `factor` x `factor` times: no value is made up."""

    inner: BandIndex
    factor: int

    @property
    def name(self) -> str:
        """See `BandIndex`."""
        return self.inner.name

    @property
    def height(self) -> int:
        """See `BandIndex`."""
        return self.inner.height * self.factor

    @property
    def width(self) -> int:
        """See `BandIndex`."""
        return self.inner.width * self.factor

    @property
    def tile_height(self) -> int:
        """See `BandIndex`."""
        return self.inner.tile_height * self.factor

    @property
    def tile_width(self) -> int:
        """See `BandIndex`."""
        return self.inner.tile_width * self.factor

    @cached_property
    def tiles(self) -> tuple[BandTile, ...]:
        """See `BandIndex`."""
        return tuple(_rescaled(tile, lambda pixels: pixels * self.factor) for tile in self.inner.tiles)

    @property
    def decode_bytes(self) -> int:
        """See `BandIndex`."""
        return self.inner.decode_bytes + _BYTES_PER_PIXEL * self.inner.tile_height * self.tile_width

    @property
    def layout(self) -> str:
        """See `BandIndex`."""
        return f"{self.inner.layout}, each pixel {self.factor}x{self.factor} times"

    def decode_tile(
        self, tile: BandTile, parts: list[bytes], decoder: TileDecoder, needed: Window | None = None, /
    ) -> NDArray[np.uint16]:
        """See `BandIndex.decode_tile`."""
        inner = _rescaled(tile, lambda pixels: pixels // self.factor)
        pixels = self.inner.decode_tile(inner, parts, decoder, needed and _shrunk(needed, self.factor))
        return np.repeat(np.repeat(pixels, self.factor, axis=1), self.factor, axis=0)

    def identity(self, tile: BandTile, parts: list[bytes], /) -> bytes:
        """See `BandIndex.identity`."""
        return self.inner.identity(_rescaled(tile, lambda pixels: pixels // self.factor), parts)


@dataclass(frozen=True)
class AveragedIndex:
    """A `BandIndex` whose pixels are means of `factor` x `factor` of `inner`; 0 is no data and is left out of them.

    Raises
    ------
    ProductError
        If a piece of the file does not hold whole pixels of the result.
    """

    inner: BandIndex
    factor: int

    def __post_init__(self) -> None:
        sides = self.inner.height, self.inner.width, self.inner.tile_height, self.inner.tile_width
        edges = (edge for tile in self.inner.tiles for edge in (tile.window.row, tile.window.col))
        if any(side % self.factor for side in (*sides, *edges)):
            raise ProductError(
                f"{self.inner.name} cannot be averaged {self.factor} to 1: its {sides[0]} x {sides[1]} pixels, or its "
                f"pieces of {sides[2]} x {sides[3]}, are no multiple of that"
            )

    @property
    def name(self) -> str:
        """See `BandIndex`."""
        return self.inner.name

    @property
    def height(self) -> int:
        """See `BandIndex`."""
        return self.inner.height // self.factor

    @property
    def width(self) -> int:
        """See `BandIndex`."""
        return self.inner.width // self.factor

    @property
    def tile_height(self) -> int:
        """See `BandIndex`."""
        return self.inner.tile_height // self.factor

    @property
    def tile_width(self) -> int:
        """See `BandIndex`."""
        return self.inner.tile_width // self.factor

    @cached_property
    def tiles(self) -> tuple[BandTile, ...]:
        """See `BandIndex`."""
        return tuple(_rescaled(tile, lambda pixels: pixels // self.factor) for tile in self.inner.tiles)

    @property
    def decode_bytes(self) -> int:
        """See `BandIndex`: with the pixels of the file and their sums."""
        pixels = self.inner.tile_height * self.inner.tile_width
        return self.inner.decode_bytes + (_BYTES_PER_PIXEL + 4) * pixels

    @property
    def layout(self) -> str:
        """See `BandIndex`."""
        return f"{self.inner.layout}, means of {self.factor}x{self.factor} pixels"

    def decode_tile(
        self, tile: BandTile, parts: list[bytes], decoder: TileDecoder, needed: Window | None = None, /
    ) -> NDArray[np.uint16]:
        """See `BandIndex.decode_tile`; halves are rounded up."""
        inner = _rescaled(tile, lambda pixels: pixels * self.factor)
        pixels = self.inner.decode_tile(inner, parts, decoder, needed and _scaled(needed, lambda n: n * self.factor))
        squares = pixels.reshape(tile.window.height, self.factor, tile.window.width, self.factor)
        total = squares.sum(axis=(1, 3), dtype=np.uint32)
        there = np.count_nonzero(squares, axis=(1, 3)).astype(np.uint32)
        means: NDArray[np.uint16] = ((total + there // 2) // np.maximum(there, 1)).astype(np.uint16)
        return means

    def identity(self, tile: BandTile, parts: list[bytes], /) -> bytes:
        """See `BandIndex.identity`."""
        return self.inner.identity(_rescaled(tile, lambda pixels: pixels * self.factor), parts)


def _rescaled(tile: BandTile, scale: Callable[[int], int]) -> BandTile:
    return replace(tile, window=_scaled(tile.window, scale))


def _scaled(window: Window, scale: Callable[[int], int]) -> Window:
    return Window(scale(window.row), scale(window.col), scale(window.height), scale(window.width))


def _shrunk(window: Window, factor: int) -> Window:
    """Return the pixels of which a window's are copies."""
    row, col = window.row // factor, window.col // factor
    return Window(row, col, -(-window.row_end // factor) - row, -(-window.col_end // factor) - col)
