"""Stand-alone tiles for decoders that want image and tile grid to begin at (0, 0), as nvJPEG2000 does.

A tile is cut into precincts and code-blocks by its place in the image, so it can be moved only where they stay as they
are. Elsewhere it is put back among tiles without data, and its region is asked for.
"""

from __future__ import annotations

import struct

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2.precincts import precinct_count

#: Marker and length of a tile-part's head.
_SOT = b"\xff\x90\x00\x0a"
_COD, _COC = b"\xff\x52", b"\xff\x53"
#: Tiles before the one that is framed, and the bytes that they take.
_MOST_BEFORE, _MOST_FRAME_BYTES = 2**14, 2**22


def framed(codestream: bytes) -> tuple[bytes, tuple[int, int, int, int]]:
    """Put a stand-alone tile back into an image that begins at (0, 0) and ends with it, among tiles of empty packets.

    nvJPEG2000 wants image and tile grid to begin at (0, 0), and moving the tile there would change how it is cut into
    precincts and code-blocks. The empty tiles need not be decoded: only the tile's region is asked for.

    Returns
    -------
    codestream
        Some bytes longer for each tile before this one.
    region
        First row and column, end row and column of the tile.

    Raises
    ------
    CodestreamError
        If the tile does not lie on a tile grid from (0, 0) on, or so far from there that the frame would be too large.
    """
    x1, y1, x0, y0, width, height = struct.unpack_from(">6I", codestream, 8)
    if x0 % width or y0 % height:
        raise CodestreamError(
            f"a tile at row {y0}, column {x0} is on no grid of {height} x {width}: decode it on the CPU"
        )
    across, index = -(-x1 // width), y0 // height * -(-x1 // width) + x0 // width
    if index > _MOST_BEFORE:
        raise _too_large(f"{index} tiles, {_MOST_BEFORE}")
    coding, first = main_header(codestream)
    pieces = [codestream[:16], bytes(8), codestream[24:32], bytes(8), codestream[40:first]]
    left_bytes = _MOST_FRAME_BYTES
    for number in range(index):
        top, left = number // across * height, number % across * width
        extent = (left, top, min(left + width, x1), min(top + height, y1))
        body = b"\xff\x93" + empty_packets(coding, extent, left_bytes)
        left_bytes -= len(body)
        pieces += [_SOT + struct.pack(">HIBB", number, 12 + len(body), 0, 1), body]
    position = first
    while codestream[position : position + 2] == _SOT[:2]:
        (length,) = struct.unpack_from(">I", codestream, position + 6)
        part = codestream[position : position + length]
        pieces += [part[:4], struct.pack(">H", index), part[6:]]
        position += length
    pieces.append(codestream[position:])
    return b"".join(pieces), (y0, x0, y1, x1)


def _too_large(what: str) -> CodestreamError:
    return CodestreamError(f"before a tile would stand {what} at most: decode it on the CPU")


def moved(codestream: bytes) -> bytes | None:
    """Move a stand-alone tile to (0, 0); None where precincts or code-blocks would be cut elsewhere then.

    ESA's tiles of 10 m can all be moved, most of 20 m and 60 m cannot. Without a frame nvJPEG2000 is 1.8 times as fast.

    Raises
    ------
    CodestreamError
        If the tile has coding parameters of its own.
    """
    x1, y1, x0, y0 = struct.unpack_from(">4I", codestream, 8)
    coding, _ = main_header(codestream)
    levels = coding[5]
    for shift, (start, end) in ((0, (x0, x1)), (4, (y0, y1))):
        if start % (1 << levels):
            return None
        code_block = coding[7 if shift else 6] + 2
        for level in range(levels + 1):
            precinct = (coding[10 + level] if coding[0] & 1 else 0xFF) >> shift & 15
            if not _is_cut_alike(start, end, levels - level, precinct):
                return None
            # Of the bands of this resolution, which beyond the lowest have half its size.
            half = 1 if level else 0
            if not _is_cut_alike(start, end, levels - level + half, min(code_block, precinct - half)):
                return None
    extent = struct.pack(">4I", x1 - x0, y1 - y0, 0, 0)
    return codestream[:8] + extent + codestream[24:32] + bytes(8) + codestream[40:]


def _is_cut_alike(start: int, end: int, halvings: int, log_size: int) -> bool:
    """Tell whether a row of blocks cuts an extent, halved so often, at the same places when it begins at 0."""
    if log_size < 0:
        return False
    size, first, last = 1 << log_size, start >> halvings, -(-end >> halvings) - 1
    return first % size == 0 or (first // size == last // size and last - first < size)


def empty_packets(coding: bytes, extent: tuple[int, int, int, int], most: int) -> bytes:
    """Return the packets of a tile without data: one zero byte for each precinct of each resolution and layer.

    Raises
    ------
    CodestreamError
        If these are more than `most`.
    """
    style, layers, levels = coding[0], int.from_bytes(coding[2:4]), coding[5]
    x0, y0, x1, y1 = extent
    count = 0
    for level in range(levels + 1):
        precinct = coding[10 + level] if style & 1 else 0xFF
        scale, across, down = levels - level, precinct & 15, precinct >> 4
        left, top, right, bottom = (-(-v >> scale) for v in (x0, y0, x1, y1))
        count += precinct_count(left, right, across) * precinct_count(top, bottom, down)
    packet = b"\0\xff\x92" if style & 4 else b"\0"
    if len(packet) * count * layers > most:
        raise _too_large(f"packets of more than {_MOST_FRAME_BYTES} bytes, these")
    return packet * (count * layers)


def main_header(codestream: bytes) -> tuple[bytes, int]:
    """Return the parameters of COD, and where the main header ends.

    Raises
    ------
    CodestreamError
        If others hold for the component, or for the tile: these would be cut otherwise; or if there is none.
    """
    kinds, end = _segments(codestream, 2, _SOT[:2])
    position = end
    while codestream[position : position + 2] == _SOT[:2]:
        own, data = _segments(codestream, position + 12, b"\xff\x93")
        if _COD in own or _COC in own:
            kinds[_COC] = b""
        position = max(data, position + int.from_bytes(codestream[position + 6 : position + 10], "big"))
    if _COC in kinds:
        raise CodestreamError("a tile or component has coding parameters of its own: decode it on the CPU")
    if _COD not in kinds:
        raise CodestreamError("a tile has no coding parameters: the file is corrupt")
    return kinds[_COD], end


def _segments(codestream: bytes, position: int, end: bytes) -> tuple[dict[bytes, bytes], int]:
    """Return marker segments by their marker up to the marker `end`, and where that is."""
    found = {}
    while codestream[position : position + 2] != end:
        length = int.from_bytes(codestream[position + 2 : position + 4], "big")
        if length < 2 or position + 2 + length > len(codestream):  # noqa: PLR2004 - it counts itself
            raise CodestreamError(f"there is no marker segment at byte {position} of a tile: the file is corrupt")
        found[codestream[position : position + 2]] = codestream[position + 4 : position + 2 + length]
        position += 2 + length
    return found, position
