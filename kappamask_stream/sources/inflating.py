"""Random access to a deflated member: inflaters that go on where they stand, and points to restart from. Sans-I/O.

A band file is read twice from start to end, once for its index and once for its pixels, and here and there in
between. An inflater only goes forward; so its state is copied every so often, and a jump back begins at a copy.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from kappamask_stream.sources.zip_directory import Member

#: Measured (zlib 1.2.13 to 1.3): window of 32 KB, tables of 7 KB, Python's object.
POINT_BYTES = 42 * 1024
#: What a call does not use of its input is copied: so it gets little at a time.
_SLICE_BYTES = 16 * 1024
#: Inflaters kept of one member while nobody uses them: two stretches of it may be read by turns.
_MOST_IDLE = 2


@dataclass(frozen=True)
class _Point:
    """State of an inflater: `position` bytes made of `fed` ones."""

    position: int
    fed: int
    crc: int
    inflater: Any


class Cursor:
    """One inflater on its way through a member.

    State: `position`, bytes made so far, and their CRC; `fed`, bytes of input that it has used; input not used yet.
    """

    def __init__(self, member: Inflation, point: _Point) -> None:
        self.position, self.fed = point.position, point.fed
        self._member, self._crc = member, point.crc
        self._inflater = point.inflater.copy()
        self._input, self._at = b"", 0
        self._may_hold_back = self._ended = False

    @property
    def next_input(self) -> int:
        """Byte of the packed data at which the input goes on that `feed` is to be given."""
        return self.fed + len(self._input) - self._at

    def input_left(self) -> int:
        """Return how many packed bytes there are from `next_input` on.

        Raises
        ------
        ProductError
            If there are none, though more is to come out of them.
        """
        left = self._member.packed_size - self.next_input
        if not left:
            raise self._member.corrupt(f"ends after {self.position} of {self._member.size} bytes")
        return left

    @property
    def needs_input(self) -> bool:
        """True where all input is used, and all that can be made of it is made."""
        return self._at == len(self._input) and not self._may_hold_back

    def feed(self, data: bytes) -> None:
        """Take packed bytes that begin at `next_input`; only while `needs_input`."""
        self._input, self._at = data, 0

    def is_at(self, end: int) -> bool:
        """Tell whether the bytes up to `end` are made; at a member's end also that its end was checked."""
        return self.position >= end and (end < self._member.size or self._ended)

    def inflate(self, keep_from: int, end: int) -> list[bytes]:
        """Go on to byte `end` or until input is needed; returns the bytes made from `keep_from` on (in a thread).

        Raises
        ------
        ProductError
            If the data cannot be inflated, or is not what the archive's directory says.
        """
        kept: list[bytes] = []
        while not self.is_at(end) and not self.needs_input:
            begin, made = self.position, self._step(end)
            if self.position > keep_from:
                kept.append(made[max(keep_from - begin, 0) :])
            self._member.remember(self)
        return kept

    def _step(self, end: int) -> bytes:
        """Inflate a slice of the input."""
        piece = self._input[self._at : self._at + _SLICE_BYTES]
        # At the declared end one byte more is asked for, which must not come.
        most = max(end - self.position, 1)
        try:
            made: bytes = self._inflater.decompress(piece, most)
        except zlib.error as error:
            raise self._member.corrupt(f"cannot be inflated at byte {self.position} ({error})") from error
        used = len(piece) - len(self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail)
        self._may_hold_back = len(made) == most
        self._at += used
        self.fed += used
        self.position += len(made)
        self._crc = zlib.crc32(made, self._crc)
        if self.position > self._member.size:
            raise self._member.corrupt(f"holds more than the {self._member.size} bytes that the directory says")
        if self._inflater.eof:
            self._member.check_end(self.position, self.fed, self._crc)
            self._ended = True
        return made

    def point(self) -> _Point | None:
        """Return a copy of the state; None where that would hold on to input."""
        if self._inflater.eof or self._inflater.unconsumed_tail:
            return None
        return _Point(self.position, self.fed, self._crc, self._inflater.copy())


class Inflation:
    """What is known of one deflated member. Each of its inflaters has one user at a time.

    Parameters
    ----------
    label : of the archive, for messages.
    spacing : bytes between points to restart from; each takes `POINT_BYTES`.

    State: the points in order; inflaters that nobody uses, the last used one last.
    """

    def __init__(self, label: str, member: Member, *, spacing: int) -> None:
        self._label, self._entry, self._spacing = label, member, spacing
        self.size, self.packed_size = member.size, member.packed_size
        self._points = [_Point(0, 0, 0, zlib.decompressobj(-zlib.MAX_WBITS))]
        self._remembering = threading.Lock()
        self._idle: list[Cursor] = []

    def __repr__(self) -> str:
        at = ", ".join(str(cursor.position) for cursor in self._idle) or "none"
        return f"<Inflation {self._entry.path}: idle at {at} of {self.size}, {len(self._points) - 1} points>"

    def take(self, start: int) -> Cursor:
        """Return the inflater that has the shortest way to byte `start`, until it is given back."""
        point = max((p for p in self._points if p.position <= start), key=lambda p: p.position)
        behind = [cursor for cursor in self._idle if point.position <= cursor.position <= start]
        nearest = max(behind, key=lambda cursor: cursor.position, default=None)
        if nearest is None:
            return Cursor(self, point)
        self._idle.remove(nearest)
        return nearest

    def give_back(self, cursor: Cursor) -> None:
        """Keep an inflater for who goes on from where it stands; one that failed fails again."""
        self._idle = [*self._idle[1 - _MOST_IDLE :], cursor]

    def remember(self, cursor: Cursor) -> None:
        """Keep a point to restart from, where the last one is far behind (in a thread)."""
        with self._remembering:
            if cursor.position - self._points[-1].position >= self._spacing and (point := cursor.point()):
                self._points.append(point)

    def check_end(self, position: int, fed: int, crc: int) -> None:
        """Compare what was inflated to its end with what the archive's directory says."""
        if position != self.size:
            raise self.corrupt(f"ends after {position} of {self.size} bytes")
        if fed != self.packed_size:
            raise self.corrupt(f"is packed into {fed} bytes, the directory says {self.packed_size}")
        if crc != self._entry.crc:
            raise self.corrupt(f"has CRC-32 {crc:08x}, the directory says {self._entry.crc:08x}")

    def corrupt(self, what: str) -> ProductError:
        """Return the error of a member that is not as it was packed."""
        return ProductError(f"{self._label}: {self._entry.path} {what}: the archive is corrupt, fetch it again")
