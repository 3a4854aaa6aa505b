"""The client processes that send tiles, from the side of who tells them to: started once, ended in any case."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any, Self

from kappamask_stream.bench.closed_loop import FEW, divided
from kappamask_stream.bench.load_messages import Begin, End, Look, Start, Stop
from kappamask_stream.errors import ProcessEndedError
from kappamask_stream.inference.types import Transport
from kappamask_stream.processes.messages import Failure
from kappamask_stream.processes.pipe import Pipe

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

    from kappamask_stream.bench.load_messages import Connect, Connected, Seen, Sent

#: -P: a folder that happens to be the current one gives no modules.
_COMMAND = (sys.executable, "-P", "-m", "kappamask_stream.bench.load")
#: Seconds for which a process may clean up before it is killed.
_ENDS_S = 15.0
#: More bring nothing: so many send 2000 tiles a second over gRPC, and 6000 through shared memory.
_MOST_PROCESSES = 16


def default_processes(*, shares_cores: bool) -> int:
    """Return how many client processes send tiles: one event loop uses one core, whatever it has to send.

    Parameters
    ----------
    shares_cores : True where the server runs on this machine: half of the cores are for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_PROCESSES, cores // 2 if shares_cores else cores))


class LoadProcesses:
    """Client processes. Use as an async context manager: none is left, however the block is left.

    Parameters
    ----------
    connect : where to, and what to send.
    count : how many.

    State: the processes that run, those of them that send now, and how tensors travel.
    """

    def __init__(self, connect: Connect, *, count: int) -> None:
        self._connect, self._count = connect, count
        self._all: list[_LoadProcess] = []
        self._senders: list[_LoadProcess] = []
        self.transport = Transport(name="gRPC")

    def __repr__(self) -> str:
        return f"<LoadProcesses {self._count}, {len(self._senders)} send {self._connect.model}>"

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._all.append(await _LoadProcess.start())
            self._senders = self._all
            said: list[Connected] = await self._ask(self._connect)
        except BaseException:
            await self.__aexit__()
            raise
        # Where one of them cannot have shared memory, the figures are not those of it.
        self.transport = min((answer.transport for answer in said), key=lambda transport: transport.name != "gRPC")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End all of them; returns when they are gone, though it be cancelled again."""
        ending = asyncio.gather(*(process.aclose() for process in self._all))
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as again:
                cancelled = again
        self._all = self._senders = []
        if cancelled is not None:
            raise cancelled

    async def start(self, concurrency: int) -> None:
        """Begin to send with so many requests in flight, of all processes together."""
        shares = divided(concurrency, len(self._all))
        self._senders = self._all[: len(shares)]
        firsts = [sum(shares[:number]) for number in range(len(shares))]
        orders = [
            Start(concurrency=share, first=first, step=concurrency) for share, first in zip(shares, firsts, strict=True)
        ]
        await self._ask(*orders)

    async def look(self) -> tuple[int, int]:
        """Return the answers of the slot that has least, and requests sent and answered since the interval began.

        Raises
        ------
        ServerError
            The first that a request met with, where a few have failed.
        ProcessEndedError
            If a process has ended.
        """
        said: list[Seen] = await self._ask(Look())
        errors = [error for seen in said for error in seen.errors]
        if len(errors) >= FEW:
            raise errors[0].error()
        return min(seen.rounds for seen in said), sum(seen.whole for seen in said)

    async def begin(self) -> None:
        """Begin the interval."""
        await self._ask(Begin())

    async def end(self) -> None:
        """End the interval."""
        await self._ask(End())

    async def stop(self, begin_s: float, end_s: float) -> list[Sent]:
        """Send no more, wait for what is in flight, and return what came of the interval, for each that sent."""
        said: list[Sent] = await self._ask(Stop(begin_s=begin_s, end_s=end_s))
        return said

    async def _ask(self, *orders: object) -> list[Any]:
        """Give each sender its order, or all the same one, and return the answers; they work side by side.

        Raises
        ------
        KappaMaskError
            What one of them answers.
        """
        each: Sequence[object] = orders if len(orders) == len(self._senders) else orders * len(self._senders)
        for process, order in zip(self._senders, each, strict=True):
            process.pipe.send(order)
        return [await process.answer() for process in self._senders]


class _LoadProcess:
    """One of them. Make it with `start`, end it with `aclose`."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - for the type checker
        self._process, self.pipe = process, Pipe(process.stdout, process.stdin.transport)

    @classmethod
    async def start(cls) -> Self:
        try:
            process = await asyncio.create_subprocess_exec(
                *_COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # Of its own: Ctrl-C in a terminal is for the command, which ends its processes in its own way.
                process_group=0,
            )
        except OSError as error:
            raise ProcessEndedError(f"a client process cannot be started: {error.strerror or error}") from error
        return cls(process)

    async def answer(self) -> Any:
        said = await self.pipe.receive()
        if said is None:
            code = await self._process.wait()
            raise ProcessEndedError(
                f"a client process of the benchmark ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
                ": its words on standard error, or the machine's memory, may be why"
            )
        if isinstance(said, Failure):
            raise said.error()
        return said

    async def aclose(self) -> None:
        """Have it end by the end of its orders, or by force where it does not."""
        self.pipe.close()
        try:
            async with asyncio.timeout(_ENDS_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
