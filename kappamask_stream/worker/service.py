"""A worker with all that it needs: opened, tried, run until the end, and given back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from kappamask_stream.feed import AllowedPlaces, FeedFilter, parse_message, where_of
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.monitor import LogObserver, Monitor
from kappamask_stream.monitor.log import LOGGER
from kappamask_stream.queues import QueueClients, SqsQueue, queue_options, queue_url
from kappamask_stream.resources import Resources
from kappamask_stream.runner import Order, Workshop
from kappamask_stream.s3 import Stores
from kappamask_stream.worker.breaker import Breaker, Pauses
from kappamask_stream.worker.loop import Worker
from kappamask_stream.worker.masking import Masking
from kappamask_stream.worker.message_life import Desk
from kappamask_stream.worker.observers import Observers
from kappamask_stream.worker.preflight import Preflight
from kappamask_stream.worker.probe import WorkerProbe
from kappamask_stream.worker.settling import Settling
from kappamask_stream.worker.spot import watch_spot
from kappamask_stream.worker.types import WorkerState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from kappamask_stream.inference import BatchSizes
    from kappamask_stream.settings import Settings
    from kappamask_stream.worker.preflight import Ready
    from kappamask_stream.worker.stop import Stop
    from kappamask_stream.worker.types import Observer

T = TypeVar("T")
#: The first pause where everything fails, and the longest; the longest where messages themselves are at fault.
_PAUSE_S, _PAUSE_MOST_S, _POISON_PAUSE_MOST_S = 5.0, 300.0, 30.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a worker is to do.

    Attributes
    ----------
    settings : queue, places, limits; their `priority` is the backlog's where they name none.
    choice : of the model.
    order : what is made of each product, as `run` takes it; its `source` finds products that no message locates.
    wanted : which products.
    keep_server : True leaves a local server running.
    max_messages, until_empty : when to end without being told; see `Worker`.
    """

    settings: Settings
    choice: ModelChoice = field(default_factory=ModelChoice)
    order: Order = field(default_factory=Order)
    wanted: FeedFilter = field(default_factory=FeedFilter)
    keep_server: bool = False
    max_messages: int | None = None
    until_empty: bool = False

    def __post_init__(self) -> None:
        """Take the lane that lets interactive runs pass, unless another is named."""
        if self.settings.priority is None:
            object.__setattr__(self, "settings", self.settings.model_copy(update={"priority": "backlog"}))

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of the products that are wanted."""
        return ("L1C", "L2A") if self.wanted.level is None else (self.wanted.level,)


async def serve(service: Service, stop: Stop) -> None:
    """Take messages until the worker is to stop, or has had its share.

    Raises
    ------
    KappaMaskError
        Before the first message: the part that is missing. Later: see `Worker.run`.
    """
    settings, observers = service.settings, Observers([LogObserver()])
    async with AsyncExitStack() as stack:
        tools = await _Tools.opened(stack, service, observers, stop)
        monitor = await stack.enter_async_context(
            Monitor(settings.listen, probe=tools.probe, model=service.choice.model, sample_batches=tools.batch_sizes)
        )
        observers.join(monitor.observers)
        observers.state_changed(WorkerState(phase="starting", slots=settings.products_at_once))
        if monitor.url is not None:
            _say(f"status page, metrics and health: {monitor.url}")
        ready = await _unless_asked(stop, tools.preflight.run())
        if ready is not None:
            tools.probe.is_starting = False
            await _work(service, tools, ready, observers, stop)


@dataclass(frozen=True, kw_only=True)
class _Tools:
    """What a worker works with, open; whoever gave the stack closes it."""

    workshop: Workshop
    queue: SqsQueue
    breaker: Breaker
    probe: WorkerProbe
    preflight: Preflight
    places: AllowedPlaces
    levels: tuple[str, ...]

    @classmethod
    async def opened(cls, stack: AsyncExitStack, service: Service, observers: Observer, stop: Stop) -> _Tools:
        settings, levels = service.settings, service.levels
        places = AllowedPlaces.parse(settings.allow)
        resources = stack.enter_context(Resources(settings=settings))
        outputs, told = settings.output_s3_options, observers.retried
        stores = await stack.enter_async_context(Stores(settings.s3_options, outputs, on_retry=told))
        clients = await stack.enter_async_context(
            _closed_at_once(QueueClients(queue_options(settings), on_retry=told), stop)
        )
        queue = SqsQueue(queue_url(settings), clients)
        models = await stack.enter_async_context(
            ModelPool(service.choice, settings, keep_server=service.keep_server, on_progress=_say)
        )
        breaker = Breaker(
            poison_in_a_row=settings.poison_in_a_row,
            pauses=Pauses(first_s=_PAUSE_S, most_s=_PAUSE_MOST_S),
            poison_pauses=Pauses(first_s=_PAUSE_S, most_s=_POISON_PAUSE_MOST_S),
        )
        preflight = Preflight(
            settings=settings, levels=levels, queue=queue, models=models, stores=stores, warn=_warn
        )  # fmt: skip
        return cls(
            workshop=Workshop(models=models, resources=resources, stores=stores), queue=queue, breaker=breaker,
            probe=WorkerProbe(
                models=models, levels=levels, queue=queue, try_output=preflight.try_output,
                pause=lambda: stop.reason or breaker.pause,
            ),
            preflight=preflight, places=places, levels=levels,
        )  # fmt: skip

    async def batch_sizes(self) -> Mapping[str, BatchSizes]:
        """Return the server's executions by batch size, per model."""
        if self.probe.is_starting:
            return {}
        clients = [(await self.workshop.models.get(level)).client for level in self.levels]
        return {client.contract.name: await client.batch_sizes() for client in clients}


