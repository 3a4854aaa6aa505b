"""One run of all levels: in which order, on what, and what stands when one of them fails."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tritonclient.utils import InferenceServerException

from kappamask_stream.bench.client_level import measure_client
from kappamask_stream.bench.end_to_end_level import measure_end_to_end
from kappamask_stream.bench.environment import environment
from kappamask_stream.bench.estimate import Estimate
from kappamask_stream.bench.facts import Facts
from kappamask_stream.bench.notes import notes_on
from kappamask_stream.bench.perf_analyzer import perf_analyzer_command, write_perf_analyzer_data
from kappamask_stream.bench.server_level import ServerPlace, default_concurrencies, measure_server
from kappamask_stream.bench.tiles import write_tile_set
from kappamask_stream.bench.types import BenchReport
from kappamask_stream.bench.verdict import verdict_of
from kappamask_stream.errors import KappaMaskError
from kappamask_stream.grid import TileGrid
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.served import CONTROL_TIMEOUT_S
from kappamask_stream.models import ModelPool
from kappamask_stream.opening import opened_product
from kappamask_stream.planning import mask_size
from kappamask_stream.s3 import Stores
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kappamask_stream.bench.tiles import TileSet
    from kappamask_stream.bench.types import ClientLevel, EndToEndLevel, Level, ServerLevel
    from kappamask_stream.inference import TritonClient
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.output import Radiometry
    from kappamask_stream.product import Product
    from kappamask_stream.settings import Settings

T = TypeVar("T")

#: Tiles that are sent again and again: enough that no cache holds them, 256 MB of KappaMask's.
_MOST_TILES = 64
#: Products end to end, for each that is in work at once: the first one only fills the pipeline.
_ROUNDS_OF_PRODUCTS = 2


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is asked for.

    Attributes
    ----------
    product : path or URL.
    levels : to be measured.
    concurrency : requests in flight of the server's level; None: as `default_concurrencies`.
    duration_s : seconds per point of the server's level, and for products end to end at least.
    rounds : of the client's level, the best of which counts.
    is_synthetic : True where nobody gave the product.
    keep_server : True leaves a local server running.
    load_before : processes that wanted a core before anything was begun, on average over a minute; None: unknown.
    perf_analyzer : file that receives the server's tiles as `perf_analyzer` reads them; None: not wanted.
    """

    product: str
    levels: Sequence[Level]
    choice: ModelChoice
    settings: Settings
    radiometry: Radiometry
    concurrency: Sequence[int] | None
    duration_s: float
    rounds: int = 1
    is_synthetic: bool = False
    keep_server: bool = False
    load_before: float | None = None
    perf_analyzer: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run.

    Attributes
    ----------
    report : what was measured: a level that failed is not in it, and it says so.
    failure : the first of a level; None where all is well.
    perf_analyzer_command : that measures the server likewise; it names the server. None where it was not asked for.
    """

    report: BenchReport
    failure: KappaMaskError | None
    perf_analyzer_command: str | None


async def run_bench(bench: Bench, on_progress: Callable[[str], None]) -> Outcome:
    """Measure level by level: the server, the client, both together.

    Parameters
    ----------
    on_progress : told what is being done, a line each.

    Raises
    ------
    KappaMaskError
        If nothing was measured: there is no server, no product, or all levels failed.
    """
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(Stores(bench.settings.s3_options, bench.settings.output_s3_options))
        models = await stack.enter_async_context(
            ModelPool(bench.choice, bench.settings, keep_server=bench.keep_server, on_progress=on_progress)
        )
        product = await stack.enter_async_context(opened_product(bench.product, stores))
        await models.get(product.level)
        running = _Running(bench, models, models.connected(product.level), product, on_progress)
        await running.levels()
        return Outcome(
            report=await running.report(), failure=running.failure, perf_analyzer_command=running.perf_analyzer_command
        )


class _Running:
    """A run: what is measured with, and what has been measured so far."""

    def __init__(
        self,
        bench: Bench,
        models: ModelPool,
        client: TritonClient,
        product: Product,
        on_progress: Callable[[str], None],
    ) -> None:
        self._bench, self._models, self._client, self._product = bench, models, client, product
        self._say = on_progress
        self._grid = TileGrid.of(client.contract, *mask_size(product, client.contract))
        self._tiles: TileSet | None = None
        self._server: ServerLevel | None = None
        self._client_level: ClientLevel | None = None
        self._end_to_end: EndToEndLevel | None = None
        self._failures: list[str] = []
        self.failure: KappaMaskError | None = None
        self.perf_analyzer_command: str | None = None

    async def levels(self) -> None:
        """Measure what is asked for, one after the other: two at a time would measure each other."""
        bench = self._bench
        concurrency = bench.concurrency or default_concurrencies(self._client.contract)
        self._say(Estimate.of(bench, self._product, self._client.contract, concurrency).text)
        if "server" in bench.levels:
            self._server = await self._level("server", lambda: self._measure_server(concurrency))
        if "client" in bench.levels:
            self._client_level = await self._level("client", self._measure_client)
        if "end-to-end" in bench.levels:
            self._end_to_end = await self._level("end-to-end", self._measure_end_to_end)
        if self.failure is not None and not (self._server or self._client_level or self._end_to_end):
            raise self.failure

    async def _level(self, name: Level, measure: Callable[[], Awaitable[T]]) -> T | None:
        """Measure one level; where it fails the others are worth having."""
        try:
            return await measure()
        except KappaMaskError as error:
            self._say(f"{name}: failed: {error}")
            self._failures.append(f"{name} was not measured: {error}")
            self.failure = self.failure or error
            return None

    async def _measure_server(self, concurrency: Sequence[int]) -> ServerLevel:
        bench, contract = self._bench, self._client.contract
        with tempfile.TemporaryDirectory(prefix="kappamask-bench-") as folder:
            self._say("server: cutting tiles")
            most = min(_MOST_TILES, len(self._grid))
            self._tiles = await write_tile_set(self._product, contract, bench.radiometry, Path(folder), most=most)
            place = ServerPlace(
                endpoint=self._client.endpoint,
                model=contract.name,
                metrics_urls=self._models.metrics_urls,
                memory_key=self._models.memory_key,
                metrics_ca=bench.settings.triton_ca if bench.settings.triton is not None else None,
            )
            level = await measure_server(
                place,
                self._tiles,
                concurrency=concurrency,
                duration_s=bench.duration_s,
                settings=bench.settings,
                on_progress=lambda text: self._say(f"server: {text}"),
            )
            if bench.perf_analyzer is not None:
                self._say("server: writing tiles for perf_analyzer")
                await in_thread(None, write_perf_analyzer_data, self._tiles, contract, bench.perf_analyzer)
                self.perf_analyzer_command = perf_analyzer_command(
                    contract,
                    self._client.endpoint,
                    bench.perf_analyzer,
                    level.best.concurrency,
                    transport=level.transport,
                )
            return level

    async def _measure_client(self) -> ClientLevel:
        bench = self._bench
        return await measure_client(
            bench.product,
            self._client.contract,
            bench.settings,
            radiometry=bench.radiometry,
            rounds=bench.rounds,
            on_progress=lambda text: self._say(f"client: {text}"),
        )

    async def _measure_end_to_end(self) -> EndToEndLevel:
        bench = self._bench
        return await measure_end_to_end(
            [bench.product],
            bench.choice,
            bench.settings,
            least=_ROUNDS_OF_PRODUCTS * bench.settings.products_at_once,
            duration_s=bench.duration_s,
            radiometry=bench.radiometry,
            on_progress=lambda text: self._say(f"end-to-end: {text}"),
        )

    async def report(self) -> BenchReport:
        """Put together what was measured, and judge it."""
        version = await self._server_version()
        report = BenchReport(
            environment=environment(server=version, has_local_gpu=False),
            model=self._client.contract.name,
            product=self._product.name,
            product_tiles=len(self._grid),
            product_tiles_inferred=self._tiles_inferred(),
            local_server=self._is_local,
            server=self._server,
            client=self._client_level,
            end_to_end=self._end_to_end,
        )
        has_metrics = bool(self._models.metrics_urls)
        if self._is_local and (Facts(report=report).has_gpu or not has_metrics):
            report = replace(report, environment=environment(server=version, has_local_gpu=True))
        told = notes_on(report, self._bench, self._client.contract, has_metrics=has_metrics)
        return replace(report, verdict=verdict_of(report), notes=(*self._failures, *told))

    @property
    def _is_local(self) -> bool:
        triton = self._bench.settings.triton
        return triton is None or parse_endpoint(triton).is_loopback

    def _tiles_inferred(self) -> int:
        """Return how many tiles of the product hold data; 0 where no level that was measured tells."""
        if self._client_level is not None:
            return self._client_level.tiles_inferred
        if self._end_to_end is not None:
            return self._end_to_end.tiles_inferred // self._end_to_end.products
        is_all = self._tiles is not None and len(self._grid) <= _MOST_TILES
        return self._tiles.count if is_all and self._tiles is not None else 0

    async def _server_version(self) -> str | None:
        try:
            told = await self._client.connection.one.get_server_metadata(client_timeout=CONTROL_TIMEOUT_S)
        except InferenceServerException:
            return None
        return f"{told.name} {told.version}"
