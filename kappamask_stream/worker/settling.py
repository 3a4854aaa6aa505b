"""Tells the queue how a message ended."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kappamask_stream.errors import QueueError, QueueUnavailableError
from kappamask_stream.queues.burial import bury
from kappamask_stream.worker.outcomes import Verdict, fault_of, retry_wait_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kappamask_stream.queues import Message, Queue
    from kappamask_stream.settings import Settings
    from kappamask_stream.worker.heartbeat import Heartbeat

#: Pauses between attempts; when all are used up the message comes back by itself.
_PAUSES_S = (0.5, 2.0)
#: Seconds that one attempt may take, with those that the queue's client makes by itself.
_PATIENCE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Settling:
    """Deletes, hides, gives back or buries messages. Nobody cancels it: a verdict that was reached is carried out.

    Attributes
    ----------
    queue : that the messages come from.
    dead_letters : takes messages that can never be done; None: there is no such queue, they come back after the longest
        wait.
    settings : how long messages that failed stay hidden.
    on_retry : told the error's class name, and in words, of each call that is made again, or given up.
    """

    queue: Queue
    dead_letters: Queue | None
    settings: Settings
    on_retry: Callable[[str, str], None]
    rng: random.Random = field(default_factory=random.Random, repr=False)

    async def settle(self, message: Message, verdict: Verdict, beat: Heartbeat) -> Verdict:
        """Carry a verdict out and return what came of it: another one, where the queue could not be told.

        The heartbeat goes on until the message is hidden for another reason, or this is over.

        ``done`` and ``filtered`` become ``lost`` where the message cannot be deleted: it comes back and is found done.
        ``poison`` becomes ``retry`` where it cannot be buried. For ``lost`` nothing is done: it is not ours any more.
        """
        if verdict.outcome in ("done", "filtered"):
            error = await self._told(lambda: self.queue.delete(message))
            if error is not None:
                reason = f"{verdict.outcome}, but it could not be deleted and will come back: {error}"
                return replace(verdict, outcome="lost", reason=reason)
        elif verdict.outcome == "released":
            await self._hide(message, 0, beat, pauses=())  # the worker has to end
        elif verdict.outcome == "retry":
            await self._hide(message, self._wait_s(message, verdict), beat)
        elif verdict.outcome == "poison":
            return await self._poison(message, verdict, beat)
        return verdict

    async def _poison(self, message: Message, verdict: Verdict, beat: Heartbeat) -> Verdict:
        dead_letters, error = self.dead_letters, verdict.error
        if dead_letters is None or error is None:
            await self._hide(message, self._wait_s(message, verdict, longest=True), beat)
            return replace(verdict, outcome="retry", reason=f"{verdict.reason} (there is no dead-letter queue)")
        kind, product = type(error).__name__, verdict.product
        failure = await self._told(
            lambda: bury(self.queue, dead_letters, message, reason=str(error), kind=kind, product=product)
        )
        if failure is None:
            return verdict
        await self._hide(message, self._wait_s(message, verdict), beat)
        reason = f"{verdict.reason} (it could not be sent to the dead-letter queue: {failure})"
        return replace(verdict, outcome="retry", reason=reason, fault=fault_of(failure))

    async def _hide(self, message: Message, seconds: int, beat: Heartbeat, pauses: Sequence[float] = _PAUSES_S) -> None:
        await beat.stop()
        await self._told(lambda: self.queue.hide(message, seconds), pauses)

    def _wait_s(self, message: Message, verdict: Verdict, *, longest: bool = False) -> int:
        settings = self.settings
        return retry_wait_s(
            message.received,
            first_s=settings.retry_most_s if longest else settings.retry_after_s,
            most_s=settings.retry_most_s,
            age_s=time.monotonic() - message.received_at,
            rng=self.rng,
            error=verdict.error,
        )

    async def _told(
        self, call: Callable[[], Awaitable[object]], pauses: Sequence[float] = _PAUSES_S
    ) -> QueueError | None:
        """Call the queue until it answers, refuses or all attempts have failed; return why it did not work."""
        for pause in (*pauses, None):
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await call()
            except TimeoutError:
                error: QueueError = QueueUnavailableError(f"the queue did not answer within {_PATIENCE_S:g} s")
            except QueueError as refused:
                error = refused
            else:
                return None
            if pause is None or not error.retryable:
                self.on_retry(type(error).__name__, f"{error}; given up")
                return error
            self.on_retry(type(error).__name__, f"{error}; trying again")
            await asyncio.sleep(pause)
        return None
