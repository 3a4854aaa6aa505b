"""Make one codestream tile a codestream of its own, which any decoder takes.

The SIZ segment is rewritten with *absolute* coordinates: precincts are anchored at the reference grid's (0, 0),
so shifting a tile there would change how its packets are cut. All tile-parts follow, as tile 0, and EOC.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kappamask_stream.grid import Window
from kappamask_stream.jp2.limits import check_cost, check_segments, damaged
from kappamask_stream.jp2.markers import (
    DECISIVE,
    Marker,
    check_quantisation,
    parse_coding,
    parse_siz,
    segments_of,
)
from kappamask_stream.jp2.precincts import has_emptied_packets, thinned
from kappamask_stream.jp2.tile_parts import SOT_BYTES, check_totals, parse_sot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kappamask_stream.jp2.codestream import CodestreamIndex, CodestreamTile
    from kappamask_stream.jp2.tile_parts import Sot

_ISOT = slice(4, 6)
#: What a tile's own coding parameters may take to decode though the main header's take less: it is not reserved.
_OWN_WORK_BYTES = 16 * 1024 * 1024


def standalone_codestream(
    index: CodestreamIndex, tile: CodestreamTile, parts: list[bytes], needed: Window | None = None
) -> bytes:
    """Build the codestream of one tile.

    Parameters
    ----------
    index, tile : from `index_steps`; the tiles of this file can be decoded alone.
    parts : the bytes of the tile's tile-parts, in file order.
    needed : pixels of the image that are wanted of the tile: others may come out as anything. None: all.

    Raises
    ------
    CodestreamError
        If the bytes are not the tile-parts that the index says.
    """
    if index.plain_reason is not None:
        whole = b"".join(parts)
        for at, tile_part in _tile_parts(index, whole):
            _check_tile_header(index, index.codestream[0] + at, tile_part)
        return whole
    _check_parts(index, tile, parts)
    pieces: list[bytes | memoryview] = [_tile_header(index, tile)]
    for part in parts if needed is None else _thinned(index, tile, parts, needed):
        view = memoryview(part)  # copied once, by the join
        pieces += [view[: _ISOT.start], b"\x00\x00", view[_ISOT.stop :]]
    pieces.append(Marker.EOC.code)
    return b"".join(pieces)


def _check_parts(index: CodestreamIndex, tile: CodestreamTile, parts: list[bytes]) -> None:
    """Check that these are the tile-parts that the index says."""
    sots: list[Sot] = []
    for (offset, length), part in zip(tile.parts, parts, strict=True):
        sot = parse_sot(index.name, part, offset)
        if (sot.tile, sot.length, len(part)) != (tile.index, length, length):
            raise damaged(
                index.name,
                f"at byte {offset} is a tile-part of tile {sot.tile} of {sot.length} bytes, "
                f"it should be of tile {tile.index} and have {length}",
            )
        sots.append(sot)
        _check_tile_header(index, offset, memoryview(part))
        if has_emptied_packets(part):
            raise damaged(
                index.name,
                f"the tile-part of tile {tile.index} at byte {offset} has zeros where it lists packets with data",
            )
    check_totals(index.name, tile.index, sots)


def _tile_parts(index: CodestreamIndex, whole: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield each tile-part of a whole codestream, and where it begins: as the walk has found them."""
    position, view = len(index.main_header), memoryview(whole)
    while position < len(whole) and view[position : position + 2] != Marker.EOC.code:
        length = parse_sot(index.name, whole[position : position + SOT_BYTES], position).length or len(whole) - position
        yield position, view[position : position + length]
        position += max(length, SOT_BYTES)


def _thinned(index: CodestreamIndex, tile: CodestreamTile, parts: list[bytes], needed: Window) -> Sequence[bytes]:
    """Leave out what the pixels needed do not depend on, where the file's layout allows it."""
    segments = segments_of(index.name, index.main_header)
    if Marker.COC in segments:
        return parts
    coding = parse_coding(index.name, Marker.COD, segments[Marker.COD][0])
    siz = parse_siz(index.name, segments[Marker.SIZ][0])
    image = Window(siz.y0, siz.x0, index.height, index.width)
    extent, wanted = tile.window.placed_in(image), needed.placed_in(image)
    return thinned(coding, extent, wanted, parts) or parts


