"""The child's side: masks what the parent hands out, as a run of one process does."""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from kappamask_stream.models import ModelPool
from kappamask_stream.processes.messages import (
    Answer,
    Ended,
    Job,
    ModelWanted,
    Note,
    Picture,
    Question,
    Setup,
    TurnOver,
    TurnWanted,
)
from kappamask_stream.processes.pipe import Pipe
from kappamask_stream.resources import Resources
from kappamask_stream.result import ProductProgress
from kappamask_stream.runner import Turns, Workshop, masked
from kappamask_stream.s3 import Stores
from kappamask_stream.signals import SIGNAL_BASE
from kappamask_stream.sources.hrefs import shown_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kappamask_stream.resources import ServedModel

#: As often as people's displays are drawn anew.
_PICTURES_PERIOD_S = 0.25
#: Cleaning up takes moments. A child that is not through by then shows where it hangs, and ends all the same.
_LONGEST_STOP_S = 60.0


class Parent:
    """The other end, as the child sees it.

    State: the questions that are not answered yet.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._tickets = itertools.count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}

    @property
    def is_behind(self) -> bool:
        """True while it does not take what it is sent."""
        return self._pipe.backlog > 0

    def send(self, message: object) -> None:
        """Tell it something."""
        self._pipe.send(message)

    async def ask(self, question: Question) -> int:
        """Ask and wait for the answer; returns the question's ticket.

        Raises
        ------
        KappaMaskError
            If the answer is no.
        """
        ticket = next(self._tickets)
        answered = self._asked[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._pipe.send(replace(question, ticket=ticket))
            await answered
        finally:
            del self._asked[ticket]
        return ticket

    def answered(self, answer: Answer) -> None:
        """Take an answer."""
        waiting = self._asked.get(answer.ticket)
        if waiting is None or waiting.done():
            return
        if answer.failure is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(answer.failure.error())


class ModelsOfChild(ModelPool):
    """Connects to a level's model after the parent has: it starts the local server, and it tells of it."""

    def __init__(self, parent: Parent, setup: Setup) -> None:
        super().__init__(setup.choice, setup.settings)
        self._parent, self._there = parent, set[str]()

    async def get(self, level: str) -> ServedModel:
        """See `ModelPool.get`."""
        if level not in self._there:
            await self._parent.ask(ModelWanted(level=level))
            self._there.add(level)
        return await super().get(level)


class TurnsOfParent(Turns):
    """The turns of one job: those of all processes are the parent's."""

    def __init__(self, parent: Parent, number: int) -> None:
        super().__init__()
        self._parent, self._number = parent, number

    @asynccontextmanager
    async def turn(self, place: str, progress: ProductProgress) -> AsyncIterator[None]:
        """See `Turns.turn`; it is the parent who notes that a job waits, in its own picture of it."""
        self._parent.send(Picture.of(self._number, progress))  # the latest one, which that note is put on
        ticket = await self._parent.ask(TurnWanted(number=self._number, place=place))
        try:
            yield
        finally:
            self._parent.send(TurnOver(ticket=ticket))


class Bench:
    """The jobs in work.

    State: by number, the picture of each and what was last sent of it; and their tasks.
    """

    def __init__(self, parent: Parent, setup: Setup, models: ModelPool, resources: Resources, stores: Stores) -> None:
        self._parent, self._setup = parent, setup
        self._models, self._resources, self._stores = models, resources, stores
        self._shown: dict[int, tuple[ProductProgress, Picture | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, job: Job) -> None:
        """Begin a job; its `Ended` is sent when it is over."""
        task = asyncio.create_task(self._mask(job), name=f"mask {shown_url(job.where)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _mask(self, job: Job) -> None:
        progress = ProductProgress(product=shown_url(job.where))
        self._shown[job.number] = progress, None
        workshop = Workshop(
            models=self._models,
            resources=self._resources,
            stores=self._stores,
            turns=TurnsOfParent(self._parent, job.number),
        )
        try:
            result = await masked(job.where, workshop, self._setup.order, progress)
        finally:
            del self._shown[job.number]
        self._parent.send(Picture.of(job.number, progress))
        self._parent.send(Ended.of(job.number, result))

    async def show(self) -> None:
        """Send pictures of what has changed, until cancelled."""
        while True:
            await asyncio.sleep(_PICTURES_PERIOD_S)
            if self._parent.is_behind:
                continue
            for number, (progress, sent) in self._shown.items():
                picture = Picture.of(number, progress)
                if picture != sent:
                    self._shown[number] = progress, picture
                    self._parent.send(picture)

    async def aclose(self) -> None:
        """Cancel what is in work and wait until it has cleaned up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def serve(pipe: Pipe) -> None:
    """Mask what comes through a pipe until it ends, which is also how the parent's death looks."""
    setup = await pipe.receive()
    if not isinstance(setup, Setup):  # the parent has gone already
        return
    parent, settings = Parent(pipe), setup.settings
    async with AsyncExitStack() as stack:
        resources = stack.enter_context(Resources(settings=settings))
        stores = Stores(
            settings.s3_options,
            settings.output_s3_options,
            on_retry=lambda cause, text: parent.send(Note(cause=cause, text=text)),
            processes=setup.processes,
        )
        await stack.enter_async_context(stores)
        models = await stack.enter_async_context(ModelsOfChild(parent, setup))
        bench = Bench(parent, setup, models, resources, stores)
        stack.push_async_callback(bench.aclose)
        pictures = asyncio.create_task(bench.show())
        stack.callback(pictures.cancel)
        while (message := await pipe.receive()) is not None:
            if isinstance(message, Job):
                bench.begin(message)
            else:
                parent.answered(message)
        faulthandler.dump_traceback_later(_LONGEST_STOP_S, exit=True)
    faulthandler.cancel_dump_traceback_later()


async def _serve_standard_pipes() -> None:
    """Mask what the parent sends, until it ends or SIGTERM comes."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    pipe = await Pipe.to_parent()
    try:
        await serve(pipe)
    finally:
        pipe.close()


def main() -> None:
    """Be a child process."""
    try:
        asyncio.run(_serve_standard_pipes())
    except asyncio.CancelledError:
        raise SystemExit(SIGNAL_BASE + signal.SIGTERM) from None
