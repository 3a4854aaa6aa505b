"""The compressed bytes of a plan's units: each with a read of its own, or many with one request from afar."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from kappamask_stream.errors import ProductError
from kappamask_stream.jp2.runs import RunCutter, compressed_bytes, cut_parts, extent, fitting_runs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from kappamask_stream.jp2.plan import DecodePlan
    from kappamask_stream.jp2.runs import Run
    from kappamask_stream.sources import Source

    Spawn = Callable[[Coroutine[object, object, None]], None]


@dataclass(kw_only=True)
class ReadStats:
    """What reading a product has cost so far.

    Attributes
    ----------
    decodes : per unit, how often it was decoded.
    codestream_tiles_empty : units that were not decoded: their bytes are those of one that decoded to all zero.
    requests : reads and streams of the source begun.
    bytes_read : from the source, gaps in runs included.
    peak_held_bytes : most bytes of decoded units, of decoders at work on large ones, and of the plan, held at once.
    peak_compressed_bytes : most bytes of units read in runs, on their way or not yet decoded, at once.
    on_busy : told when a stage (``read``, ``decode``, ``cut``) was busy, between two readings of
        ``time.perf_counter()``; called from threads, too.
    """

    decodes: dict[int, int] = field(default_factory=dict)
    codestream_tiles_empty: int = 0
    requests: int = 0
    bytes_read: int = 0
    peak_held_bytes: int = 0
    peak_compressed_bytes: int = 0
    on_busy: Callable[[str, float, float], None] = lambda *_: None

    @property
    def codestream_tiles_decoded(self) -> int:
        """Units decoded at least once."""
        return len(self.decodes)

    @property
    def codestream_tiles_decoded_twice(self) -> int:
        """Decodings beyond the first of each unit."""
        return sum(times - 1 for times in self.decodes.values())


class UnitReader(Protocol):
    """Gives the tile-parts of units, in any order, each once."""

    def start(self, spawn: Spawn) -> None:
        """Begin to read ahead, in tasks that the caller owns."""
        ...

    async def read(self, number: int) -> list[bytes]:
        """Return a unit's tile-parts.

        Raises
        ------
        ProductError
            If they cannot be read.
        """
        ...

    def drop(self, number: int) -> None:
        """Take note that nobody holds a unit's tile-parts any more."""
        ...

    def close(self) -> None:
        """Forget all, once the tasks have ended."""
        ...


def unit_reader(source: Source, plan: DecodePlan, stats: ReadStats, most_bytes: int | None) -> UnitReader:
    """Return the reader that suits a source; `most_bytes` as `RunReader` takes it."""
    if source.coalesce_bytes and plan.units:
        return RunReader(source, plan, stats, most_bytes=most_bytes)
    return DirectReader(source, plan, stats)


class DirectReader:
    """Reads each unit when it is asked for: where a small read costs no more than a part of a large one."""

    def __init__(self, source: Source, plan: DecodePlan, stats: ReadStats) -> None:
        self._source, self._plan, self._stats = source, plan, stats

    def start(self, spawn: Spawn) -> None:
        """See `UnitReader.start`: nothing is read ahead."""

    async def read(self, number: int) -> list[bytes]:
        """See `UnitReader.read`: parts that follow each other are one read."""
        started = time.perf_counter()
        unit = self._plan.units[number]
        path, parts = self._plan.bands[unit.band].path, unit.tile.parts
        first, length = extent(parts)
        if length == compressed_bytes(unit):
            self._stats.requests += 1
            data = cut_parts(await self._source.read(path, first, length), parts)
        else:
            self._stats.requests += len(parts)
            data = [await self._source.read(path, *part) for part in parts]
        self._stats.bytes_read += sum(map(len, data))
        self._stats.on_busy("read", started, time.perf_counter())
        return data

    def drop(self, number: int) -> None:
        """See `UnitReader.drop`: nothing is kept."""

    def close(self) -> None:
        """See `UnitReader.close`: nothing is kept."""


