"""So many requests in flight, always: what each took, and what failed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.bench.types import Latency
from kappamask_stream.errors import ServerError, ServerOverloadedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.inference import InferenceClient, TileRequest

#: Requests of one process that may fail before it gives up.
FEW = 3
#: Before the next request where one has failed, or the queue was full: a server that refuses at once is not flooded.
_PAUSE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of an interval.

    Attributes
    ----------
    answered : requests whose answer came in it.
    last_before_s, last_s : when the last answer before it came, and the last one in it; None without any.
    latencies_s : of those that were sent in it, too.
    turned_away : requests that found the queue full.
    turned_away_text : what the server said to the first of them.
    """

    answered: int
    last_before_s: float | None
    last_s: float | None
    latencies_s: list[float]
    turned_away: int
    turned_away_text: str | None


class ClosedLoop:
    """Keeps requests in flight: each slot sends its next one as soon as the last one is answered.

    Parameters
    ----------
    client : sends one tile once.
    requests : taken in turn.
    first, step : slot `i` begins with request ``first + i`` and goes on in steps of `step`, so that several processes
        send different ones.

    State: a task per slot and the answers that it got; per answer when the request was sent and when it was answered;
    requests turned away, likewise; errors of those that failed; since when `whole` counts.
    """

    def __init__(self, client: InferenceClient, requests: Sequence[TileRequest], *, first: int, step: int) -> None:
        self._client, self._requests = client, requests
        self._first, self._step = first, step
        self._slots: list[asyncio.Task[None]] = []
        self._rounds: list[int] = []
        self._answers: list[tuple[float, float]] = []
        self._turned_away: list[tuple[float, ServerOverloadedError]] = []
        self._is_stopped = False
        self._begin = time.monotonic()
        self.whole = 0
        self.errors: list[ServerError] = []

    def __repr__(self) -> str:
        return f"<ClosedLoop of {len(self._slots)}, {len(self._answers)} answers, {len(self.errors)} errors>"

    @property
    def rounds(self) -> int:
        """Answers of the slot that has least."""
        return min(self._rounds, default=0)

    def start(self, concurrency: int) -> None:
        """Begin to send."""
        self._rounds = [0] * concurrency
        self._slots = [asyncio.create_task(self._slot(number)) for number in range(concurrency)]

    def begin(self) -> None:
        """Have `whole` count the requests that are sent from now on and answered."""
        self._begin, self.whole = time.monotonic(), 0

    def check(self) -> None:
        """Look whether all slots still work.

        Raises
        ------
        Exception
            What a slot ended with, other than a server's error: a fault of the program.
        """
        for slot in self._slots:
            if slot.done():
                slot.result()

    def between(self, begin: float, end: float) -> Answers:
        """Return what came of an interval; both on the clock of `time.monotonic`."""
        inside = [(sent, answered) for sent, answered in self._answers if begin <= answered < end]
        turned_away = [error for at, error in self._turned_away if begin <= at < end]
        return Answers(
            answered=len(inside),
            last_before_s=max((answered for _, answered in self._answers if answered < begin), default=None),
            last_s=max((answered for _, answered in inside), default=None),
            latencies_s=[answered - sent for sent, answered in inside if sent >= begin],
            turned_away=len(turned_away),
            turned_away_text=str(turned_away[0]) if turned_away else None,
        )

    async def stop(self) -> None:
        """Send no more, and wait for what is in flight; raises as `check`."""
        self._is_stopped = True
        await asyncio.gather(*self._slots)

    async def aclose(self) -> None:
        """Give up what is in flight."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)

    async def _slot(self, number: int) -> None:
        index = self._first + number
        while not self._is_stopped and len(self.errors) < FEW:
            request = self._requests[index % len(self._requests)]
            index += self._step
            sent = time.monotonic()
            try:
                await self._client.infer(request)
            except ServerOverloadedError as error:
                self._turned_away.append((time.monotonic(), error))
                await asyncio.sleep(_PAUSE_S)
            except ServerError as error:
                self.errors.append(error)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._answers.append((sent, time.monotonic()))
                self._rounds[number] += 1
                self.whole += sent >= self._begin


def latency_of(values_s: Sequence[float]) -> Latency:
    """Return percentiles and mean of latencies, those of all processes together: percentiles cannot be averaged."""
    return Latency(
        p50_s=percentile(values_s, 0.5),
        p95_s=percentile(values_s, 0.95),
        p99_s=percentile(values_s, 0.99),
        mean_s=float(np.mean(values_s)),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least of the values, at least one, that a share of them does not exceed: an exact one."""
    return float(np.quantile(np.asarray(values, np.float64), share, method="inverted_cdf"))


def divided(total: int, processes: int) -> list[int]:
    """Divide requests in flight over processes, as evenly as it goes; those that would have none are left out."""
    each, more = divmod(total, processes)
    return [n for n in (each + (number < more) for number in range(processes)) if n]
