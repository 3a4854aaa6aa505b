"""A child process, as the parent sees it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Self

from kappamask_stream.errors import ProcessEndedError
from kappamask_stream.processes.messages import (
    Answer,
    Ended,
    Failure,
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
from kappamask_stream.runner import of_ours

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Coroutine, Sequence

    from kappamask_stream.result import ProductProgress, ProductResult
    from kappamask_stream.runner import Workshop


class ChildProcess:
    """A child process. Make one with `start`, end it with `aclose`.

    State: by number, the jobs in it; by ticket, the turns that its jobs hold; its questions that wait.
    """

    def __init__(self, process: Process, workshop: Workshop, on_note: Callable[[str, str], None]) -> None:
        assert process.stdin is not None  # noqa: S101 - for the type checker
        assert process.stdout is not None  # noqa: S101
        self._process, self._workshop, self._on_note = process, workshop, on_note
        self._pipe = Pipe(process.stdout, process.stdin.transport)
        self._jobs: dict[int, tuple[ProductProgress, asyncio.Future[ProductResult]]] = {}
        self._turns: dict[int, asyncio.Event] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._listening = asyncio.create_task(self._listen(), name=f"listen to process {process.pid}")

    @classmethod
    async def start(
        cls, command: Sequence[str], setup: Setup, workshop: Workshop, on_note: Callable[[str, str], None]
    ) -> Self:
        """Start a process; see `Crew`.

        Raises
        ------
        ProcessEndedError
            If the system does not let us.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # Of its own: Ctrl-C in a terminal is the parent's to tell of.
                process_group=0,
            )
        except OSError as error:
            raise ProcessEndedError(
                f"a process for products cannot be started: {error.strerror or error}: take fewer --processes"
            ) from error
        child = cls(process, workshop, on_note)
        child._pipe.send(setup)
        return child

    def __repr__(self) -> str:
        return f"<ChildProcess {self._process.pid}, {'ended' if self.has_ended else f'{len(self._jobs)} jobs'}>"

    @property
    def has_ended(self) -> bool:
        """True where it takes no more jobs."""
        return self._listening.done()

    async def mask(self, where: str, progress: ProductProgress) -> ProductResult:
        """Have it mask a product, and keep a picture of that up to date.

        Raises
        ------
        ProcessEndedError
            If it ends meanwhile.
        """
        self._numbers += 1
        number = self._numbers
        ended: asyncio.Future[ProductResult] = asyncio.get_running_loop().create_future()
        self._jobs[number] = progress, ended
        try:
            self._pipe.send(Job(number=number, where=where))
            return await ended
        finally:
            del self._jobs[number]

    async def aclose(self) -> None:
        """Tell it to stop what it does, and return when it has ended; a cancellation waits for that."""
        self._pipe.close()
        cancelled: asyncio.CancelledError | None = None
        while not self.has_ended:
            try:
                await asyncio.shield(self._listening)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _listen(self) -> None:
        """Do what it says until it has ended; then its jobs are over, and its turns are given back."""
        try:
            while (message := await self._pipe.receive()) is not None:
                self._take(message)
        finally:
            self._pipe.close()
            code = await self._process.wait()
            for task in self._questions:
                task.cancel()
            await asyncio.gather(*self._questions, return_exceptions=True)
            for _, ended in self._jobs.values():
                if not ended.done():
                    ended.set_exception(ProcessEndedError(f"its process has ended: {_described(code)}"))

    def _take(self, message: Any) -> None:
        match message:
            case Picture() if message.number in self._jobs:
                message.show(self._jobs[message.number][0])
            case Ended() if message.number in self._jobs:
                ended = self._jobs[message.number][1]
                if not ended.done():
                    ended.set_result(message.result)
            case TurnOver() if message.ticket in self._turns:
                self._turns[message.ticket].set()
            case Note():
                self._on_note(message.cause, message.text)
            case ModelWanted():
                self._decide(message, self._find_model(message))
            case TurnWanted():
                self._decide(message, self._give_turn(message))

    def _decide(self, question: Question, decision: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._answered(question, decision))
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _answered(self, question: Question, decision: Coroutine[Any, Any, None]) -> None:
        try:
            await decision
        except Exception as error:  # noqa: BLE001 - the child's job tells it
            self._pipe.send(Answer(ticket=question.ticket, failure=Failure.of(of_ours(error))))

    async def _find_model(self, wanted: ModelWanted) -> None:
        await self._workshop.models.get(wanted.level)
        self._pipe.send(Answer(ticket=wanted.ticket))

    async def _give_turn(self, wanted: TurnWanted) -> None:
        progress, _ = self._jobs[wanted.number]
        over = self._turns[wanted.ticket] = asyncio.Event()
        try:
            async with self._workshop.turns.turn(wanted.place, progress):
                self._pipe.send(Answer(ticket=wanted.ticket))
                await over.wait()
        finally:
            del self._turns[wanted.ticket]


def _described(code: int) -> str:
    """Say how a process ended: the name of a signal, or its exit code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
