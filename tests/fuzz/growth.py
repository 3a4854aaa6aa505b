"""Inputs that grow: libFuzzer's own mutations insert at most 128 bytes, what is quadratic takes thousands of one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

#: Where pieces begin, in the formats that are read: XML, JSON and WKT, zip, JPEG 2000, edits of a template.
_BEGINNINGS = (b"<", b",", b"[", b"{", b"(", b'"', b".", b"\n", b"\0", b"PK", b"\xff\x90", b"\xff")
_LONGEST_PIECE = 2048


def grown(data: bytes, rng: random.Random, most: int) -> bytes:
    """Return an input with a piece of it repeated, or put elsewhere; up to `most` bytes, few of them that long.

    A piece begins where another one of its kind does, so that XML has more elements and lists more members.
    """
    if not data or len(data) >= most:
        return data
    begin, end = _piece(data, rng)
    piece = data[begin:end]
    # Any order of magnitude is as likely as another.
    times = min(int(2 ** rng.uniform(0, 17)), (most - len(data)) // len(piece))
    at = end if rng.random() < 0.75 else rng.randint(0, len(data))
    return data[:at] + piece * times + data[at:]


def _piece(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Choose a piece, from one beginning to the next or one after it; any bytes where there are none."""
    if kinds := [beginning for beginning in _BEGINNINGS if data.count(beginning) > 1]:
        beginning = rng.choice(kinds)
        begin = data.find(beginning, rng.randint(0, data.rfind(beginning) - 1))
        begin = data.find(beginning) if begin == data.rfind(beginning) else begin
        end = data.find(beginning, begin + int(2 ** rng.uniform(0, 7)))
        if begin < end <= begin + _LONGEST_PIECE:
            return begin, end
    begin = rng.randrange(len(data))
    return begin, min(begin + rng.randint(1, 64), len(data))
