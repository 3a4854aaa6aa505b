"""``bench compare``: what changed, what is noise, what may not be compared, and when CI is stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import typer

from kappamask_stream import cli
from kappamask_stream.bench.compare import compare, figures_of
from kappamask_stream.bench.document import to_json
from kappamask_stream.bench.types import Latency
from kappamask_stream.errors import InputError
from tests.unit.bench_reports import (
    ENVIRONMENT,
    SETTINGS,
    client_level,
    end_to_end_level,
    point,
    report,
    server_level,
    with_gpu,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.bench.compare import Compared
    from kappamask_stream.bench.types import BenchReport

NO_TIME = Latency(p50_s=0.0, p95_s=0.0, p99_s=0.0)
Ended = tuple[int, str, str]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Write two reports and compare them with the command; returns exit code, stdout, stderr."""

    def run(before: BenchReport, after: BenchReport, *options: str) -> Ended:
        names = []
        for name, made in (("a.json", before), ("b.json", after)):
            (tmp_path / name).write_text(to_json(made))
            names.append(str(tmp_path / name))
        code = 0
        try:
            ended = cli.build_app()(
                ["bench", "compare", *names, *options], prog_name="kappamask-stream", standalone_mode=False
            )
            code = ended or 0
        except typer.Exit as exit_:
            code = exit_.exit_code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def one(before: BenchReport, after: BenchReport, level: str, name: str, **how: float) -> Compared:
    (found,) = [f for f in compare(before, after, **how).figures if (f.figure.level, f.figure.name) == (level, name)]
    return found


def with_client(cpu_s: float) -> BenchReport:
    return report(client=client_level(cpu_s=cpu_s))


@pytest.mark.parametrize(
    ("cpu_s", "verdict", "worse_by"),
    [(80.0, "same", 0.0), (83.9, "same", 3.9 / 80), (88.0, "worse", 0.1), (72.0, "better", 0.0)],
)
def test_less_time_is_better_and_a_little_is_noise(cpu_s: float, verdict: str, worse_by: float) -> None:
    found = one(with_client(80.0), with_client(cpu_s), "client", "CPU of a product")
    assert (found.before, found.after, found.verdict) == (80.0, cpu_s, verdict)
    assert found.change == pytest.approx(cpu_s / 80 - 1)
    assert found.worse_by == pytest.approx(worse_by)


def test_more_throughput_is_better() -> None:
    fewer = report(end_to_end=end_to_end_level(wall_s=100.0))
    assert one(report(), fewer, "end-to-end", "products an hour").verdict == "worse"
    assert one(report(), fewer, "end-to-end", "products an hour").worse_by == pytest.approx(0.2)
    assert one(fewer, report(), "end-to-end", "products an hour").verdict == "better"


def test_the_ends_of_distributions_have_twice_the_noise() -> None:
    changed = point(32, latency=replace(point().latency, p50_s=0.043, p99_s=0.086))
    after = report(server=server_level(changed))
    assert one(report(), after, "server", "latency p50 at 32 in flight").verdict == "worse"
    assert one(report(), after, "server", "latency p99 at 32 in flight").verdict == "same"
    assert one(report(), after, "server", "latency p99 at 32 in flight", noise=0.03).verdict == "worse"


def test_points_are_compared_at_the_same_concurrency() -> None:
    found = compare(
        report(server=server_level(point(1, 90), point(2, 150))), report(server=server_level(point(2, 150)))
    )
    states = {f.figure.name: f.verdict for f in found.figures if f.figure.name.startswith("tiles/s")}
    assert states == {"tiles/s at 1 in flight": "gone", "tiles/s at 2 in flight": "same"}
    assert found.gone == []


def test_a_figure_that_was_nothing_has_no_change() -> None:
    before, after = (report(end_to_end=end_to_end_level(lag_p99_s=lag)) for lag in (0.0, 0.5))
    found = one(before, after, "end-to-end", "event loop late, p99")
    assert (found.change, found.verdict, found.worse_by) == (None, "worse", math.inf)
    assert one(before, before, "end-to-end", "event loop late, p99").verdict == "same"


def test_from_0_to_more_of_what_should_be_high_is_better() -> None:
    before, after = (report(server=server_level(point(1, latency=latency))) for latency in (NO_TIME, point().latency))
    assert one(before, after, "server", "latency p50 at 1 in flight").verdict == "worse"
    assert [f.figure.name for f in compare(before, after).worse_than(1e9)] == [
        "latency p50 at 1 in flight", "latency p99 at 1 in flight",
    ]  # fmt: skip


def test_unknown_memory_is_no_figure() -> None:
    unknown = report(client=client_level(peak_rss_bytes=None), end_to_end=end_to_end_level(peak_rss_bytes=None))
    assert one(unknown, report(), "client", "peak memory").verdict == "new"
    assert not [f for f in figures_of(unknown) if f.name == "peak memory"]


