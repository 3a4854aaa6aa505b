"""A client process that sends tiles in a closed loop, as it is told to: ``python -m kappamask_stream.bench.load``.

Only `LoadProcesses` starts it. It ends with its standard input: that is how it learns that whoever started it is gone,
in whatever way.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import time
from typing import TYPE_CHECKING

from kappamask_stream.bench.closed_loop import ClosedLoop, percentile
from kappamask_stream.bench.lag import measured_lag
from kappamask_stream.bench.load_messages import Begin, Connected, Done, End, Look, Order, Seen, Sent, Start, Stop
from kappamask_stream.errors import KappaMaskError
from kappamask_stream.processes.messages import Failure
from kappamask_stream.processes.pipe import Pipe

if TYPE_CHECKING:
    from kappamask_stream.bench.load_messages import Connect
    from kappamask_stream.bench.tiles import TileSet
    from kappamask_stream.inference import TritonClient

#: Giving up what is in flight takes moments. A process that is not through by then shows where it hangs, and ends.
_LONGEST_STOP_S = 10.0


class Load:
    """What a process does for its orders.

    State: the loop that sends; CPU seconds and lags of the event loop at the interval's beginning, then in it.
    """

    def __init__(self, client: TritonClient, tiles: TileSet) -> None:
        self._client, self._requests = client, tiles.requests()
        self._loop = ClosedLoop(client, self._requests, first=0, step=1)
        self._cpu_s = 0.0
        self._lags_s: list[float] = []
        self._lag_p99_s: float | None = None

    async def serve(self, pipe: Pipe) -> None:
        """Obey until there are no more orders."""
        async with measured_lag() as self._lags_s:
            try:
                while (order := await pipe.receive()) is not None:
                    pipe.send(await self._obey(order))
            finally:
                await self._loop.aclose()

    async def _obey(self, order: Order) -> Done | Seen | Sent:
        match order:
            case Start():
                self._loop = ClosedLoop(self._client, self._requests, first=order.first, step=order.step)
                self._loop.start(order.concurrency)
            case Look():
                self._loop.check()
                return Seen(rounds=self._loop.rounds, whole=self._loop.whole, errors=self._errors)
            case Begin():
                self._loop.begin()
                self._lags_s.clear()
                self._cpu_s = time.process_time()
            case End():
                self._cpu_s = time.process_time() - self._cpu_s
                self._lag_p99_s = percentile(self._lags_s, 0.99) if self._lags_s else None
            case Stop():
                await self._loop.stop()
                return self._sent(order)
        return Done()

    def _sent(self, order: Stop) -> Sent:
        answers = self._loop.between(order.begin_s, order.end_s)
        return Sent(
            answered=answers.answered,
            last_before_s=answers.last_before_s,
            last_s=answers.last_s,
            latencies_s=answers.latencies_s,
            turned_away=answers.turned_away,
            turned_away_text=answers.turned_away_text,
            errors=self._errors,
            cpu_s=self._cpu_s,
            lag_p99_s=self._lag_p99_s,
        )

    @property
    def _errors(self) -> list[Failure]:
        return [Failure.of(error) for error in self._loop.errors]


async def serve(pipe: Pipe) -> None:
    """Connect, and obey what comes through a pipe."""
    first: Connect | None = await pipe.receive()
    if first is None:  # who started this is gone already
        return
    try:
        async with await first.connect() as client:
            load = Load(client, first.tiles)
            pipe.send(Connected(transport=await client.settle_transport()))
            await load.serve(pipe)
    except KappaMaskError as error:
        pipe.send(Failure.of(error))


async def main() -> None:
    """Send what the parent asks for, until it ends."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    this_task = task

    class Orders(asyncio.StreamReaderProtocol):
        """The parent's end of the pipe; when it is gone, nothing is waited for any more."""

        def eof_received(self) -> bool | None:
            faulthandler.dump_traceback_later(_LONGEST_STOP_S, exit=True)
            this_task.cancel()
            return super().eof_received()

    pipe = await Pipe.to_parent(Orders)
    try:
        await serve(pipe)
    finally:
        pipe.close()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main())
