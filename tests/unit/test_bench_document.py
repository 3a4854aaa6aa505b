"""A benchmark's JSON: there and back again, what `plan` takes from it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream import cli
from kappamask_stream.bench.document import from_document, read_report, to_document, to_json
from kappamask_stream.bench.types import (
    LEVELS,
    BenchReport,
    BenchSettings,
    ClientLevel,
    EndToEndLevel,
    Environment,
    Floor,
    GpuUse,
    Latency,
    ServerLevel,
    ServerPoint,
    Verdict,
)
from kappamask_stream.capacity import read_bench
from kappamask_stream.errors import InputError
from tests.unit.bench_reports import (
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

numbers = st.floats(0, 1e12)
positive = st.floats(1e-6, 1e9)
counts = st.integers(1, 10**12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
batches = st.none() | st.dictionaries(st.integers(1, 128), st.integers(0, 10**9), max_size=4)
gpus = st.none() | st.builds(
    GpuUse,
    gpus=st.integers(0, 8),
    gpus_named=st.none() | st.integers(0, 8),
    utilisation=st.none() | st.floats(0, 1),
    memory_bytes=st.none() | numbers,
    power_w=st.none() | numbers,
    energy_j=st.none() | numbers,
)
points = st.builds(
    ServerPoint,
    concurrency=counts, processes=counts, seconds=positive, tiles=st.integers(0, 10**9),
    latency=st.builds(Latency, p50_s=numbers, p95_s=numbers, p99_s=numbers), batch_sizes=batches,
    queue_s=st.none() | numbers, input_s=st.none() | numbers, compute_s=st.none() | numbers,
    output_s=st.none() | numbers, untold=st.none() | texts, client_cpu_s=numbers, lag_p99_s=st.none() | numbers, gpu=gpus,
)  # fmt: skip
servers = st.builds(
    ServerLevel,
    transport=st.sampled_from(["gRPC", "shared memory"]),
    request_bytes=counts,
    answer_bytes=counts,
    points=st.lists(points, min_size=1, max_size=3).map(tuple),
    failures=st.lists(texts, max_size=2).map(tuple),
    broken_off=st.none() | texts,
)
floors = st.builds(Floor, wall_s=positive, cpu_s=positive, threads=counts, codestream_tiles=counts, megapixels=numbers)
stages = st.dictionaries(st.sampled_from(["read", "decode", "infer"]), numbers)
clients = st.builds(
    ClientLevel,
    wall_s=positive, cpu_s=positive, start_cpu_s=numbers, floor=floors, lag_p50_s=numbers, lag_p99_s=numbers,
    lag_max_s=numbers, peak_rss_bytes=st.none() | counts, budget_bytes=counts, stages=stages, tiles=counts, tiles_inferred=counts,
    bytes_read=counts, bytes_written=counts, requests=st.none() | counts,
)  # fmt: skip
ends = st.builds(
    EndToEndLevel,
    products=st.integers(1, 1000), products_at_once=st.integers(1, 10), wall_s=positive, client_cpu_s=numbers,
    server_cpu_s=st.none() | numbers, cores=st.integers(1, 512), stages=stages, write_s=numbers, tiles_inferred=counts,
    window=counts, mean_in_flight=numbers, peak_rss_bytes=st.none() | counts, lag_p99_s=numbers, queue_s=st.none() | numbers,
    compute_s=st.none() | numbers, server_busy=st.none() | st.floats(0, 1), batch_sizes=batches, gpu=gpus,
)  # fmt: skip
environments = st.builds(
    Environment,
    cpu=st.none() | texts, gpu=st.none() | texts, cores=st.integers(1, 512), memory_bytes=st.none() | counts,
    system=texts, versions=st.dictionaries(texts, texts, max_size=3), commit=st.none() | texts, time=texts,
)  # fmt: skip
reports = st.builds(
    BenchReport,
    environment=environments, model=st.text("abc_", min_size=1), product=texts,
    product_tiles=st.integers(0, 10**6), product_tiles_inferred=st.integers(0, 10**6), local_server=st.booleans(),
    server=st.none() | servers, client=st.none() | clients, end_to_end=st.none() | ends,
    verdict=st.none() | st.builds(Verdict, limit=st.sampled_from(["decode", "unknown", "write"]), text=texts),
    notes=st.lists(texts, max_size=2).map(tuple),
    settings=st.none() | st.builds(
        BenchSettings, decoder=st.sampled_from(["cpu", "gpu"]), decode_threads=counts, radiometry=texts, rounds=counts,
        duration_s=positive, products_at_once=counts, budget_bytes=counts, max_in_flight=st.none() | counts,
        concurrency=st.lists(counts, max_size=3).map(tuple),
    ),
)  # fmt: skip


@given(reports)
def test_a_report_comes_back_as_it_was(made: BenchReport) -> None:
    assert from_document(json.loads(to_json(made)), "file") == made


def test_lists_come_back_as_tuples_and_nothing_warns() -> None:
    made = report(server=dataclasses.replace(server_level(), points=[point(1), point(4)], failures=["one"]))
    back = from_document(to_document(made), "file")
    assert back.server == server_level(point(1), point(4), failures=("one",))


def test_nothing_is_rounded_and_sizes_of_batches_are_numbers_again() -> None:
    made = report(server=server_level(point(3, client_cpu_s=1 / 3)))
    document = json.loads(to_json(made))
    assert document["levels"]["server"]["points"][0]["client_cpu_s"] == 1 / 3
    assert document["levels"]["server"]["points"][0]["batch_sizes"] == {"1": 10, "8": 490}
    assert (document["schema"], document["version"]) == ("kappamask-stream/bench", 1)
    assert {level.replace("-", "_") for level in LEVELS} == set(document["levels"])


def figures(made: BenchReport, path: Path, **how: bool) -> dict[str, float]:
    path.write_text(to_json(made))
    return {name: float(figure.value) for name, figure in read_bench(path, **how).figures().items()}


def test_plan_takes_per_product_figures_of_a_gpu(tmp_path: Path) -> None:
    found = figures(with_gpu(report()), tmp_path / "gpu.json")
    assert found == {
        "tiles": 529, "tiles_inferred": 328, "client_cpu_s": 80.0, "client_cores": 8, "client_rss_bytes": 900_000_000,
        "gpu_tiles_per_s": 400.0, "bytes_read": 424_000_000, "request_bytes": 4_000_000, "answer_bytes": 262_144,
        "bytes_written": 4_000_000,
    }  # fmt: skip


def test_plan_takes_cpu_seconds_of_a_server_that_shares_the_cores(tmp_path: Path) -> None:
    made = report(local_server=True, end_to_end=end_to_end_level(server_cpu_s=1000.0))
    found = figures(made, tmp_path / "cpu.json")
    assert (found["server_cpu_s"], found["server_cores"]) == (250.0, 8)
    assert "gpu_tiles_per_s" not in found


def test_a_rate_over_shared_memory_is_none_over_the_network(tmp_path: Path) -> None:
    made = with_gpu(report(server=server_level(point(16), transport="shared memory")))
    assert "gpu_tiles_per_s" not in figures(made, tmp_path / "a.json")
    assert figures(made, tmp_path / "a.json", shared_memory=True)["gpu_tiles_per_s"] == 400.0


def test_several_gpus_are_divided(tmp_path: Path) -> None:
    made = with_gpu(report())
    assert made.server is not None
    two = [dataclasses.replace(p, gpu=p.gpu and dataclasses.replace(p.gpu, gpus=2)) for p in made.server.points]
    made = dataclasses.replace(made, server=dataclasses.replace(made.server, points=tuple(two)))
    assert figures(made, tmp_path / "two.json")["gpu_tiles_per_s"] == 200.0


def test_plan_works_from_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    path.write_text(to_json(with_gpu(report())))
    cli.build_app()(["plan", "--bench", str(path), "--json"], prog_name="kappamask-stream", standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert said["server"]["seconds_per_product"] == pytest.approx(328 / 400)
    assert said["workers"]["seconds_per_product"] == pytest.approx(80)


def test_the_client_alone_counts_where_nothing_went_through_the_network(tmp_path: Path) -> None:
    found = figures(report(end_to_end=None), tmp_path / "a.json")
    assert (found["client_cpu_s"], found["client_rss_bytes"], found["client_cores"]) == (
        pytest.approx(79.1),
        640_000_000,
        8,
    ), "without the start of the process"


def test_unknown_memory_is_none_and_not_0(tmp_path: Path) -> None:
    made = report(client=client_level(peak_rss_bytes=None), end_to_end=end_to_end_level(peak_rss_bytes=None))
    assert "client_rss_bytes" not in figures(made, tmp_path / "a.json")
    one = dataclasses.replace(made, end_to_end=end_to_end_level())
    assert figures(one, tmp_path / "a.json")["client_rss_bytes"] == 900_000_000
    assert from_document(to_document(made), "file") == made


def test_a_sweep_that_broke_off_has_no_rate_for_plan(tmp_path: Path) -> None:
    made = with_gpu(report(server=server_level(broken_off="the server ended")))
    assert "gpu_tiles_per_s" not in figures(made, tmp_path / "a.json")
    assert from_document(to_document(made), "file") == made


def test_settings_are_in_the_file_and_files_without_them_can_be_read() -> None:
    made = report(settings=dataclasses.replace(SETTINGS, concurrency=[1, 4, 32]))
    document = json.loads(to_json(made))
    assert document["settings"] == {
        "decoder": "cpu", "decode_threads": 8, "radiometry": "corrected", "rounds": 1, "duration_s": 10.0,
        "products_at_once": 2, "budget_bytes": 469_762_048, "max_in_flight": None, "concurrency": [1, 4, 32],
    }  # fmt: skip
    assert from_document(document, "file").settings == SETTINGS
    del document["settings"]
    assert from_document(document, "file").settings is None


def damaged(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = json.loads(to_json(report()))
    change(document)
    return document


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another schema": (
        lambda d: d.update(schema="x/y"),
        "file has schema x/y, version 1; kappamask-stream/bench, version",
    ),
    "another version": (lambda d: d.update(version=2), "version 2; kappamask-stream/bench, version 1 is read here"),
    "no schema": (lambda d: d.pop("schema"), "file has schema None"),
    "not of bench": (lambda d: d.pop("levels"), "file has no levels: it was not written by `kappamask-stream bench`"),
    "no environment": (lambda d: d.pop("environment"), "file: environment: Field required"),
    "a text": (
        lambda d: d["levels"]["client"].update(cpu_s="80"),
        "levels.client.cpu_s: Input should be a valid number",
    ),
    "a boolean": (lambda d: d["levels"]["client"].update(tiles=True), "levels.client.tiles: Input should be a valid"),
    "a name that is none": (lambda d: d["levels"]["server"].update(transport="pigeons"), "levels.server.transport"),
    "a field is gone": (lambda d: d["levels"]["end_to_end"].pop("wall_s"), "levels.end_to_end.wall_s: "),
    "no time": (lambda d: d["levels"]["end_to_end"].update(wall_s=0), "levels.end_to_end.wall_s is 0.0, more than 0"),
    "no floor": (lambda d: d["levels"]["client"]["floor"].update(cpu_s=-1), "levels.client.floor.cpu_s is -1.0, more"),
    "no points": (lambda d: d["levels"]["server"].update(points=[]), "points: their count is 0, more than 0"),
    "a point of no time": (lambda d: d["levels"]["server"]["points"][1].update(seconds=0), "points.1.seconds is 0.0"),
    "infinite": (lambda d: d["levels"]["client"].update(wall_s=float("inf")), "levels.client.wall_s"),
    "a list": (lambda d: d.update(levels=[]), "file: levels"),
    "another limit": (lambda d: d["verdict"].update(limit="bad luck"), "verdict.limit"),
}


@pytest.mark.parametrize(("change", "says"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(change: Callable[[dict[str, Any]], object], says: str) -> None:
    made = damaged(lambda d: d.update(verdict={"limit": "decode", "text": "decode-bound"}))
    change(made)
    with pytest.raises(InputError) as raised:
        from_document(made, "file")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00", '{"schema": ' + "[" * 5000])
def test_what_is_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"file\.json"):
        read_report(path)


def test_unknown_fields_are_passed_over() -> None:
    made = damaged(lambda d: (d.update(more=1), d["levels"]["client"].update(more=2)))
    assert from_document(made, "file").client == client_level()
