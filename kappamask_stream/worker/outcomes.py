"""What becomes of a message: who is at fault decides, in one place. Pure but for the dice.

passing        a store, a server or a queue that answers again later     the message comes back later
surroundings   settings, rights, models, places: every message fails     it comes back later, taking is paused
unclear        the product's or everybody's: a refusal, a GPU's fault    it comes back later; many in a row pause taking
message        the product or the message itself                         to the dead-letter queue, with the reason
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kappamask_stream.errors import (
    AnswerError,
    InferenceError,
    InputError,
    InternalError,
    KappaMaskError,
    MessageRefusedError,
    OutputError,
    QueueError,
    ServerError,
    ServerFaultError,
    StoreAccessError,
    StoreCredentialsError,
    UsageError,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from kappamask_stream.worker.types import Outcome

Fault = Literal["passing", "surroundings", "unclear", "message"]

#: A queue hides a message for 12 hours from its delivery at most; a minute is for the request that asks for it.
HIDDEN_MOST_S = 12 * 3600.0 - 60.0

#: By kind, the first that fits counts. Retryable ones pass, whatever their kind.
_AT_FAULT: tuple[tuple[type[KappaMaskError], Fault], ...] = (
    (AnswerError, "unclear"),
    (InferenceError, "message"),
    (MessageRefusedError, "message"),
    (ServerFaultError, "unclear"),
    (StoreAccessError, "unclear"),
    (StoreCredentialsError, "surroundings"),
    (InputError, "message"),
    (InternalError, "message"),
    (UsageError, "surroundings"),
    (ServerError, "surroundings"),
    (OutputError, "surroundings"),
    (QueueError, "surroundings"),
)
#: Causes of an `InternalError` that say that this machine is at its end, not what is wrong with a product.
_OF_THE_MACHINE = (MemoryError, OSError)
#: What Python's threads say then, in a `RuntimeError`.
_NO_THREADS = ("can't start new thread", "cannot schedule new futures")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a message is to end.

    Attributes
    ----------
    outcome : what is to become of it.
    reason : in words; None for ``done``.
    error : why the message, or its product, failed.
    fault : whose; None where nothing failed.
    product : name of the product that failed; None where the message itself did.
    """

    outcome: Outcome
    reason: str | None = None
    error: KappaMaskError | None = None
    fault: Fault | None = None
    product: str | None = None


def verdict_of(error: KappaMaskError, product: str | None = None) -> Verdict:
    """Return what a failure means for the message."""
    fault = fault_of(error)
    return Verdict(
        outcome="poison" if fault == "message" else "retry",
        reason=f"{type(error).__name__}: {error}",
        error=error,
        fault=fault,
        product=product,
    )


def fault_of(error: KappaMaskError) -> Fault:
    """Return who is at fault."""
    if error.retryable:
        return "passing"
    if isinstance(error, InternalError) and _is_of_the_machine(error.__cause__):
        return "surroundings"
    return next((fault for kind, fault in _AT_FAULT if isinstance(error, kind)), "message")


def _is_of_the_machine(cause: BaseException | None) -> bool:
    if isinstance(cause, RuntimeError):
        return any(text in str(cause) for text in _NO_THREADS)
    return isinstance(cause, _OF_THE_MACHINE)


def retry_wait_s(
    received: int, *, first_s: float, most_s: float, age_s: float, rng: random.Random, error: BaseException | None
) -> int:
    """Return for how many seconds a message that failed stays hidden, whole seconds, 1 or more.

    Doubles with each delivery and is drawn from [half, whole], so that what failed together does not come back
    together; what a store asks for (Retry-After) is never cut short, but by the queue's 12 hours.

    Parameters
    ----------
    received : deliveries of the message so far, 1 for the first.
    first_s, most_s : the whole of the first wait, and of the longest.
    age_s : seconds since this delivery.
    error : why it failed.
    """
    whole = min(most_s, first_s * 2.0 ** min(max(received, 1) - 1, 32))
    wanted = max(whole * rng.uniform(0.5, 1.0), asked_wait_s(error) or 0.0)
    return max(1, math.ceil(min(wanted, HIDDEN_MOST_S - age_s)))


def asked_wait_s(error: BaseException | None) -> float | None:
    """Return the wait that a store asked for, as the attempt that failed last tells it; None where none did."""
    waits = (getattr(cause, "retry_after_s", None) for cause in _causes(error))
    return next((float(wait) for wait in waits if isinstance(wait, (int, float))), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
