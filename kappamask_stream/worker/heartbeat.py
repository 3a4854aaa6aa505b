"""Keeps a message hidden from other workers while it is in work here."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from kappamask_stream.errors import QueueError, QueueUnavailableError
from kappamask_stream.worker.outcomes import HIDDEN_MOST_S, Verdict, fault_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.queues import Message, Queue

#: A message that is in work for so long is given back: the queue would not hide it for much longer.
_IN_WORK_MOST_S = HIDDEN_MOST_S - 240.0
#: Pauses between attempts to extend, and the time that stopping the work is given, as parts of the visibility.
_PAUSE = 1 / 16
#: Seconds that an attempt gets where time is up already (this process was held up): the message may still be ours.
_LAST_TRY_S = 1.0
#: Seconds that a call under way gets when the heartbeat is stopped; what comes of it later is not worth a wait.
_UNDER_WAY_S = 5.0


class Heartbeat:
    """Hides a message anew each half of its visibility. Ends by `stop`, or where the message is not surely ours.

    A call that fails for a passing reason is made again while the message is surely hidden. One that fails for good,
    or for so long, ends it: from then on another worker may have the message.

    Parameters
    ----------
    visibility_s : seconds for which the message was hidden when it was received, and is each time.
    on_retry : told the error's class name, and in words, of each attempt that is followed by another.

    State: the task; until when the message is surely hidden; a lock around each call, so that none is under way when
    the message is hidden for another reason: whichever came last would count.
    """

    def __init__(
        self, queue: Queue, message: Message, *, visibility_s: int, on_retry: Callable[[str, str], None]
    ) -> None:
        self._queue, self._message, self._visibility_s, self._on_retry = queue, message, visibility_s, on_retry
        self._hidden_until = message.received_at + visibility_s
        self._calling = asyncio.Lock()
        #: Ends with what the end of the heartbeat means for the message: ``lost`` or ``released``.
        self.task: asyncio.Task[Verdict] = asyncio.create_task(self._beat(), name=f"heartbeat of {message.id}")

    async def stop(self) -> None:
        """End it, after a call that is under way; one that hangs is broken off after some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNDER_WAY_S), self._calling:
                self.task.cancel()
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _beat(self) -> Verdict:
        received_at = self._message.received_at
        while True:
            due = min(self._hidden_until - self._visibility_s / 2, received_at + _IN_WORK_MOST_S)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            age = time.monotonic() - received_at
            if age >= _IN_WORK_MOST_S:
                reason = f"in work for {age / 3600:.1f} h: a queue hides a message for 12 h at most"
                return Verdict(outcome="released", reason=reason)
            failure = await self._extend(min(self._visibility_s, int(HIDDEN_MOST_S - age)))
            if failure is not None:
                reason = f"the queue could not be told that the message is still in work: {failure}"
                return Verdict(outcome="lost", reason=reason, error=failure, fault=fault_of(failure))

    async def _extend(self, seconds: int) -> QueueError | None:
        """Hide the message for so long from now; return why that cannot be done while it is surely hidden."""
        pause = self._visibility_s * _PAUSE
        while True:
            sent = time.monotonic()
            left = self._hidden_until - pause - sent
            patience = left if left > 0 else _LAST_TRY_S
            try:
                async with self._calling, asyncio.timeout(patience):
                    await self._queue.hide(self._message, seconds)
            except TimeoutError:
                return QueueUnavailableError(f"no answer within {patience:.1f} s")
            except QueueError as error:
                if not error.retryable or time.monotonic() + pause >= self._hidden_until:
                    return error
                self._on_retry(type(error).__name__, f"{error}; trying again")
            else:
                self._hidden_until = sent + seconds
                return None
            await asyncio.sleep(pause)
