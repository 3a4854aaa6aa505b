"""A product's whole life: read, cut, infer, assemble, close.

    Product -> TileGrid -> TileRequest -> InferResult -> Mosaic -> Cog

One task reads tiles in the order of the grid; each tile with data becomes a task that waits for its answer
and adds it to the mosaic; finished blocks are compressed at once. What bounds it: the ring buffer's
reservation (bytes) and the model's credits (tiles cut and not yet in the mosaic).
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from kappamask_stream.atomic import publish
from kappamask_stream.blend import BlendMosaic
from kappamask_stream.budget import ByteBudget
from kappamask_stream.cog import CogSpec, CogStream
from kappamask_stream.errors import InferenceError, KappaMaskError, ProductError
from kappamask_stream.grid import TileGrid
from kappamask_stream.inference import InferResult, InFlightWindow, RetryPolicy, TileRequest, infer_with_retry
from kappamask_stream.jp2 import DecodePlan, TileStream, bands_of, index_bands
from kappamask_stream.mosaic import CropMosaic
from kappamask_stream.nodata import nodata_mask
from kappamask_stream.output import MaskOptions, OutputPlan
from kappamask_stream.quicklook import encode_quicklook
from kappamask_stream.radiometry import offset_scale
from kappamask_stream.result import ProductProgress, ProductResult, StageClock
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import InferenceClient
    from kappamask_stream.jp2 import TilePixels
    from kappamask_stream.mosaic import Block
    from kappamask_stream.product import Product
    from kappamask_stream.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model in use by this process, shared by all products.

    Attributes
    ----------
    client : sends one tile once.
    window : limits requests in flight.
    credits : limits tiles that are cut and not yet in a mosaic; a few more than the window's maximum.
    """

    client: InferenceClient
    window: InFlightWindow
    credits: asyncio.Semaphore

    @classmethod
    def of(cls, client: InferenceClient, max_in_flight: int | None = None) -> ServedModel:
        """Size window and credits from the model's contract."""
        window = InFlightWindow.for_contract(client.contract, max_in_flight)
        return cls(client=client, window=window, credits=asyncio.Semaphore(window.maximum + 2))


@dataclass(kw_only=True)
class Resources:
    """What the products of one process share: threads and the byte budget. Use as a context manager."""

    settings: Settings
    budget: ByteBudget = field(init=False)
    decoders: ThreadPoolExecutor = field(init=False)
    workers: ThreadPoolExecutor = field(init=False)

    def __enter__(self) -> Self:
        self.budget = ByteBudget(self.settings.memory_budget_bytes)
        self.decoders = ThreadPoolExecutor(self.settings.decode_threads, "decode")
        # Mosaic and compression take their own threads, so that an answer never waits behind a decode.
        self.workers = ThreadPoolExecutor(2, "assemble")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.decoders.shutdown(cancel_futures=True)
        self.workers.shutdown(cancel_futures=True)


async def mask_product(
    product: Product,
    model: ServedModel,
    resources: Resources,
    options: MaskOptions,
    folder: Path,
    progress: ProductProgress,
) -> ProductResult:
    """Mask one product, or skip it where the same mask is there already.

    Raises
    ------
    KappaMaskError
        The first cause; nothing is left under the final names then, nor on cancellation.
    """
    started = time.monotonic()
    contract = model.client.contract
    if product.level != contract.level:
        raise ProductError(
            f"{product.name} is a {product.level} product, the model {contract.name} was trained on "
            f"{contract.level}: choose a model for {product.level}"
        )
    plan = OutputPlan.of(product, contract, options, folder)
    if await in_thread(None, plan.is_done, options):
        progress.state = "skipped"
        return ProductResult(
            product=product.name, status="skipped", output=plan.mask, quicklook=plan.quicklook,
            seconds=time.monotonic() - started, model=contract.name, fingerprint=plan.fingerprint,
        )  # fmt: skip
    try:
        await in_thread(None, plan.prepare)
        job = _Job(product, model, resources, options, plan, progress, started)
        return await job.run()
    except BaseException:
        plan.discard_folder()
        raise


