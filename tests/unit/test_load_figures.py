"""What `make load` makes of its samples: slopes with their errors, fairness, and what counts as a fault."""

from __future__ import annotations

import math
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = Path(__file__).parents[2] / "benchmarks" / "load"
load = SimpleNamespace(**runpy.run_path(str(FOLDER / "figures.py")))
WELL: dict[str, Any] = {
    "failures": (), "memory_mb": {}, "counted": {}, "rates": [1.0, 1.2], "pending": [90.0, 120.0],
    "least_pending": 8, "refused": 1, "latencies_s": {"interactive": [0.5, 0.6, 9.0], "backlog": [8.0, 9.0]},
}  # fmt: skip


def samples(values: Sequence[float], each_s: float = 2.0) -> list[tuple[float, float]]:
    return [(1000.0 + each_s * number, value) for number, value in enumerate(values)]


@given(slope=st.floats(-1e4, 1e4), start=st.floats(0, 1e5), count=st.integers(3, 200), each_s=st.floats(0.5, 60))
def test_a_line_has_its_slope_and_no_error(slope: float, start: float, count: int, each_s: float) -> None:
    found = load.Trend.of([(77.0 + n * each_s, start + slope * n * each_s / 3600) for n in range(count)])
    hours = (count - 1) * each_s / 3600
    assert found.per_hour == pytest.approx(slope, abs=1e-4 * (1 + start) / hours)
    assert found.error <= 1e-4 * (1 + start) / hours


def test_the_error_is_that_of_numpys_fit() -> None:
    rng = np.random.default_rng(4)
    values = 200 + 0.01 * np.arange(300) + rng.normal(0, 2, 300)
    found = load.Trend.of(samples(values.tolist()))
    hours = np.arange(300) * 2.0 / 3600
    (slope, _), covariance = np.polyfit(hours, values, 1, cov=True)
    assert found.per_hour == pytest.approx(slope)
    assert found.error == pytest.approx(math.sqrt(covariance[0, 0]))
    assert found.mean == pytest.approx(values.mean())


@pytest.mark.parametrize(
    ("per_hour", "hours", "mean", "grows"),
    [(60.0, 0.5, 100.0, True), (6.0, 0.5, 100.0, False), (-500.0, 0.5, 100.0, False), (60.0, 0.5, 2000.0, False)],
)
def test_growth_is_what_is_gained_in_the_time(*, per_hour: float, hours: float, mean: float, grows: bool) -> None:
    count = 100
    values = [mean + per_hour * hours * number / (count - 1) for number in range(count)]
    assert load.Trend.of(samples(values, 3600 * hours / (count - 1))).grows(0.02, 3.0) is grows


def test_a_heap_that_is_trimmed_and_fills_again_is_no_growth() -> None:
    """As of a client that fell from 180 to 158 MB in the middle of half an hour: a slope of 22 MB/h up to there."""
    fills = [180.0] * 100 + [158.0 + number / 10 for number in range(150)]
    found = load.Trend.of(samples(fills[60:]))
    assert not found.grows(0.02, 3.0)
    assert load.Trend.of(samples([158.0] * 75 + fills[100:])).grows(0.02, 3.0)


def test_noise_is_no_growth() -> None:
    """A short run's slope may be anything; its error says so."""
    values = [100.0, 140.0, 95.0, 138.0, 141.0, 97.0, 100.0, 139.0]
    found = load.Trend.of(samples(values))
    assert found.per_hour > 1000
    assert not found.grows(0.02, 3.0)


def test_a_rate_is_of_the_interval_only() -> None:
    counts = [(0.0, 0.0), (10.0, 5.0), (20.0, 25.0), (30.0, 26.0)]
    assert load.rate(counts, 10.0, 20.0) == 2.0
    assert load.rate(counts, 11.0, 29.0) == 0.0  # one look says nothing


def test_fairness_counts_who_gets_nothing() -> None:
    assert load.unfairness([2.0, 3.0, 2.5]) == 1.5
    assert load.unfairness([2.0, 0.0]) == math.inf


def test_what_is_well_has_no_faults() -> None:
    assert load.faults(**WELL) == []
    assert load.lead(WELL["latencies_s"]) == pytest.approx(8.5 / 0.6)


