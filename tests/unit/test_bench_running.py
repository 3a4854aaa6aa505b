"""One run of all levels: what stands, and what it says, where a part of a level fails."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kappamask_stream.bench import running
from kappamask_stream.bench.apart import Ended
from kappamask_stream.bench.client_level import ClientRun, _level
from kappamask_stream.bench.document import from_document
from kappamask_stream.bench.lag import Lag
from kappamask_stream.bench.types import BenchSettings
from kappamask_stream.errors import OutputError
from kappamask_stream.result import ProductResult
from kappamask_stream.settings import Settings
from tests.stream.scene import coarse_l2a
from tests.unit.bench_reports import client_level, point, server_level
from tests.unit.test_bench_command import levels, product
from tests.unit.test_cli import Ended as EndedCommand
from tests.unit.test_cli import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from kappamask_stream.bench.types import BenchReport

__all__ = ["coarse_l2a", "command", "levels", "product"]

BROKEN = "4 in flight: no server answers at grpc://127.0.0.1:1"


def benched(
    command: Callable[..., EndedCommand], product: Path, tmp_path: Path, *options: object
) -> tuple[EndedCommand, BenchReport]:
    path = tmp_path / "a.json"
    ended = command("bench", "--product", product, "--model", "test_l2a", "--json", path, *options)
    return ended, from_document(json.loads(path.read_bytes()), "a.json")


def test_a_sweep_that_broke_off_is_a_failure_and_its_points_are_kept(
    product: Path, command: Callable[..., EndedCommand], levels: dict[str, Any], tmp_path: Path
) -> None:
    levels["server"] = server_level(point(2, 90.0), failures=(BROKEN,), broken_off=BROKEN)
    data = tmp_path / "tiles.json"
    ended, made = benched(command, product, tmp_path, "--perf-analyzer", data)
    assert ended.code == 4
    assert ended.err.splitlines()[-1] == f"error: the server's level broke off: {BROKEN}"
    assert made.server == levels["server"]
    assert made.end_to_end == levels["end_to_end"], "the levels after it are measured"
    assert made.notes[0] == f"the server's level broke off: {BROKEN}"
    assert sum(BROKEN in note for note in made.notes) == 1
    assert any(note.startswith("tiles for perf_analyzer were not written: ") for note in made.notes)
    assert not data.exists()
    assert "perf_analyzer -m" not in ended.err


def test_a_file_for_perf_analyzer_that_fails_costs_no_figures(
    product: Path, command: Callable[..., EndedCommand], levels: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def full(*_: object) -> int:
        raise OutputError("cannot write tiles.json: No space left on device")

    monkeypatch.setattr(running, "write_perf_analyzer_data", full)
    ended, made = benched(command, product, tmp_path, "--perf-analyzer", tmp_path / "tiles.json")
    assert ended.code == 5
    assert ended.err.splitlines()[-1] == "error: cannot write tiles.json: No space left on device"
    assert (made.server, made.client) == (levels["server"], levels["client"])
    note = "tiles for perf_analyzer were not written: cannot write tiles.json: No space left on device"
    assert note in made.notes
    assert "perf_analyzer -m" not in ended.err


def test_what_the_server_did_not_tell_is_a_note_for_each_level(
    product: Path, command: Callable[..., EndedCommand], levels: dict[str, Any], tmp_path: Path
) -> None:
    untold = {"batch_sizes": None, "queue_s": None, "input_s": None, "compute_s": None, "output_s": None}
    points = [point(n, 90.0 * n, untold=f"other clients, {n}", **untold) for n in (1, 2)]
    levels["server"] = server_level(*points)
    levels["end_to_end"] = replace(levels["end_to_end"], untold="other clients, too")
    ended, made = benched(command, product, tmp_path)
    assert ended.code == 0
    assert made.notes[:2] == ("server, 1 in flight: other clients, 1", "end-to-end: other clients, too")


def test_with_what_it_was_measured_is_in_the_report(
    product: Path, command: Callable[..., EndedCommand], levels: dict[str, Any], tmp_path: Path
) -> None:
    _, made = benched(
        command, product, tmp_path, "--rounds", "3", "--duration", "0.5", "--products-at-once", "5",
        "--max-in-flight", "7", "--memory-budget-mb", "300", "--concurrency", "4,1,4",
    )  # fmt: skip
    assert made.settings == BenchSettings(
        decoder="cpu",
        decode_threads=Settings().decode_threads,
        radiometry="corrected",
        rounds=3,
        duration_s=0.5,
        products_at_once=5,
        budget_bytes=300 * 2**20,
        max_in_flight=7,
        concurrency=(1, 4),
    )


def test_memory_that_the_system_does_not_tell_is_unknown_and_not_zero() -> None:
    result = ProductResult(product="p", status="done")
    lag = Lag.of([])
    for told in (None, 5_000_000):
        run = ClientRun(result=result, start_cpu_s=1.0, lag=lag, peak_rss_bytes=told, bytes_written=1, coalesces=False)
        level = _level(Ended(result=run, wall_s=2.0, cpu_s=3.0), client_level().floor, Settings())
        assert level.peak_rss_bytes == told
