"""What the status page shows: running products, the last results and failures, throughput, the worker's state."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kappamask_stream.extras import Extra
from kappamask_stream.monitor.quicklooks import Quicklooks, draw
from kappamask_stream.monitor.redaction import Redaction
from kappamask_stream.monitor.throughput import Throughput
from kappamask_stream.monitor.tile_grid import TilePicture
from kappamask_stream.threads import in_thread
from kappamask_stream.worker.types import Observer, WorkerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.destinations import OutputFile
    from kappamask_stream.extras import FinishedMask, MaskJob, TileAnswer
    from kappamask_stream.queues import Message
    from kappamask_stream.worker.types import Job, JobEnd, Outcome

_MOST_RESULTS, _MOST_FAILURES = 24, 40
_MOST_CAUSES = 40
_TICK_S = 1.0
#: Characters of a text from outside that the page shows.
_LONGEST = 600


@dataclass(kw_only=True)
class Running:
    """One product in work, as the page shows it.

    Attributes
    ----------
    job : with the progress that the pipeline keeps up to date.
    tiles : drawn so far; None before the first.
    picture : PNG of the mask; None before it is finished.
    legend : name and colour (``#rrggbb``) per class.
    """

    job: Job
    tiles: TilePicture | None = None
    picture: bytes | None = None
    legend: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A product whose mask is there; `number` is that of its picture, `picture` tells whether there was one."""

    number: int
    product: str
    message: str
    status: str
    seconds: float
    at: str
    output: str | None
    tiles: int
    retries: int
    shares: tuple[tuple[str, str, float], ...]


@dataclass(kw_only=True)
class Failure:
    """A product, or a message without one, that failed; `outcome` is what became of the message, once it is known."""

    number: int
    product: str | None
    message: str
    at: str
    error: str | None
    reason: str
    outcome: Outcome | None = None


class Board(Observer):
    """Remembers what the page shows, all of it bounded.

    State: the running products; the last results, their pictures, and failures; counts since the beginning; throughput;
    the worker's last word.
    """

    def __init__(self, redaction: Redaction | None = None) -> None:
        self._redaction = redaction or Redaction()
        self.started = time.monotonic()
        self.running: dict[str, Running] = {}
        self.results: deque[Result] = deque(maxlen=_MOST_RESULTS)
        self.failures: deque[Failure] = deque(maxlen=_MOST_FAILURES)
        self.quicklooks = Quicklooks()
        self.messages, self.products, self.retries = Counter[str](), Counter[str](), Counter[str]()
        self.throughput = Throughput(self.started)
        self.state = WorkerState(phase="starting")
        self.told_at: float | None = None
        self._number = 0
        self._ended_pixels = self._counted_pixels = 0

    async def run(self) -> None:
        """Take down each second how many pixels were read, until cancelled."""
        while True:
            self.count_pixels()
            await asyncio.sleep(_TICK_S)

    def count_pixels(self) -> None:
        """Take down how many pixels were read since the last time."""
        read = self._ended_pixels + sum(r.job.progress.pixels_read for r in self.running.values())
        self.throughput.add(time.monotonic(), pixels=read - self._counted_pixels)
        self._counted_pixels = read

    def shown(self, text: str) -> str:
        """Return a text from outside as the page may show it."""
        text = self._redaction.text(text)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

    def message_ended(self, message: Message, outcome: Outcome, reason: str | None, seconds: float) -> None:  # noqa: ARG002
        """Count a message; one that failed without a product failing is shown as a failure of its own."""
        self.messages[outcome] += 1
        of_it = [f for f in self.failures if f.message == message.id and f.outcome is None]
        for failure in of_it:
            failure.outcome = outcome
        if not of_it and outcome in ("retry", "poison", "lost"):
            self._fail(message.id, None, None, reason or "", outcome)

    def job_started(self, job: Job) -> Sequence[Extra]:
        """Show a product."""
        running = Running(job=job)
        self.running[job.id] = running
        return (_Watch(running),)

    def job_ended(self, job: Job, end: JobEnd) -> None:
        """Show how a product ended."""
        self.products[end.status] += 1
        running = self.running.pop(job.id, None)
        self._ended_pixels += job.progress.pixels_read if running is not None else 0
        if end.status == "failed":
            error = end.error
            kind = None if error is None else type(error).__name__
            self._fail(job.message.id, job.ref.name.text, kind, "" if error is None else str(error), None)
        elif end.status in ("done", "found"):
            self.throughput.add(time.monotonic(), products=int(end.status == "done"))
            self._finish(job, end, running)

    def retried(self, cause: str, text: str) -> None:  # noqa: ARG002 - the product's own note says it
        """Count a retry."""
        known = cause in self.retries or len(self.retries) < _MOST_CAUSES
        self.retries[cause if known else "other"] += 1

    def state_changed(self, state: WorkerState) -> None:
        """Show what the worker does."""
        self.state, self.told_at = state, time.monotonic()

    def _finish(self, job: Job, end: JobEnd, running: Running | None) -> None:
        self._number += 1
        legend = {} if running is None else running.legend
        if running is not None and running.picture is not None:
            self.quicklooks.put(self._number, running.picture)
        result = end.result
        shares = {} if result is None else result.classes
        self.results.appendleft(
            Result(
                number=self._number,
                product=job.ref.name.text,
                message=job.message.id,
                status=end.status,
                seconds=end.seconds,
                at=now_text(),
                output=None if end.output is None else self.shown(end.output),
                tiles=0 if result is None else result.tiles,
                retries=0 if result is None else result.retries,
                shares=tuple((name, legend.get(name, "#808080"), share) for name, share in shares.items() if share),
            )
        )

    def _fail(self, message: str, product: str | None, kind: str | None, why: str, outcome: Outcome | None) -> None:
        self._number += 1
        self.failures.appendleft(
            Failure(
                number=self._number, product=product, message=message, at=now_text(), error=kind,
                reason=self.shown(why), outcome=outcome,
            )
        )  # fmt: skip


def now_text() -> str:
    """Return the time of day, UTC, as RFC 3339 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class _Watch(Extra):
    """Draws a product's tiles, and its mask once it is there."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._job: MaskJob | None = None

    async def begin(self, job: MaskJob) -> None:
        self._job = job
        self._running.tiles = TilePicture(job)
        self._running.legend = {c.name: "#{:02x}{:02x}{:02x}".format(*c.colour) for c in job.contract.classes}

    async def add_tile(self, answer: TileAnswer) -> None:
        if self._running.tiles is not None:
            self._running.tiles.fill(answer)

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:
        job = self._job
        if job is not None:
            with suppress(Exception):  # a mask without a picture here is as good a mask
                self._running.picture = await in_thread(job.workers, draw, mask.quicklook_pixels, job.contract)
        return ()
