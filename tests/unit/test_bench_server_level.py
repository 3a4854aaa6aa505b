"""The pure parts of the benchmark's server level: statistics, metrics of GPUs, percentiles, shares, perf_analyzer."""

from __future__ import annotations

import base64
import json
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.bench.closed_loop import divided, latency_of, percentile
from kappamask_stream.bench.gpu_metrics import GpuReading, gpu_use
from kappamask_stream.bench.load_processes import default_processes
from kappamask_stream.bench.perf_analyzer import perf_analyzer_command, write_perf_analyzer_data
from kappamask_stream.bench.server_level import ServerPlace, default_concurrencies, measure_server
from kappamask_stream.bench.server_statistics import Statistics
from kappamask_stream.errors import InputError, OutputError, UsageError
from kappamask_stream.inference.metrics import samples_in
from kappamask_stream.settings import Settings
from tests.bench_tiles import made_tiles
from tests.conftest import make_contract

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

# Statistics


def counters(batches: dict[int, int], requests: int, queue_s: float, compute_s: float) -> Statistics:
    parts = {"queue": queue_s, "compute_input": 0.5, "compute_infer": compute_s, "compute_output": 0.25}
    return Statistics(batches=batches, requests=dict.fromkeys(parts, requests), seconds=parts)


def test_what_came_between_two_snapshots() -> None:
    before = counters({1: 7, 4: 2}, 15, 1.0, 3.0)
    after = counters({1: 7, 2: 3, 4: 5}, 33, 1.9, 3.9)
    between = after.since(before)
    assert between.batches == {2: 3, 4: 3}
    assert between.mean_s("queue") == pytest.approx(0.9 / 18)
    assert between.mean_s("compute_infer") == pytest.approx(0.05)
    assert between.mean_s("compute_input") == 0.0
    assert between.untold is None


def test_nothing_between_has_no_mean() -> None:
    same = counters({1: 7}, 7, 1.0, 3.0)
    assert same.since(same).mean_s("queue") is None
    assert same.since(same).batches == {}
    assert same.since(Statistics()).batches == {1: 7}


@pytest.mark.parametrize(
    "after",
    [counters({1: 3}, 15, 1.0, 3.0), counters({1: 9}, 9, 1.0, 3.0), counters({2: 4}, 20, 1.0, 3.0)],
    ids=["fewer batches", "fewer requests", "a size that is gone"],
)
def test_counters_that_began_anew_tell_nothing(after: Statistics) -> None:
    between = after.since(counters({1: 7}, 15, 1.0, 3.0))
    assert (between.batches, between.mean_s("queue")) == ({}, None)
    assert "began to count anew" in str(between.untold)


def test_what_is_untold_in_one_snapshot_is_untold_between() -> None:
    told, untold = counters({1: 7}, 7, 1.0, 3.0), Statistics(untold="restricted")
    assert told.since(untold).untold == untold.since(told).untold == "restricted"


# GPUs

METRICS = """\
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{{gpu_uuid="GPU-a"}} {a_busy}
nv_gpu_utilization{{gpu_uuid="GPU-b"}} {b_busy}
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{{gpu_uuid="GPU-a"}} 9e11
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{{gpu_uuid="GPU-a"}} {a_bytes}
nv_gpu_memory_used_bytes{{gpu_uuid="GPU-b"}} 1e9
# TYPE nv_gpu_power_usage gauge
nv_gpu_power_usage{{gpu_uuid="GPU-a"}} {a_w}
nv_gpu_power_usage{{gpu_uuid="GPU-b"}} 50
# TYPE nv_gpu_power_limit gauge
nv_gpu_power_limit{{gpu_uuid="GPU-a"}} 700
# TYPE nv_energy_consumption counter
nv_energy_consumption{{gpu_uuid="GPU-a"}} {a_j}
nv_energy_consumption{{gpu_uuid="GPU-b"}} {b_j}
# TYPE nv_inference_count counter
nv_inference_count{{model="m",version="1"}} 12
"""
NAMES = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage", "nv_energy_consumption"}


def reading(at_s: float, text: str) -> GpuReading:
    return GpuReading.of(at_s, samples_in(text, NAMES))


