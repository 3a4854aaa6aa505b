"""The server alone: tiles that lie ready, sent as fast as they are answered, with ever more of them in flight."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kappamask_stream.bench.gpu_metrics import GpuMeter
from kappamask_stream.bench.load_messages import Connect
from kappamask_stream.bench.load_processes import LoadProcesses, default_processes
from kappamask_stream.bench.server_point import failures_of, server_point
from kappamask_stream.bench.server_statistics import read_statistics
from kappamask_stream.bench.types import ServerLevel
from kappamask_stream.errors import ServerError, UsageError
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.metrics import MetricsReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kappamask_stream.bench.load_messages import Sent
    from kappamask_stream.bench.server_statistics import Statistics
    from kappamask_stream.bench.tiles import TileSet
    from kappamask_stream.bench.types import ServerPoint
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import TritonClient
    from kappamask_stream.settings import Settings

_LOOK_S = 0.05
#: Seconds for which batches of all sizes that can be are waited for; a large server may never form some of them.
_LONGEST_WARM_UP_S = 3.0
#: Batches per instance that are in flight at most: one that is computed, one that waits, and twice as many again.
_MOST_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class ServerPlace:
    """A server to be measured.

    Attributes
    ----------
    endpoint : as for ``--triton``.
    model : name of the served model.
    metrics_urls : of Prometheus metrics; empty where they are not known: then there are no figures of GPUs.
    metrics_ca : file of the CAs for ``https://`` there; None: the system's.
    memory_key : the server's key for shared memory, where it wants one (`TritonClient.connect`).
    """

    endpoint: str
    model: str
    metrics_urls: tuple[str, ...] = ()
    metrics_ca: Path | None = None
    memory_key: str | None = field(default=None, repr=False)


def default_concurrencies(contract: ModelContract) -> tuple[int, ...]:
    """Return 1, 2, 4 … up to four batches per instance: what a client keeps in flight is half of that."""
    most = _MOST_BATCHES * contract.max_batch * contract.instances
    return (*(2**n for n in range((most - 1).bit_length())), most)


async def measure_server(
    place: ServerPlace,
    tiles: TileSet,
    *,
    concurrency: Sequence[int],
    duration_s: float,
    settings: Settings,
    processes: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ServerLevel:
    """Keep so many requests in flight, for each number of a list, and measure what comes of it.

    What is measured begins when all that is in flight has been answered once, and the server has formed batches of
    each size that it can, or had time to. It takes `duration_s`, or longer, until as many requests as are in flight
    were sent and answered in it, and another one after it; rates are those from one answer to another (`server_point`).

    Where a few requests fail, the measurement ends: `failures` and `broken_off` say why, and points measured before
    stand. Requests that find the queue full are no tiles and end nothing; `failures` says how many there were.

    Parameters
    ----------
    concurrency : requests in flight; measured in ascending order, each once.
    duration_s : seconds per point.
    settings : how the server is reached; where they name none (`triton`), `place` is on this machine.
    processes : clients that send; None: as many as can be without taking the server's cores.

    Raises
    ------
    UsageError
        If a number makes no sense, or an endpoint or URL is malformed.
    ServerError
        If the server cannot be used, or nothing at all was measured.
    ProcessEndedError
        If a client process ends by itself.
    """
    if not concurrency or min(concurrency) < 1:
        raise UsageError(f"concurrency is {list(concurrency)}: at least 1 request must be in flight")
    if not duration_s > 0:
        raise UsageError(f"duration is {duration_s:g} s: it must be more than 0")
    if processes is None:
        processes = default_processes(shares_cores=parse_endpoint(place.endpoint).is_loopback)
    processes = min(processes, max(concurrency))
    way = Connect(settings=_reaching(place, settings), model=place.model, memory_key=place.memory_key, tiles=tiles)
    # Counters are asked for over a connection of its own, which sends no tiles and so needs no shared memory.
    asking = replace(way, settings=way.settings.model_copy(update={"shared_memory": "off"}))
    async with await asking.connect() as client, AsyncExitStack() as stack:
        reader = None
        if place.metrics_urls:
            reader = MetricsReader(place.metrics_urls, ca=place.metrics_ca)
            stack.push_async_callback(reader.aclose)
        on_progress(f"starting {processes} client process{'es' * (processes > 1)}")
        load = await stack.enter_async_context(LoadProcesses(way, count=processes))
        why = f": {load.transport.reason}" if load.transport.reason else ""
        on_progress(f"tiles travel over {load.transport.name}{why}")
        measured = _Measurement(
            client, load, GpuMeter(reader), duration_s=duration_s, patience_s=settings.infer_timeout_s
        )
        points, failures, broken_off = await measured.all(sorted(set(concurrency)), on_progress)
    contract = client.contract
    return ServerLevel(
        transport=load.transport.name,
        request_bytes=contract.tile_bytes + 2 * 4 * len(contract.channels),
        answer_bytes=contract.tile_size**2,
        points=points,
        failures=failures,
        broken_off=broken_off,
    )


def _reaching(place: ServerPlace, settings: Settings) -> Settings:
    """Return settings that name the server; TLS and tokens are for the one that they named before."""
    if settings.triton is not None:
        return settings.model_copy(update={"triton": place.endpoint})
    own = dict.fromkeys(("triton_ca", "triton_certificate", "triton_key", "triton_token_file"))
    return settings.model_copy(update={"triton": place.endpoint, **own})


class _Measurement:
    """Points one after the other, with the same processes and connections.

    Parameters
    ----------
    client : answers for counters.
    duration_s : of a point.
    patience_s : after which a request counts as lost.
    """

    def __init__(
        self, client: TritonClient, load: LoadProcesses, meter: GpuMeter, *, duration_s: float, patience_s: float
    ) -> None:
        self._client, self._load, self._meter = client, load, meter
        self._duration_s, self._patience_s = duration_s, patience_s

    async def all(
        self, concurrencies: Sequence[int], on_progress: Callable[[str], None]
    ) -> tuple[list[ServerPoint], list[str], str | None]:
        """Measure point by point, until a few requests fail; return the points, what failed, and what ended it."""
        points: list[ServerPoint] = []
        failures: list[str] = []
        for concurrency in concurrencies:
            on_progress(f"{concurrency} in flight: warming up")
            try:
                await self._warm_up(concurrency)
                on_progress(f"{concurrency} in flight: measuring for {self._duration_s:g} s")
                point, sent = await self._point(concurrency)
            except ServerError as error:
                if not points:
                    raise
                failures.append(f"{concurrency} in flight: {error}")
                return points, failures, failures[-1]
            points.append(point)
            failures += failures_of(point, sent)
        return points, failures, None

    async def _warm_up(self, concurrency: int) -> None:
        """Begin to send, and wait until nothing happens for the first time any more."""
        await self._load.start(concurrency)
        sizes = set(range(1, min(concurrency, self._client.contract.max_batch) + 1))
        begin = time.monotonic()
        while True:
            rounds, _ = await self._load.look()
            now = time.monotonic()
            # A full queue may turn the same slots away again and again.
            if (rounds or now >= begin + self._patience_s) and (
                now >= begin + _LONGEST_WARM_UP_S or sizes <= set((await self._statistics()).batches)
            ):
                return
            await asyncio.sleep(_LOOK_S)

    async def _point(self, concurrency: int) -> tuple[ServerPoint, list[Sent]]:
        """Measure, and have the load end."""
        async with self._meter.measuring():
            await self._load.begin()
            begin = time.monotonic()
            before = await self._statistics()
            whole, at_least = 0, concurrency
            while time.monotonic() - begin < self._duration_s or whole < at_least:
                is_early = time.monotonic() - begin < self._duration_s
                await asyncio.sleep(_LOOK_S)
                _, whole = await self._load.look()
                if is_early:  # one answer after the time is over, that what went before it counts
                    at_least = max(concurrency, whole + 1)
            await self._load.end()
            statistics = (await self._statistics()).since(before)
            end = time.monotonic()
        sent = await self._load.stop(begin, end)
        return server_point(concurrency, sent, begin, end, statistics, self._meter.use()), sent

    async def _statistics(self) -> Statistics:
        return await read_statistics(self._client.connection.one, self._client.contract.name)