def _check_tile_header(index: CodestreamIndex, offset: int, part: memoryview) -> None:
    """Check what a tile-part's own coding parameters would cost, as the main header's were when it was indexed.

    Parameters
    ----------
    offset : of the tile-part in the file.
    """
    position, count, levels, steps = SOT_BYTES, 0, None, []
    tile = int.from_bytes(part[_ISOT], "big")
    while part[position : position + 2] != Marker.SOD.code:
        marker, length = struct.unpack_from(">HH", part, position) if position + 4 <= len(part) else (0, 0)
        if marker >> 8 != 0xFF or length < 2:  # noqa: PLR2004 - a segment's length counts itself
            raise damaged(index.name, f"tile {tile} has no marker segment at byte {offset + position} but {marker:04x}")
        body = bytes(part[position + 4 : position + 2 + length]) if marker in DECISIVE else b""
        if marker in (Marker.COD, Marker.COC):
            levels = _check_own_coding(index, tile, marker, body)
        elif marker in (Marker.QCD, Marker.QCC):
            steps.append((marker, body))
        position, count = position + 2 + length, count + 1
        check_segments(index.name, count)
    if steps:
        levels = _main_levels(index) if levels is None else levels
        for marker, body in steps:
            check_quantisation(f"{index.name}: tile {tile}", marker, body, levels)


def _check_own_coding(index: CodestreamIndex, tile: int, marker: int, body: bytes) -> int:
    """Check a COD or COC of a tile; returns its decompositions."""
    siz = parse_siz(index.name, segments_of(index.name, index.main_header)[Marker.SIZ][0])
    coding = parse_coding(index.name, marker, body)
    needed = check_cost(index.name, coding, *siz.largest_tile)
    most = max(index.decode_bytes, _OWN_WORK_BYTES)
    if needed > most:
        raise damaged(
            index.name, f"codestream tile {tile} by itself wants {needed} bytes to be decoded, all others {most}"
        )
    return coding.levels


def _main_levels(index: CodestreamIndex) -> int:
    segments = segments_of(index.name, index.main_header)
    kind = Marker.COC if Marker.COC in segments else Marker.COD
    return parse_coding(index.name, kind, segments[kind][-1]).levels


def tile_identity(tile: CodestreamTile, parts: list[bytes]) -> bytes:
    """Return the bytes that decide a tile's pixels: its size and its tile-parts without their number.

    Its place decides too how it is cut into precincts. That shows in the number and lengths of its packets.
    """
    size = struct.pack(">II", tile.window.height, tile.window.width)
    return size + b"".join(part[: _ISOT.start] + part[_ISOT.stop :] for part in parts)


def _tile_header(index: CodestreamIndex, tile: CodestreamTile) -> bytes:
    header, position = index.main_header, 2
    pieces = [header[:2]]
    while position + 4 <= len(header):
        marker, length = struct.unpack_from(">HH", header, position)
        segment = header[position : position + 2 + length]
        if marker == Marker.SIZ:
            pieces.append(_rewritten(segment, tile))
        elif marker in DECISIVE:
            pieces.append(segment)
        position += 2 + length
    return b"".join(pieces)


def _rewritten(siz: bytes, tile: CodestreamTile) -> bytes:
    """Give SIZ the extent of one tile, in the coordinates of the whole image."""
    image_x0, image_y0 = struct.unpack_from(">II", siz, 14)
    left, top = image_x0 + tile.window.col, image_y0 + tile.window.row
    extent = struct.pack(">4I", left + tile.window.width, top + tile.window.height, left, top)
    tile_size = siz[22:30]
    return siz[:6] + extent + tile_size + struct.pack(">II", left, top) + siz[38:]
