"""Which codestream tiles are fetched with one request, and how its bytes are cut into them again. Pure.

A *run* is a stretch of one file that holds units which follow each other both in the plan and in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kappamask_stream.jp2.plan import DecodePlan, Unit
    from kappamask_stream.jp2.tile_parts import ByteRange

#: Bytes between units that are fetched in vain, of those that are not: 2.5 %. An area of interest may cost 5 % more
#: than it needs, headers included.
_GAP_SHARE = 40
#: Runs of one band that units are joined to by turns: the first tiles of an area need two rows of codestream tiles.
_OPEN_RUNS = 4


@dataclass(frozen=True, kw_only=True)
class Run:
    """A stretch of a file.

    Attributes
    ----------
    path : of the file.
    units : positions in `DecodePlan.units`, ascending.
    extents : (offset in the file, length) of each unit, ascending, apart from each other.
    unit_bytes : sum of the units' bytes, all that is held of it.
    is_scattered : True where the tile-parts of the one unit lie too far apart to be fetched together.
    """

    path: str
    units: tuple[int, ...]
    extents: tuple[ByteRange, ...]
    unit_bytes: int
    is_scattered: bool = False

    @property
    def start(self) -> int:
        """First byte."""
        return self.extents[0][0]

    @property
    def length(self) -> int:
        """Bytes from the first to the last one."""
        return sum(self.extents[-1]) - self.start


def compressed_bytes(unit: Unit) -> int:
    """Return the bytes of a unit's tile-parts."""
    return sum(length for _, length in unit.tile.parts)


def extent(parts: Sequence[ByteRange]) -> ByteRange:
    """Return (offset, length) from the first to the last byte of a tile's parts."""
    first, (last, length) = parts[0][0], parts[-1]
    return first, last + length - first


def cut_parts(data: bytes, parts: Sequence[ByteRange]) -> list[bytes]:
    """Cut the bytes of an extent into its tile-parts."""
    first = parts[0][0]
    return [data] if len(parts) == 1 else [data[o - first : o - first + n] for o, n in parts]


def plan_runs(plan: DecodePlan, most_bytes: int) -> tuple[Run, ...]:
    """Join the units of each band into runs of at most `most_bytes`, in the order of their first units.

    A unit that is larger has a run of its own. Gaps of up to 1/40 of what is needed are fetched too.
    """
    runs: list[_Growing] = []
    open_runs: dict[int, list[_Growing]] = {}
    for number, unit in enumerate(plan.units):
        own, size = extent(unit.tile.parts), compressed_bytes(unit)
        recent = open_runs.setdefault(unit.band, [])
        is_scattered = _is_gappy(own[1], size)
        for run in recent:
            if not is_scattered and run.takes(own, size, most_bytes):
                run.add(number, own, size)
                break
        else:
            run = _Growing(plan.bands[unit.band].path, number, own, size, is_scattered=is_scattered)
            recent.insert(0, run)
            del recent[_OPEN_RUNS:]
            runs.append(run)
    return tuple(run.finished() for run in runs)


class _Growing:
    """A run that units are still added to."""

    def __init__(self, path: str, number: int, own: ByteRange, size: int, *, is_scattered: bool) -> None:
        self._path, self._units, self._extents = path, [number], [own]
        self._start, self._end, self._unit_bytes = own[0], own[0] + own[1], size
        self._is_scattered = is_scattered

    def takes(self, own: ByteRange, size: int, most_bytes: int) -> bool:
        """Tell whether a unit follows closely, and both are not too long together."""
        total = own[0] + own[1] - self._start
        follows = own[0] >= self._end and total <= most_bytes and not self._is_scattered
        return follows and not _is_gappy(total, self._unit_bytes + size)

    def add(self, number: int, own: ByteRange, size: int) -> None:
        self._units.append(number)
        self._extents.append(own)
        self._end = own[0] + own[1]
        self._unit_bytes += size

    def finished(self) -> Run:
        return Run(
            path=self._path,
            units=tuple(self._units),
            extents=tuple(self._extents),
            unit_bytes=self._unit_bytes,
            is_scattered=self._is_scattered,
        )


def _is_gappy(length: int, needed: int) -> bool:
    """Tell whether more lies between the units than may be fetched in vain."""
    return (length - needed) * _GAP_SHARE > needed


def required_bytes(plan: DecodePlan, runs: Iterable[Run]) -> int:
    """Return the most bytes of runs held at once when each begins just before its first unit is decoded, alone.

    As many bytes or more never block for good. Runs begin in the order of their first units. If one does not fit,
    what is held are bytes of units before its first one, which are all there or on their way, are decoded in order
    without further bytes and are then given back; and bytes of later units in runs begun before, which is what the
    just-in-time schedule holds at that moment: it leaves room by definition.
    """
    begins = {run.units[0]: run.unit_bytes for run in runs}
    held = peak = 0
    for number, unit in enumerate(plan.units):
        held += begins.get(number, 0)
        peak = max(peak, held)
        held -= compressed_bytes(unit)
    return peak


def fitting_runs(plan: DecodePlan, run_bytes: int, most_bytes: int) -> tuple[tuple[Run, ...], int]:
    """Plan runs of at most `run_bytes`, or shorter ones so that `most_bytes` are enough.

    Returns them and the limit: `most_bytes`, or more where units alone demand it.
    """
    while True:
        runs = plan_runs(plan, run_bytes)
        required = required_bytes(plan, runs)
        if required <= most_bytes or not run_bytes:
            return runs, max(required, most_bytes)
        run_bytes //= 2


class RunCutter:
    """Cuts the bytes of a run, which come in pieces of any size, into units; sans-I/O.

    State: where the next byte belongs, and the pieces of the unit that is coming in.
    """

    def __init__(self, run: Run) -> None:
        self._left = list(zip(run.units, run.extents, strict=True))[::-1]
        self._position = run.start
        self._pieces: list[memoryview] = []

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """Take the next bytes; yields the units that they complete."""
        view, begin = memoryview(piece), self._position
        self._position += len(piece)
        while self._left:
            unit, (start, length) = self._left[-1]
            if self._position > start:
                self._pieces.append(view[max(start - begin, 0) : start + length - begin])
            if self._position < start + length:
                return
            self._left.pop()
            data = b"".join(self._pieces)
            self._pieces = []
            yield unit, data
