"""One run of all levels: in which order, on what, and what stands when one of them fails."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from tritonclient.utils import InferenceServerException

from kappamask_stream.bench.client_level import measure_client
from kappamask_stream.bench.end_to_end_level import measure_end_to_end
from kappamask_stream.bench.environment import environment
from kappamask_stream.bench.estimate import Estimate
from kappamask_stream.bench.facts import Facts
from kappamask_stream.bench.notes import notes_on
from kappamask_stream.bench.perf_analyzer import perf_analyzer_command, write_perf_analyzer_data
from kappamask_stream.bench.scratch import scratch_folder
from kappamask_stream.bench.server_level import ServerPlace, default_concurrencies, measure_server
from kappamask_stream.bench.tiles import write_tile_set
from kappamask_stream.bench.types import BenchReport, BenchSettings
from kappamask_stream.bench.verdict import verdict_of
from kappamask_stream.errors import KappaMaskError, ServerError
from kappamask_stream.grid import TileGrid
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.served import CONTROL_TIMEOUT_S
from kappamask_stream.models import ModelPool
from kappamask_stream.opening import opened_product
from kappamask_stream.planning import mask_size
from kappamask_stream.s3 import Stores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from kappamask_stream.bench.tiles import TileSet
    from kappamask_stream.bench.types import ClientLevel, EndToEndLevel, Level, ServerLevel
    from kappamask_stream.inference import TritonClient
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.models import ModelChoice
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
        self._concurrency: tuple[int, ...] = ()
        self._failures: list[str] = []
        self.failure: KappaMaskError | None = None
        self.perf_analyzer_command: str | None = None

    async def levels(self) -> None:
        """Measure what is asked for, one after the other: two at a time would measure each other."""
        bench = self._bench
        concurrency = bench.concurrency or default_concurrencies(self._client.contract)
        self._concurrency = tuple(sorted(set(concurrency))) if "server" in bench.levels else ()
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
            self._failed(error, f"{name} was not measured: ")
            return None

    def _failed(self, error: KappaMaskError, what: str = "") -> None:
        """Take note of a failure after which one goes on."""
        self._failures.append(f"{what}{error}")
        self._say(self._failures[-1])
        self.failure = self.failure or error

    async def _measure_server(self, concurrency: Sequence[int]) -> ServerLevel:
        bench, contract = self._bench, self._client.contract
        with scratch_folder() as folder:
            self._say("server: cutting tiles")
            most = min(_MOST_TILES, len(self._grid))
            self._tiles = await write_tile_set(self._product, contract, bench.radiometry, folder, most=most)
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
            if level.broken_off is not None:
                self._failed(ServerError(f"the server's level broke off: {level.broken_off}"))
            if bench.perf_analyzer is not None:
                await self._write_for_perf_analyzer(self._tiles, level, bench.perf_analyzer)
            return level

    async def _write_for_perf_analyzer(self, tiles: TileSet, level: ServerLevel, path: Path) -> None:
        """Write its tiles and command; where that fails, what was measured stands."""
        self._say("server: writing tiles for perf_analyzer")
        contract, endpoint = self._client.contract, self._client.endpoint
        try:
            if level.broken_off is not None:
                raise ServerError("the server's level broke off, its best is not known")
            command = perf_analyzer_command(contract, endpoint, path, level.best.concurrency, transport=level.transport)
            await write_perf_analyzer_data(tiles, contract, path)
        except KappaMaskError as error:
            self._failed(error, "tiles for perf_analyzer were not written: ")
        else:
            self.perf_analyzer_command = command

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
            settings=self._settings,
        )
        has_metrics = bool(self._models.metrics_urls)
        if self._is_local and (Facts(report=report).has_gpu or not has_metrics):
            report = replace(report, environment=environment(server=version, has_local_gpu=True))
        told = notes_on(report, self._bench, self._client.contract, has_metrics=has_metrics)
        notes = (*self._failures, *self._untold, *told)
        return replace(report, verdict=verdict_of(report), notes=notes)

    @property
    def _settings(self) -> BenchSettings:
        """With what it was measured."""
        bench, settings = self._bench, self._bench.settings
        return BenchSettings(
            decoder=settings.decoder,
            decode_threads=settings.decode_threads,
            radiometry=bench.radiometry,
            rounds=bench.rounds,
            duration_s=bench.duration_s,
            products_at_once=settings.products_at_once,
            budget_bytes=settings.memory_budget_bytes,
            max_in_flight=settings.max_in_flight,
            concurrency=self._concurrency,
        )

    @property
    def _untold(self) -> list[str]:
        """Why nothing is known of the server's batches and times, once a level."""
        points = () if self._server is None else self._server.points
        told = [f"server, {point.concurrency} in flight: {point.untold}" for point in points if point.untold][:1]
        if self._end_to_end is not None and self._end_to_end.untold:
            told.append(f"end-to-end: {self._end_to_end.untold}")
        return told

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
