"""Index of a JPEG 2000 file: where each codestream tile's bytes are. Sans-I/O.

`index_steps` is a generator: it yields the byte ranges that it needs and is sent their bytes, so local files,
S3 and fuzzers drive the same parser. Source: ITU-T T.800 (ISO/IEC 15444-1), annexes A (codestream) and I (JP2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.errors import CodestreamError
from kappamask_stream.grid import Window

if TYPE_CHECKING:
    from collections.abc import Generator

SOC, SIZ, COD, QCD, TLM, POC, PPM, SOT, SOD, EOC = (
    0xFF4F, 0xFF51, 0xFF52, 0xFF5C, 0xFF55, 0xFF5F, 0xFF60, 0xFF90, 0xFF93, 0xFFD9,
)  # fmt: skip

_JP2_SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")
_FIRST_READ = 4096
_LARGEST_HEADER = 4 * 1024 * 1024
_MOST_PIXELS = 2**31
_MOST_TILES = 65535
_MOST_BOXES = 1000
_MOST_PARTS = 255 * _MOST_TILES
_SOT_BYTES = 12

ByteRange = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CodestreamTile:
    """One codestream tile: its pixels and its tile-parts.

    Attributes
    ----------
    index : number of the tile in raster order (Isot).
    window : pixels in the image; the last tiles of a row or column are cut at the image's edge.
    parts : (offset in the file, length) of every tile-part, SOT marker included, in file order.
    """

    index: int
    window: Window
    parts: tuple[ByteRange, ...]


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
    plain_reason: str | None
    layout: str


@dataclass(frozen=True)
class _Siz:
    """Image and tile geometry of the SIZ marker segment (T.800 A.5.1), reference grid coordinates."""

    x1: int
    y1: int
    x0: int
    y0: int
    tile_w: int
    tile_h: int
    tile_x0: int
    tile_y0: int
    bit_depth: int

    @property
    def tiles_across(self) -> int:
        return -(-(self.x1 - self.tile_x0) // self.tile_w)

    @property
    def tiles_down(self) -> int:
        return -(-(self.y1 - self.tile_y0) // self.tile_h)

    def window(self, index: int) -> Window:
        down, across = divmod(index, self.tiles_across)
        left = max(self.tile_x0 + across * self.tile_w, self.x0)
        top = max(self.tile_y0 + down * self.tile_h, self.y0)
        right = min(self.tile_x0 + (across + 1) * self.tile_w, self.x1)
        bottom = min(self.tile_y0 + (down + 1) * self.tile_h, self.y1)
        return Window(top - self.y0, left - self.x0, bottom - top, right - left)


def index_steps(name: str, size: int) -> Generator[ByteRange, bytes, CodestreamIndex]:
    """Index a file of `size` bytes; yields (offset, length) to be read and is sent those bytes.

    Raises
    ------
    CodestreamError
        If the file is truncated, contradicts itself, or is nothing that Sentinel-2 bands are stored as.
    """
    start, end = yield from _find_codestream(name, size)
    header, first_sot = yield from _main_header(name, start, end)
    segments = _segments(name, header)
    siz = _parse_siz(name, segments.get(SIZ, [b""])[0])
    count = siz.tiles_across * siz.tiles_down
    reason = _plain_reason(segments)
    parts: dict[int, list[ByteRange]] = {}
    if reason is None:
        if TLM in segments:
            parts = _parts_from_tlm(name, segments[TLM], first_sot, end, count)
        else:
            reason = yield from _walk_tile_parts(name, first_sot, end, count, parts)
    if reason is None and len(parts) < count:
        missing = next(i for i in range(count) if i not in parts)
        raise CodestreamError(
            f"{name}: codestream tile {missing} is missing ({len(parts)} of {count} tiles are there): "
            "the file is incomplete, fetch it again"
        )
    return _finished(name, siz, header, (start, end - start), parts, segments, reason)


def _finished(
    name: str,
    siz: _Siz,
    header: bytes,
    codestream: ByteRange,
    parts: dict[int, list[ByteRange]],
    segments: dict[int, list[bytes]],
    reason: str | None,
) -> CodestreamIndex:
    height, width = siz.y1 - siz.y0, siz.x1 - siz.x0
    if reason is None:
        tiles = tuple(CodestreamTile(index=i, window=siz.window(i), parts=tuple(parts[i])) for i in sorted(parts))
    else:
        tiles = (CodestreamTile(index=0, window=Window(0, 0, height, width), parts=(codestream,)),)
    return CodestreamIndex(
        name=name,
        height=height,
        width=width,
        bit_depth=siz.bit_depth,
        tile_height=siz.tile_h,
        tile_width=siz.tile_w,
        main_header=header,
        codestream=codestream,
        tiles=tiles,
        plain_reason=reason,
        layout=_layout(siz, segments, reason),
    )


def _find_codestream(name: str, size: int) -> Generator[ByteRange, bytes, ByteRange]:
    """Return first and last + 1 byte of the codestream: of a raw one, or of the jp2c box (T.800 annex I)."""
    if size < len(_JP2_SIGNATURE):
        raise CodestreamError(f"{name}: {size} bytes are no JPEG 2000 file; fetch it again")
    head = yield (0, len(_JP2_SIGNATURE))
    if head[:2] == b"\xff\x4f":
        return 0, size
    if head != _JP2_SIGNATURE:
        raise CodestreamError(f"{name}: starts with {head.hex()}, which is no JPEG 2000 signature")
    position = len(_JP2_SIGNATURE)
    for _ in range(_MOST_BOXES):
        if position + 8 > size:
            break
        head = yield (position, min(16, size - position))
        kind, length, header = _box(head, size - position)
        if length < header or position + length > size:
            raise CodestreamError(
                f"{name}: the box {kind!r} at byte {position} says {length} bytes, the file has "
                f"{size - position} left: the file is truncated or corrupt, fetch it again"
            )
        if kind == b"jp2c":
            return position + header, position + length
        position += length
    raise CodestreamError(f"{name}: no codestream (jp2c box) within {size} bytes: the file is truncated or corrupt")


def _box(head: bytes, left: int) -> tuple[bytes, int, int]:
    """Return type, length and header length of the box that starts with `head` (T.800 I.4)."""
    length, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if length == 1:
        return kind, int.from_bytes(head[8:16], "big"), 16
    return kind, length or left, 8


def _main_header(name: str, start: int, end: int) -> Generator[ByteRange, bytes, tuple[bytes, int]]:
    """Return the bytes from SOC to the first SOT, and that SOT's offset in the file."""
    data = yield (start, min(_FIRST_READ, end - start))
    if data[:2] != b"\xff\x4f":
        raise CodestreamError(f"{name}: the codestream at byte {start} does not start with SOC but {data[:2].hex()}")
    position = 2
    while True:
        while position + 4 > len(data):
            data += yield from _more(name, start, end, data)
        marker, length = struct.unpack_from(">HH", data, position)
        if marker == SOT:
            return data[:position], start + position
        if not 0xFF01 <= marker <= 0xFFFE or marker in (SOD, EOC, SOC) or length < 2:  # noqa: PLR2004
            raise CodestreamError(f"{name}: no marker segment at byte {start + position} but {marker:04x} {length}")
        position += 2 + length


