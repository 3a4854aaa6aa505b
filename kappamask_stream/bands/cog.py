"""One band in a tiled TIFF, a Cloud Optimized GeoTIFF in most cases: its blocks, and how one is decoded.

What Sentinel-2 bands are published as: one unsigned band, stored plainly or by LZW, Deflate or Zstandard, with or
without horizontal differences. GDAL keeps the 15 bits of ESA's JPEG 2000 (NBITS), so samples may be packed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from kappamask_stream.bands.tiff import MOST_BLOCKS, Georeference, Tag, TiffTags, damaged, tag_steps
from kappamask_stream.bands.types import BandTile
from kappamask_stream.errors import ProductError
from kappamask_stream.grid import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray

    from kappamask_stream.bands.types import ByteRange
    from kappamask_stream.jp2.decode import TileDecoder

_DEFLATE: tuple[str, Callable[..., bytes | bytearray]] = ("Deflate", imagecodecs.deflate_decode)
#: Compression -> name, decoder that writes at most `out` bytes; others are refused.
_COMPRESSIONS: dict[int, tuple[str, Callable[..., bytes | bytearray]]] = {
    1: ("no compression", lambda data, *, out: data[:out]),
    5: ("LZW", imagecodecs.lzw_decode),
    8: _DEFLATE,
    32946: _DEFLATE,
    50000: ("Zstandard", imagecodecs.zstd_decode),
}
_CORRUPT = (imagecodecs.DeflateError, imagecodecs.LzwError, imagecodecs.ZstdError, ValueError)
_DIFFERENCES = 2
_MOST_BITS = 16
_LONGEST_SIDE = 2**17
#: What decoding such a block takes is held against the budget.
_LONGEST_BLOCK_SIDE = 2**12
#: What the coders make at most of blocks that cannot be compressed, beside their own length.
_SLACK_BYTES = 4096
_BYTES_PER_PIXEL = 2


@dataclass(frozen=True, kw_only=True)
class CogIndex:
    """A `BandIndex` of a tiled TIFF.

    Attributes
    ----------
    name, height, width, tile_height, tile_width, tiles, layout : see `BandIndex`; pieces are the TIFF's blocks.
    bits : of a sample, 1 to 16, unsigned.
    compression : TIFF's code.
    has_differences : True where each sample of a row is stored as its difference from the one before.
    byte_order : of samples of 16 bits, ``<`` or ``>``.
    georeference : what the file says about its place; None where it says nothing.
    """

    name: str
    height: int
    width: int
    tile_height: int
    tile_width: int
    tiles: tuple[BandTile, ...] = field(repr=False)
    layout: str
    bits: int
    compression: int
    has_differences: bool
    byte_order: str
    georeference: Georeference | None

    @property
    def decode_bytes(self) -> int:
        """See `BandIndex`: a block unpacked and as samples."""
        return _block_bytes(self) + 2 * _BYTES_PER_PIXEL * self.tile_height * self.tile_width

    def decode_tile(
        self, tile: BandTile, parts: list[bytes], _: TileDecoder, __: Window | None = None, /
    ) -> NDArray[np.uint16]:
        """See `BandIndex.decode_tile`: a block is unpacked as a whole."""
        return self.pixels(tile, parts)

    def pixels(self, tile: BandTile, parts: list[bytes]) -> NDArray[np.uint16]:
        """Return a block's pixels, uint16 ``[height, width]`` of its window; raises as `BandIndex.decode_tile`."""
        stored = self._samples(self._unpacked(tile, b"".join(parts)))
        if self.has_differences:
            stored = imagecodecs.delta_decode(stored, axis=-1)
        inside = stored[: tile.window.height, : tile.window.width]
        return np.ascontiguousarray(inside, dtype=np.uint16)

    def identity(self, tile: BandTile, parts: list[bytes], /) -> bytes:
        """See `BandIndex.identity`."""
        return b"".join((struct.pack(">II", tile.window.height, tile.window.width), *parts))

    def _unpacked(self, tile: BandTile, data: bytes) -> bytes | bytearray:
        """Undo the compression; a bomb stops at the block's size."""
        expected = _block_bytes(self)
        kind, decode = _COMPRESSIONS[self.compression]
        try:
            unpacked = decode(data, out=expected)
        except _CORRUPT as error:
            raise ProductError(
                f"block {tile.index} of {self.name} cannot be decoded ({error}): the file is corrupt, fetch it again"
            ) from error
        if len(unpacked) != expected:
            raise ProductError(
                f"block {tile.index} of {self.name} gives {len(unpacked)} bytes by {kind}, {expected} are needed: "
                "the file is corrupt, fetch it again"
            )
        return unpacked

    def _samples(self, unpacked: bytes | bytearray) -> NDArray[np.unsignedinteger]:
        """Return a whole block, ``[tile_height, tile_width]``, as it is stored."""
        shape = (self.tile_height, self.tile_width)
        if self.bits == 8:  # noqa: PLR2004
            return np.frombuffer(unpacked, np.uint8).reshape(shape)
        if self.bits == _MOST_BITS:
            return np.frombuffer(unpacked, f"{self.byte_order}u2").astype(np.uint16, copy=False).reshape(shape)
        # Packed from the high bit on, whatever the file's byte order; rows begin on whole bytes (TIFF 6.0, page 39).
        dtype = np.uint8 if self.bits < 8 else np.uint16  # noqa: PLR2004
        return imagecodecs.packints_decode(unpacked, dtype, self.bits, runlen=self.tile_width).reshape(shape)


