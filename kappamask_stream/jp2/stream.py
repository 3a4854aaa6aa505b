"""Tiles of the grid out of JPEG 2000 files: read, decode once, keep while needed, cut."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kappamask_stream.grid import Tile, source_window
from kappamask_stream.jp2.decode import ImagecodecsDecoder, TileDecoder
from kappamask_stream.jp2.reading import ReadStats, unit_reader
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor, Future

    from numpy.typing import NDArray

    from kappamask_stream.jp2.plan import DecodePlan
    from kappamask_stream.sources import Source

#: Rows and columns from one pixel to the next when looking for data.
_SAMPLED = 32

#: Tiles known to be zero that are kept of a band, and the bytes of one: ESA's have a few hundred, and are alike.
_MOST_KNOWN, _LARGEST_KNOWN = 64, 16 * 1024


@dataclass(frozen=True, kw_only=True)
class TilePixels:
    """The pixels of one tile of the grid.

    Attributes
    ----------
    tile : the tile.
    tensors : per input tensor, uint16 ``[bands, height, width]``; empty where there is no data.
    is_empty : True where every pixel of every band is 0.
    """

    tile: Tile
    tensors: dict[str, NDArray[np.uint16]]
    is_empty: bool


@dataclass(frozen=True)
class _Decoded:
    """What decoding a unit gave: the pixels needed, None where these are all 0; True where the whole tile is."""

    pixels: NDArray[np.uint16] | None
    is_zero: bool


class TileStream:
    """Async iterator of `TilePixels` in the plan's order. Use as an async context manager.

    Parameters
    ----------
    source, plan : what to read, and when.
    executor : threads that decode; `workers` says how many it has.
    reservation_bytes : most bytes of decoded units held at once, and of what the plan keeps of their pieces; at least
        ``plan.required_bytes`` (the default).
    read_ahead : units whose compressed bytes are read before a decoder is free.
    compressed_bytes : limit of the compressed bytes on their way or not yet decoded, for a source whose reads are
        best joined (`RunReader`). Default: ``source.coalesce_bytes`` for each band. Of other sources `read_ahead` and
        the decoders at work are the limit.
    on_busy : see `ReadStats`.
    new_tensors : gives arrays for a tile's pixels, with anything in them; called on the event loop. Default: memory of
        their own.

    State: per unit a future of its pixels (None: all zero) and the uses left; bytes held by the plan and by units
    begun and not yet dropped; per band the bytes that are known to decode to zero. One consumer at a time.
    """

    def __init__(
        self,
        source: Source,
        plan: DecodePlan,
        *,
        executor: Executor,
        workers: int,
        reservation_bytes: int | None = None,
        read_ahead: int = 8,
        compressed_bytes: int | None = None,
        decoder: TileDecoder | None = None,
        on_busy: Callable[[str, float, float], None] | None = None,
        new_tensors: Callable[[], dict[str, NDArray[np.uint16]]] | None = None,
    ) -> None:
        self.stats = ReadStats() if on_busy is None else ReadStats(on_busy=on_busy)
        self._plan, self._executor = plan, executor
        self._reader = unit_reader(source, plan, self.stats, compressed_bytes)
        self._reservation = max(plan.required_bytes, reservation_bytes or 0)
        self._decoder = decoder or ImagecodecsDecoder()
        self._begun = asyncio.Semaphore(workers + read_ahead)
        self._uses = [unit.uses for unit in plan.units]
        self._held = 0
        self._room = asyncio.Event()
        self._zero: dict[int, set[bytes]] = {}
        self._pixels: list[asyncio.Future[NDArray[np.uint16] | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._decoding: set[Future[_Decoded]] = set()
        self._next = 0
        self._new_tensors = new_tensors or self._own_tensors

    def __repr__(self) -> str:
        return (
            f"<TileStream tile {self._next}/{len(self._plan.tiles)}, "
            f"{self._held}/{self._reservation} bytes held, {len(self._decoding)} decoding>"
        )

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._held = self.stats.peak_held_bytes = self._plan.kept_bytes
        self._pixels = [loop.create_future() for _ in self._plan.units]
        self._reader.start(self._spawn)
        self._spawn(self._schedule())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop what is under way; returns when no task and no decode of this stream runs any more."""
        for task in self._tasks:
            task.cancel()
        for decoding in self._decoding:
            decoding.cancel()  # a decode that runs cannot be stopped
        ending: set[asyncio.Future[Any]] = {*self._tasks, *map(asyncio.wrap_future, self._decoding)}
        cancelled: asyncio.CancelledError | None = None
        while unfinished := {work for work in ending if not work.done()}:
            try:
                await asyncio.wait(unfinished)
            except asyncio.CancelledError as again:  # raised below: threads would outlive the stream otherwise
                cancelled = again
        for work in (*ending, *self._pixels):
            if work.done() and not work.cancelled():
                work.exception()  # mark as seen: the consumer has its error already, or has left
        self._pixels = []
        self._reader.close()
        self._decoding.clear()
        self._held = 0
        if cancelled is not None:
            raise cancelled

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TilePixels:
        """Return the next tile.

        Raises
        ------
        CodestreamError, ProductError
            If a codestream tile that it needs cannot be read or decoded.
        """
        if self._next >= len(self._plan.tiles):
            raise StopAsyncIteration
        tile, needed = self._plan.tiles[self._next], self._plan.needs[self._next]
        # Shielded: a consumer that gives up waiting must not cancel what the decoder is to fill.
        units = {unit: await asyncio.shield(self._pixels[unit]) for unit in needed}
        is_zero = all(pixels is None for pixels in units.values())
        tensors = {} if is_zero else await in_thread(None, self._cut, tile, units, self._new_tensors())
        self._next += 1
        for unit in needed:
            self._uses[unit] -= 1
            if not self._uses[unit]:
                self._drop(unit, units[unit] is not None)
        return TilePixels(tile=tile, tensors=tensors, is_empty=not tensors)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _schedule(self) -> None:
        """Begin units in order, as the reservation and the read-ahead allow."""
        for number, unit in enumerate(self._plan.units):
            while self._held + unit.nbytes + unit.work_bytes > self._reservation:
                self._room.clear()
                await self._room.wait()
            self._held += unit.nbytes + unit.work_bytes
            self.stats.peak_held_bytes = max(self.stats.peak_held_bytes, self._held)
            await self._begun.acquire()
            self._spawn(self._produce(number))

    async def _produce(self, number: int) -> None:
        """Read and decode one unit and resolve its future."""
        try:
            pixels = await self._decoded(number, await self._reader.read(number))
        except Exception as error:  # noqa: BLE001 - it is raised where the pixels are awaited
            self._pixels[number].set_exception(error)
        else:
            unit = self._plan.units[number]
            self._give_back(unit.work_bytes + (unit.nbytes if pixels is None else 0))
            self._pixels[number].set_result(pixels)
        finally:
            self._reader.drop(number)
            self._begun.release()

    async def _decoded(self, number: int, parts: list[bytes]) -> NDArray[np.uint16] | None:
        """Decode in a thread, unless the bytes are known to be all zero."""
        unit = self._plan.units[number]
        known = self._zero.setdefault(unit.band, set())
        index = self._plan.bands[unit.band].index
        if known and sum(map(len, parts)) <= max(map(len, known)) and index.identity(unit.tile, parts) in known:
            self.stats.codestream_tiles_empty += 1
            return None
        decoding = self._executor.submit(self._decode, number, parts)
        self._decoding.add(decoding)
        try:
            decoded = await asyncio.wrap_future(decoding)
        finally:
            if decoding.done():
                self._decoding.discard(decoding)
        self.stats.decodes[number] = self.stats.decodes.get(number, 0) + 1
        if decoded.is_zero and len(known) < _MOST_KNOWN and sum(map(len, parts)) <= _LARGEST_KNOWN:
            known.add(index.identity(unit.tile, parts))
        return decoded.pixels

    def _decode(self, number: int, parts: list[bytes]) -> _Decoded:
        """Decode a unit (in a thread) and keep what is needed of it."""
        started = time.perf_counter()
        unit = self._plan.units[number]
        needed = unit.needed if unit.is_thinned else None
        whole = self._plan.bands[unit.band].index.decode_tile(unit.tile, parts, self._decoder, needed)
        self.stats.on_busy("decode", started, time.perf_counter())
        is_part = unit.needed != unit.tile.window
        pixels = whole[unit.needed.relative_to(unit.tile.window)].copy() if is_part else whole  # lets go of the rest
        if _has_data(pixels):
            return _Decoded(pixels, is_zero=False)
        # What was left out of it may have data, and another tile of the same bytes may need that.
        return _Decoded(None, is_zero=needed is None and not whole.any())

    def _own_tensors(self) -> dict[str, NDArray[np.uint16]]:
        groups = {band.group.tensor: band.group for band in self._plan.bands}
        return {name: np.empty((len(g.bands), g.tile, g.tile), np.uint16) for name, g in groups.items()}

    def _cut(
        self, tile: Tile, units: dict[int, NDArray[np.uint16] | None], tensors: dict[str, NDArray[np.uint16]]
    ) -> dict[str, NDArray[np.uint16]]:
        """Copy a tile's windows out of its units into `tensors` (in a thread); empty where all is zero."""
        started = time.perf_counter()
        missing = {(name, channel): t[channel].size for name, t in tensors.items() for channel in range(len(t))}
        pieces = []
        for number, pixels in units.items():
            unit = self._plan.units[number]
            band = self._plan.bands[unit.band]
            wanted = source_window(tile, band.group)
            common = wanted.intersection(unit.needed)
            if pixels is not None:
                target = band.group.tensor, band.channel
                missing[target] -= common.height * common.width
                pieces.append((target, common.relative_to(wanted), pixels[common.relative_to(unit.needed)]))
        for (name, channel), count in missing.items():
            if count:  # beyond the image, or all zero
                tensors[name][channel].fill(0)
        for (name, channel), place, piece in pieces:
            tensors[name][channel][place] = piece
        self.stats.on_busy("cut", started, time.perf_counter())
        return tensors if any(map(_has_data, tensors.values())) else {}

    def _drop(self, number: int, holds_bytes: bool) -> None:  # noqa: FBT001 - private
        """Forget a unit after its last use."""
        self._pixels[number] = asyncio.get_running_loop().create_future()
        if holds_bytes:
            self._give_back(self._plan.units[number].nbytes)

    def _give_back(self, nbytes: int) -> None:
        self._held -= nbytes
        self._room.set()


def _has_data(pixels: NDArray[np.uint16]) -> bool:
    """Tell whether any pixel is not 0: a few are looked at first, which settles it nearly always."""
    return bool(pixels[..., ::_SAMPLED, ::_SAMPLED].any() or pixels.any())
