"""How many requests may be in flight: a limit that gives way to overload and comes back slowly."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from kappamask_stream.errors import ServerOverloadedError
from kappamask_stream.inference.model_infer import ANSWER_ROOM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kappamask_stream.contract import ModelContract

#: Requests at once in a lane that is not the client's own: where a whole backlog is late, it is not to fill that lane.
_URGENT = 2
#: Factor by which an overload answer lowers the limit: CUBIC's (RFC 9438, 4.6). It takes minutes to climb back where a
#: queue takes a quarter of one, so with RFC 5681's half chance decides how much each of several clients gets.
_DECREASE = 0.7
#: Of tiles in flight: 1000 tiles of KappaMask, which 8 instances with batches of 64 would take.
_MOST_BYTES = 4 << 30


class InFlightWindow:
    """Slots for requests in flight, first come first served; slow start, additive increase, multiplicative decrease.

    Parameters
    ----------
    maximum : most requests in flight, and the limit to begin with.

    Attributes
    ----------
    urgent : limits those that are in the interactive lane because they are late; taken before a slot.

    State: `_in_flight`, `_limit` (between 1 and maximum, fractional), `_threshold` below which it comes back quickly,
    how often it was lowered, whether an answer has come since, and the waiting futures, oldest first.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.urgent = asyncio.Semaphore(_URGENT)
        self._limit = self._threshold = float(maximum)
        self._in_flight = self._lowered = 0
        self._was_answered = True
        self._waiting: deque[asyncio.Future[None]] = deque()

    @classmethod
    def for_contract(cls, contract: ModelContract, maximum: int | None = None) -> InFlightWindow:
        """Twice what the server can work on at once, so that a full batch always waits behind the running one.

        But no more tiles than `_MOST_BYTES` hold, with the largest answers that are received: they lie in this
        process's memory, and how many they are the server says. Whoever names a `maximum` means it.
        """
        most = max(1, _MOST_BYTES // (contract.tile_bytes + contract.answer_bytes + ANSWER_ROOM))
        return cls(maximum or min(2 * contract.max_batch * contract.instances, most))

    def __repr__(self) -> str:
        return f"<InFlightWindow {self._in_flight}/{self.limit} in flight, {len(self._waiting)} waiting>"

    @property
    def limit(self) -> int:
        """Requests allowed in flight now."""
        return max(1, int(self._limit))

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        return self._in_flight

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one slot for the duration of the block; lower the limit where it ends as the server's queue is full.

        A full queue turns away many at once, and says nothing new to those that were sent before the limit was lowered:
        they lower it no further.
        """
        await self.acquire()
        lowered = self._lowered
        try:
            yield
        except ServerOverloadedError:
            if lowered == self._lowered:
                self.overloaded()
            raise
        finally:
            self.release()

    async def acquire(self) -> None:
        """Wait for a free slot and take it."""
        if self._in_flight < self.limit and not self._waiting:
            self._in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # gone already where `_wake` has passed over it
                    self._waiting.remove(turn)
            else:  # the slot was given and the cancellation came before we ran: pass it on
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._in_flight -= 1
        self._wake()

    def overloaded(self) -> None:
        """Take note that the server's queue was full: what was in flight was too much, by a factor."""
        self._lowered += 1
        if self._was_answered:  # a queue that stays full says nothing new of what it takes
            self._threshold = max(1.0, self._limit * _DECREASE)
        self._was_answered = False
        self._limit = max(1.0, min(self._limit, float(self._in_flight or 1)) * _DECREASE)

    def answered(self) -> None:
        """Take note of a good answer: twice as many in flight after all are answered, above the threshold one more.

        A client that happened to have few in flight while others filled the queue is soon where it was (slow start and
        congestion avoidance: RFC 5681, 3.1).
        """
        self._was_answered = True
        more = 1.0 if self._limit < self._threshold else 1.0 / self._limit
        self._limit = min(float(self.maximum), self._limit + more)
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)