def index_cog_steps(
    name: str, size: int, on_count: Callable[[int], None] = lambda _: None
) -> Generator[ByteRange, bytes, CogIndex]:
    """Index a TIFF of `size` bytes; yields (offset, length) to be read and is sent those bytes.

    Parameters
    ----------
    on_count : is told the number of blocks before anything is made of them.

    Raises
    ------
    ProductError
        If it is truncated, contradicts itself, or is nothing that Sentinel-2 bands are stored as; says what.
    """
    tags = yield from tag_steps(name, size)
    if Tag.TILE_WIDTH not in tags.values:
        raise _unfit(name, "is stored in strips", "blocks (tiles) are read: make it a COG")
    height, width = tags.count(Tag.HEIGHT), tags.count(Tag.WIDTH)
    tile_height, tile_width = tags.count(Tag.TILE_HEIGHT), tags.count(Tag.TILE_WIDTH)
    _check_sides(name, height, width, tile_height, tile_width)
    bits, compression, has_differences = _storage(tags)
    down, across = -(-height // tile_height), -(-width // tile_width)
    if down * across > MOST_BLOCKS:
        raise _unfit(name, f"has {down} x {across} blocks", f"at most {MOST_BLOCKS} are read, this layout is not")
    on_count(down * across)
    kind = _COMPRESSIONS[compression][0]
    words = (f"blocks {tile_width}x{tile_height}", f"{bits} bit", kind, "differences" if has_differences else "")
    return CogIndex(
        name=name,
        height=height,
        width=width,
        tile_height=tile_height,
        tile_width=tile_width,
        tiles=_blocks(tags, tile_height * -(-tile_width * bits // 8)),
        layout=", ".join(filter(None, words)),
        bits=bits,
        compression=compression,
        has_differences=has_differences,
        byte_order=tags.order,
        georeference=Georeference.of(tags),
    )


def _check_sides(name: str, height: int, width: int, tile_height: int, tile_width: int) -> None:
    if not (0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE):
        raise damaged(name, f"it has {height} x {width} pixels, 1 to {_LONGEST_SIDE} on a side are read")
    if not (tile_height and tile_width):
        raise damaged(name, f"its blocks have {tile_height} x {tile_width} pixels")
    if max(tile_height, tile_width) > _LONGEST_BLOCK_SIDE:
        raise _unfit(
            name,
            f"has blocks of {tile_height} x {tile_width} pixels",
            f"1 to {_LONGEST_BLOCK_SIDE} on a side are read, this layout is not",
        )


def _storage(tags: TiffTags) -> tuple[int, int, bool]:
    """Return bits per sample, compression, and whether differences are stored; refuse what cannot be read."""
    name = tags.name
    if tags.count(Tag.SUBFILE, 0):
        raise _unfit(name, "begins with an overview or a mask", "its first image must be the band itself")
    samples = tags.count(Tag.SAMPLES, 1)
    if samples != 1:
        raise _unfit(name, f"has {samples} bands", "one is read: a file for each band")
    bits, sample_format = tags.count(Tag.BITS, 1), tags.count(Tag.SAMPLE_FORMAT, 1)
    if sample_format != 1 or not 1 <= bits <= _MOST_BITS:
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(sample_format, f"format {sample_format}")
        raise _unfit(name, f"has {kind} samples of {bits} bits", f"unsigned ones of 1 to {_MOST_BITS} bits are read")
    compression, predictor = tags.count(Tag.COMPRESSION, 1), tags.count(Tag.PREDICTOR, 1)
    if compression not in _COMPRESSIONS:
        names = ", ".join(dict.fromkeys(known for known, _ in _COMPRESSIONS.values()))
        raise _unfit(name, f"is compressed by TIFF's method {compression}", f"{names} are read")
    # Without compression nobody differences, and readers disagree about whether the tag counts then.
    has_differences = predictor == _DIFFERENCES and compression != 1
    if predictor not in {1, _DIFFERENCES} or (has_differences and bits not in {8, _MOST_BITS}):
        raise _unfit(name, f"has predictor {predictor} on samples of {bits} bits", "1 is read, and 2 on 8 or 16 bits")
    if tags.count(Tag.FILL_ORDER, 1) != 1:
        raise _unfit(name, "stores bits from the lowest on (FillOrder 2)", "1 is read")
    return bits, compression, has_differences


def _blocks(tags: TiffTags, block_bytes: int) -> tuple[BandTile, ...]:
    """Pair every block with its bytes; GDAL leaves blocks out that hold nothing but nodata."""
    name, height, width = tags.name, tags.count(Tag.HEIGHT), tags.count(Tag.WIDTH)
    tile_height, tile_width = tags.count(Tag.TILE_HEIGHT), tags.count(Tag.TILE_WIDTH)
    windows = [
        Window(row, col, min(tile_height, height - row), min(tile_width, width - col))
        for row in range(0, height, tile_height)
        for col in range(0, width, tile_width)
    ]
    offsets, counts = tags.counts(Tag.OFFSETS, len(windows)), tags.counts(Tag.COUNTS, len(windows))
    most, nodata, tiles = 2 * block_bytes + _SLACK_BYTES, _nodata(tags), []
    for index, (window, offset, count) in enumerate(zip(windows, offsets, counts, strict=True)):
        if count == 0 and nodata not in {"", "0"}:
            raise _unfit(name, f"leaves block {index} out, which then holds {nodata[:20]!r}", "0 is read as no data")
        if count and not (0 < offset <= offset + count <= tags.size and count <= most):
            raise damaged(
                name,
                f"block {index} is said to lie at bytes {offset} to {offset + count}, the file has {tags.size}, "
                f"a block at most {most}",
            )
        parts = ((offset, count),) if count else ()
        tiles.append(BandTile(index=index, window=window, parts=parts, is_zero=not count))
    return tuple(tiles)


def _nodata(tags: TiffTags) -> str:
    """Return GDAL's nodata value; empty where there is none."""
    text = bytes(map(int, tags.values.get(Tag.NODATA, ()))).split(b"\0", 1)[0].decode("latin-1").strip()
    return "0" if text in {"0.0", "0"} else text


def _block_bytes(index: CogIndex) -> int:
    """Return the bytes of a whole block without compression."""
    return index.tile_height * -(-index.tile_width * index.bits // 8)


def _unfit(name: str, what: str, wanted: str) -> ProductError:
    return ProductError(f"{name} {what}; {wanted}")