def test_a_ratio_is_neither_better_nor_worse_where_its_floor_moved(run: Callable[..., Ended]) -> None:
    """Decoding became a quarter cheaper, and so did the client by the same seconds: its ratio is higher all the same."""
    floor = replace(client_level().floor, cpu_s=55.5)
    after = report(client=client_level(cpu_s=61.5, floor=floor))
    found = one(report(), after, "client", "CPU / decode floor")
    assert (found.verdict, found.worse_by) == ("floor moved", 0.0)
    assert found.change == pytest.approx(61.5 / 55.5 / (80 / 74) - 1)
    assert one(report(), after, "end-to-end", "wall time / floor").verdict == "floor moved"
    assert run(report(), after, "--fail-above", "1")[0] == 0
    elsewhere = replace(after, environment=replace(ENVIRONMENT, cpu="Another one"))
    assert one(report(), elsewhere, "client", "CPU / decode floor", noise=0.01).verdict == "worse", "ratios carry over"


def test_where_a_gpu_decodes_there_is_no_ratio_of_cpu_seconds() -> None:
    made = report(settings=replace(SETTINGS, decoder="gpu"))
    assert not [f for f in figures_of(made) if f.name == "CPU / decode floor"]


def test_a_point_that_is_missing_fails(run: Callable[..., Ended]) -> None:
    before = report(server=server_level(point(1, 90.0), point(4, 300.0), point(8, 299.0)))
    after = report(server=server_level(point(1, 90.0), point(4, 300.0)))
    code, page, err = run(before, after, "--fail-above", "5")
    assert code == 1
    assert err.startswith("not measured any more: server: tiles/s at 8 in flight, server: latency p50 at 8 in flight")
    assert err.count("\n") == 1
    assert "gone" in page
    assert run(before, after)[0] == 0
    assert run(after, before, "--fail-above", "5")[0] == 0


def test_what_fails_and_did_not_before_fails(run: Callable[..., Ended]) -> None:
    few = report(server=server_level(failures=("32 in flight: 3 requests failed: too\nslow",)))
    code, _, err = run(report(), few, "--fail-above", "5")
    assert (code, err) == (1, "failed, and did not before: 32 in flight: 3 requests failed: too slow\n")
    more = report(server=server_level(failures=("32 in flight: 4 requests failed: too slow",)))
    assert run(few, more, "--fail-above", "5")[0] == 0, "it did before"
    broken = report(server=server_level(broken_off="the server ended"))
    code, _, err = run(report(), broken, "--fail-above", "5")
    assert code == 1
    assert "not measured any more: server: most tiles/s" in err
    assert "failed, and did not before: broke off: the server ended" in err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "csmask_l2a"}, "model: kappamask_l2a_deeplabv3plus and csmask_l2a"),
        ({"product": "other"}, "and other"),
        ({"server": server_level(transport="shared memory")}, "transport: gRPC and shared memory"),
        ({"settings": replace(SETTINGS, decoder="gpu")}, "decoder: cpu and gpu"),
        ({"settings": replace(SETTINGS, rounds=3)}, "rounds: 1 and 3"),
        ({"settings": replace(SETTINGS, duration_s=1.0)}, "duration, s: 10.0 and 1.0"),
        ({"settings": replace(SETTINGS, radiometry="km_predict")}, "radiometry: corrected and km_predict"),
        ({"client": client_level(floor=replace(client_level().floor, threads=1))}, "decode threads: 8 and 1"),
        ({"client": client_level(budget_bytes=10**10)}, "budget, bytes: 469762048 and 10000000000"),
        ({"end_to_end": end_to_end_level(window=1)}, "window of requests: 32 and 1"),
    ],
)
def test_nothing_passes_that_was_measured_otherwise(
    changes: dict[str, Any], says: str, run: Callable[..., Ended]
) -> None:
    before = report(settings=SETTINGS)
    after = replace(before, **changes)
    code, page, err = run(before, after, "--fail-above", "1000")
    assert code == 1
    assert err.startswith("nothing can be concluded, these differ: ")
    assert says in err
    assert says in page
    assert run(before, after)[0] == 0
    assert json.loads(run(before, after, "--json")[1])["unlike"]


