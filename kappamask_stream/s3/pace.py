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
    async with asyncio.timeout(patience.connect_s + _WINDOW_READS * patience.read_s) as deadline, request as answer:
        deadline.reschedule(None)
        yield answer


class Pieces:
    """An answer's body as it arrives; an asynchronous iterator over its pieces.

    Raises
    ------
    TryLaterError
        From the iteration, if fewer than `LEAST_RATE` bytes a second came during a window.

    State: when the window began, and what has come in it.
    """

    def __init__(
        self, answer: aiohttp.ClientResponse, patience: Patience, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._content, self._window_s, self._clock = answer.content, _WINDOW_READS * patience.read_s, clock
        self._since, self._came = clock(), 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._content.readany()  # `read_s` without one is an error: so this is looked at often enough
        if not piece:
            raise StopAsyncIteration
        self._came += len(piece)
        lasted_s = self._clock() - self._since
        if lasted_s >= self._window_s:
            if self._came < LEAST_RATE * lasted_s:
                raise TryLaterError(
                    f"{self._came} bytes came in {lasted_s:.0f} s, at least {LEAST_RATE} a second are needed",
                    dripped_bytes=self._came,
                )
            self._since, self._came = self._clock(), 0
        return piece
