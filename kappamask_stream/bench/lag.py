"""How late an event loop was while something was measured."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from kappamask_stream.monitor.loop_lag import LoopLag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@dataclass(frozen=True, kw_only=True)
class Lag:
    """Percentiles, in seconds; 0 where the time was too short to see any."""

    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, lags_s: Sequence[float]) -> Self:
        """Sum up; each percentile is one of the values."""
        found = np.quantile(np.asarray(lags_s or [0.0]), (0.5, 0.99, 1.0), method="inverted_cdf")
        return cls(p50_s=float(found[0]), p99_s=float(found[1]), max_s=float(found[2]))


@asynccontextmanager
async def measured_lag() -> AsyncIterator[list[float]]:
    """Measure the running event loop for the length of the block; yields a list that grows by seconds of lag."""
    lags_s: list[float] = []
    task = asyncio.create_task(LoopLag(lags_s.append).run())
    try:
        yield lags_s
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
