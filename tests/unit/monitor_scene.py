"""A worker's day without a worker: what observers of one would be told."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.contract import MaskClass, ModelContract
from kappamask_stream.errors import ProductError
from kappamask_stream.extras import Extra, TileAnswer
from kappamask_stream.feed import ProductRef
from kappamask_stream.monitor.metrics import Metrics
from kappamask_stream.names import parse_product_name
from kappamask_stream.queues import Message
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.worker.types import Job, JobEnd, Observer, WorkerState
from tests.unit.mask_jobs import make_finished, make_job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kappamask_stream.extras import MaskJob

COLOURS = {
    "UNDEFINED": (128, 128, 128), "CLEAR": (104, 159, 56), "CLOUD_SHADOW": (62, 54, 93),
    "SEMI_TRANSPARENT_CLOUD": (158, 202, 225), "CLOUD": (255, 255, 255), "MISSING": (0, 0, 0),
}  # fmt: skip


def coloured(contract: ModelContract) -> ModelContract:
    """The contract with the colours that KappaMask has."""
    classes = tuple(MaskClass(value=v, name=name, colour=rgb) for v, (name, rgb) in enumerate(COLOURS.items()))
    return replace(contract, classes=classes)


def product_name(number: int = 0, tile: str = "29UNU") -> str:
    return f"S2A_MSIL2A_20221005T1154{number:02d}_N0400_R023_T{tile}_20221005T164454"


def make_message(number: int = 0, **rest: Any) -> Message:
    fields = {"id": f"message-{number}", "receipt": "receipt", "body": "body", "sent_at": time.time() - 90.0, **rest}
    return Message(**fields)


def job_of(message: Message, name: str | None = None, *, count: int = 0, location: str | None = None) -> Job:
    ref = ProductRef(name=parse_product_name(name or product_name()), kind="name", location=location)
    progress = ProductProgress(product=ref.name.text)
    return Job(id=f"{message.id}/{count}", message=message, ref=ref, progress=progress)


def done(seconds: float = 12.5, **rest: Any) -> JobEnd:
    fields: dict[str, Any] = {
        "product": "P", "status": "done", "seconds": seconds, "tiles": 9, "tiles_inferred": 7, "tiles_empty": 2,
        "bytes_read": 1_000_000, "stages": {"decode": 3.0, "infer": 8.0},
        "classes": {"CLEAR": 0.55, "CLOUD_SHADOW": 0.05, "SEMI_TRANSPARENT_CLOUD": 0.1, "CLOUD": 0.3}, **rest,
    }  # fmt: skip
    return JobEnd(status="done", seconds=seconds, result=ProductResult(**fields), output="s3://masks/P/P.tif")


def sky(rows: int, cols: int, seed: int = 3) -> np.ndarray:
    """A class per tile, in patches as clouds have them; the swath's edge cuts a corner off (MISSING)."""
    rng = np.random.default_rng(seed)
    field = rng.random((rows, cols))
    for _ in range(4):
        padded = np.pad(field, 1, mode="edge")
        field = sum(padded[r : r + rows, c : c + cols] for r in range(3) for c in range(3)) / 9
    level = (field - field.min()) / max(1e-9, np.ptp(field))
    classes = np.select([level > 0.72, level > 0.62, level < 0.12], [4, 3, 2], 1)
    row, col = np.indices((rows, cols))
    classes[row + 2 * col < rows * 0.5] = 5
    return classes.astype(np.uint8)


class Play:
    """One product in work: tells observers and extras what a pipeline would."""

    def __init__(self, observers: Sequence[Observer], job: Job, mask_job: MaskJob, seed: int = 3) -> None:
        self.observers, self.job, self.mask_job = observers, job, mask_job
        self.extras: list[Extra] = []
        self.tiles = list(mask_job.grid)
        self.classes = sky(mask_job.grid.rows, mask_job.grid.cols, seed).ravel()

    @classmethod
    def of(cls, observers: Sequence[Observer], job: Job, contract: ModelContract, folder: Path, size: int) -> Play:
        return cls(observers, job, make_job(contract, folder, size=size))

    async def begin(self) -> None:
        for observer in self.observers:
            self.extras.extend(observer.job_started(self.job))
        for extra in self.extras:
            await extra.begin(self.mask_job)
        progress = self.job.progress
        progress.state, progress.tiles_total, progress.started = "streaming", len(self.tiles), time.monotonic()

    async def answer(self, until: int, *, in_flight: int = 0) -> None:
        """Have all tiles up to a number answered, and some more read."""
        progress, size = self.job.progress, self.mask_job.contract.tile_size
        for tile in self.tiles[progress.tiles_done : until]:
            value = int(self.classes[tile.index])
            labels = None if value == 5 else np.full((size, size), value, np.uint8)
            for extra in self.extras:
                await extra.add_tile(TileAnswer(tile=tile, labels=labels))
        progress.tiles_done = min(until, len(self.tiles))
        progress.tiles_read = min(until + in_flight, len(self.tiles))
        progress.tiles_in_flight = progress.tiles_read - progress.tiles_done
        progress.pixels_read = sum(t.core.height * t.core.width for t in self.tiles[: progress.tiles_read])

    async def finish(self, end: JobEnd) -> None:
        await self.answer(len(self.tiles))
        grid = self.mask_job.grid
        pixels = np.kron(self.classes.reshape(grid.rows, grid.cols), np.ones((24, 24), np.uint8))
        for extra in self.extras:
            assert list(await extra.finish(make_finished(quicklook_pixels=pixels))) == []
        self.end(end)

    def end(self, end: JobEnd) -> None:
        for observer in self.observers:
            observer.job_ended(self.job, end)


async def busy_metrics(contract: ModelContract, folder: Path) -> Metrics:
    """Metrics that have seen one of everything: every name has a sample with all of its labels."""
    metrics = Metrics(model="csmask")
    for received in (1, 2):
        metrics.message_taken(make_message(received=received))
    play = Play.of([metrics], job_of(make_message(), location="s3://bucket/S2A_X"), contract, folder, 600)
    await play.begin()
    await play.finish(done())
    metrics.job_ended(play.job, JobEnd(status="failed", seconds=1.0, error=ProductError("S2A_X is broken")))
    metrics.message_ended(make_message(), "done", None, 1.0)
    metrics.retried("SlowDown", "s3://bucket/S2A_X: 503")
    metrics.state_changed(
        WorkerState(phase="taking", slots=1, busy=1, pending=1.0, queue_waiting=1, queue_in_work=1, queue_age_s=1.0)
    )
    metrics.answered({"triton": None, "queue": "https://sqs/queue does not answer"})
    metrics.lagged(0.001)
    return metrics
