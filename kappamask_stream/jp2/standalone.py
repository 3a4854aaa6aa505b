"""Make one codestream tile a codestream of its own, which any decoder takes.

The SIZ segment is rewritten with *absolute* coordinates: precincts are anchored at the reference grid's (0, 0),
so shifting a tile there would change how its packets are cut. All tile-parts follow, as tile 0, and EOC.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2.codestream import EOC, SIZ, SOT

if TYPE_CHECKING:
    from kappamask_stream.jp2.codestream import CodestreamIndex, CodestreamTile

#: Marker segments of the main header that decide how a tile is decoded: COD COC QCD QCC RGN and CAP.
#: TLM, PLM and comments would be wrong or idle.
_KEPT = frozenset({0xFF50, 0xFF52, 0xFF53, 0xFF5C, 0xFF5D, 0xFF5E})
_ISOT = slice(4, 6)


def standalone_codestream(index: CodestreamIndex, tile: CodestreamTile, parts: list[bytes]) -> bytes:
    """Build the codestream of one tile.

    Parameters
    ----------
    index, tile : from `index_steps`; the tiles of this file can be decoded alone.
    parts : the bytes of the tile's tile-parts, in file order.

    Raises
    ------
    CodestreamError
        If the bytes are not the tile-parts that the index says.
    """
    if index.plain_reason is not None:
        return b"".join(parts)
    header = _tile_header(index, tile)
    pieces = [header]
    for (offset, length), part in zip(tile.parts, parts, strict=True):
        marker, isot = struct.unpack_from(">H2xH", part) if len(part) == length else (0, -1)
        if marker != SOT or isot != tile.index:
            raise CodestreamError(
                f"{index.name}: the {len(part)} bytes at {offset} are not the tile-part of tile {tile.index} "
                f"({length} bytes) that the index says: the file is corrupt or changed while it was read"
            )
        pieces += [part[: _ISOT.start], b"\x00\x00", part[_ISOT.stop :]]
    pieces.append(EOC.to_bytes(2, "big"))
    return b"".join(pieces)


def tile_identity(tile: CodestreamTile, parts: list[bytes]) -> bytes:
    """Return the bytes that decide a tile's pixels: its size and its tile-parts without their number."""
    size = struct.pack(">II", tile.window.height, tile.window.width)
    return size + b"".join(part[: _ISOT.start] + part[_ISOT.stop :] for part in parts)


def _tile_header(index: CodestreamIndex, tile: CodestreamTile) -> bytes:
    header, position = index.main_header, 2
    pieces = [header[:2]]
    while position + 4 <= len(header):
        marker, length = struct.unpack_from(">HH", header, position)
        segment = header[position : position + 2 + length]
        if marker == SIZ:
            pieces.append(_rewritten(segment, tile))
        elif marker in _KEPT:
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
