"""Which failures are worth another try, when, and how often."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kappamask_stream.errors import (
    InferenceError,
    InferenceTimeoutError,
    ServerFaultError,
    ServerOverloadedError,
    ServerUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.inference.types import InferenceClient, InferResult, TileRequest
    from kappamask_stream.inference.window import InFlightWindow

_WORTH_ANOTHER = (
    ServerOverloadedError,
    ServerUnavailableError,
    InferenceTimeoutError,
    ServerFaultError,
    InferenceError,
)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long and how often a tile is tried.

    Attributes
    ----------
    attempts : times that a tile is sent when it times out or the server fails on it.
    server_wait_s : seconds for which an endpoint that does not answer is tried again.
    overload_wait_s : seconds for which a tile is sent again while the server's queue is full.
    urgent_after_s : seconds since its first failure after which a tile of a backlog goes in the interactive lane.
    backoff_s, backoff_max_s : first and longest pause; pauses double, each is drawn from [half, whole].
    """

    attempts: int = 4
    server_wait_s: float = 120.0
    overload_wait_s: float = 600.0
    urgent_after_s: float = 120.0
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
    `server_wait_s`; a request that times out or that the server fails on is sent `attempts` times. A tile of a backlog
    that has timed out, or failed for `urgent_after_s`, goes in the interactive lane, two at a time: its own may be
    starved. A canary that is not answered is no failure of the tiles that wait for it, and has the same patience again.

    Parameters
    ----------
    on_retry : told the error's class name, and in words, of each attempt that failed and is followed by another.

    Raises
    ------
    ServerError
        The last failure, naming the tile, the cause and the remedy.
    """
    patience, of_canary = (_Patience(policy, request.name, on_retry) for _ in range(2))
    while True:
        try:
            async with window.urgent if request.urgent else nullcontext(), window.slot():
                result = await client.infer(request)
        except _WORTH_ANOTHER as error:
            if error.is_of_canary:
                await of_canary.bear(error)
                continue
            await patience.bear(error)
            is_late = isinstance(error, InferenceTimeoutError) or patience.lasts_s > policy.urgent_after_s
            if is_late and client.priority != "interactive":
                request = replace(request, urgent=True)
        else:
            window.answered()
            return result


async def confirm_with_retry(
    client: InferenceClient,
    name: str,
    *,
    policy: RetryPolicy,
    on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
) -> None:
    """Have a client look whether its model is still served, with the patience of a tile.

    Parameters
    ----------
    name : of what depends on it, for messages.
    on_retry : see `infer_with_retry`.

    Raises
    ------
    ServerError
        See `InferenceClient.confirm`.
    """
    patience = _Patience(policy, name, on_retry)
    while True:
        try:
            return await client.confirm()
        except _WORTH_ANOTHER as error:
            await patience.bear(error)


class _Patience:
    """What is left of it for one tile; each kind of failure has its own.

    Parameters
    ----------
    name : of the tile.
    on_retry : see `infer_with_retry`.

    State: failures so far, those of them that count, when the first was, and when a kind of those that take time began.
    """

    def __init__(self, policy: RetryPolicy, name: str, on_retry: Callable[[str, str], None]) -> None:
        self._policy, self._name, self._on_retry = policy, name, on_retry
        self._waits_s = {
            ServerOverloadedError: policy.overload_wait_s,
            ServerUnavailableError: policy.server_wait_s,
        }
        self._attempts = policy.attempts
        self._since: dict[type[Exception], float] = {}
        self._began: float | None = None
        self._failed = 0
        self._failures = 0

    @property
    def lasts_s(self) -> float:
        """Seconds since the first failure; 0 before."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def bear(self, error: Exception) -> None:
        """Wait for a while after a failure, or raise it where patience ends."""
        self._failures += 1
        self._began = time.monotonic() if self._began is None else self._began
        if self._ends_with(error):
            raise type(error)(f"{self._name}: {error} (tried {self._failures} times)") from error
        self._on_retry(type(error).__name__, f"{self._name}: {error}; trying again")
        await asyncio.sleep(self._policy.pause_s(self._failures))

    def _ends_with(self, error: Exception) -> bool:
        for kind, wait_s in self._waits_s.items():
            if isinstance(error, kind):
                now = time.monotonic()
                return now - self._since.setdefault(kind, now) > wait_s
        self._failed += 1
        return self._failed >= self._attempts
