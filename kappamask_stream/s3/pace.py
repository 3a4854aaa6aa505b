"""Answers that come, but too slowly to be waited for: a store that sends a byte now and then is never silent.

Shared by what is read from S3 and over HTTP. `Patience.read_s` bounds silence alone.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kappamask_stream.s3.retry import TryLaterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    import aiohttp

    from kappamask_stream.s3.retry import Patience

#: Bytes a second that an answer must bring. At 16 at once a link of 0.3 Mbit/s still does: four hours for a product.
LEAST_RATE = 2048
#: Times `read_s` over which that is averaged.
_WINDOW_READS = 2
#: Times `read_s` that what is small and expected at once may take as a whole: a document, a listing.
WHOLE_READS = 10
#: In which the time for headers passes: a process that was stopped meanwhile (SIGSTOP, a lid that is closed) loses one.
_STEPS = 10


@asynccontextmanager
async def answer_to(
    request: AbstractAsyncContextManager[aiohttp.ClientResponse], patience: Patience
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request and yield its answer, whose body is to be read.

    Raises
    ------
    TimeoutError
        If its headers, after those of redirections, are not there when a connection's and a window's time are over.
    """
    loop = asyncio.get_running_loop()
    handle: asyncio.TimerHandle | None = None
    step_s = (patience.connect_s + _WINDOW_READS * patience.read_s) / _STEPS
    async with asyncio.timeout(None) as deadline:

        def tick(left: int) -> None:
            nonlocal handle
            if left:
                handle = loop.call_later(step_s, tick, left - 1)
            else:
                deadline.reschedule(loop.time())

        def stop() -> None:
            if handle is not None:
                handle.cancel()

        tick(_STEPS)
        try:
            async with request as answer:
                stop()
                yield answer
        finally:
            stop()


class Pieces:
    """An answer's body as it arrives; an asynchronous iterator over its pieces.

    Raises
    ------
    TryLaterError
        From the iteration, if fewer than `LEAST_RATE` bytes a second came during a window, and more are to come.

    State: when the window began, and what has come in it; the error that is raised instead of the next piece.
    """

    def __init__(
        self, answer: aiohttp.ClientResponse, patience: Patience, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._content, self._patience, self._clock = answer.content, patience, clock
        self._window_s = _WINDOW_READS * patience.read_s
        self._drip: TryLaterError | None = None
        self._since, self._came = clock(), 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._content.readany()  # `read_s` without one is an error: so this is looked at often enough
        if not piece:
            raise StopAsyncIteration
        if self._drip is not None:
            raise self._drip
        self._came += len(piece)
        lasted_s = self._clock() - self._since
        if lasted_s >= self._window_s:
            # Pieces lie `read_s` apart at most: if more time has passed, the process stood still.
            is_judged = lasted_s <= self._window_s + self._patience.read_s
            if is_judged and self._came < LEAST_RATE * lasted_s:
                self._drip = TryLaterError(
                    f"{self._came} bytes came in {lasted_s:.0f} s, at least {LEAST_RATE} a second are needed",
                    dripped_bytes=self._came,
                )
            self._since, self._came = self._clock(), 0
        return piece
