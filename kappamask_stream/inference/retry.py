"""Which failures are worth another try, when, and how often."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.errors import (
    InferenceError,
    InferenceTimeoutError,
    ServerOverloadedError,
    ServerUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.inference.types import InferenceClient, InferResult, TileRequest
    from kappamask_stream.inference.window import InFlightWindow


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long and how often a tile is tried.

    Attributes
    ----------
    attempts : times that a tile is sent when it times out or the server fails on it.
    server_wait_s : seconds for which an endpoint that does not answer is tried again.
    overload_wait_s : seconds for which a tile is sent again while the server's queue is full.
    backoff_s, backoff_max_s : first and longest pause; pauses double, each is drawn from [half, whole].
    """

    attempts: int = 4
    server_wait_s: float = 120.0
    overload_wait_s: float = 600.0
    backoff_s: float = 0.1
    backoff_max_s: float = 5.0
    rng: random.Random = field(default_factory=random.Random)

    def pause_s(self, failures: int) -> float:
        """Return seconds to wait after so many failures in a row (1, 2, ...), with jitter."""
        whole = min(self.backoff_max_s, self.backoff_s * 2.0 ** min(failures - 1, 16))
        return whole * self.rng.uniform(0.5, 1.0)


async def infer_with_retry(
    client: InferenceClient,
    request: TileRequest,
    *,
    window: InFlightWindow,
    policy: RetryPolicy,
    on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
) -> InferResult:
    """Send a tile until it is answered or the policy's patience ends. The caller holds no slot; one is taken per try.

    A full queue lowers the window's limit and costs patience of its own; a dead endpoint is tried for
    `server_wait_s`; a request that times out or that the server fails on is sent `attempts` times.

    Parameters
    ----------
    on_retry : told the error's class name, and in words, of each attempt that failed and is followed by another.

    Raises
    ------
    ServerError
        The last failure, naming the tile, the cause and the remedy.
    """
    failures = 0
    sent = 0
    patience_from: dict[type[Exception], float] = {}
    while True:
        try:
            async with window.slot():
                result = await client.infer(request)
        except ServerOverloadedError as error:
            window.overloaded()
            last: InferenceError | InferenceTimeoutError | ServerOverloadedError | ServerUnavailableError = error
            exhausted = _waited(patience_from, error) > policy.overload_wait_s
        except ServerUnavailableError as error:
            last = error
            exhausted = _waited(patience_from, error) > policy.server_wait_s
        except (InferenceTimeoutError, InferenceError) as error:
            last = error
            sent += 1
            exhausted = sent >= policy.attempts
        else:
            window.answered()
            return result
        failures += 1
        if exhausted:
            raise type(last)(f"{request.name}: {last} (tried {failures} times)") from last
        on_retry(type(last).__name__, f"{request.name}: {last}; trying again")
        await asyncio.sleep(policy.pause_s(failures))


def _waited(patience_from: dict[type[Exception], float], error: Exception) -> float:
    """Return seconds since this kind of failure began for this tile."""
    now = time.monotonic()
    return now - patience_from.setdefault(type(error), now)
