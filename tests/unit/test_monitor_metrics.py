"""What Prometheus reads: exact values after known events, names as they are documented, few labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kappamask_stream import __version__
from kappamask_stream.errors import KappaMaskError, ProductError, ServerUnavailableError, StoreUnavailableError
from kappamask_stream.extras import TileAnswer
from kappamask_stream.grid import TileGrid
from kappamask_stream.inference import BatchSizes
from kappamask_stream.monitor.batches import ServerBatches
from kappamask_stream.monitor.loop_lag import samples
from kappamask_stream.monitor.metrics import Metrics
from kappamask_stream.monitor.present import Present
from kappamask_stream.worker.types import JobEnd, WorkerState
from tests.unit.monitor_scene import busy_metrics, done, job_of, make_message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.contract import ModelContract

DOCS = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(model="csmask", clock=lambda: 1000.0)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_messages_are_counted_by_what_became_of_them(metrics: Metrics) -> None:
    for outcome in ("done", "done", "poison", "lost"):
        metrics.message_ended(make_message(), outcome, None, 1.0)  # type: ignore[arg-type]
    found = {o: value(metrics, "kappamask_messages_total", outcome=o) for o in ("done", "poison", "lost", "retry")}
    assert found == {"done": 2.0, "poison": 1.0, "lost": 1.0, "retry": 0.0}


def test_the_age_of_a_message_is_measured_when_it_is_received(metrics: Metrics) -> None:
    metrics.message_taken(make_message(sent_at=910.0))
    metrics.message_taken(make_message(sent_at=1003.0))  # the queue's clock is ahead
    metrics.message_taken(make_message(sent_at=10.0, received=2))  # it has waited for its retry
    metrics.message_taken(make_message(sent_at=0.0))  # not told
    assert value(metrics, "kappamask_message_age_seconds_count") == 2.0
    assert value(metrics, "kappamask_message_age_seconds_sum") == 90.0
    assert value(metrics, "kappamask_message_age_seconds_bucket", le="60.0") == 1.0
    assert value(metrics, "kappamask_message_age_seconds_bucket", le="300.0") == 2.0
    assert value(metrics, "kappamask_redeliveries_total") == 1.0


def test_products_are_counted_and_failures_by_class(metrics: Metrics) -> None:
    class ForeignError(KappaMaskError):
        pass

    for end in (
        done(30.0, bytes_read=5_000_000, stages={"decode": 4.5, "infer": 20.0, "dream": 1.0}),
        JobEnd(status="found", seconds=0.2, output="s3://b/k"),
        JobEnd(status="failed", seconds=1.0, error=ProductError("broken")),
        JobEnd(status="failed", seconds=1.0, error=StoreUnavailableError("503")),
        JobEnd(status="failed", seconds=1.0, error=ForeignError("?")),
        JobEnd(status="stopped", seconds=1.0),
    ):
        metrics.job_ended(job_of(make_message()), end)
    counts = {s: value(metrics, "kappamask_products_total", status=s) for s in ("done", "found", "failed", "stopped")}
    assert counts == {"done": 1.0, "found": 1.0, "failed": 3.0, "stopped": 1.0}
    errors = ("ProductError", "StoreUnavailableError", "other")
    assert [value(metrics, "kappamask_product_failures_total", error=e) for e in errors] == [1.0, 1.0, 1.0]
    assert value(metrics, "kappamask_product_seconds_count") == 1.0
    assert value(metrics, "kappamask_product_seconds_sum") == 30.0
    assert value(metrics, "kappamask_read_bytes_total") == 5_000_000.0
    stages = ("decode", "infer", "index", "other")
    assert [value(metrics, "kappamask_stage_seconds_total", stage=s) for s in stages] == [4.5, 20.0, 0.0, 1.0]


async def test_tiles_are_counted_as_they_are_answered(metrics: Metrics) -> None:
    (extra,) = metrics.job_started(job_of(make_message()))
    assert not extra.needs_probabilities
    tile = TileGrid(600, 600, 256, 26).tile(0, 0)
    for labels in (np.ones((256, 256), np.uint8), None, None):
        await extra.add_tile(TileAnswer(tile=tile, labels=labels))
    assert value(metrics, "kappamask_tiles_total", kind="inferred") == 1.0
    assert value(metrics, "kappamask_tiles_total", kind="empty") == 2.0


def test_what_is_in_work_is_read_at_each_scrape(metrics: Metrics) -> None:
    one, two = job_of(make_message(1)), job_of(make_message(2))
    for job in (one, two):
        metrics.job_started(job)
    one.progress.tiles_in_flight, two.progress.tiles_in_flight = 7, 5
    one.progress.pixels_read, two.progress.pixels_read = 1_000, 200
    names = ("products_running", "tiles_in_flight", "pixels_total")
    assert [value(metrics, f"kappamask_{name}") for name in names] == [2.0, 12.0, 1_200.0]
    two.progress.pixels_read, one.progress.tiles_in_flight = 900, 0
    metrics.job_ended(one, done())
    metrics.job_ended(one, done())  # told twice: pixels count once
    assert [value(metrics, f"kappamask_{name}") for name in names] == [1.0, 5.0, 1_900.0]


def test_the_workers_state_is_told_and_what_it_does_not_know_is_left_out(metrics: Metrics) -> None:
    assert value(metrics, "kappamask_worker_phase", phase="starting") == 1.0
    assert value(metrics, "kappamask_queue_messages", state="waiting") is None
    assert value(metrics, "kappamask_queue_age_seconds") is None
    assert value(metrics, "kappamask_server_pending_requests") is None
    metrics.state_changed(
        WorkerState(
            phase="taking", slots=4, busy=3, pending=17.0, queue_waiting=1240, queue_in_work=12, queue_age_s=61.5
        )
    )
    assert value(metrics, "kappamask_worker_phase", phase="starting") == 0.0
    assert value(metrics, "kappamask_worker_phase", phase="taking") == 1.0
    assert value(metrics, "kappamask_slots") == 4.0
    assert value(metrics, "kappamask_slots_busy") == 3.0
    assert value(metrics, "kappamask_queue_messages", state="waiting") == 1240.0
    assert value(metrics, "kappamask_queue_messages", state="in_work") == 12.0
    assert value(metrics, "kappamask_queue_age_seconds") == 61.5
    assert value(metrics, "kappamask_server_pending_requests") == 17.0
    metrics.state_changed(WorkerState(phase="taking", queue_waiting=0))  # and of an empty queue nobody knows the age
    assert value(metrics, "kappamask_queue_messages", state="waiting") == 0.0
    assert value(metrics, "kappamask_queue_age_seconds") is None


def test_time_is_counted_by_phase() -> None:
    now = [0.0]
    present = Present(clock=lambda: now[0])

    def seconds() -> dict[str, float]:
        (family,) = [f for f in present.collect() if f.name == "kappamask_phase_seconds"]
        return {sample.labels["phase"]: sample.value for sample in family.samples if sample.value}

    now[0] = 5.0
    present.changed(WorkerState(phase="taking"))
    now[0] = 15.0
    present.changed(WorkerState(phase="paused", reason="full"))
    now[0] = 18.0
    assert seconds() == {"starting": 5.0, "taking": 10.0, "paused": 3.0}
    now[0] = 20.0
    present.changed(WorkerState(phase="taking"))
    now[0] = 21.0
    assert seconds() == {"starting": 5.0, "taking": 11.0, "paused": 5.0}
    (age,) = [f for f in present.collect() if f.name == "kappamask_report_age_seconds"]
    assert age.samples[0].value == 1.0


def test_retries_are_counted_by_cause_and_causes_have_an_end(metrics: Metrics) -> None:
    for _ in range(3):
        metrics.retried("ServerOverloadedError", "tile 7 of S2A_…")
    for number in range(200):
        metrics.retried(f"Cause{number}", "s3://bucket/key")
    assert value(metrics, "kappamask_retries_total", cause="ServerOverloadedError") == 3.0
    (family,) = [f for f in metrics.registry.collect() if f.name == "kappamask_retries"]
    causes = {s.labels["cause"]: s.value for s in family.samples if s.name.endswith("_total")}
    assert len(causes) == 41
    assert sum(causes.values()) == 203.0
    assert causes["other"] == 161.0


def test_parts_that_do_not_answer_are_told(metrics: Metrics) -> None:
    metrics.answered({"triton": None, "queue": "no such queue"})
    assert value(metrics, "kappamask_ready", part="triton") == 1.0
    assert value(metrics, "kappamask_ready", part="queue") == 0.0


def test_part_that_an_answer_does_not_speak_of_is_told_no_longer(metrics: Metrics) -> None:
    """A probe that fails before its first answer is a part of its own."""
    metrics.answered({"probe": "no answer within 8 s"})
    assert value(metrics, "kappamask_ready", part="probe") == 0.0
    metrics.answered({"triton": None, "queue": None})
    assert value(metrics, "kappamask_ready", part="probe") is None
    assert value(metrics, "kappamask_ready", part="triton") == 1.0


def test_what_runs_is_told(metrics: Metrics) -> None:
    assert value(metrics, "kappamask_build_info", version=__version__, model="csmask") == 1.0
    assert (value(metrics, "process_resident_memory_bytes") or 0) > 1e6


def looks(**counts: Mapping[int, int] | None) -> dict[str, BatchSizes]:
    return {m: BatchSizes(counts=c, reason=None if c is not None else "no statistics") for m, c in counts.items()}


def histogram(batches: ServerBatches) -> dict[str, float]:
    (family,) = batches.collect()
    return {
        s.name.removeprefix("kappamask_server_batch_size_") + s.labels.get("le", ""): s.value for s in family.samples
    }


def test_batches_count_from_the_first_look_on() -> None:
    """What the server did before this worker came is no news, whichever model it is of."""
    batches = ServerBatches()
    batches.add(looks(l2a={1: 100, 8: 50}))
    assert histogram(batches)["count"] == 0.0
    batches.add(looks(l2a={1: 101, 8: 53, 3: 2}, l1c={8: 1000}))
    found = histogram(batches)
    assert (found["count"], found["sum"]) == (6.0, 1 + 3 * 8 + 2 * 3)
    assert [found[f"bucket{le}"] for le in ("1.0", "2.0", "4.0", "8.0", "64.0", "+Inf")] == [1, 1, 3, 6, 6, 6]
    batches.add(looks(l2a={1: 101, 8: 53, 3: 2}, l1c={8: 1001, 200: 1}))
    assert histogram(batches)["bucket64.0"] == 7.0
    assert histogram(batches)["bucket+Inf"] == 8.0


def test_a_server_that_was_started_anew_takes_nothing_back() -> None:
    batches = ServerBatches()
    batches.add(looks(m={8: 50}))
    batches.add(looks(m={8: 60}))
    batches.add(looks(m={8: 4}))
    batches.add(looks(m=None))
    batches.add(looks(m={8: 9}))
    assert histogram(batches)["count"] == 15.0


async def test_a_server_that_does_not_answer_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kappamask_stream.monitor.batches._PERIOD_S", 0.0)
    answers: list[Any] = [looks(m={1: 1}), ServerUnavailableError("gone"), looks(m={1: 3}), RuntimeError("enough")]

    async def sample() -> Mapping[str, BatchSizes]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    batches = ServerBatches()
    with pytest.raises(RuntimeError, match="enough"):
        await batches.watch(sample)
    assert histogram(batches)["count"] == 2.0


@pytest.mark.parametrize(
    ("lag", "expected"),
    [(-0.001, [0.0]), (0.0, [0.0]), (0.049, [0.049]), (0.12, [0.12, 0.07, 0.02])],
)
def test_a_long_hold_weighs_as_long_as_it_was(lag: float, expected: list[float]) -> None:
    assert samples(lag) == pytest.approx(expected)


def test_a_night_asleep_is_no_flood_of_samples() -> None:
    assert len(samples(40_000.0)) == 1200


async def test_no_label_holds_a_name_or_an_address(csmask_contract: ModelContract, tmp_path: Path) -> None:
    metrics = await busy_metrics(csmask_contract, tmp_path)
    for family in metrics.registry.collect():
        for sample in family.samples:
            assert not sample.name.endswith("_created")
            for label, text in sample.labels.items():
                assert label in {"outcome", "status", "error", "kind", "stage", "cause", "phase", "state", "part",
                                 "le", "version", "model"}  # fmt: skip
                assert not re.search(r"S2A_|://|message-", text), sample


async def test_every_name_is_documented_and_every_documented_name_is_there(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    metrics = await busy_metrics(csmask_contract, tmp_path)
    there = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.registry.collect()
        if family.name.startswith("kappamask_")
    }
    documented = set(re.findall(r"^\| `(kappamask_\w+)` \|", DOCS.read_text(), re.MULTILINE))
    assert documented == there