class _Job:
    """One product in work.

    State: the mosaic (guarded by `_mosaic_lock`: one tile at a time), the COG stream, counters and clocks.
    """

    def __init__(
        self,
        product: Product,
        model: ServedModel,
        resources: Resources,
        options: MaskOptions,
        plan: OutputPlan,
        progress: ProductProgress,
        started: float,
    ) -> None:
        self.product, self.model, self.resources, self.options = product, model, resources, options
        self.plan, self.progress, self.started = plan, progress, started
        self.contract: ModelContract = model.client.contract
        settings = resources.settings
        self.policy = RetryPolicy(
            attempts=settings.tile_attempts,
            server_wait_s=settings.server_wait_s,
            overload_wait_s=settings.overload_wait_s,
        )
        self.offset, self.scale = offset_scale(
            self.contract,
            offsets=product.offsets,
            quantification=product.quantification,
            radiometry=options.radiometry,
        )
        self.grid = TileGrid.of(self.contract, *mask_size(product, self.contract))
        self.mosaic = _mosaic(options, self.contract, self.grid)
        self.clock = StageClock()
        self.class_counts = np.zeros(256, np.int64)
        self.inferred = self.empty = self.retries = 0
        self.last_answer = self.closed = started
        self._mosaic_lock = asyncio.Lock()

    async def run(self) -> ProductResult:
        self.progress.state = "indexing"
        with self.clock.measure("index"):
            decode_plan = await plan_decoding(self.product, self.contract, self.grid)
        batches_before = await self.model.client.batch_sizes()
        self.progress.tiles_total = len(self.grid)
        self.progress.started = time.monotonic()
        self.progress.state = "streaming"
        async with CogStream(self._cog_spec(), self.resources.workers) as self.cog:
            reservation = _reservation(decode_plan, self.resources.settings)
            stream = TileStream(
                self.product.source,
                decode_plan,
                executor=self.resources.decoders,
                workers=self.resources.settings.decode_threads,
                reservation_bytes=reservation,
                read_ahead=self.resources.settings.read_ahead_tiles,
            )
            await self._stream_tiles(stream, reservation)
            self.progress.state = "closing"
            with self.clock.measure("close"):
                await self._close()
        self.progress.state = "done"
        batches = (await self.model.client.batch_sizes()).since(batches_before)
        total = self.grid.height * self.grid.width
        stats = stream.stats
        for stage, seconds in (("read", stats.read_busy_s), ("decode", stats.decode_busy_s), ("cut", stats.cut_busy_s)):
            self.clock.add(stage, seconds)
        return ProductResult(
            product=self.product.name,
            status="done",
            output=self.plan.mask,
            quicklook=self.plan.quicklook,
            seconds=self.closed - self.started,
            tiles=len(self.grid),
            tiles_inferred=self.inferred,
            tiles_empty=self.empty,
            codestream_tiles_decoded=stats.codestream_tiles_decoded,
            codestream_tiles_empty=stats.codestream_tiles_empty,
            codestream_tiles_decoded_twice=stats.codestream_tiles_decoded_twice,
            bytes_read=stats.bytes_read,
            tail_seconds=self.closed - self.last_answer,
            classes={c.name: float(self.class_counts[c.value]) / total for c in self.contract.classes},
            stages=self.clock.seconds,
            model=self.contract.name,
            batch_sizes=batches,
            fingerprint=self.plan.fingerprint,
            retries=self.retries,
        )

    async def _stream_tiles(self, stream: TileStream, reservation_bytes: int) -> None:
        """Read all tiles and answer each; returns when the last answer is in the mosaic."""
        try:
            async with asyncio.TaskGroup() as tasks, AsyncExitStack() as ring:
                # The ring's bytes are given back with the last tile read, not with the last answer: the next
                # product is read while this one's answers are still coming.
                await ring.enter_async_context(self.resources.budget.reserve(reservation_bytes, what=self.product.name))
                async with stream:
                    async for pixels in stream:
                        await self._dispatch(pixels, tasks)
        except BaseExceptionGroup as group:
            raise _first_cause(group) from None

    async def _dispatch(self, pixels: TilePixels, tasks: asyncio.TaskGroup) -> None:
        self.progress.tiles_read += 1
        self.progress.pixels_read += pixels.tile.core.height * pixels.tile.core.width
        unused = pixels.tile.core.is_empty and self.options.mosaic == "crop"
        if pixels.is_empty or unused:
            self.empty += 1
            await self._add(pixels, None, None)
            return
        await self.model.credits.acquire()
        self.progress.tiles_in_flight += 1
        # Given back by a callback: a task that is cancelled before its first step runs no `finally` of its own.
        tasks.create_task(self._answer(pixels)).add_done_callback(self._answered)

    def _answered(self, _: asyncio.Task[None]) -> None:
        self.progress.tiles_in_flight -= 1
        self.model.credits.release()

    async def _answer(self, pixels: TilePixels) -> None:
        """Send one tile and put its answer into the mosaic; its task holds one of the model's credits."""
        corrected = self.options.radiometry == "corrected"
        missing = await self._work(nodata_mask, pixels.tensors, self.contract) if corrected else None
        request = TileRequest(
            name=f"tile at row {pixels.tile.row}, column {pixels.tile.col} of {self.product.name}",
            tensors=pixels.tensors,
            offset=self.offset,
            scale=self.scale,
            probabilities=self.options.mosaic == "blend",
        )
        with self.clock.measure("infer"):
            result = await infer_with_retry(
                self.model.client, request, window=self.model.window, policy=self.policy, on_retry=self._note
            )
        self.inferred += 1
        await self._add(pixels, result, missing)

    async def _add(self, pixels: TilePixels, result: InferResult | None, missing: NDArray[np.bool_] | None) -> None:
        """Put a tile into the mosaic and hand finished blocks to the COG."""
        self.last_answer = time.monotonic()
        async with self._mosaic_lock:
            with self.clock.measure("mosaic"):
                blocks = await self._work(self._assemble, pixels, result, missing)
        for block in blocks:
            await self.cog.add(block)
        self.progress.tiles_done += 1

    def _assemble(
        self, pixels: TilePixels, result: InferResult | None, missing: NDArray[np.bool_] | None
    ) -> list[Block]:
        """Add one tile to the mosaic (in a thread) and count the classes of the blocks it completes."""
        nodata = self.contract.nodata_class
        if result is None:
            blocks = self.mosaic.add_constant(pixels.tile, nodata)
        elif isinstance(self.mosaic, BlendMosaic):
            if result.probabilities is None:
                raise InferenceError(f"{self.contract.name} gave no probabilities: --mosaic blend needs them")
            blocks = self.mosaic.add(pixels.tile, result.probabilities, missing)
        else:
            labels = result.labels if missing is None else np.where(missing, np.uint8(nodata), result.labels)
            blocks = self.mosaic.add(pixels.tile, labels)
        size = self.mosaic.block_size
        for block in blocks:
            inside = block.pixels[: self.grid.height - block.row * size, : self.grid.width - block.col * size]
            self.class_counts += np.bincount(inside.ravel(), minlength=256)
        return blocks

    async def _close(self) -> None:
        """Publish quicklook and mask together, the mask last: under its final name it says that all is there."""
        mask = await self.cog.finish()
        colours = {c.value: c.colour for c in self.contract.classes}
        picture = await self._work(encode_quicklook, self.cog.quicklook_pixels(), colours)
        await publish([(self.plan.quicklook, [picture]), (self.plan.mask, mask)])
        self.closed = time.monotonic()

    def _cog_spec(self) -> CogSpec:
        return CogSpec(
            height=self.grid.height,
            width=self.grid.width,
            ulx=self.product.ulx,
            uly=self.product.uly,
            gsd_m=self.contract.gsd_m,
            epsg=self.product.epsg,
            nodata=self.contract.nodata_class,
            classes=self.contract.classes,
            tags=self.plan.tags,
            compression=self.options.compression,
        )

    async def _work(self, function: Callable[..., T], *args: object) -> T:
        return await in_thread(self.resources.workers, function, *args)

    def _note(self, text: str) -> None:
        self.retries += 1
        self.progress.note = text