def _more(name: str, start: int, end: int, data: bytes) -> Generator[ByteRange, bytes, bytes]:
    have = len(data)
    if have >= min(end - start, _LARGEST_HEADER):
        raise CodestreamError(f"{name}: the main header does not end within {have} bytes: truncated or corrupt")
    more = yield (start + have, min(max(have, _FIRST_READ), end - start - have))
    return more


def _segments(name: str, header: bytes) -> dict[int, list[bytes]]:
    """Split the main header into marker segments (without marker and length)."""
    found: dict[int, list[bytes]] = {}
    position = 2
    while position + 4 <= len(header):
        marker, length = struct.unpack_from(">HH", header, position)
        found.setdefault(marker, []).append(header[position + 4 : position + 2 + length])
        position += 2 + length
    if position != len(header):
        raise CodestreamError(f"{name}: the main header's segments end at {position}, the header at {len(header)}")
    return found


def _parse_siz(name: str, body: bytes) -> _Siz:
    """Check and read SIZ."""
    if len(body) < 39:  # noqa: PLR2004 - up to the first component
        raise CodestreamError(f"{name}: the SIZ segment has {len(body)} bytes, 39 are needed")
    _, x1, y1, x0, y0, tile_w, tile_h, tile_x0, tile_y0, components = struct.unpack_from(">H8IH", body)
    depth, step_x, step_y = body[36], body[37], body[38]
    if components != 1 or (step_x, step_y) != (1, 1):
        raise CodestreamError(f"{name}: {components} components, a Sentinel-2 band has 1 (without subsampling)")
    bits = (depth & 0x7F) + 1
    if depth & 0x80 or bits > 16:  # noqa: PLR2004
        signed = "signed" if depth & 0x80 else "unsigned"
        raise CodestreamError(f"{name}: samples of {bits} bits, {signed}; a Sentinel-2 band has up to 16, unsigned")
    siz = _Siz(x1, y1, x0, y0, tile_w, tile_h, tile_x0, tile_y0, bits)
    inside = x0 < x1 and y0 < y1 and tile_w and tile_h and tile_x0 <= x0 and tile_y0 <= y0
    if not inside or tile_x0 + tile_w <= x0 or tile_y0 + tile_h <= y0:
        raise CodestreamError(
            f"{name}: image {x0},{y0}..{x1},{y1} and tiles of {tile_w} x {tile_h} do not fit together"
        )
    if (x1 - x0) * (y1 - y0) > _MOST_PIXELS:
        raise CodestreamError(f"{name}: {(x1 - x0) * (y1 - y0)} pixels, more than {_MOST_PIXELS} are refused")
    if siz.tiles_across * siz.tiles_down > _MOST_TILES:
        raise CodestreamError(f"{name}: {siz.tiles_across * siz.tiles_down} codestream tiles, at most {_MOST_TILES}")
    return siz


