"""Tells the queue how a message ended."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kappamask_stream.errors import QueueUnavailableError
from kappamask_stream.queues.burial import dead_letter_of, send_dead_letter
from kappamask_stream.runner import of_ours
from kappamask_stream.worker.outcomes import Verdict, fault_of, retry_wait_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kappamask_stream.errors import KappaMaskError
    from kappamask_stream.queues import Message, Queue
    from kappamask_stream.settings import Settings
    from kappamask_stream.worker.heartbeat import Heartbeat
    from kappamask_stream.worker.stop import Stop

#: Pauses between attempts; when all are used up the message comes back by itself.
_PAUSES_S = (0.5, 2.0)
#: Seconds that one attempt may take, with those that the queue's client makes by itself; the same, once, where the
#: worker should have ended by now.
_PATIENCE_S, _LATE_PATIENCE_S = 10.0, 5.0
#: The first wait of a message that was tried in an outage, as a part of the longest.
_TRIAL = 1 / 4
#: So many messages are remembered that lie in the dead-letter queue and could not be deleted from their own.
_BURIED_MOST = 1000


@dataclass(kw_only=True, eq=False)
class Settling:
    """Deletes, hides, gives back or buries messages. Nobody cancels it: a verdict that was reached is carried out.

    Attributes
    ----------
    queue : that the messages come from.
    dead_letters : takes messages that can never be done; None: there is no such queue, they come back after the longest
        wait.
    settings : how long messages that failed stay hidden.
    stop : once its deadline is over each call is made once, and not waited for long.
    on_retry : told the error's class name, and in words, of each call that is made again, or given up.
    deliveries_most : after so many the queue itself moves a message to the dead-letter queue, without a reason; None:
        it never does, or it is not known yet. Kept up to date by the worker.

    State: messages that were buried and are still in their queue.
    """

    queue: Queue
    dead_letters: Queue | None
    settings: Settings
    stop: Stop
    on_retry: Callable[[str, str], None]
    rng: random.Random = field(default_factory=random.Random, repr=False)
    deliveries_most: int | None = None
    _buried: deque[str] = field(default_factory=lambda: deque(maxlen=_BURIED_MOST), init=False, repr=False)

    async def settle(self, message: Message, verdict: Verdict, beat: Heartbeat, *, is_trial: bool = False) -> Verdict:
        """Carry a verdict out and return what came of it: another one, where the queue could not be told.

        The heartbeat goes on until the message is hidden for another reason, or this is over.

        Parameters
        ----------
        is_trial : True where it was taken to see whether an outage is over: if not, it stays hidden for long, so that
            no message uses up its deliveries on that.

        ``done``, ``filtered`` and ``poison`` become ``lost`` where the message cannot be deleted: it comes back and is
        found done, or buried. ``poison`` becomes ``retry`` where it cannot be buried. ``retry`` becomes ``poison`` at
        the last delivery before the queue would bury it. For ``lost`` nothing is done: it is not ours any more.
        """
        if verdict.outcome in ("done", "filtered"):
            return await self._delete(message, verdict, beat)
        if verdict.outcome == "released":
            await self._hide(message, 0, beat, pauses=())  # the worker has to end
        elif verdict.outcome == "retry" and self._is_last(message):
            reason = f"given up after {message.received} deliveries, the last failure: {verdict.reason}"
            return await self._bury(message, replace(verdict, outcome="poison", reason=reason), beat, reason)
        elif verdict.outcome == "retry":
            first_s = self.settings.retry_most_s * _TRIAL if is_trial else 0.0
            await self._hide(message, self._wait_s(message, verdict, first_s), beat)
        elif verdict.outcome == "poison":
            return await self._bury(message, verdict, beat, str(verdict.error or verdict.reason))
        return verdict

    def _is_last(self, message: Message) -> bool:
        most = self.deliveries_most
        return self.dead_letters is not None and most is not None and message.received >= most

    async def _bury(self, message: Message, verdict: Verdict, beat: Heartbeat, reason: str) -> Verdict:
        """Send it once, then delete it: what was sent is not sent again because deleting fails."""
        dead_letters, error = self.dead_letters, verdict.error
        if dead_letters is None:
            await self._hide(message, self._wait_s(message, verdict, self.settings.retry_most_s), beat)
            return replace(verdict, outcome="retry", reason=f"{verdict.reason} (there is no dead-letter queue)")
        if message.id not in self._buried:
            kind = "" if error is None else type(error).__name__
            draft = dead_letter_of(self.queue, message, reason=reason, kind=kind, product=verdict.product)
            failure = await self._told(lambda: send_dead_letter(dead_letters, draft))
            if failure is not None:
                await self._hide(message, self._wait_s(message, verdict), beat)
                reason = f"{verdict.reason} (it could not be sent to the dead-letter queue: {failure})"
                return replace(verdict, outcome="retry", reason=reason, error=failure, fault=fault_of(failure))
            self._buried.append(message.id)
        settled = await self._delete(message, verdict, beat)
        if settled is verdict:
            self._buried.remove(message.id)
        return settled

    async def _delete(self, message: Message, verdict: Verdict, beat: Heartbeat) -> Verdict:
        failure = await self._told(lambda: self.queue.delete(message))
        if failure is None:
            return verdict
        if not failure.retryable:  # it will be refused again, so the message need not come back soon
            await self._hide(message, self._wait_s(message, verdict), beat)
        reason = f"{verdict.outcome}, but it could not be deleted and will come back: {failure}"
        return replace(verdict, outcome="lost", reason=reason, error=failure, fault=fault_of(failure))

    async def _hide(self, message: Message, seconds: int, beat: Heartbeat, pauses: Sequence[float] = _PAUSES_S) -> None:
        await beat.stop()
        await self._told(lambda: self.queue.hide(message, seconds), pauses)

    def _wait_s(self, message: Message, verdict: Verdict, first_s: float = 0.0) -> int:
        """Return for how long it stays hidden; the first of the growing waits is `first_s` at least."""
        settings = self.settings
        return retry_wait_s(
            message.received,
            first_s=max(first_s, settings.retry_after_s),
            most_s=settings.retry_most_s,
            age_s=time.monotonic() - message.received_at,
            rng=self.rng,
            error=verdict.error,
        )

    async def _told(
        self, call: Callable[[], Awaitable[object]], pauses: Sequence[float] = _PAUSES_S
    ) -> KappaMaskError | None:
        """Call the queue until it answers, refuses or all attempts have failed; return why it did not work."""
        for pause in (*pauses, None):
            patience = _PATIENCE_S if self.stop.seconds_left > 0 else _LATE_PATIENCE_S
            try:
                async with asyncio.timeout(patience):
                    await call()
            except TimeoutError:
                error: KappaMaskError = QueueUnavailableError(f"the queue did not answer within {patience:g} s")
            except Exception as refused:  # noqa: BLE001 - what one answer does to us must not end the worker
                error = of_ours(refused)
            else:
                return None
            if pause is None or not error.retryable or self.stop.seconds_left <= 0:
                self.on_retry(type(error).__name__, f"{error}; given up")
                return error
            self.on_retry(type(error).__name__, f"{error}; trying again")
            await asyncio.sleep(pause)
        return None
