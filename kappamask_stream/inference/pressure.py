"""How many requests wait in the inference servers: from their metrics, or else from how long requests have waited.

Both tell of one server: where there are several, their mean. A client's own limits are for one server, too.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from tritonclient.utils import InferenceServerException

from kappamask_stream.inference.metrics import MetricsReader
from kappamask_stream.inference.served import CONTROL_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tritonclient.grpc.aio import InferenceServerClient

_METRIC = "nv_inference_pending_request_count"
#: Seconds over which the waiting is averaged, and the shortest time that says anything.
_WINDOW_S = 15.0
_SHORTEST_S = 0.5


class Pressure(Protocol):
    """Tells how full the servers are."""

    async def pending(self, models: Collection[str]) -> float | None:
        """Return requests for these models that wait in a server, those of all clients; None where nobody tells."""
        ...

    async def aclose(self) -> None:
        """Give back connections."""
        ...


class MetricsPressure:
    """Asks for Triton's metrics. A name in a URL may stand for several servers: all its addresses are asked.

    Parameters
    ----------
    urls : ``http://HOST:8002/metrics``, or several, divided by commas.
    ca : file of the CAs for ``https://``; None: the system's.

    Raises
    ------
    UsageError
        If one is no such URL.
    """

    def __init__(self, urls: str, *, ca: Path | None = None) -> None:
        self._reader = MetricsReader(urls.replace(",", " ").split(), ca=ca)

    async def pending(self, models: Collection[str]) -> float | None:
        """See `Pressure`. Servers that do not answer, or serve none of these models, are left out."""
        told = [
            [sample.value for sample in samples if sample.labels.get("model") in models]
            for samples in await self._reader.samples({_METRIC})
        ]
        known = [sum(values) for values in told if values]
        return sum(known) / len(known) if known else None

    async def aclose(self) -> None:
        """Close connections."""
        await self._reader.aclose()


class StatisticsPressure:
    """Reckons from Triton's statistics extension by Little's law.

    Requests that wait on average = time that requests have waited, added up over all that were taken into work, by
    the time in which this came together. Requests that are not taken into work at all are not seen.

    Parameters
    ----------
    channel : to one server: counters of several cannot be compared.

    State: samples of the last `_WINDOW_S` seconds and one before, oldest first: when, and seconds waited in all; and
    the models that they are of.
    """

    def __init__(self, channel: InferenceServerClient) -> None:
        self._channel = channel
        self._models: frozenset[str] = frozenset()
        self._samples: deque[tuple[float, float]] = deque()

    async def pending(self, models: Collection[str]) -> float | None:
        """See `Pressure`; None the first time, and where the server denies its statistics."""
        try:
            answer = await self._channel.get_inference_statistics(client_timeout=CONTROL_TIMEOUT_S)
        except InferenceServerException:
            self._samples.clear()
            return None
        if self._models != frozenset(models):
            self._models = frozenset(models)
            self._samples.clear()
        waited = [model.inference_stats.queue.ns for model in answer.model_stats if model.name in models]
        now, seconds = time.monotonic(), sum(waited) * 1e-9
        if self._samples and seconds < self._samples[-1][1]:  # another server answers, or this one has started anew
            self._samples.clear()
        self._samples.append((now, seconds))
        while len(self._samples) > 1 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()
        begin, before = self._samples[0]
        return (seconds - before) / (now - begin) if now - begin >= _SHORTEST_S else None

    async def aclose(self) -> None:
        """Do nothing: the channel is somebody else's."""