def _plain_reason(segments: dict[int, list[bytes]]) -> str | None:
    """Say why the tiles of this file cannot be cut out."""
    if PPM in segments:
        return "packet headers are packed in the main header (PPM)"
    if POC in segments:
        return "the progression order changes (POC)"
    return None


def _parts_from_tlm(name: str, bodies: list[bytes], first_sot: int, end: int, count: int) -> dict[int, list[ByteRange]]:
    """Add up the tile-part lengths of the TLM segments (T.800 A.7.1)."""
    parts: dict[int, list[ByteRange]] = {}
    position, order = first_sot, 0
    for body in sorted(bodies, key=lambda b: b[:1]):
        if len(body) < 2:  # noqa: PLR2004 - Ztlm, Stlm
            raise CodestreamError(f"{name}: a TLM segment of {len(body)} bytes")
        index_bytes, long = (body[1] >> 4) & 3, bool(body[1] & 0x40)
        step = index_bytes + (4 if long else 2)
        if index_bytes > 2 or (len(body) - 2) % step:  # noqa: PLR2004
            raise CodestreamError(f"{name}: a TLM segment of {len(body)} bytes does not hold entries of {step} bytes")
        for at in range(2, len(body), step):
            index = int.from_bytes(body[at : at + index_bytes], "big") if index_bytes else order
            length = int.from_bytes(body[at + index_bytes : at + step], "big")
            _add_part(name, parts, index, (position, length), end, count)
            position, order = position + length, order + 1
    return parts


def _walk_tile_parts(
    name: str, position: int, end: int, count: int, parts: dict[int, list[ByteRange]]
) -> Generator[ByteRange, bytes, str | None]:
    """Follow the SOT chain (T.800 A.4.2); returns a reason where it cannot be followed."""
    for _ in range(_MOST_PARTS):
        if position + 2 > end:
            break
        head = yield (position, min(_SOT_BYTES, end - position))
        marker = int.from_bytes(head[:2], "big")
        if marker == EOC:
            return None
        if marker != SOT or len(head) < _SOT_BYTES:
            raise CodestreamError(
                f"{name}: at byte {position} a tile-part (SOT) should start, found {head[:2].hex()}: "
                "the file is corrupt, fetch it again"
            )
        index, length = struct.unpack_from(">HI", head, 4)
        if length == 0:
            return "a tile-part of unknown length (Psot = 0)"
        _add_part(name, parts, index, (position, length), end, count)
        position += length
    # Without EOC the last tile-part must have ended with the file.
    return None


def _add_part(name: str, parts: dict[int, list[ByteRange]], index: int, part: ByteRange, end: int, count: int) -> None:
    position, length = part
    if index >= count:
        raise CodestreamError(f"{name}: a tile-part at byte {position} is of tile {index}, there are {count} tiles")
    if length < _SOT_BYTES + 2 or position + length > end:
        raise CodestreamError(
            f"{name}: the tile-part of tile {index} at byte {position} says {length} bytes, the file has "
            f"{end - position} left: the file is truncated or corrupt, fetch it again"
        )
    parts.setdefault(index, []).append(part)


_PROGRESSIONS = ("LRCP", "RLCP", "RPCL", "PCRL", "CPRL")


def _layout(siz: _Siz, segments: dict[int, list[bytes]], reason: str | None) -> str:
    """Describe tiles, code-blocks, precincts, progression and wavelet in one line (T.800 A.6.1)."""
    words = [f"tiles {siz.tile_w}x{siz.tile_h}", f"{siz.bit_depth} bit"]
    cod = segments.get(COD, [b""])[0]
    if len(cod) >= 10:  # noqa: PLR2004 - Scod .. transformation
        style, progression, levels = cod[0], cod[1], cod[5]
        words.append(f"code-blocks {1 << (cod[6] & 15) + 2}x{1 << (cod[7] & 15) + 2}")
        words.append(_PROGRESSIONS[progression] if progression < len(_PROGRESSIONS) else f"progression {progression}")
        words += [f"{levels + 1} resolutions", "5/3 reversible" if cod[9] == 1 else "9/7 irreversible"]
        if style & 1 and len(cod) > 10:  # noqa: PLR2004
            words.append(f"precincts {1 << (cod[-1] & 15)}x{1 << (cod[-1] >> 4)}")
    words.append("TLM" if TLM in segments else "no TLM")
    if reason:
        words.append(f"decoded whole: {reason}")
    return ", ".join(words)