def test_another_machine_or_version_is_told_and_passes(run: Callable[..., Ended]) -> None:
    after = report(environment=replace(ENVIRONMENT, cpu="Another one", versions={"python": "3.12.1"}))
    assert run(report(), after, "--fail-above", "5")[0] == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "csmask_l2a"}, "model: kappamask_l2a_deeplabv3plus and csmask_l2a"),
        ({"product": "other"}, "and other"),
        ({"product_tiles_inferred": 300}, "tiles with data: 328 and 300"),
        ({"local_server": True}, "server on the client's machine: no and yes"),
        ({"environment": replace(ENVIRONMENT, cpu=None)}, "processor: A processor and unknown"),
        ({"environment": replace(ENVIRONMENT, cores=16)}, "cores: 8 and 16"),
        ({"environment": replace(ENVIRONMENT, gpu="A GPU")}, "GPU: unknown and A GPU"),
        ({"environment": replace(ENVIRONMENT, versions={"python": "3.12.1"})}, "version of python: 3.11.9 and 3.12.1"),
        ({"server": server_level(transport="shared memory")}, "transport: gRPC and shared memory"),
        ({"end_to_end": end_to_end_level(products_at_once=3)}, "products at once: 2 and 3"),
    ],
)
def test_what_is_not_the_same_is_told(changes: dict[str, Any], says: str, run: Callable[..., Ended]) -> None:
    code, page, _ = run(report(), report(**changes))
    assert code == 0
    assert "ratios carry over from machine to machine, times do not" in page
    assert says in page


def test_another_commit_is_what_is_compared_and_no_difference(run: Callable[..., Ended]) -> None:
    after = report(environment=replace(ENVIRONMENT, commit="f" * 40, time="2026-12-01T00:00:00Z"))
    _, page, _ = run(report(), after)
    assert "Not the same" not in page
    assert page.splitlines()[:2] == [
        "A 2026-11-26T12:00:00Z  0123456789ab+  kappamask_l2a_deeplabv3plus",
        "B 2026-12-01T00:00:00Z  ffffffffffff  kappamask_l2a_deeplabv3plus",
    ]


def test_the_page_marks_what_changed_and_says_what_noise_is(run: Callable[..., Ended]) -> None:
    code, page, err = run(with_client(80.0), with_client(100.0))
    assert (code, err) == (0, "")
    lines = page.splitlines()
    (line,) = [line for line in lines if line.startswith("CPU / decode floor")]
    assert line.split() == ["CPU", "/", "decode", "floor", "1.08", "1.35", "+25.0", "%", "worse"]
    assert lines[-1] == "Up to 5 % (10 % for p99 and the time to write) is taken for noise."
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(("above", "code"), [("30", 0), ("24.9", 1), ("0", 1)])
def test_fail_above_ends_with_1_when_it_got_worse_by_more(above: str, code: int, run: Callable[..., Ended]) -> None:
    ended, _, err = run(with_client(80.0), with_client(100.0), "--fail-above", above)
    assert ended == code
    assert ("client: CPU of a product" in err) == bool(code)
    assert err.count("\n") == code


def test_fail_above_looks_at_throughput_cpu_latency_and_memory_only(run: Callable[..., Ended]) -> None:
    after = report(
        client=client_level(floor=replace(client_level().floor, cpu_s=73.0), lag_p99_s=0.5),
        end_to_end=end_to_end_level(write_s=5.0, lag_p99_s=0.5),
    )
    assert run(report(), after, "--fail-above", "5")[0] == 0
    memory = report(client=client_level(peak_rss_bytes=700_000_000))
    assert run(report(), memory, "--fail-above", "5")[0] == 1


def test_a_level_that_is_not_measured_any_more_fails_too(run: Callable[..., Ended]) -> None:
    code, page, err = run(report(), report(server=None), "--fail-above", "5")
    assert (code, err) == (1, "not measured any more: server\n")
    assert "gone" in page
    assert run(report(), report(server=None))[0] == 0
    assert run(report(server=None), report(), "--fail-above", "5")[0] == 0


def test_files_without_a_figure_in_common_are_refused(run: Callable[..., Ended]) -> None:
    with pytest.raises(InputError, match="no figure in common: they measured different levels"):
        run(report(server=None, end_to_end=None), report(client=None, end_to_end=None))


def test_json_holds_everything_unrounded(run: Callable[..., Ended]) -> None:
    _, out, _ = run(with_client(80.0), with_client(100 / 3), "--json")
    said = json.loads(out)
    assert (said["schema"], said["version"], said["noise"]) == ("kappamask-stream/bench-comparison", 1, 0.05)
    (figure,) = [f for f in said["figures"] if (f["level"], f["name"]) == ("client", "CPU of a product")]
    assert figure == {
        "level": "client", "name": "CPU of a product", "unit": "s", "better": "lower", "before": 80.0, "after": 100 / 3,
        "change": pytest.approx(100 / 3 / 80 - 1), "verdict": "better", "too_much_worse": False,
    }  # fmt: skip


def test_figures_have_names_of_their_own() -> None:
    names = [(figure.level, figure.name) for figure in figures_of(with_gpu(report()))]
    assert len(names) == len(set(names)) > 20
