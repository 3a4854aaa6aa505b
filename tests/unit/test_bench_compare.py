"""``bench compare``: what changed, what is noise, what may not be compared, and when CI is stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import typer

from kappamask_stream import cli
from kappamask_stream.bench.compare import compare, figures_of
from kappamask_stream.bench.document import to_json
from kappamask_stream.errors import InputError
from tests.unit.bench_reports import ENVIRONMENT, client_level, end_to_end_level, point, report, server_level, with_gpu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.bench.compare import Compared
    from kappamask_stream.bench.types import BenchReport

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
    changed = point(16, latency=replace(point().latency, p50_s=0.043, p99_s=0.086))
    after = report(server=server_level(changed))
    assert one(report(), after, "server", "latency p50 at 16 in flight").verdict == "worse"
    assert one(report(), after, "server", "latency p99 at 16 in flight").verdict == "same"
    assert one(report(), after, "server", "latency p99 at 16 in flight", noise=0.03).verdict == "worse"


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
    assert (found.change, found.verdict, found.worse_by) == (None, "same", 0.0)


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
