"""A band at half its file's resolution: the low-pass band of the reversible 5/3 wavelet.

Of JPEG 2000 files as ESA writes them it is decoded as it stands in the file (`reduced`), for about a quarter of the
work; of any other file it is computed from the pixels, so what a model is fed never depends on the layout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.errors import ProductError
from kappamask_stream.grid import Window
from kappamask_stream.jp2.codestream import CodestreamIndex
from kappamask_stream.jp2.markers import Marker, parse_siz, segments_of
from kappamask_stream.jp2.reduced import half, reduced_codestream
from kappamask_stream.jp2.standalone import standalone_codestream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kappamask_stream.bands.types import BandIndex, BandTile
    from kappamask_stream.jp2.decode import TileDecoder

#: What `low_pass` holds for each pixel where a tile cannot be reduced in the file.
_BYTES_PER_PIXEL = 10


@dataclass(frozen=True)
class ReducedBand:
    """A `BandIndex` of the low-pass band of `inner`, piece by piece: a piece's edge is mirrored, as in JPEG 2000.

    Raises
    ------
    ProductError
        If the file's pieces do not begin on samples of the low-pass band.
    """

    inner: BandIndex

    def __post_init__(self) -> None:
        row, col = self._corner
        windows = [tile.window.placed_in(Window(row, col, 0, 0)) for tile in self.inner.tiles]
        inner_edges = {w.row for w in windows if w.row != row} | {w.col for w in windows if w.col != col}
        if any(edge % 2 for edge in inner_edges) or any(tile.window.is_empty for tile in self.tiles):
            raise ProductError(
                f"{self.inner.name} cannot be read at half its resolution: its pieces of {self.inner.tile_height} x "
                f"{self.inner.tile_width} pixels begin at odd ones; take a model that reads it in full"
            )

    @cached_property
    def _corner(self) -> tuple[int, int]:
        """First row and column of the image on its reference grid."""
        if not isinstance(self.inner, CodestreamIndex):
            return 0, 0
        siz = parse_siz(self.name, segments_of(self.name, self.inner.main_header)[Marker.SIZ][0])
        return siz.y0, siz.x0

    @property
    def name(self) -> str:
        """See `BandIndex`."""
        return self.inner.name

    @property
    def height(self) -> int:
        """See `BandIndex`."""
        return self._halved(Window(0, 0, self.inner.height, self.inner.width)).height

    @property
    def width(self) -> int:
        """See `BandIndex`."""
        return self._halved(Window(0, 0, self.inner.height, self.inner.width)).width

    @property
    def tile_height(self) -> int:
        """See `BandIndex`."""
        return half(self.inner.tile_height)

    @property
    def tile_width(self) -> int:
        """See `BandIndex`."""
        return half(self.inner.tile_width)

    @cached_property
    def tiles(self) -> tuple[BandTile, ...]:
        """See `BandIndex`."""
        return tuple(replace(tile, window=self._halved(tile.window)) for tile in self.inner.tiles)

    @property
    def decode_bytes(self) -> int:
        """See `BandIndex`: as where a tile must be decoded in full."""
        return self.inner.decode_bytes + _BYTES_PER_PIXEL * self.inner.tile_height * self.inner.tile_width

    @property
    def layout(self) -> str:
        """See `BandIndex`."""
        return f"{self.inner.layout}, at half its resolution"

    def decode_tile(
        self, tile: BandTile, parts: list[bytes], decoder: TileDecoder, _: Window | None = None, /
    ) -> NDArray[np.uint16]:
        """See `BandIndex.decode_tile`: the whole piece is decoded."""
        whole = self.inner.tiles[tile.index]
        most = np.iinfo(np.uint16).max
        if isinstance(self.inner, CodestreamIndex):
            most = (1 << self.inner.bit_depth) - 1
            if self.inner.plain_reason is None:
                name = f"codestream tile {tile.index} of {self.name}"
                codestream = reduced_codestream(standalone_codestream(self.inner, whole, parts), name)
                if codestream is not None:
                    return decoder.decode(
                        codestream, height=tile.window.height, width=tile.window.width, name=f"{name} (reduced)"
                    )
        row, col = self._corner
        pixels = self.inner.decode_tile(whole, parts, decoder)
        return low_pass(pixels, row + whole.window.row, col + whole.window.col, most)

    def identity(self, tile: BandTile, parts: list[bytes], /) -> bytes:
        """See `BandIndex.identity`."""
        return self.inner.identity(self.inner.tiles[tile.index], parts)

    def _halved(self, window: Window) -> Window:
        row, col = self._corner
        top, left, first_row, first_col = half(row + window.row), half(col + window.col), half(row), half(col)
        bottom, right = half(row + window.row_end), half(col + window.col_end)
        return Window(top - first_row, left - first_col, bottom - top, right - left)


def low_pass(pixels: NDArray[np.uint16], row: int, col: int, most: int) -> NDArray[np.uint16]:
    """Return the low-pass band of one decomposition by the reversible 5/3 wavelet (T.800 F.4.8.1).

    Parameters
    ----------
    pixels : uint16 ``[height, width]``.
    row, col : of the first pixel on the reference grid: the band's samples stand on even ones.
    most : largest value of a decoder's pixels; as in a decoder, what lies outside of 0 to `most` is clipped.
    """
    rows = _low_pass_of_rows(pixels.astype(np.int32), row % 2)
    both = _low_pass_of_rows(rows.T, col % 2).T
    return np.ascontiguousarray(np.clip(both, 0, most), dtype=np.uint16)


def _low_pass_of_rows(samples: NDArray[np.int32], odd: int) -> NDArray[np.int32]:
    """Lift along the first axis; `odd` is 1 where the first sample stands on an odd position."""
    count = len(samples)
    if count == 1:
        return samples[odd:]
    even = samples[odd::2]
    # Beyond the ends the signal is mirrored. High-pass samples: one before each even one, and one after the last.
    positions = np.arange(odd - 1, odd + 2 * len(even), 2)
    mirrored = _mirrored(np.stack([positions - 1, positions, positions + 1]), count)
    before, at, after = (samples[index] for index in mirrored)
    high = at - ((before + after) >> 1)
    band: NDArray[np.int32] = even + ((high[:-1] + high[1:] + 2) >> 2)
    return band


def _mirrored(positions: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    inside = np.abs(positions)
    return np.where(inside >= count, 2 * (count - 1) - inside, inside)