def test_files_that_come_and_go_are_no_growth() -> None:
    """As of a client that had five more regions of shared memory for some minutes, and gave them back."""
    assert load.faults(**WELL | {"counted": {"files of tiles 5": samples([51, 50, 51, 51, 53, 56, 56, 51])}}) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"failures": ["tiles 3: InferenceError: no"]}, "tiles 3: InferenceError: no"),
        (
            {"memory_mb": {"rss_mb of server": load.Trend(per_hour=90.0, error=1.0, mean=400.0, rise=9.0)}},
            "rss_mb of server grows: 9.0 MB more at the most, 90.0 MB/h",
        ),
        ({"counted": {"files of tiles 1": samples([30, 33, 31, 30, 36, 37, 38, 38])}}, "files of tiles 1: 8 more"),
        ({"rates": [1.0, 1.51]}, "the quickest client got 1.51 times what the slowest got"),
        ({"pending": [120.0, 7.0, 110.0]}, "the queue ran low: 7 requests waited, 8 are the next batches"),
        ({"refused": 0}, "the queue was never full: no request was refused, at most 120 waited"),
        ({"latencies_s": {"interactive": [3.0], "backlog": [8.0]}}, "waited 2.7 times as long"),
        ({"latencies_s": {"interactive": [3.0], "backlog": []}}, "no tile was answered in one of the lanes"),
    ],
)
def test_each_criterion_is_a_fault_of_its_own(change: dict[str, Any], says: str) -> None:
    (found,) = load.faults(**WELL | change)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(found)


@pytest.mark.parametrize(("tiles_per_s", "fits"), [(2.0, False), (2.26, False), (2.27, True), (50.0, True)])
def test_a_machine_whose_full_queue_outlasts_a_clients_patience_is_too_slow(*, tiles_per_s: float, fits: bool) -> None:
    said = load.too_slow(tiles_per_s, 272, 120.0)
    assert (said is None) is fits
    assert fits or f"answers {tiles_per_s:.2f} tiles/s" in said
    assert fits or "at least 2.27 tiles/s are needed" in said


@pytest.fixture(scope="module")
def report() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield SimpleNamespace(**runpy.run_path(str(FOLDER / "report.py")))
        sys.modules.pop("figures")


WHO = ("tiles 1", "tiles 2", "products", "probe, interactive", "probe, backlog")


def seen(*, seconds: int, looks: int | None = None) -> dict[str, Any]:
    """Return what `run.py` sees of a run in which all is well, a look a second."""
    values = {(what, who): 90.0 for what in ("rss_mb", "shared_mb", "files", "threads") for who in (*WHO, "server")}
    ends = {"retries": {"ServerOverloadedError": 3}, "failures": []}
    counts = [{"at": 100.0 + at, "answered": 5 * at} for at in range(seconds)]
    fewer = [line | {"answered": line["answered"] // 2} for line in counts]
    probes = [[{"at": 100.0 + at, "latency_s": latency_s} for at in range(seconds)] for latency_s in (1.0, 20.0)]
    return {
        "began": 100.0, "ended": 100.0 + seconds, "failures": [],
        "looks": [(100.0 + at, values | {("pending", "server"): 250.0}) for at in range(seconds)][:looks],
        "said": dict(zip(WHO, ([*lines, ends] for lines in (counts, counts, fewer, *probes)), strict=True)),
    }  # fmt: skip


def test_a_run_in_which_all_is_well_is_shown_whole(report: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    figures = report.judged(seen(seconds=60), [])
    assert (figures["faults"], figures["tiles_per_s"], figures["lead"]) == ([], pytest.approx(12.5, rel=0.02), 20.0)
    report.show(figures)
    shown = capsys.readouterr().out
    assert "3 ServerOverloadedError" in shown
    assert "250 to 250 requests waited" in shown
    assert "fault" not in shown


def test_a_client_that_stands_still_is_a_fault_though_it_is_not_compared(report: SimpleNamespace) -> None:
    stands = seen(seconds=60)
    stands["said"]["products"] = [{"at": 100.0 + at, "answered": 216} for at in range(60)] + [{"failures": []}]
    assert report.judged(stands, [])["faults"] == ["products: no tile was answered"]


@pytest.mark.parametrize("looks", [0, 1, 22])
def test_a_client_that_fails_early_is_said_and_nothing_else(
    report: SimpleNamespace, capsys: pytest.CaptureFixture[str], looks: int
) -> None:
    """Before the first look, and before there are enough for a trend."""
    early = seen(seconds=40, looks=looks)
    early["said"]["tiles 2"] = [{"retries": {}, "failures": ["InferenceError: no"]}]
    early["said"]["probe, backlog"] = []
    report.show(report.judged(early, ["2 processes of the server were left"]))
    assert capsys.readouterr().out.splitlines() == [
        "fault: tiles 2: InferenceError: no",
        "fault: probe, backlog: it was killed",
        "fault: 2 processes of the server were left",
    ]


def test_a_run_that_ends_in_its_warm_up_is_said_to_be_too_short(report: SimpleNamespace) -> None:
    assert report.judged(seen(seconds=15), [])["faults"] == [
        "0 looks after the warm-up, 3 are needed: give it more --minutes"
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--minutes", "0.5"], "--minutes is 0.5: 1 to 30 are taken, of which 20 s are the warm-up"),
        (["--minutes", "31"], "--minutes is 31: 1 to 30 are taken"),
        (["--clients", "2"], "--clients is 2: 3 or more are needed"),
    ],
)
def test_options_that_cannot_be_are_refused(options: list[str], says: str) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), *options]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"run.py: error: {says}")
