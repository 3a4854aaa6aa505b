"""Batches that the inference server forms: a few big ones are what it is there for.

Counts are the server's, of all its clients, since this worker looks: a product's own would count a batch once for each
product that was in work meanwhile. Several workers see the same ones, so take ratios of them, not sums.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from kappamask_stream.errors import KappaMaskError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from prometheus_client.core import Metric

    from kappamask_stream.inference import BatchSizes

    Sample = Callable[[], Awaitable[Mapping[str, BatchSizes]]]

_PERIOD_S = 15.0
_EDGES = (1, 2, 4, 8, 16, 32, 64)


class ServerBatches(Collector):
    """Adds up the server's executions by batch size between looks.

    State: executions per size since the first look; the last look per model.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._last: dict[str, BatchSizes] = {}

    def add(self, looks: Mapping[str, BatchSizes]) -> None:
        """Take a look at all models.

        The first one at a model only says where to begin. So does one with fewer executions than before: the server
        was started anew, or another replica behind the same name has answered.
        """
        for model, look in looks.items():
            before, after = self._last.get(model), look.counts
            if after is None:
                continue
            self._last[model] = look
            if before is None or before.counts is None or any(after.get(s, 0) < n for s, n in before.counts.items()):
                continue
            for size, n in (look.since(before).counts or {}).items():
                self._counts[size] = self._counts.get(size, 0) + n

    async def watch(self, sample: Sample) -> None:
        """Look each 15 s until cancelled; a server that does not answer is looked at again later."""
        while True:
            with suppress(KappaMaskError):
                self.add(await sample())
            await asyncio.sleep(_PERIOD_S)

    def collect(self) -> Iterable[Metric]:
        """Return a histogram of tiles per execution."""
        per_edge = [sum(n for size, n in self._counts.items() if low < size <= high) for low, high in _ranges()]
        buckets = [
            (f"{edge:.1f}" if edge != float("inf") else "+Inf", total)
            for (_, edge), total in zip(_ranges(), accumulate(per_edge), strict=True)
        ]
        yield HistogramMetricFamily(
            "kappamask_server_batch_size",
            "Tiles per execution of the inference server, all its clients counted.",
            buckets=buckets,
            sum_value=sum(size * n for size, n in self._counts.items()),
        )


def _ranges() -> list[tuple[float, float]]:
    return list(pairwise((0.0, *map(float, _EDGES), float("inf"))))