def two_gpus(at_s: float, *, energy: bool = True, **values: float) -> GpuReading:
    text = METRICS.format(**({"a_busy": 0.9, "b_busy": 0.1, "a_bytes": 4e9, "a_w": 350, "a_j": 0, "b_j": 0} | values))
    lines = [line for line in text.splitlines(keepends=True) if energy or "energy" not in line]
    return reading(at_s, "".join(lines))


def test_two_gpus_over_an_interval() -> None:
    # Triton looks each 2 s; the readings see its counters move at 11, 13 and 15 s: 200 W and 50 W between those.
    joules = {
        10.0: (100, 40),
        11.0: (700, 140),
        12.0: (700, 140),
        13.0: (1100, 240),
        14.0: (1100, 240),
        15.0: (1500, 340),
    }
    readings = [two_gpus(at, a_j=a, b_j=b, a_busy=0.5 + at / 100) for at, (a, b) in joules.items()]
    readings.append(two_gpus(16.0, a_j=1500, b_j=340, a_bytes=6e9, a_w=420, a_busy=0.66))
    use = gpu_use(readings)
    assert use is not None
    assert use.gpus == 2
    assert use.utilisation == pytest.approx((0.63 + 0.1) / 2)
    assert use.memory_bytes == 7e9
    assert use.power_w == pytest.approx(50 + (6 * 350 + 420) / 7)
    assert use.energy_j == pytest.approx((200 + 50) * 6)


@pytest.mark.parametrize(
    "a_j", [[500, 500, 500], [500, 900, 900], [500, 900, 20]], ids=["stands still", "moves once", "begins anew"]
)
def test_a_counter_that_says_too_little_gives_way_to_power(a_j: list[float]) -> None:
    use = gpu_use([two_gpus(10.0 + i, a_j=joules, b_j=10 * i) for i, joules in enumerate(a_j)])
    assert use is not None
    assert use.energy_j == pytest.approx(400 * 2)


def test_no_counter_of_energy_gives_way_to_power() -> None:
    use = gpu_use([two_gpus(1.0, energy=False), two_gpus(4.0, energy=False)])
    assert use is not None
    assert (use.power_w, use.energy_j) == (400, 1200)


@pytest.mark.parametrize("text", ["", "nv_inference_count 3\n", "nv_gpu_utilization 0.5\n"])
def test_no_gpu_is_none(text: str) -> None:
    assert gpu_use([reading(1.0, text), reading(2.0, text)]) is None
    assert gpu_use([]) is None


def test_a_gpu_that_tells_part_of_it() -> None:
    use = gpu_use([reading(at, 'nv_gpu_utilization{gpu_uuid="GPU-a"} 0.25\n') for at in (1.0, 2.0)])
    assert use is not None
    assert (use.gpus, use.utilisation, use.memory_bytes, use.power_w, use.energy_j) == (1, 0.25, None, None, None)


def test_names_that_begin_alike_are_told_apart() -> None:
    text = "nv_gpu_power_usage_of_another_kind 1\nnv_gpu_power_usage 2\nnv_gpu_power 3\n"
    assert [sample.value for sample in samples_in(text, {"nv_gpu_power_usage"})] == [2.0]


# Percentiles and shares


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_the_least_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=300))
def test_latencies_are_ordered(values: list[float]) -> None:
    latency = latency_of(values)
    assert min(values) <= latency.p50_s <= latency.p95_s <= latency.p99_s <= max(values)


@given(st.integers(1, 500), st.integers(1, 20))
def test_requests_in_flight_are_divided_exactly(total: int, processes: int) -> None:
    shares = divided(total, processes)
    assert sum(shares) == total
    assert len(shares) == min(total, processes)
    assert min(shares) >= 1
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("max_batch", "instances", "expected"),
    [(1, 1, (1, 2, 4)), (4, 1, (1, 2, 4, 8, 16)), (8, 3, (1, 2, 4, 8, 16, 32, 64, 96)), (5, 1, (1, 2, 4, 8, 16, 20))],
)
def test_concurrencies_go_up_to_four_batches_an_instance(
    max_batch: int, instances: int, expected: tuple[int, ...], csmask_contract: ModelContract
) -> None:
    contract = make_contract(
        inputs=csmask_contract.inputs, gsd_m=20, tile_size=256, margin=26, max_batch=max_batch, instances=instances
    )
    assert default_concurrencies(contract) == expected


