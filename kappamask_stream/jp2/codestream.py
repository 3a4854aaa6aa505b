"""Index of a JPEG 2000 file: where each codestream tile's bytes are. Sans-I/O.

`index_steps` is a generator: it yields the byte ranges that it needs and is sent their bytes, so local files,
S3 and fuzzers drive the same parser. Source: ITU-T T.800 (ISO/IEC 15444-1), annexes A (codestream) and I (JP2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.bands.types import BandTile
from kappamask_stream.grid import Window
from kappamask_stream.jp2.account import PieceAccount
from kappamask_stream.jp2.geometry import TileGeometry
from kappamask_stream.jp2.limits import check_coded, check_cost, check_pixels, check_segments, damaged
from kappamask_stream.jp2.markers import (
    DECISIVE,
    IDLE,
    PROGRESSIONS,
    Coding,
    Marker,
    Siz,
    check_quantisation,
    parse_coding,
    parse_siz,
    segments_of,
)
from kappamask_stream.jp2.standalone import standalone_codestream, tile_identity
from kappamask_stream.jp2.tile_parts import ByteRange, parts_from_tlm, walk_tile_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.jp2.decode import TileDecoder

_JP2_SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")
_FIRST_READ = 4096
_LARGEST_HEADER = 4 * 1024 * 1024
_MOST_BOXES = 1000
#: Measured with OpenJPEG 2.5: what it keeps for each tile of a codestream that it decodes as a whole.
_BYTES_PER_TILE = 10 * 1024


#: Its `parts` are tile-parts; empty where the tile was not looked for (`index_steps` with `wanted`).
CodestreamTile = BandTile


@dataclass(frozen=True, kw_only=True)
class CodestreamIndex:
    """What a decoder needs to know of one single-component JPEG 2000 file.

    Attributes
    ----------
    name : file name, for messages.
    height, width : pixels of the image.
    bit_depth : of the component, 1 to 16, unsigned.
    tile_height, tile_width : nominal size of a codestream tile.
    main_header : bytes from SOC up to the first SOT.
    codestream : (offset, length) of the whole codestream in the file.
    tiles : all codestream tiles in raster order; one for the whole image where `plain_reason` is set.
    decode_bytes : most that decoding one of the tiles takes, beside its tile-parts and its pixels.
    plain_reason : why tiles cannot be decoded alone (None: they can).
    layout : how the file is laid out, for people.
    """

    name: str
    height: int
    width: int
    bit_depth: int
    tile_height: int
    tile_width: int
    main_header: bytes
    codestream: ByteRange
    tiles: tuple[CodestreamTile, ...]
    decode_bytes: int
    plain_reason: str | None
    layout: str

    def decode_tile(
        self, tile: CodestreamTile, parts: list[bytes], decoder: TileDecoder, needed: Window | None = None, /
    ) -> NDArray[np.uint16]:
        """See `BandIndex.decode_tile`."""
        return decoder.decode(
            standalone_codestream(self, tile, parts, needed if decoder.takes_thinned else None),
            height=tile.window.height,
            width=tile.window.width,
            name=f"codestream tile {tile.index} of {self.name}" if self.plain_reason is None else self.name,
        )

    def identity(self, tile: CodestreamTile, parts: list[bytes], /) -> bytes:
        """See `BandIndex.identity`."""
        return tile_identity(tile, parts)


def index_steps(
    name: str,
    size: int,
    wanted: Callable[[TileGeometry], Iterable[int]] | None = None,
    account: PieceAccount | None = None,
) -> Generator[ByteRange, bytes, CodestreamIndex]:
    """Index a file of `size` bytes; yields (offset, length) to be read and is sent those bytes.

    Parameters
    ----------
    wanted : says which codestream tiles are to be found, once the image's geometry is known. The file is then read
        no further than to the last of them. None: all, and the file is checked to its end.
    account : codestream tiles and tile-parts are counted here, before they are made.

    Raises
    ------
    CodestreamError
        If the file is truncated, contradicts itself, or is nothing that Sentinel-2 bands are stored as.
    ProductError
        If `account` says that they are too many.
    """
    steps = _steps(name, size, wanted, account or PieceAccount())
    try:
        offset, length = next(steps)
        while True:
            data = (yield offset, length) if length else b""
            if len(data) != length:
                raise damaged(name, f"{len(data)} of {length} bytes are there from byte {offset} on")
            offset, length = steps.send(data)
    except StopIteration as finished:
        index: CodestreamIndex = finished.value
        return index


def _steps(
    name: str, size: int, wanted: Callable[[TileGeometry], Iterable[int]] | None, account: PieceAccount
) -> Generator[ByteRange, bytes, CodestreamIndex]:
    start, end = yield from _find_codestream(name, size)
    header, first_sot = yield from _main_header(name, start, end)
    segments = segments_of(name, header)
    siz = parse_siz(name, segments[Marker.SIZ][0])
    height, width = siz.y1 - siz.y0, siz.x1 - siz.x0
    codings = [parse_coding(name, kind, body) for kind in (Marker.COD, Marker.COC) for body in segments.get(kind, [])]
    for kind in (Marker.QCD, Marker.QCC):
        for body in segments.get(kind, []):
            check_quantisation(name, kind, body, codings[-1].levels)
    decode_bytes = max(check_cost(name, coding, *siz.largest_tile) for coding in codings)
    count = siz.tiles_across * siz.tiles_down
    reason = _plain_reason(segments)
    # All of them where the plain decoder takes over: it would fill what is missing with something.
    needed = None if wanted is None or reason is not None else frozenset(wanted(_geometry(siz)))
    account.add(name, pieces=count, parts=count, units=count if needed is None else len(needed))
    parts = None
    if reason is None and Marker.TLM in segments:
        parts = yield from parts_from_tlm(segments[Marker.TLM], first_sot, end, count)
        account.add(name, parts=0 if parts is None else sum(map(len, parts.values())) - count)
    if parts is None:
        parts, is_open = yield from walk_tile_parts(name, first_sot, end, count, needed, account)
        reason = reason or ("a tile-part of unknown length (Psot = 0)" if is_open else None)
    if reason is None:
        tiles = [CodestreamTile(index=i, window=siz.window(i), parts=tuple(parts.get(i, ()))) for i in range(count)]
    else:
        tiles = [CodestreamTile(index=0, window=Window(0, 0, height, width), parts=((start, end - start),))]
        decode_bytes += check_pixels(name, height, width) + count * _BYTES_PER_TILE
    for tile in tiles:
        check_coded(name, tile.index, sum(length for _, length in tile.parts), tile.window)
    return CodestreamIndex(
        name=name,
        height=height,
        width=width,
        bit_depth=siz.bit_depth,
        tile_height=siz.tile_h,
        tile_width=siz.tile_w,
        main_header=header,
        codestream=(start, end - start),
        tiles=tuple(tiles),
        decode_bytes=decode_bytes,
        plain_reason=reason,
        layout=_layout(siz, codings[0], has_tlm=Marker.TLM in segments, reason=reason),
    )


def _geometry(siz: Siz) -> TileGeometry:
    first = siz.window(0)
    return TileGeometry(
        height=siz.y1 - siz.y0,
        width=siz.x1 - siz.x0,
        tile_height=siz.tile_h,
        tile_width=siz.tile_w,
        first_height=first.height,
        first_width=first.width,
    )


def _find_codestream(name: str, size: int) -> Generator[ByteRange, bytes, ByteRange]:
    """Return first and last + 1 byte of the codestream: of a raw one, or of the jp2c box (T.800 annex I)."""
    if size < len(_JP2_SIGNATURE):
        raise damaged(name, f"{size} bytes are no JPEG 2000 file, its signature has {len(_JP2_SIGNATURE)}")
    head = yield (0, len(_JP2_SIGNATURE))
    if head[:2] == Marker.SOC.code:
        return 0, size
    if head != _JP2_SIGNATURE:
        raise damaged(name, f"it starts with {head.hex()}, a JPEG 2000 file with {_JP2_SIGNATURE.hex()}")
    position = len(_JP2_SIGNATURE)
    for _ in range(_MOST_BOXES):
        if position + 8 > size:
            break
        head = yield (position, min(16, size - position))
        kind, length, header = _box(head, size - position)
        if length < header or position + length > size:
            left = size - position
            raise damaged(name, f"the box {kind!r} at byte {position} says {length} bytes, the file has {left} left")
        if kind == b"jp2c":
            return position + header, position + length
        position += length
    raise damaged(name, f"there is no codestream (jp2c box) in the boxes up to byte {position} of {size}")


def _box(head: bytes, left: int) -> tuple[bytes, int, int]:
    """Return type, length and header length of the box that starts with `head` (T.800 I.4)."""
    length, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if length == 1:
        return kind, int.from_bytes(head[8:16], "big"), 16
    return kind, length or left, 8


def _main_header(name: str, start: int, end: int) -> Generator[ByteRange, bytes, tuple[bytes, int]]:
    """Return the bytes from SOC to the first SOT, and that SOT's offset in the file."""
    data = yield (start, min(_FIRST_READ, end - start))
    if data[:2] != Marker.SOC.code:
        raise damaged(name, f"the codestream at byte {start} should start with ff4f, there is {data[:2].hex()}")
    position, count = 2, 0
    while True:
        while position + 4 > len(data):
            data += yield from _more(name, start, end, data)
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == Marker.SOT:
            return data[:position], start + position
        if not 0xFF01 <= marker <= 0xFFFE or marker in (Marker.SOD, Marker.EOC, Marker.SOC) or length < 2:  # noqa: PLR2004
            raise damaged(name, f"at byte {start + position} is no marker segment but {marker:04x} {length:04x}")
        position, count = position + 2 + length, count + 1
        check_segments(name, count)


