"""A queue, work and observers without a network: they keep account, fail as told, and every await can be cancelled."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import QueueError
from kappamask_stream.feed import ProductRef
from kappamask_stream.names import parse_product_name
from kappamask_stream.queues import Draft, Message, QueueStats
from kappamask_stream.settings import Settings
from kappamask_stream.worker.breaker import Breaker, Pauses
from kappamask_stream.worker.loop import Worker
from kappamask_stream.worker.message_life import Desk
from kappamask_stream.worker.observers import Observers
from kappamask_stream.worker.settling import Settling
from kappamask_stream.worker.stop import Stop
from kappamask_stream.worker.types import Finished, Job, JobEnd, Observer, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.extras import Extra

_NAME = "S2A_MSIL2A_20240823T101031_N0511_R022_T32TAB_20240823T{:06d}"


def product(number: int) -> str:
    """Name of the product that the body ``N`` asks for."""
    return _NAME.format(number)


def parse(body: str) -> list[ProductRef]:
    """Read ``1`` or ``1,2,3``; nothing asks for nothing."""
    return [ProductRef(name=parse_product_name(product(int(n))), kind="name") for n in body.split(",") if n]


@dataclass
class Stored:
    """A message in the queue's own books."""

    id: str
    body: str
    visible_at: float
    received: int = 0
    receipt: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


class FakeQueue:
    """SQS in a dictionary: visibility by the loop's clock, one receipt per delivery, 12 hours at most.

    Attributes
    ----------
    messages : that are not deleted, by id.
    log : calls that came through, in order: (what, message id, number).
    failing : by name of a call, errors that its next calls raise, or seconds that they hang.
    delay_s : that each call takes.
    receives_before_dead : as its redrive policy says.
    """

    def __init__(self, url: str = "https://sqs.test/1/queue", *, delay_s: float = 0.01) -> None:
        self.url, self.delay_s = url, delay_s
        self.messages: dict[str, Stored] = {}
        self.log: list[tuple[str, str, int]] = []
        self.failing: dict[str, list[Exception | float]] = {}
        self.asked: list[int] = []
        self.received = asyncio.Event()
        self._arrived = asyncio.Event()
        self._receipts = 0
        self.receives_before_dead: int | None = None

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def put(self, *bodies: str) -> list[str]:
        ids = [f"m{len(self.messages) + len(self.log) + n}-{body}" for n, body in enumerate(bodies)]
        for id_, body in zip(ids, bodies, strict=True):
            self.put_as(id_, body)
        return ids

    def put_as(self, id_: str, body: str) -> None:
        self.messages[id_] = Stored(id_, body, self.now)
        self._arrived.set()

    def visible(self) -> list[Stored]:
        return [m for m in self.messages.values() if m.visible_at <= self.now]

    def calls(self, what: str) -> list[tuple[str, int]]:
        return [(id_, number) for name, id_, number in self.log if name == what]

    async def receive(self, most: int, *, wait_s: int, visibility_s: int) -> list[Message]:
        self.asked.append(most)
        await self._call("receive")
        deadline = self.now + wait_s
        while not self.visible() and self.now < deadline:
            later = [m.visible_at for m in self.messages.values() if m.visible_at > self.now]
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(min([deadline, *later])):
                    await self._arrived.wait()
            except TimeoutError:
                pass
        return [self._deliver(stored, visibility_s) for stored in self.visible()[:most]]

    def _deliver(self, stored: Stored, visibility_s: int) -> Message:
        self._receipts += 1
        stored.received += 1
        stored.receipt, stored.visible_at = f"r{self._receipts}", self.now + visibility_s
        self.log.append(("receive", stored.id, stored.received))
        self.received.set()
        return Message(
            id=stored.id, receipt=stored.receipt, body=stored.body, received=stored.received, received_at=self.now
        )

    async def hide(self, message: Message, seconds: int) -> None:
        await self._call("hide")
        stored = self._of(message)
        if self.now + seconds > message.received_at + 43_200:
            raise QueueError("Total VisibilityTimeout for the message is beyond the limit [43200 seconds]")
        stored.visible_at = self.now + seconds
        self.log.append(("hide", message.id, seconds))
        self._arrived.set()

    async def delete(self, message: Message) -> None:
        await self._call("delete")
        if message.id in self.messages:  # twice is as good as once
            self._of(message)
            del self.messages[message.id]
        self.log.append(("delete", message.id, 0))

    async def send(self, drafts: Sequence[Draft]) -> list[str]:
        await self._call("send")
        ids = self.put(*(draft.body for draft in drafts))
        for id_, draft in zip(ids, drafts, strict=True):
            self.messages[id_].attributes = dict(draft.attributes)
        return ids

    async def stats(self) -> QueueStats:
        await self._call("stats")
        waiting = len(self.visible())
        return QueueStats(
            waiting=waiting, in_work=len(self.messages) - waiting, delayed=0,
            receives_before_dead=self.receives_before_dead,
        )  # fmt: skip

    async def _call(self, what: str) -> None:
        await asyncio.sleep(self.delay_s)
        planned = self.failing.get(what, [])
        if planned:
            failure = planned.pop(0)
            if isinstance(failure, Exception):
                raise failure
            await asyncio.sleep(failure)

    def _of(self, message: Message) -> Stored:
        stored = self.messages.get(message.id)
        if stored is None or stored.receipt != message.receipt or stored.visible_at <= self.now:
            raise QueueError(f"the receipt of {message.id} is not valid any more")
        return stored


