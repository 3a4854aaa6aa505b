"""What the parts of a worker say to each other."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.errors import KappaMaskError
    from kappamask_stream.extras import Extra
    from kappamask_stream.feed import ProductRef
    from kappamask_stream.queues import Message
    from kappamask_stream.result import ProductProgress, ProductResult

#: How a message ended, and what became of it.
#:
#: done      its masks are there (made, or found finished): deleted
#: filtered  no product of it passes the filters: deleted
#: retry     failed for a passing reason: comes back after a while
#: poison    can never be done: sent to the dead-letter queue with the reason, and deleted
#: released  given back at once, unfinished, because the worker ends
#: lost      the queue could not be told that it is still in work: the work was stopped, it comes back by itself
Outcome = Literal["done", "filtered", "retry", "poison", "released", "lost"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One product of one message in work.

    Attributes
    ----------
    id : ``<message id>/<n>``, n counts the message's products from 0.
    message, ref : what is asked for.
    progress : kept up to date by the pipeline.
    started : ``time.monotonic()`` of its begin.
    """

    id: str
    message: Message
    ref: ProductRef
    progress: ProductProgress
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How one product ended.

    Attributes
    ----------
    status : ``done`` (masked now), ``found`` (a finished mask was there), ``failed``, or ``stopped`` (cancelled).
    seconds : from the job's begin.
    result : of the pipeline; None where it did not run to its end.
    output : URL or path of the mask; None where there is none.
    error : why it failed.
    """

    status: Literal["done", "found", "failed", "stopped"]
    seconds: float
    result: ProductResult | None = None
    output: str | None = None
    error: KappaMaskError | None = None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What `ProductWork.do` returns: the mask and its Item are durable.

    Attributes
    ----------
    output : URL or path of the mask.
    item : the mask's STAC Item, as it was written.
    result : of the pipeline; None where a finished mask was found, and nothing was opened.
    """

    output: str
    item: bytes = field(repr=False)
    result: ProductResult | None = None


class ProductWork(Protocol):
    """Masks one product; knows the models, the stores and the options, nothing of queues."""

    async def do(self, job: Job, extras: Sequence[Extra] = ()) -> Finished:
        """Have the mask made, or find it finished; twice is as good as once.

        Parameters
        ----------
        extras : that look on, beside those that write files.

        Raises
        ------
        KappaMaskError
            The first cause; ``error.retryable`` tells whether it passes.
        """
        ...


class Observer:
    """Looks on; all hooks do nothing here, none may raise or take long: they run on the event loop."""

    def message_taken(self, message: Message) -> None:
        """See that a message was received and has a slot."""

    def message_ended(self, message: Message, outcome: Outcome, reason: str | None, seconds: float) -> None:
        """See how a message ended: the queue was told (but for ``lost``); `reason` in words, None for ``done``."""

    def job_started(self, job: Job) -> Sequence[Extra]:  # noqa: ARG002 - a hook
        """See that a product is begun; extras that are returned see its tiles and its mask."""
        return ()

    def job_ended(self, job: Job, end: JobEnd) -> None:
        """See that a product is over."""

    def retried(self, cause: str, text: str) -> None:
        """See that a tile, a store or the queue is tried again; `cause` is a class name of `errors` or a word."""

    def state_changed(self, state: WorkerState) -> None:
        """See what the worker does now: at each change, and each few seconds with fresh numbers."""


@dataclass(frozen=True, kw_only=True)
class WorkerState:
    """What a worker does at the moment.

    Attributes
    ----------
    phase : ``starting``, ``taking``, ``paused`` (takes no new messages), ``draining`` or ``ended``.
    reason : why it is paused or drains, in words.
    slots, busy : messages that may be in work at once, and that are.
    pending : requests pending in the inference server, None where it does not tell.
    queue_waiting, queue_in_work : messages, by the queue's own count; None before the first look.
    queue_age_s : how long the message that was received for the first time last had waited since it was sent; None
        before the first, and once nothing waits.
    """

    phase: Literal["starting", "taking", "paused", "draining", "ended"]
    reason: str | None = None
    slots: int = 0
    busy: int = 0
    pending: float | None = None
    queue_waiting: int | None = None
    queue_in_work: int | None = None
    queue_age_s: float | None = None


class Probe(Protocol):
    """Tells whether the worker could do work now."""

    async def __call__(self) -> dict[str, str | None]:
        """Return per part (``triton``, ``queue``) None where it answers, else why not, within a few seconds."""
        ...