class RunReader:
    """Streams runs of units (`plan_runs`); a unit is there as soon as its own bytes have come.

    Runs begin in the order of the plan while their bytes fit into the limit; then they are taken in as fast as they
    come, whatever the decoders do, so that no connection waits for one. `runs.required_bytes` says why this
    never blocks.

    Parameters
    ----------
    most_bytes : limit of the compressed bytes of units on their way or not yet decoded. Runs are shortened to fit it
        and raise it only where single units demand more. Default: ``source.coalesce_bytes`` for each band.

    State: per unit a future of its bytes; the units whose bytes count, and their sum.
    """

    def __init__(self, source: Source, plan: DecodePlan, stats: ReadStats, *, most_bytes: int | None = None) -> None:
        self._source, self._plan, self._stats = source, plan, stats
        most_bytes = most_bytes or source.coalesce_bytes * len(plan.bands)
        self._runs, self._limit = fitting_runs(plan, source.coalesce_bytes, most_bytes)
        self._parts: dict[int, asyncio.Future[list[bytes]]] = {}
        self._counted: set[int] = set()
        self._held = 0
        self._room = asyncio.Event()

    def __repr__(self) -> str:
        return f"<RunReader {len(self._runs)} runs, {self._held}/{self._limit} bytes held>"

    def start(self, spawn: Spawn) -> None:
        """See `UnitReader.start`."""
        loop = asyncio.get_running_loop()
        self._parts = {number: loop.create_future() for number in range(len(self._plan.units))}
        spawn(self._begin_runs(spawn))

    async def read(self, number: int) -> list[bytes]:
        """See `UnitReader.read`."""
        parts = await self._parts[number]
        del self._parts[number]
        return parts

    def drop(self, number: int) -> None:
        """See `UnitReader.drop`."""
        if number in self._counted:
            self._counted.remove(number)
            self._held -= compressed_bytes(self._plan.units[number])
            self._room.set()

    def close(self) -> None:
        """See `UnitReader.close`."""
        for coming in self._parts.values():
            if coming.done() and not coming.cancelled():
                coming.exception()  # mark as seen: nobody asks for this unit any more
        self._parts.clear()
        self._counted.clear()
        self._held = 0

    async def _begin_runs(self, spawn: Spawn) -> None:
        for run in self._runs:
            while self._held + run.unit_bytes > self._limit:
                self._room.clear()
                await self._room.wait()
            self._held += run.unit_bytes
            self._counted.update(run.units)
            self._stats.peak_compressed_bytes = max(self._stats.peak_compressed_bytes, self._held)
            spawn(self._take_in(run))

    async def _take_in(self, run: Run) -> None:
        """Fetch a run and resolve the futures of its units one after the other."""
        started = time.perf_counter()
        missing = list(run.units)
        try:
            async with aclosing(self._scattered(run) if run.is_scattered else self._streamed(run)) as units:
                async for parts in units:
                    self._parts[missing.pop(0)].set_result(parts)
            if missing:
                raise ProductError(  # noqa: TRY301 - a fault of the source like any other
                    f"{self._source.label}: {run.path} gave fewer than the {run.length} bytes asked for from byte "
                    f"{run.start} on: fetch the product again"
                )
        except Exception as error:  # noqa: BLE001 - it is raised where the units are awaited
            for number in missing:
                if not self._parts[number].done():
                    self._parts[number].set_exception(error)
        finally:
            self._stats.on_busy("read", started, time.perf_counter())

    async def _streamed(self, run: Run) -> AsyncGenerator[list[bytes], None]:
        """Yield the tile-parts of each unit as soon as they have come."""
        cutter = RunCutter(run)
        self._stats.requests += 1
        # It is an async generator, of which its type says only that it can be iterated over.
        stream = cast("AsyncGenerator[bytes, None]", self._source.stream(run.path, run.start, run.length))
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                self._stats.bytes_read += len(piece)
                for number, data in cutter.feed(piece):
                    yield cut_parts(data, self._plan.units[number].tile.parts)

    async def _scattered(self, run: Run) -> AsyncGenerator[list[bytes], None]:
        """Yield the tile-parts of the one unit, which are read one by one."""
        parts = []
        for part in self._plan.units[run.units[0]].tile.parts:
            self._stats.requests += 1
            parts.append(await self._source.read(run.path, *part))
            self._stats.bytes_read += len(parts[-1])
        yield parts