def _more(name: str, start: int, end: int, data: bytes) -> Generator[ByteRange, bytes, bytes]:
    have = len(data)
    if have >= min(end - start, _LARGEST_HEADER):
        raise damaged(name, f"the main header does not end within {have} bytes")
    more = yield (start + have, min(max(have, _FIRST_READ), end - start - have))
    return more


def _plain_reason(segments: dict[int, list[bytes]]) -> str | None:
    """Say why the tiles of this file cannot be cut out."""
    if Marker.PPM in segments:
        return "packet headers are packed in the main header (PPM)"
    if Marker.POC in segments:
        return "the progression order changes (POC)"
    unknown = sorted(segments.keys() - DECISIVE - IDLE)
    return f"the main header has a marker segment {unknown[0]:04x}" if unknown else None


def _layout(siz: Siz, coding: Coding, *, has_tlm: bool, reason: str | None) -> str:
    """Describe tiles, code-blocks, precincts, progression and wavelet in one line."""
    order = coding.progression
    words = [
        f"tiles {siz.tile_w}x{siz.tile_h}",
        f"{siz.bit_depth} bit",
        f"code-blocks {1 << coding.block_w}x{1 << coding.block_h}",
        PROGRESSIONS[order] if order < len(PROGRESSIONS) else f"progression {order}",
        f"{coding.levels + 1} resolutions",
        "5/3 reversible" if coding.reversible else "9/7 irreversible",
    ]
    if coding.precincts:
        width, height = coding.precincts[-1]
        words.append(f"precincts {1 << width}x{1 << height}")
    words.append("TLM" if has_tlm else "no TLM")
    if reason:
        words.append(f"decoded whole: {reason}")
    return ", ".join(words)