@pytest.mark.parametrize(("cores", "alone", "sharing"), [(1, 1, 1), (2, 2, 1), (9, 9, 4), (64, 16, 16)])
def test_there_is_a_process_for_each_core_that_the_server_leaves(
    monkeypatch: pytest.MonkeyPatch, cores: int, alone: int, sharing: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert default_processes(shares_cores=False) == alone
    assert default_processes(shares_cores=True) == sharing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": ()}, r"concurrency is \[\]: at least 1 request"),
        ({"concurrency": (4, 0)}, r"concurrency is \[4, 0\]"),
        ({"duration_s": 0.0}, "duration is 0 s"),
        ({"duration_s": float("nan")}, "duration is nan s"),
    ],
)
async def test_numbers_that_make_no_sense_are_refused(
    csmask_contract: ModelContract, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"concurrency": (1,), "duration_s": 1.0} | options
    place = ServerPlace(endpoint="grpc://127.0.0.1:1", model="m", memory_key="a secret")
    assert "a secret" not in repr(place)
    with pytest.raises(UsageError, match=message):
        await measure_server(place, made_tiles(csmask_contract, tmp_path, count=1), settings=Settings(), **given)


# perf_analyzer


def test_the_command_of_perf_analyzer(kappamask_contract: ModelContract, tmp_path: Path) -> None:
    tiles = tmp_path / "my tiles.json"
    command = shlex.split(perf_analyzer_command(kappamask_contract, "grpc://10.0.0.7:8001", tiles, 32))
    assert command == [
        "perf_analyzer", "-m", "test_l2a", "-i", "grpc", "-u", "10.0.0.7:8001", "-b", "1", "--async",
        "--concurrency-range", "32", "-p", "5000",
        "--shape", "DN_10M:6,512,512", "--shape", "DN_20M:6,256,256", "--shape", "DN_60M:2,85,85",
        "--shape", "OFFSET:14", "--shape", "SCALE:14", "--input-data", str(tiles),
        "--shared-memory", "system", "--output-shared-memory-size", str(6 * 512 * 512),
    ]  # fmt: skip


def test_the_command_over_grpc_and_tls(csmask_contract: ModelContract, tmp_path: Path) -> None:
    command = perf_analyzer_command(csmask_contract, "grpcs://triton.test:443", tmp_path / "t", 1, transport="gRPC")
    assert "--shared-memory" not in command
    assert "-u triton.test:443 --ssl-grpc-use-ssl" in command


def test_perf_analyzer_takes_one_server(csmask_contract: ModelContract, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes one server, grpc://10\.0\.0\.1:1,10\.0\.0\.2:1 names 2"):
        perf_analyzer_command(csmask_contract, "grpc://10.0.0.1:1,10.0.0.2:1", tmp_path / "t", 1)


def test_the_data_of_perf_analyzer_are_the_tiles(csmask_contract: ModelContract, tmp_path: Path) -> None:
    tiles = made_tiles(csmask_contract, tmp_path, count=3)
    path = tmp_path / "tiles.json"
    assert write_perf_analyzer_data(tiles, csmask_contract, path, most=2) == 2
    data = json.loads(path.read_text())["data"]
    assert len(data) == 2
    for request, entry in zip(tiles.requests(), data, strict=False):
        tensor = entry["DN_20M"]
        assert tensor["shape"] == [6, 256, 256]
        assert np.array_equal(
            np.frombuffer(base64.b64decode(tensor["b64"]), "<u2").reshape(6, 256, 256), request.tensors["DN_20M"]
        )
        assert np.array_equal(np.frombuffer(base64.b64decode(entry["SCALE"]["b64"]), "<f4"), request.scale)
    with pytest.raises(OutputError, match=r"cannot write tiles of made to .*nowhere"):
        write_perf_analyzer_data(tiles, csmask_contract, tmp_path / "nowhere" / "t")


def test_tiles_that_are_gone(csmask_contract: ModelContract, tmp_path: Path) -> None:
    tiles = made_tiles(csmask_contract, tmp_path, count=1)
    (tmp_path / "OFFSET.npy").unlink()
    with pytest.raises(InputError, match="tiles of made cannot be read from"):
        tiles.requests()