async def _work(service: Service, tools: _Tools, ready: Ready, observers: Observer, stop: Stop) -> None:
    """Run the worker, and beside it the watch for a spot notice."""
    settings, places = service.settings, tools.places
    work = Masking(
        tools.workshop, replace(service.order, may_read=places.allowed),
        where_of=lambda ref: where_of(ref, places, service.order.source), sink=ready.sink,
    )  # fmt: skip
    settling = Settling(
        queue=tools.queue, dead_letters=ready.dead_letters, settings=settings, stop=stop, on_retry=observers.retried
    )
    desk = Desk(
        queue=tools.queue, settling=settling, parse=parse_message, refusal=service.wanted.reason, work=work,
        observers=observers, breaker=tools.breaker, why_not=tools.probe.why_not, stop=stop,
        visibility_s=settings.visibility_s,
    )  # fmt: skip
    worker = Worker(
        desk, settings, pending=tools.workshop.models.pending, pending_most=ready.pending_most,
        max_messages=service.max_messages, until_empty=service.until_empty,
    )  # fmt: skip
    watch = asyncio.create_task(watch_spot(stop, grace_s=settings.grace_s)) if settings.spot else None
    try:
        await worker.run()
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])


@asynccontextmanager
async def _closed_at_once(clients: QueueClients, stop: Stop) -> AsyncIterator[QueueClients]:
    """Open clients; closing them waits for long polls that were broken off, but not where somebody insists."""
    await clients.__aenter__()
    try:
        yield clients
    finally:
        closing = asyncio.create_task(clients.__aexit__(None, None, None))
        insisted = asyncio.create_task(stop.insisted.wait())
        try:
            await asyncio.wait([closing, insisted], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (closing, insisted):
                task.cancel()
            await asyncio.wait([closing, insisted])
        if not closing.cancelled():
            closing.result()


async def _unless_asked(stop: Stop, work: Coroutine[object, object, T]) -> T | None:
    """Await something that nobody waits for once the worker is to stop: it is cancelled then, and None returned."""
    task = asyncio.create_task(work)
    stop.on_ask(task.cancel)
    try:
        if not stop.is_asked:
            await asyncio.wait([task])
    finally:
        task.cancel()
        await asyncio.wait([task])
    return None if stop.is_asked else task.result()


def _say(text: str) -> None:
    structlog.get_logger(LOGGER).info(text)


def _warn(text: str) -> None:
    structlog.get_logger(LOGGER).warning(text)
