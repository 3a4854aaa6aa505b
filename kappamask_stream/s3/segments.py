"""Streams that never hold a connection for longer than the server needs to fill it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine


class Fetch(Protocol):
    """Gives `put` exactly `length` bytes from byte `start` on, in order and as they arrive."""

    def __call__(self, start: int, length: int, put: Callable[[bytes], None]) -> Coroutine[None, None, None]: ...  # noqa: D102


async def in_segments(fetch: Fetch, start: int, length: int, segment: int) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a range as they arrive, in requests of at most `segment` bytes.

    Each request is read to its end into memory, however slowly its bytes are taken: who takes them may be waiting for
    bytes of another file, which would never come if all connections were held by streams that nobody reads on.

    Raises
    ------
    As `fetch` does.
    """
    end = start + length
    for first in range(start, end, segment):
        arrivals = _Arrivals()
        work = asyncio.create_task(fetch(first, min(segment, end - first), arrivals.put))
        work.add_done_callback(arrivals.wake)
        try:
            while piece := await arrivals.get(work):
                yield piece
            await work  # raises what ended it
        finally:
            work.cancel()
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # mark as seen: who closes early does not ask


class _Arrivals:
    """Pieces between the task that fetches and the consumer; bounded by the segment. State: the pieces."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._news = asyncio.Event()

    def put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._news.set()

    def wake(self, _: object) -> None:
        self._news.set()

    async def get(self, work: asyncio.Task[None]) -> bytes:
        """Return the next piece; empty once `work` is done and all are taken."""
        while not self._pieces:
            if work.done():
                return b""
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()