class Line:
    """One worker's line to a queue that several share; once it is cut, every call waits for ever."""

    def __init__(self, queue: FakeQueue) -> None:
        self.url, self._queue, self.is_cut = queue.url, queue, False

    def __getattr__(self, call: str) -> Any:
        """Return a call of the queue, which nobody answers where the line is cut."""

        async def through(*args: Any, **kwargs: Any) -> Any:
            if self.is_cut:
                await asyncio.Event().wait()
            return await getattr(self._queue, call)(*args, **kwargs)

        return through


class FakeWork:
    """Takes `seconds` for each product, in steps that its progress shows, and ends as it is told.

    Attributes
    ----------
    errors : by product, errors of its next tries; None makes it.
    made : products, in the order in which they were finished.
    busy, peak : jobs in work now, and most at once.
    cancelled : ids of jobs whose work was stopped.
    """

    def __init__(self, seconds: float = 1.0, tiles: int = 10) -> None:
        self.seconds, self.tiles = seconds, tiles
        self.errors: dict[str, list[Exception | None]] = {}
        self.made: list[str] = []
        self.busy = self.peak = 0
        self.cancelled: list[str] = []
        self.stubborn_s = 0.0
        self.jobs: list[Job] = []

    async def do(self, job: Job, extras: Sequence[Extra] = ()) -> Finished:
        name = job.ref.name.text
        self.jobs.append(job)
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        try:
            await self._mask(job)
            if (errors := self.errors.get(name)) and (error := errors.pop(0)) is not None:
                raise error
            self.made.append(name)
            return Finished(output=f"s3://masks/{name}.tif", item=b"{}")
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            if self.stubborn_s:
                await asyncio.sleep(self.stubborn_s)
            raise
        finally:
            self.busy -= 1

    async def _mask(self, job: Job) -> None:
        job.progress.tiles_total = self.tiles
        job.progress.started = asyncio.get_running_loop().time()
        for _ in range(self.tiles):
            await asyncio.sleep(self.seconds / self.tiles)
            job.progress.tiles_done += 1


class Recorder(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, str | None]] = []
        self.taken: list[str] = []
        self.jobs: list[tuple[str, str]] = []
        self.errors: list[Any] = []
        self.retries: list[tuple[str, str]] = []
        self.states: list[WorkerState] = []

    def message_taken(self, message: Message) -> None:
        self.taken.append(message.id)

    def message_ended(self, message: Message, outcome: str, reason: str | None, seconds: float) -> None:
        self.ended.append((message.id, outcome, reason))

    def job_ended(self, job: Job, end: JobEnd) -> None:
        self.jobs.append((job.id, end.status))
        self.errors.append(end.error)

    def retried(self, cause: str, text: str) -> None:
        self.retries.append((cause, text))

    def state_changed(self, state: WorkerState) -> None:
        self.states.append(state)

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, outcome, _ in self.ended]

    @property
    def phases(self) -> list[str]:
        """Phases, each once where it lasts."""
        phases = [state.phase for state in self.states]
        return [phase for n, phase in enumerate(phases) if n == 0 or phase != phases[n - 1]]


class Pressure:
    """Pending requests as a test sets them."""

    def __init__(self) -> None:
        self.now: float | None = None

    async def pending(self) -> float | None:
        await asyncio.sleep(0)
        return self.now


class Scene:
    """A worker with all its fakes, and a task that runs it. Make it inside a running loop.

    Parameters
    ----------
    settings : over short defaults.

    Attributes
    ----------
    away : why nothing can be done, as the worker's probe tells it.
    probed : times that it was asked.
    """

    def __init__(
        self,
        *,
        work: FakeWork | None = None,
        queue: FakeQueue | None = None,
        dead_letters: FakeQueue | bool = True,
        refusal: Callable[[ProductRef], str | None] = lambda _: None,
        until_empty: bool = False,
        max_messages: int | None = None,
        **settings: Any,
    ) -> None:
        self.queue = queue or FakeQueue()
        self.dead = (
            (FakeQueue("https://sqs.test/1/dead") if dead_letters else None)
            if isinstance(dead_letters, bool)
            else dead_letters
        )
        self.work = work or FakeWork()
        self.seen, self.stop, self.pressure = Recorder(), Stop(), Pressure()
        self.settings = Settings(**{"products_at_once": 2, "queue_wait_s": 20, "visibility_s": 120, **settings})
        observers = Observers([self.seen])
        settling = Settling(
            queue=self.queue, dead_letters=self.dead, settings=self.settings, stop=self.stop,
            on_retry=observers.retried, rng=random.Random(1),
        )  # fmt: skip
        self.breaker = Breaker(
            poison_in_a_row=self.settings.poison_in_a_row, pauses=Pauses(first_s=5.0, most_s=300.0),
            poison_pauses=Pauses(first_s=5.0, most_s=30.0),
        )  # fmt: skip
        self.away: str | None = None
        self.probed = 0
        desk = Desk(
            queue=self.queue, settling=settling, parse=parse, refusal=refusal, work=self.work, observers=observers,
            breaker=self.breaker, why_not=self._why_not, stop=self.stop, visibility_s=self.settings.visibility_s,
        )  # fmt: skip
        self.worker = Worker(
            desk, self.settings, pending=self.pressure.pending, pending_most=100, until_empty=until_empty,
            max_messages=max_messages,
        )  # fmt: skip
        self.task: asyncio.Task[None] | None = None

    async def _why_not(self) -> str | None:
        self.probed += 1
        await asyncio.sleep(0.01)
        return self.away

    def start(self) -> asyncio.Task[None]:
        self.task = asyncio.create_task(self.worker.run())
        return self.task

    async def run(self) -> None:
        await self.worker.run()

    async def drained(self, grace_s: float = 0.0) -> None:
        """Stop the worker and wait for its end."""
        assert self.task is not None
        self.stop.ask("the test is over", grace_s=grace_s)
        await self.task
