"""The client alone: one product in a process of its own, with a network that answers at once, beside its floor."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.bench.apart import in_child
from kappamask_stream.bench.floor import DecodeAlone
from kappamask_stream.bench.lag import Lag, measured_lag
from kappamask_stream.bench.null_client import NullClient
from kappamask_stream.bench.scratch import scratch_folder
from kappamask_stream.bench.types import ClientLevel
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.errors import ProductError, UsageError
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.opening import opened_product
from kappamask_stream.pipeline import mask_product
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress, peak_rss_bytes
from kappamask_stream.s3 import Stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from kappamask_stream.bench.apart import Ended
    from kappamask_stream.bench.types import Floor
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.result import ProductResult
    from kappamask_stream.settings import Settings

#: Progress is a line each.
_SAYS_EACH_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ClientRun:
    """What the process says that masked a product.

    Attributes
    ----------
    result : of the product.
    start_cpu_s : CPU seconds of the process before it began.
    lag : of the event loop while the product was in work.
    peak_rss_bytes : of the process; None where the system does not tell.
    bytes_written : of all files.
    coalesces : True where the product's source is a store or a web server.
    """

    result: ProductResult
    start_cpu_s: float
    lag: Lag
    peak_rss_bytes: int | None
    bytes_written: int
    coalesces: bool


@dataclass(frozen=True, kw_only=True)
class MaskAlone:
    """Mask a product with a network that answers at once, in a process of its own.

    Attributes
    ----------
    product : path or URL.
    contract : of the model that is left out.
    settings : as for a run.
    radiometry : see `MaskOptions`.
    folder : receives the files; empty.
    """

    product: str
    contract: ModelContract
    settings: Settings
    radiometry: Radiometry
    folder: Path

    async def work(self, say: Callable[[str], None]) -> ClientRun:
        """See `apart.Work`.

        Raises
        ------
        KappaMaskError
            The first cause; `ProductError` where the product has no data.
        """
        start_cpu_s = time.process_time()
        progress = ProductProgress(product=self.product)
        async with measured_lag() as lags, _said(progress, say):
            result, coalesces = await self._mask(progress)
        require_data(result)
        return ClientRun(
            result=result,
            start_cpu_s=start_cpu_s,
            lag=Lag.of(lags),
            peak_rss_bytes=peak_rss_bytes(),
            bytes_written=sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()),
            coalesces=coalesces,
        )

    async def _mask(self, progress: ProductProgress) -> tuple[ProductResult, bool]:
        settings = self.settings
        model = ServedModel.of(NullClient(self.contract), settings.max_in_flight)
        options = MaskOptions(radiometry=self.radiometry, compression=settings.compression)
        destination = FolderDestination(self.folder)
        with Resources(settings=settings) as resources:
            async with Stores(settings.s3_options) as stores, opened_product(self.product, stores) as product:
                result = await mask_product(product, model, resources, options, destination, progress)
                return result, bool(product.source.coalesce_bytes)


async def measure_client(
    product: str,
    contract: ModelContract,
    settings: Settings,
    *,
    radiometry: Radiometry,
    rounds: int = 1,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ClientLevel:
    """Measure the client, and the floor of what it does, in processes of their own that take turns.

    Of each the round with the least CPU seconds counts. The mask goes to a temporary folder.

    Parameters
    ----------
    product : path or URL. Of one that is not on disk, what the floor decodes is read before it is measured.

    Raises
    ------
    KappaMaskError
        As for a run: the product is damaged, or of another level than the model; or it holds no data.
    ProcessEndedError
        If a process was killed.
    UsageError
        If there are no rounds.
    """
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}: at least 1 is needed")
    runs: list[Ended[ClientRun]] = []
    floors: list[Floor] = []
    floor = DecodeAlone(product=product, contract=contract, settings=settings)
    for number in range(rounds):
        said = _in_round(number, rounds, on_progress)
        with scratch_folder() as folder:
            run = MaskAlone(product=product, contract=contract, settings=settings, radiometry=radiometry, folder=folder)
            runs.append(await in_child(run, said))
        floors.append((await in_child(floor, said)).result)
    best = min(runs, key=lambda ended: ended.cpu_s)
    return _level(best, min(floors, key=lambda measured: measured.cpu_s), settings)


def require_data(result: ProductResult) -> None:
    """Refuse a product of which nothing would be measured.

    Raises
    ------
    ProductError
        If none of its tiles holds data.
    """
    if not result.tiles_inferred:
        raise ProductError(f"{result.product} holds no data in any of its {result.tiles} tiles: measure another one")


def _level(ended: Ended[ClientRun], floor: Floor, settings: Settings) -> ClientLevel:
    run, result = ended.result, ended.result.result
    return ClientLevel(
        wall_s=ended.wall_s,
        cpu_s=ended.cpu_s,
        start_cpu_s=run.start_cpu_s,
        floor=floor,
        lag_p50_s=run.lag.p50_s,
        lag_p99_s=run.lag.p99_s,
        lag_max_s=run.lag.max_s,
        peak_rss_bytes=run.peak_rss_bytes,
        budget_bytes=settings.memory_budget_bytes,
        stages=result.stages,
        tiles=result.tiles,
        tiles_inferred=result.tiles_inferred,
        bytes_read=result.bytes_read,
        bytes_written=run.bytes_written,
        requests=result.requests if run.coalesces else None,
    )


@asynccontextmanager
async def _said(progress: ProductProgress, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Say how far a product is, now and then, for the length of the block."""

    async def again_and_again() -> None:
        while True:
            await asyncio.sleep(_SAYS_EACH_S)
            say(f"masking without a network: {progress.tiles_done} of {progress.tiles_total} tiles")

    say("masking without a network")
    task = asyncio.create_task(again_and_again())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _in_round(number: int, rounds: int, on_progress: Callable[[str], None]) -> Callable[[str], None]:
    return on_progress if rounds == 1 else lambda text: on_progress(f"round {number + 1} of {rounds}: {text}")
