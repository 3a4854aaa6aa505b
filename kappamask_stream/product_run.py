"""One product in work: read, cut, infer, assemble, close.

    Product -> TileGrid -> TileRequest -> InferResult -> Mosaic -> Cog

One task reads tiles in the order of the grid; each tile with data becomes a task that waits for its answer
and adds it to the mosaic; finished blocks are compressed at once. What bounds it: the ring buffer's
reservation (bytes) and the model's credits (tiles cut and not yet in the mosaic).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kappamask_stream.assembly import Assembly
from kappamask_stream.cog import CogStream
from kappamask_stream.errors import KappaMaskError
from kappamask_stream.extras import FinishedMask, MaskJob, TileAnswer
from kappamask_stream.inference import RetryPolicy, TileRequest, confirm_with_retry, infer_with_retry
from kappamask_stream.jp2 import IndexCost, TileStream
from kappamask_stream.nodata import nodata_mask
from kappamask_stream.planning import Layout, bookkeeping_bytes, plan_decoding, reservation
from kappamask_stream.radiometry import offset_scale
from kappamask_stream.result import ProductProgress, ProductResult, StageClock
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from kappamask_stream.destinations import OutputFile
    from kappamask_stream.extras import Extra
    from kappamask_stream.inference import InferResult
    from kappamask_stream.jp2 import TilePixels
    from kappamask_stream.output import OutputPlan
    from kappamask_stream.resources import Resources, ServedModel

T = TypeVar("T")


class ProductRun:
    """One product in work.

    Parameters
    ----------
    job : the product, its model and options.
    layout : its frame, grid, and the tiles to be read.
    plan : of the mask's files.
    model, resources : shared by all products in work.
    extras : what else is made of it; these instances serve this product only.
    progress : told how far it is.
    started : time (monotonic, seconds) at which the product was begun.

    State: the assembly (guarded by `_assembly_lock`: one tile at a time), the COG stream, counters and clocks.
    """

    def __init__(
        self,
        job: MaskJob,
        layout: Layout,
        plan: OutputPlan,
        model: ServedModel,
        resources: Resources,
        extras: Sequence[Extra],
        progress: ProductProgress,
        started: float,
    ) -> None:
        self.job, self.layout, self.plan, self.model = job, layout, plan, model
        self.resources, self.extras, self.progress, self.started = resources, extras, progress, started
        settings = resources.settings
        self.policy = RetryPolicy(
            attempts=settings.tile_attempts,
            server_wait_s=settings.server_wait_s,
            overload_wait_s=settings.overload_wait_s,
        )
        self.offset, self.scale = offset_scale(
            job.contract,
            offsets=job.product.offsets,
            quantification=job.product.quantification,
            radiometry=job.options.radiometry,
        )
        self.probabilities = job.options.mosaic == "blend" or any(extra.needs_probabilities for extra in extras)
        self.assembly = Assembly(layout, job.contract)
        self.unread = deque(layout.unread)
        self.clock, self.indexing = StageClock(), IndexCost()
        self.inferred = self.empty = self.retries = 0
        self.last_answer = self.closed = started
        self._assembly_lock = asyncio.Lock()

    async def run(self) -> ProductResult:
        """Do all of it, once.

        Raises
        ------
        KappaMaskError
            The first cause. What was prepared at the destination is the caller's to discard.
        """
        self.progress.state = "indexing"
        with self.clock.measure("index"):
            decode_plan = await plan_decoding(
                self.job.product,
                self.job.contract,
                self.layout.read,
                partly=self.layout.area is not None,
                cost=self.indexing,
                most_bytes=bookkeeping_bytes(self.resources.settings),
            )
        self.batches_before = await self.model.client.batch_sizes()
        self.progress.tiles_total = len(self.layout.read)
        self.progress.started = time.monotonic()
        self.progress.state = "streaming"
        held = reservation(decode_plan, self.resources.settings)
        new = self.model.new_tensors
        self.stream = TileStream(
            self.job.product.source,
            decode_plan,
            executor=self.resources.decoders,
            workers=self.resources.decode_threads,
            decoder=self.resources.decoder,
            reservation_bytes=held,
            read_ahead=self.resources.settings.read_ahead_tiles,
            compressed_bytes=self.resources.settings.store_read_ahead_mb * 1024 * 1024,
            on_busy=self.clock.note,
            new_tensors=None if new is None else partial(new, probabilities=self.probabilities),
        )
        async with AsyncExitStack() as parts:
            for extra in self.extras:
                parts.push_async_callback(extra.aclose)
                await extra.begin(self.job)
            self.cog = await parts.enter_async_context(CogStream(self.job.cog_spec, self.resources.workers))
            await self._stream_tiles(held)
            self.progress.state = "closing"
            with self.clock.measure("close"):
                published = await self._close()
        self.progress.state = "done" if published else "skipped"
        stats = self.stream.stats
        return ProductResult(
            product=self.job.product.name,
            status="done" if published else "skipped",
            output=self.plan.href,
            quicklook=self.job.destination.href(self.plan.quicklook),
            seconds=self.closed - self.started,
            tiles=len(self.layout.read),
            tiles_inferred=self.inferred,
            tiles_empty=self.empty,
            codestream_tiles_decoded=stats.codestream_tiles_decoded,
            codestream_tiles_empty=stats.codestream_tiles_empty,
            codestream_tiles_decoded_twice=stats.codestream_tiles_decoded_twice,
            requests=self.indexing.requests + stats.requests,
            bytes_read=self.indexing.bytes_read + stats.bytes_read,
            tail_seconds=self.closed - self.last_answer,
            classes=self.assembly.shares() if published else {},
            stages=self.clock.seconds,
            model=self.job.contract.name,
            batch_sizes=self.batches,
            fingerprint=self.plan.fingerprint,
            retries=self.retries,
            canary=self.model.has_canary if published else None,
        )

    async def _stream_tiles(self, reservation_bytes: int) -> None:
        """Read all tiles and answer each; returns when the last answer is in the mosaic."""
        what = self.job.product.name
        try:
            async with asyncio.TaskGroup() as tasks, AsyncExitStack() as ring:
                # The ring's bytes are given back with the last tile read, not with the last answer: the next
                # product is read while this one's answers are still coming.
                await ring.enter_async_context(self.resources.budget.reserve(reservation_bytes, what=what))
                async with self.stream:
                    async for pixels in self.stream:
                        await self._pass_unread(before=pixels.tile.index)
                        await self._dispatch(pixels, tasks)
                await self._pass_unread()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None

    async def _pass_unread(self, *, before: int | None = None) -> None:
        """Add the tiles outside the area of interest that come before a tile: in order, so that few blocks wait."""
        while self.unread and (before is None or self.unread[0].index < before):
            await self._add(TileAnswer(tile=self.unread.popleft()))

    async def _dispatch(self, pixels: TilePixels, tasks: asyncio.TaskGroup) -> None:
        self.progress.tiles_read += 1
        self.progress.pixels_read += pixels.tile.core.height * pixels.tile.core.width
        if pixels.is_empty:
            self.empty += 1
            await self._add(TileAnswer(tile=pixels.tile))
            self.progress.tiles_done += 1
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
        corrected = self.job.options.radiometry == "corrected"
        missing = await self._work(nodata_mask, pixels.tensors, self.job.contract) if corrected else None
        request = TileRequest(
            name=f"tile at row {pixels.tile.row}, column {pixels.tile.col} of {self.job.product.name}",
            tensors=pixels.tensors,
            offset=self.offset,
            scale=self.scale,
            probabilities=self.probabilities,
        )
        with self.clock.measure("infer"):
            result = await infer_with_retry(
                self.model.client, request, window=self.model.window, policy=self.policy, on_retry=self._note
            )
        self.inferred += 1
        await self._add(self._answer_of(pixels, result, missing))
        self.progress.tiles_done += 1

    def _answer_of(self, pixels: TilePixels, result: InferResult, missing: NDArray[np.bool_] | None) -> TileAnswer:
        labels = result.labels
        if missing is not None and missing.any():
            labels = np.where(missing, np.uint8(self.job.contract.nodata_class), labels)
        return TileAnswer(
            tile=pixels.tile,
            tensors=pixels.tensors,
            labels=labels,
            probabilities=result.probabilities,
            missing=missing,
        )

    async def _add(self, answer: TileAnswer) -> None:
        """Put a tile into the mosaic and hand finished blocks to the COG; then the extras see both."""
        self.last_answer = time.monotonic()
        async with self._assembly_lock:
            with self.clock.measure("mosaic"):
                blocks = await self._work(self.assembly.add, answer)
        for block in blocks:
            await self.cog.add(block)
        is_shown = self.layout.shows(answer.tile)
        for extra in self.extras:
            if is_shown:
                await extra.add_tile(answer)
            for block in blocks:
                await extra.add_block(block)

    async def _close(self) -> bool:
        """Publish all files together: the mask, which stands for them, comes last but for those that stand for it.

        False where another process has published the same mask meanwhile.
        """
        # A server that was deployed again meanwhile, with other weights, would make one mask of two networks.
        await confirm_with_retry(self.model.client, self.job.product.name, policy=self.policy, on_retry=self._note)
        self.batches = (await self.model.client.batch_sizes()).since(self.batches_before)
        mask = FinishedMask(
            cog=await self.cog.finish(),
            quicklook_pixels=self.cog.quicklook_pixels(),
            classes=self.assembly.shares(),
            timeline=self.clock.timeline(),
            tiles=len(self.layout.read),
            tiles_inferred=self.inferred,
            tiles_empty=self.empty,
            bytes_read=self.indexing.bytes_read + self.stream.stats.bytes_read,
            retries=self.retries,
            batch_sizes=self.batches,
        )
        before: list[OutputFile] = [await self._work(self.plan.quicklook_file, mask.quicklook_pixels)]
        after: list[OutputFile] = []
        for extra in self.extras:
            made = await extra.finish(replace(mask, files=(*before, *after)))
            (after if extra.stands_for_mask else before).extend(made)
        published = await self.plan.publish([*before, self.plan.mask_file(mask.cog), *after])
        self.closed = time.monotonic()
        return published

    async def _work(self, function: Callable[..., T], *args: object) -> T:
        return await in_thread(self.resources.workers, function, *args)

    def _note(self, cause: str, text: str) -> None:
        self.retries += 1
        self.progress.retried(cause, text)


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
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