async def plan_decoding(product: Product, contract: ModelContract, grid: TileGrid) -> DecodePlan:
    """Index every file of a model's bands and plan what is decoded when.

    Raises
    ------
    InputError
        If a band is missing, damaged, or of another size than the metadata says.
    """
    paths = {(b, g.gsd_m): product.band_path(b, g.gsd_m) for g in contract.inputs for b in g.bands}
    indexes = await index_bands(product.source, list(paths.values()))
    for (band, gsd_m), path in paths.items():
        found, said = (indexes[path].height, indexes[path].width), product.sizes.get(gsd_m)
        if said is not None and found != said:
            raise ProductError(
                f"{path} of {product.name} has {found[0]} x {found[1]} pixels, the metadata says "
                f"{said[0]} x {said[1]} for {gsd_m} m: the file or MTD_TL.xml is wrong ({band})"
            )
    bands = bands_of(contract, {key: indexes[path] for key, path in paths.items()}, paths)
    return DecodePlan.of(bands, grid)


def mask_size(product: Product, contract: ModelContract) -> tuple[int, int]:
    """Return rows and columns of the mask: the product's size at the contract's resolution.

    Raises
    ------
    ProductError
        If the metadata gives no size for it.
    """
    if contract.gsd_m not in product.sizes:
        raise ProductError(
            f"the metadata of {product.name} gives sizes for {sorted(product.sizes)} m, "
            f"the model {contract.name} makes masks of {contract.gsd_m} m"
        )
    return product.sizes[contract.gsd_m]


def _reservation(plan: DecodePlan, settings: Settings) -> int:
    """Return the bytes that a product's decoded pixels may take: all of them if they fit into its share of the budget.

    What a product needs at least it gets, even beyond its share: then it waits until the others leave that much.
    """
    share = settings.memory_budget_bytes // settings.products_at_once
    return max(plan.required_bytes, min(sum(unit.nbytes for unit in plan.units), share))


def _mosaic(options: MaskOptions, contract: ModelContract, grid: TileGrid) -> CropMosaic | BlendMosaic:
    if options.mosaic == "blend":
        return BlendMosaic(grid, class_values=contract.probability_classes, nodata=contract.nodata_class)
    return CropMosaic(grid, nodata=contract.nodata_class)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Unwrap a task group's failure for people: the first error of ours, else the first error."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((e for e in flat if isinstance(e, KappaMaskError)), flat[0])
