"""Counts for Prometheus. docs/monitoring.md lists them; a test keeps dashboard and alert rules to these names.

Labels have few values, all of which the code knows: no product, message or address ever becomes one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from kappamask_stream import __version__
from kappamask_stream.errors import error_kinds
from kappamask_stream.extras import Extra
from kappamask_stream.monitor.batches import ServerBatches
from kappamask_stream.monitor.present import Present
from kappamask_stream.worker.types import JobEnd, Observer, Outcome, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kappamask_stream.extras import TileAnswer
    from kappamask_stream.queues import Message
    from kappamask_stream.result import ProductResult
    from kappamask_stream.worker.types import Job

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
_AGES_S = (1, 5, 15, 30, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 4 * _HOUR, 12 * _HOUR, _DAY, 4 * _DAY)
_PRODUCT_S = (1, 2, 5, 10, 20, 30, _MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR)
_LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_STAGES = ("index", "read", "decode", "cut", "infer", "mosaic", "close")
_MOST_CAUSES = 40
_OTHER = "other"


class Metrics(Observer):
    """What a worker has done since it began, and what it does now, in a registry of its own.

    Parameters
    ----------
    model : name of the model, as the worker was told.

    State: `registry` and the counters in it; `batches` and `present`, which are read at each scrape; the causes of
    retries, and the parts of readiness, that were told.
    """

    def __init__(self, *, model: str, clock: Callable[[], float] = time.time) -> None:
        # They would double the series, and nobody asks when a counter was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.batches, self.present = ServerBatches(), Present()
        self._clock = clock
        self._kinds, self._causes, self._parts = error_kinds(), set[str](), set[str]()
        self._make_counters()
        self._make_distributions()
        self._ready = self._gauge("ready", "1 where a part answers that work needs, else 0.", "part")
        self._gauge("build_info", "1; the labels say what runs.", "version", "model").labels(__version__, model).set(1)
        self.registry.register(self.batches)
        self.registry.register(self.present)
        ProcessCollector(registry=self.registry)

    def _make_counters(self) -> None:
        self._messages = self._counter("messages", "Messages by what became of them.", "outcome")
        self._redeliveries = self._counter("redeliveries", "Messages received that had been received before.")
        self._products = self._counter("products", "Products by how they ended.", "status")
        self._failures = self._counter("product_failures", "Products that failed, by class of the error.", "error")
        self._tiles = self._counter("tiles", "Tiles answered: sent to the server, or empty and not sent.", "kind")
        self._read = self._counter("read_bytes", "Bytes of band files read for finished products.")
        self._stages = self._counter(
            "stage_seconds", "Seconds that stages of finished products were busy, over all threads.", "stage"
        )
        self._retries = self._counter("retries", "Requests that were sent again, by cause.", "cause")
        # What can be counted is there from the beginning: rates need a zero to start from.
        for outcome in get_args(Outcome):
            self._messages.labels(outcome)
        for status in ("done", "found", "failed", "stopped"):
            self._products.labels(status)
        for stage in _STAGES:
            self._stages.labels(stage)
        self._inferred, self._empty = self._tiles.labels("inferred"), self._tiles.labels("empty")

    def _make_distributions(self) -> None:
        self._ages = self._histogram(
            "message_age_seconds", "From sending a message to receiving it for the first time.", _AGES_S
        )
        self._seconds = self._histogram("product_seconds", "From a product's begin to its durable mask.", _PRODUCT_S)
        self._lags = self._histogram(
            "event_loop_lag_seconds", "How late the event loop calls what is due, sampled each 50 ms.", _LAGS_S
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"kappamask_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"kappamask_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"kappamask_{name}", text, buckets=buckets, registry=self.registry)

    def message_taken(self, message: Message) -> None:
        """Count a message, and how long it had waited."""
        if message.sent_at and message.received == 1:  # a retry's wait is of our making
            self._ages.observe(max(0.0, self._clock() - message.sent_at))
        if message.received > 1:
            self._redeliveries.inc()

    def message_ended(self, message: Message, outcome: Outcome, reason: str | None, seconds: float) -> None:  # noqa: ARG002
        """Count what became of a message."""
        self._messages.labels(outcome).inc()

    def job_started(self, job: Job) -> Sequence[Extra]:
        """Follow a product's progress, and its tiles."""
        self.present.began(job)
        return (_TileCount(self._inferred, self._empty),)

    def job_ended(self, job: Job, end: JobEnd) -> None:
        """Count how a product ended, and what it took."""
        self.present.ended(job)
        self._products.labels(end.status).inc()
        if end.error is not None:
            kind = type(end.error).__name__
            self._failures.labels(kind if kind in self._kinds else _OTHER).inc()
        if end.status == "done":
            self._seconds.observe(end.seconds)
        if end.result is not None:
            self._count_work(end.result)

    def _count_work(self, result: ProductResult) -> None:
        self._read.inc(result.bytes_read)
        for stage, seconds in result.stages.items():
            self._stages.labels(stage if stage in _STAGES else _OTHER).inc(max(0.0, seconds))

    def retried(self, cause: str, text: str) -> None:  # noqa: ARG002 - texts are the log's business
        """Count a request that is sent again."""
        if len(self._causes) < _MOST_CAUSES:
            self._causes.add(cause)
        self._retries.labels(cause if cause in self._causes else _OTHER).inc()

    def state_changed(self, state: WorkerState) -> None:
        """Remember what the worker does now."""
        self.present.changed(state)

    def lagged(self, seconds: float) -> None:
        """Take a sample of the event loop's lag."""
        self._lags.observe(seconds)

    def answered(self, parts: Mapping[str, str | None]) -> None:
        """Take an answer of the probe; a part that it does not speak of is none."""
        for part in self._parts - set(parts):
            self._ready.remove(part)
        self._parts = set(parts)
        for part, why in parts.items():
            self._ready.labels(part).set(why is None)


class _TileCount(Extra):
    """Counts tiles as they are answered, not when their product ends: a rate over minutes would jump."""

    def __init__(self, inferred: Counter, empty: Counter) -> None:
        self._inferred, self._empty = inferred, empty

    async def add_tile(self, answer: TileAnswer) -> None:
        (self._empty if answer.labels is None else self._inferred).inc()
