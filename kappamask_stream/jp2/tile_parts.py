"""Where the tile-parts of a codestream are: by its TLM segments, or along its SOT chain. Sans-I/O.

Source: ITU-T T.800 (ISO/IEC 15444-1), A.4.2 (SOT) and A.7.1 (TLM).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.jp2.account import PieceAccount
from kappamask_stream.jp2.limits import damaged
from kappamask_stream.jp2.markers import Marker

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

#: (offset in the file, length)
ByteRange = tuple[int, int]

SOT_BYTES = 12
_SOT_HEAD = struct.pack(">HH", Marker.SOT, 10)
_SHORTEST_PART = SOT_BYTES + 2  # and SOD
#: Each of them is kept, for every band; ESA's 10 m bands have 121.
_MOST_PARTS = 2**16


@dataclass(frozen=True, slots=True)
class Sot:
    """Start of a tile-part (T.800 A.4.2).

    Attributes
    ----------
    tile : number of the codestream tile.
    length : bytes of the tile-part from SOT on; 0: up to the end of the codestream.
    number : position among the tile's parts.
    total : how many parts the tile has; 0: this one does not say.
    """

    tile: int
    length: int
    number: int
    total: int


def parse_sot(name: str, head: bytes, position: int) -> Sot:
    """Read the SOT segment at a byte of the file.

    Raises
    ------
    CodestreamError
        If there is none.
    """
    if len(head) < SOT_BYTES or head[:4] != _SOT_HEAD:
        there = head[:4].hex() or "nothing"
        raise damaged(name, f"at byte {position} a tile-part (SOT) should start, there is {there}")
    return Sot(*struct.unpack_from(">HIBB", head, 4))


def check_totals(name: str, tile: int, sots: Sequence[Sot]) -> None:
    """Check that the tile-parts found are those that their headers number and count.

    Raises
    ------
    CodestreamError
        If one is missing or out of its order.
    """
    for number, sot in enumerate(sots):
        if sot.number != number:
            raise damaged(name, f"tile-part {number} of codestream tile {tile} calls itself {sot.number}")
    said = max((sot.total for sot in sots), default=0)
    if said and said != len(sots):
        raise damaged(name, f"codestream tile {tile} has {len(sots)} of {said} tile-parts")


def parts_from_tlm(
    bodies: list[bytes], first_sot: int, end: int, count: int
) -> Generator[ByteRange, bytes, dict[int, list[ByteRange]] | None]:
    """Return each tile's parts by the TLM segments; None where these are not of a whole codestream.

    What a wrong TLM leaves out would be missing from the pixels without a word, so it must lead to the end of the
    codestream. The SOT of each part is compared when it is read for decoding.
    """
    entries = _tlm_entries(bodies)
    if entries is None:
        return None
    parts: dict[int, list[ByteRange]] = {}
    start = position = first_sot
    for tile, length in entries:
        start, position = position, position + length
        if tile >= count or length < _SHORTEST_PART or position > end:
            return None
        parts.setdefault(tile, []).append((start, length))
    if len(parts) < count:
        return None
    head = yield (start, SOT_BYTES)
    # Where tile-parts are not counted (TNsot = 0), one listed under a wrong tile would not be missed.
    if head[:10] != _SOT_HEAD + struct.pack(">HI", *entries[-1]) or not head[11]:
        return None
    tail = yield (position, min(2, end - position))
    return parts if tail == Marker.EOC.code else None


def _tlm_entries(bodies: list[bytes]) -> list[tuple[int, int]] | None:
    """Return (tile, length) of each tile-part that TLM segments list; None where they cannot be read."""
    if len({body[:1] for body in bodies}) < len(bodies):  # Ztlm orders them
        return None
    entries: list[tuple[int, int]] = []
    for body in sorted(bodies):
        tile_bytes, is_long = (body[1] >> 4 & 3, bool(body[1] & 0x40)) if len(body) > 1 else (3, False)
        step = tile_bytes + (4 if is_long else 2)
        count, rest = divmod(len(body) - 2, step)
        if tile_bytes > 2 or rest or len(entries) + count > _MOST_PARTS:  # noqa: PLR2004
            return None
        for at in range(2, len(body), step):
            tile = int.from_bytes(body[at : at + tile_bytes], "big") if tile_bytes else len(entries)
            entries.append((tile, int.from_bytes(body[at + tile_bytes : at + step], "big")))
    return entries or None


def walk_tile_parts(
    name: str,
    first_sot: int,
    end: int,
    count: int,
    wanted: frozenset[int] | None = None,
    account: PieceAccount | None = None,
) -> Generator[ByteRange, bytes, tuple[dict[int, list[ByteRange]], bool]]:
    """Follow the SOT chain to the end of the codestream, or until the tiles `wanted` are complete.

    Returns each tile's parts, and True where the last one does not say where it ends (Psot = 0). If the walk ended
    early, those tiles are left out that are not known to be complete. Tile-parts beyond the first `count`, which the
    caller has counted, are counted in `account`.

    Raises
    ------
    CodestreamError
        If the chain breaks off, or a tile or a tile-part is missing.
    ProductError
        If `account` says that they are too many.
    """
    parts: dict[int, list[ByteRange]] = {}
    sots: dict[int, list[Sot]] = {}
    missing = None if wanted is None else set(wanted)
    account = account or PieceAccount()
    position, is_open = first_sot, False
    for found_before in range(_MOST_PARTS + 1):
        if missing is not None and not missing and not is_open:
            return {tile: parts[tile] for tile, found in sots.items() if _is_complete(name, tile, found)}, False
        head = yield (position, min(SOT_BYTES, end - position))
        if head[:2] == Marker.EOC.code:
            break
        # A codestream without EOC may have been cut between two tile-parts.
        if is_open or not head:
            raise damaged(name, f"there is no end marker (EOC) before byte {end}, where the codestream ends")
        sot = parse_sot(name, head, position)
        _check_extent(name, sot, position, end, count)
        account.add(name, parts=int(found_before >= count))
        sots.setdefault(sot.tile, []).append(sot)
        parts.setdefault(sot.tile, []).append((position, sot.length or end - position))
        is_open = sot.length == 0
        position = end - 2 if is_open else position + sot.length
        if missing and sot.tile in missing and _is_complete(name, sot.tile, sots[sot.tile]):
            missing.remove(sot.tile)
    else:
        raise damaged(name, f"there are more than {_MOST_PARTS} tile-parts")
    _check_all_there(name, sots, count)
    return parts, is_open


def _is_complete(name: str, tile: int, found: list[Sot]) -> bool:
    """Tell whether a tile's parts say how many they are (TNsot), and that many were found."""
    if max(sot.total for sot in found) != len(found):
        return False
    check_totals(name, tile, found)
    return True


def _check_extent(name: str, sot: Sot, position: int, end: int, count: int) -> None:
    if sot.tile >= count:
        raise damaged(name, f"the tile-part at byte {position} is of tile {sot.tile}, there are {count} tiles")
    if sot.length and (sot.length < _SHORTEST_PART or sot.length > end - position):
        raise damaged(
            name,
            f"the tile-part of tile {sot.tile} at byte {position} says {sot.length} bytes, "
            f"the codestream has {end - position} left",
        )


def _check_all_there(name: str, sots: dict[int, list[Sot]], count: int) -> None:
    if len(sots) < count:
        missing = next(tile for tile in range(count) if tile not in sots)
        raise damaged(name, f"codestream tile {missing} is missing, {len(sots)} of {count} tiles are there")
    for tile, found in sots.items():
        check_totals(name, tile, found)
