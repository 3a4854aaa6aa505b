"""How many requests a store gets at once and in a minute."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: A minute, and a second for requests that take unequally long to the store.
_WINDOW_S = 61.0


class RequestLimits:
    """Slots for requests: so many at once, so many begun within any minute; first come, first served.

    A slot is for one request and its answer. Whoever holds one must not wait for somebody who needs one.

    Parameters
    ----------
    connections : slots in all.
    requests_per_minute : most slots given within a minute; None: no limit.
    clock, sleep : seconds that only go up, and waiting for some of them.

    State: when the latest requests began (at most `requests_per_minute` times).
    """

    def __init__(
        self,
        connections: int,
        requests_per_minute: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.connections, self.requests_per_minute = connections, requests_per_minute
        self._slots = asyncio.Semaphore(connections)
        self._begun: deque[float] = deque(maxlen=requests_per_minute)
        self._turn = asyncio.Lock()
        self._clock, self._sleep = clock, sleep
        self._held = 0

    def __repr__(self) -> str:
        rate = "" if self.requests_per_minute is None else f", at most {self.requests_per_minute} a minute"
        return f"<RequestLimits {self._held} of {self.connections} in use{rate}>"

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot, as soon as one is free and the minute allows."""
        async with self._slots:
            self._held += 1
            try:
                if self.requests_per_minute is not None:
                    await self._minute_allows(self.requests_per_minute)
                yield
            finally:
                self._held -= 1

    async def _minute_allows(self, most: int) -> None:
        async with self._turn:
            if len(self._begun) == most:
                wait = self._begun[0] + _WINDOW_S - self._clock()
                if wait > 0:
                    await self._sleep(wait)
            self._begun.append(self._clock())  # the oldest falls out
