"""Many products in one process, and where their time goes."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import count, cycle
from typing import TYPE_CHECKING

from kappamask_stream.bench.client_level import require_data
from kappamask_stream.bench.environment import usable_cores
from kappamask_stream.bench.gpu_metrics import GpuMeter
from kappamask_stream.bench.in_flight import CountedModels
from kappamask_stream.bench.lag import Lag, measured_lag
from kappamask_stream.bench.server_work import look_at_server
from kappamask_stream.bench.types import EndToEndLevel
from kappamask_stream.inference.metrics import MetricsReader
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.product_run import first_cause
from kappamask_stream.resources import Resources
from kappamask_stream.result import ProductProgress, peak_rss_bytes
from kappamask_stream.runner import Order, Workshop, mask_one
from kappamask_stream.s3 import Stores
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kappamask_stream.bench.server_work import ServerWork
    from kappamask_stream.bench.types import GpuUse
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.models import ModelChoice, ModelPool
    from kappamask_stream.result import ProductResult
    from kappamask_stream.settings import Settings


@dataclass(frozen=True, kw_only=True)
class MaskMany:
    """Mask products in a process of its own; `measure_end_to_end` says what the values mean.

    Attributes
    ----------
    folder : receives the files, and is left empty.
    """

    products: tuple[str, ...]
    choice: ModelChoice
    settings: Settings
    radiometry: Radiometry
    folder: Path
    least: int
    duration_s: float

    async def work(self, say: Callable[[str], None]) -> EndToEndLevel:
        """See `apart.Work`."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            resources = stack.enter_context(Resources(settings=settings))
            stores = await stack.enter_async_context(Stores(settings.s3_options))
            models = await stack.enter_async_context(CountedModels(self.choice, settings, on_progress=say))
            shift = _Shift(self, Workshop(models=models, resources=resources, stores=stores), say)
            say("warming up with one product")
            await shift.mask(self.products[0])
            client, meter = models.client, GpuMeter(_reader(models, settings, stack))
            before = await look_at_server(client, settings)
            async with meter.measuring():
                measured = await _measured(shift, models)
            server = (await look_at_server(client, settings)).since(before)
            return measured.level(models, settings, server, meter.use())


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What this process saw of itself: of results, wall and CPU seconds, requests in flight, and the loop's lag."""

    results: Sequence[ProductResult]
    wall_s: float
    cpu_s: float
    in_flight: float
    lag: Lag

    def level(self, models: CountedModels, settings: Settings, server: ServerWork, gpu: GpuUse | None) -> EndToEndLevel:
        """Add what the server did meanwhile."""
        results = self.results
        # Nothing is in flight at the beginning and at the end.
        sent = sum(result.tiles_inferred + result.retries for result in results)
        server = replace(server, statistics=server.statistics.of_one_client(sent))
        statistics = server.statistics
        return EndToEndLevel(
            products=len(results),
            products_at_once=settings.products_at_once,
            wall_s=self.wall_s,
            client_cpu_s=self.cpu_s,
            server_cpu_s=server.cpu_s,
            cores=usable_cores(),
            stages=sums([result.stages for result in results]),
            write_s=sum(result.tail_seconds or 0.0 for result in results),
            tiles_inferred=sum(result.tiles_inferred for result in results),
            window=models.window,
            mean_in_flight=self.in_flight,
            peak_rss_bytes=peak_rss_bytes(),
            lag_p99_s=self.lag.p99_s,
            queue_s=statistics.mean_s("queue"),
            compute_s=statistics.mean_s("compute_infer"),
            server_busy=server.busy(self.wall_s, models.client.contract.instances),
            batch_sizes=None if statistics.untold else statistics.batches,
            untold=statistics.untold,
            gpu=gpu,
        )


async def _measured(shift: _Shift, models: CountedModels) -> _Measured:
    async with measured_lag() as lags_s:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        models.occupancy.begin()
        results = await shift.mask_all()
        return _Measured(
            results=results,
            wall_s=time.perf_counter() - wall_s,
            cpu_s=time.process_time() - cpu_s,
            in_flight=models.occupancy.mean,
            lag=Lag.of(lags_s),
        )


class _Shift:
    """Masks one product after the other, several at once, each into a folder of its own that is then removed.

    State: the number of the next folder; results so far, and when the first product was begun.
    """

    def __init__(self, work: MaskMany, workshop: Workshop, say: Callable[[str], None]) -> None:
        self._work, self._workshop, self._say = work, workshop, say
        options = MaskOptions(radiometry=work.radiometry, compression=work.settings.compression)
        self._order = Order(options=options)
        self._folders = count()
        self._products = cycle(work.products)
        self._begun = 0
        self._results: list[ProductResult] = []
        self._started = 0.0

    async def mask(self, where: str) -> ProductResult:
        """Mask a product and forget its files.

        Raises
        ------
        KappaMaskError
            The first cause; `ProductError` where it holds no data.
        """
        folder = self._work.folder / str(next(self._folders))
        try:
            result = await mask_one(
                where, self._workshop, replace(self._order, output=str(folder)), ProductProgress(product=where)
            )
        finally:
            await in_thread(None, shutil.rmtree, folder, True)  # there may be none
        require_data(result)
        return result

    async def mask_all(self) -> list[ProductResult]:
        """Mask products until there are enough of them and the time is over; raises as `mask`."""
        self._started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._work.settings.products_at_once):
                    tasks.create_task(self._slot())
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        return self._results

    async def _slot(self) -> None:
        while self._begun < self._work.least or time.monotonic() - self._started < self._work.duration_s:
            self._begun += 1
            self._results.append(await self.mask(next(self._products)))
            rate = 3600 * len(self._results) / (time.monotonic() - self._started)
            masked = len(self._results)
            self._say(f"{masked} product{'s' * (masked > 1)} masked, {rate:.3g} an hour")


def sums(stages: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add up the seconds of each stage."""
    names = dict.fromkeys(name for one in stages for name in one)
    return {name: sum(one.get(name, 0.0) for one in stages) for name in names}


def _reader(models: ModelPool, settings: Settings, stack: AsyncExitStack) -> MetricsReader | None:
    """Return what reads the server's metrics, where they are known; it is closed with the stack."""
    if not models.metrics_urls:
        return None
    reader = MetricsReader(models.metrics_urls, ca=None if settings.triton is None else settings.triton_ca)
    stack.push_async_callback(reader.aclose)
    return reader
