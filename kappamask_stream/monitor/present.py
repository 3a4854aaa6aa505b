"""What a worker does at the moment of a scrape: read then, not kept up to date."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from kappamask_stream.worker.types import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from kappamask_stream.worker.types import Job

_PHASES = ("starting", "taking", "paused", "draining", "ended")


class Present(Collector):
    """The running jobs and the worker's last word.

    State: the jobs; pixels of those that are over; the last state, when it came, and seconds per phase before it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._pixels = 0
        self._state = WorkerState(phase="starting")
        self._said_at = self._since = clock()
        self._phases = dict.fromkeys(_PHASES, 0.0)

    @property
    def state(self) -> WorkerState:
        """The worker's last word."""
        return self._state

    def began(self, job: Job) -> None:
        """Look at a job from now on."""
        self._jobs[job.id] = job

    def ended(self, job: Job) -> None:
        """Look at it no more; what it has read stays counted."""
        if self._jobs.pop(job.id, None) is not None:
            self._pixels += job.progress.pixels_read

    def changed(self, state: WorkerState) -> None:
        """Take the worker's word."""
        self._add_phase()
        self._state, self._said_at = state, self._clock()

    def _add_phase(self) -> None:
        now = self._clock()
        self._phases[self._state.phase] += now - self._since
        self._since = now

    def collect(self) -> Iterable[Metric]:
        """Return what is now; what nobody knows is left out, a zero would be a lie."""
        self._add_phase()
        jobs, state = list(self._jobs.values()), self._state
        yield _gauge("products_running", "Products in work.", len(jobs))
        yield _gauge(
            "tiles_in_flight",
            "Tiles that are cut and not yet in a mosaic.",
            sum(j.progress.tiles_in_flight for j in jobs),
        )
        pixels = self._pixels + sum(j.progress.pixels_read for j in jobs)
        yield CounterMetricFamily("kappamask_pixels", "Pixels of masks whose tiles were read.", value=pixels)
        yield _gauge("slots", "Messages that may be in work at once.", state.slots)
        yield _gauge("slots_busy", "Messages in work.", state.busy)
        yield _gauge("report_age_seconds", "Since the worker last told its state.", self._clock() - self._said_at)
        yield from self._phase_families()
        yield from _known(state)

    def _phase_families(self) -> Iterable[Metric]:
        now = GaugeMetricFamily("kappamask_worker_phase", "1 for what the worker does, else 0.", labels=["phase"])
        spent = CounterMetricFamily("kappamask_phase_seconds", "Seconds spent in each phase.", labels=["phase"])
        for phase, seconds in self._phases.items():
            now.add_metric([phase], float(phase == self._state.phase))
            spent.add_metric([phase], seconds)
        return now, spent


def _known(state: WorkerState) -> Iterable[Metric]:
    messages = GaugeMetricFamily(
        "kappamask_queue_messages", "Messages of the queue, by its own count.", labels=["state"]
    )
    for name, count in (("waiting", state.queue_waiting), ("in_work", state.queue_in_work)):
        if count is not None:
            messages.add_metric([name], count)
    yield messages
    if state.queue_age_s is not None:
        text = "How long the message that was last received for the first time had waited; while messages wait."
        yield _gauge("queue_age_seconds", text, max(0.0, state.queue_age_s))
    if state.pending is not None:
        yield _gauge("server_pending_requests", "Requests pending in the inference server.", state.pending)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"kappamask_{name}", text, value=value)
