"""Tells those who wait that something has changed, and they may look again."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress


class Pulse:
    """A beat wakes all who wait at that moment; who looks first and then waits, without an await between, misses none.

    State: the event of the next beat.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def beat(self, *_: object) -> None:
        """Wake all who wait; takes whatever a task's callback is given."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, at_most_s: float = math.inf) -> None:
        """Wait for the next beat, or for so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s if math.isfinite(at_most_s) else None):
                await self._next.wait()
