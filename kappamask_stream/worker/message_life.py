"""One delivery of a message: parsed, its products masked one after the other, and the queue told how it ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kappamask_stream.result import ProductProgress
from kappamask_stream.runner import of_ours
from kappamask_stream.worker.heartbeat import Heartbeat
from kappamask_stream.worker.outcomes import Verdict, verdict_of
from kappamask_stream.worker.types import Job, JobEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from kappamask_stream.errors import KappaMaskError
    from kappamask_stream.feed import ProductRef
    from kappamask_stream.queues import Message, Queue
    from kappamask_stream.worker.breaker import Breaker
    from kappamask_stream.worker.settling import Settling
    from kappamask_stream.worker.stop import Stop
    from kappamask_stream.worker.types import Observer, ProductWork

#: Of the products of one message that can never be done, so many are told with their reasons.
_NAMED_MOST = 5


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What all messages of a worker are dealt with.

    Attributes
    ----------
    queue, settling : keep a message hidden, and tell the queue how it ended.
    parse : from a message's body to the products that it asks for; raises `MessageError`.
    refusal : why a product is not wanted; None where it is.
    work : has one product masked.
    observers, breaker : are told how messages end.
    why_not : asked whether what all messages need answers; returns why it does not.
    stop : where it is asked for, no further product of a message is begun.
    visibility_s : seconds for which received messages are hidden.
    """

    queue: Queue
    settling: Settling
    parse: Callable[[str], Sequence[ProductRef]]
    refusal: Callable[[ProductRef], str | None]
    work: ProductWork
    observers: Observer
    breaker: Breaker
    why_not: Callable[[], Coroutine[object, object, str | None]]
    stop: Stop
    visibility_s: int


class MessageLife:
    """One message in hand. Nobody cancels `run`; `release` ends it early, and what was decided is carried out.

    State: the task of its work, the job in work, and why the work was ended before its time.
    """

    def __init__(self, message: Message, desk: Desk) -> None:
        self.message, self._desk = message, desk
        self._job: Job | None = None
        self._work: asyncio.Task[Verdict] | None = None
        self._ended_by: Verdict | None = None

    @property
    def seconds_left(self) -> float | None:
        """Estimate for the product in work; None where nobody can tell yet."""
        return None if self._job is None else self._job.progress.seconds_left

    def release(self, reason: str) -> None:
        """Stop the work and give the message back at once; nothing where it is being ended already."""
        self._end_work(Verdict(outcome="released", reason=reason))

    async def run(self) -> None:
        """Do all that the message asks for."""
        desk, message, started = self._desk, self.message, time.monotonic()
        desk.observers.message_taken(message)
        beat = Heartbeat(desk.queue, message, visibility_s=desk.visibility_s, on_retry=desk.observers.retried)
        try:
            verdict = self._ended_by or await self._verdict(beat.task)
            settled = await desk.settling.settle(message, verdict, beat, is_trial=desk.breaker.is_trying)
        finally:
            await beat.stop()
        desk.breaker.note(settled)
        desk.observers.message_ended(message, settled.outcome, settled.reason, time.monotonic() - started)

    def _end_work(self, verdict: Verdict) -> None:
        if self._ended_by is None and (self._work is None or not self._work.done()):
            self._ended_by = verdict
            if self._work is not None:
                self._work.cancel()

    async def _verdict(self, beat: asyncio.Task[Verdict]) -> Verdict:
        """Work until it is done, released, or the heartbeat ends."""
        work = self._work = asyncio.create_task(self._worked(), name=f"work on {self.message.id}")
        await asyncio.wait({work, beat}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            fault = beat.exception()
            reason = f"the heartbeat failed: {fault!r}"
            self._end_work(beat.result() if fault is None else Verdict(outcome="lost", reason=reason))
            await asyncio.wait({work})
        ended = self._ended_by
        if not work.cancelled():
            verdict = work.result()
        else:
            verdict = Verdict(outcome="retry", reason="the work was cancelled from within", fault="passing")
        # What was cancelled may fail while it cleans up: that says nothing of the product.
        return verdict if ended is None or verdict.outcome in ("done", "filtered") else ended

    async def _worked(self) -> Verdict:
        """Mask what is wanted of the message. A product that can never be done waits until the others are."""
        try:
            refs = self._desk.parse(self.message.body)
            refusals = [self._desk.refusal(ref) for ref in refs]
        except Exception as error:  # noqa: BLE001 - whatever a stranger's message does to us is the message's end
            return verdict_of(of_ours(error))
        wanted = [(number, ref) for number, ref in enumerate(refs) if refusals[number] is None]
        if not wanted:
            reasons = dict.fromkeys(filter(None, refusals))
            return Verdict(outcome="filtered", reason="; ".join(reasons) or "it asks for no product")
        poison: list[Verdict] = []
        for number, ref in wanted:
            if self._desk.stop.is_asked and number != wanted[0][0]:
                return Verdict(outcome="released", reason=self._desk.stop.reason)
            failure = await self._failure_of(number, ref)
            if failure is not None:
                verdict = verdict_of(failure, ref.name.text)
                if verdict.outcome != "poison":
                    return verdict
                poison.append(verdict)
        return _together(poison) if poison else Verdict(outcome="done")

    async def _failure_of(self, number: int, ref: ProductRef) -> KappaMaskError | None:
        """Have one product masked; return why it failed."""
        observers = self._desk.observers
        job = self._job = Job(
            id=f"{self.message.id}/{number}",
            message=self.message,
            ref=ref,
            progress=ProductProgress(product=ref.name.text, on_retry=observers.retried),
        )
        extras = observers.job_started(job)
        try:
            finished = await self._desk.work.do(job, extras)
        except Exception as error:  # noqa: BLE001 - it is told with the product, other messages go on
            ours = of_ours(error)
            observers.job_ended(job, JobEnd(status="failed", seconds=_since(job), error=ours))
            return ours
        except asyncio.CancelledError:
            observers.job_ended(job, JobEnd(status="stopped", seconds=_since(job)))
            raise
        result = finished.result
        is_found = result is None or result.status == "skipped"
        end = JobEnd(status="found" if is_found else "done", seconds=_since(job), result=result, output=finished.output)
        observers.job_ended(job, end)
        return None


def _together(poison: Sequence[Verdict]) -> Verdict:
    """Return one verdict that names all products of a message that can never be done."""
    first = poison[0]
    if len(poison) == 1 or first.error is None:
        return first
    named = "; ".join(f"{verdict.product}: {verdict.reason}" for verdict in poison[:_NAMED_MOST])
    more = f"; and {len(poison) - _NAMED_MOST} more" if len(poison) > _NAMED_MOST else ""
    reason = f"{len(poison)} of its products can never be done: {named}{more}"
    products = ",".join(verdict.product or "" for verdict in poison)
    return replace(first, reason=reason, error=type(first.error)(reason), product=products)


def _since(job: Job) -> float:
    return time.monotonic() - job.started
