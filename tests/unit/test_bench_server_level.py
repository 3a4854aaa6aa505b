"""The pure parts of the benchmark's server level: statistics, metrics of GPUs, percentiles, shares, perf_analyzer."""

from __future__ import annotations

import base64
import json
import resource
import shlex
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from kappamask_stream.bench.closed_loop import divided, latency_of, percentile
from kappamask_stream.bench.gpu_metrics import GpuReading, gpu_use
from kappamask_stream.bench.load_messages import Connect, Sent
from kappamask_stream.bench.load_processes import default_processes
from kappamask_stream.bench.perf_analyzer import perf_analyzer_command, write_perf_analyzer_data
from kappamask_stream.bench.server_level import ServerPlace, default_concurrencies, measure_server
from kappamask_stream.bench.server_point import server_point
from kappamask_stream.bench.server_statistics import Statistics, read_statistics
from kappamask_stream.bench.tiles import write_tile_set
from kappamask_stream.bench.types import GpuUse
from kappamask_stream.errors import InputError, OutputError, UsageError
from kappamask_stream.inference import TritonClient
from kappamask_stream.inference.metrics import samples_in
from kappamask_stream.opening import opened_product
from kappamask_stream.s3 import Stores
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from tests.bench_tiles import made_tiles
from tests.conftest import make_contract
from tests.stream.scene import coarse_l2a

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tritonclient.grpc.aio import InferenceServerClient

    from kappamask_stream.contract import ModelContract

__all__ = ["coarse_l2a"]

# The lane


@pytest.mark.parametrize(("chosen", "lane"), [(None, "interactive"), ("backlog", "backlog")])
async def test_tiles_go_in_the_lane_that_the_settings_name(
    monkeypatch: pytest.MonkeyPatch, chosen: Any, lane: str
) -> None:
    """Else the model's default would be measured: behind all who are interactive, unlike the end-to-end level."""
    asked: dict[str, Any] = {}

    async def connect(*_: object, **options: Any) -> None:
        asked.update(options)

    monkeypatch.setattr(TritonClient, "connect", connect)
    settings = Settings(triton="grpc://127.0.0.1:1", priority=chosen)
    await Connect(settings=settings, model="null_l2a", memory_key=None, tiles=cast("Any", None)).connect()
    assert asked["priority"] == lane


# Statistics


def counters(batches: dict[int, int], requests: int, queue_s: float, compute_s: float) -> Statistics:
    parts = {"queue": queue_s, "compute_input": 0.5, "compute_infer": compute_s, "compute_output": 0.25}
    return Statistics(
        batches=batches, executing_s=compute_s / 2, requests=dict.fromkeys(parts, requests), seconds=parts
    )


def test_what_came_between_two_snapshots() -> None:
    before = counters({1: 7, 4: 2}, 15, 1.0, 3.0)
    after = counters({1: 7, 2: 3, 4: 5}, 33, 1.9, 3.9)
    between = after.since(before)
    assert between.batches == {2: 3, 4: 3}
    assert between.mean_s("queue") == pytest.approx(0.9 / 18)
    assert between.mean_s("compute_infer") == pytest.approx(0.05)
    assert between.mean_s("compute_input") == 0.0
    assert between.executing_s == pytest.approx(0.45)
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


def test_tiles_of_other_clients_make_statistics_untold() -> None:
    told = counters({1: 4, 8: 2}, 20, 1.0, 3.0)
    assert told.of_one_client(20) == told
    foreign = told.of_one_client(19)
    assert (foreign.batches, foreign.mean_s("queue"), foreign.executing_s) == ({}, None, 0.0)
    assert str(foreign.untold).startswith(
        "other clients used the model meanwhile: the server computed 20 tiles, at most 19 of them for this measurement"
    )
    assert told.since(Statistics(untold="restricted")).of_one_client(0).untold == "restricted"


class Channel:
    """A server that has an ensemble, or a model by itself; `asked` are the models whose statistics were asked for."""

    def __init__(self, steps: Sequence[str], statistics: dict[str, Any]) -> None:
        self.steps, self.statistics, self.asked = steps, statistics, list[str]()

    async def get_model_config(self, model: str, **_: object) -> Any:
        steps = [{"model_name": step} for step in self.steps]
        config = {"name": model, "ensemble_scheduling": {"step": steps}} if steps else {"name": model}
        return json_format.ParseDict({"config": config}, service_pb2.ModelConfigResponse())

    async def get_inference_statistics(self, model: str, **_: object) -> Any:
        self.asked.append(model)
        return json_format.ParseDict({"model_stats": [self.statistics[model]]}, service_pb2.ModelStatisticsResponse())


def of_model(batch: int, executions: int, ms: int) -> dict[str, Any]:
    """Statistics of a model that formed batches of one size; each part of a request's way took so long."""

    def durations(count: int) -> dict[str, Any]:
        return {"count": count, "ns": count * ms * 1_000_000}

    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    return {
        "inference_stats": {part: durations(batch * executions) for part in parts},
        "batch_stats": [{"batch_size": batch, **{part: durations(executions) for part in parts[1:]}}],
    }


async def test_an_ensemble_is_told_of_by_its_network() -> None:
    """Batches and work are the network's, which the ensemble itself has none of; a request is in all models in turn."""
    steps = ["m-preprocessing", "m-network", "m-classes"]
    told = {"m": of_model(1, 80, 99)} | {step: of_model(8, 10, ms) for step, ms in zip(steps, (2, 30, 1), strict=True)}
    channel = Channel(steps, told)
    statistics = await read_statistics(cast("InferenceServerClient", channel), "m")
    assert channel.asked == steps
    assert statistics.untold is None
    assert statistics.batches == {8: 10}
    assert statistics.executing_s == pytest.approx(10 * 3 * 0.030)
    assert statistics.mean_s("queue") == statistics.mean_s("compute_infer") == pytest.approx(0.033)


async def test_an_ensemble_of_unknown_models_is_a_reason() -> None:
    statistics = await read_statistics(cast("InferenceServerClient", Channel(["a", "b"], {})), "m")
    assert statistics.untold == "m is an ensemble of a, b, none of which is m-network"


async def test_a_model_by_itself_is_told_of_by_itself() -> None:
    channel = Channel([], {"m": of_model(4, 3, 10)})
    statistics = await read_statistics(cast("InferenceServerClient", channel), "m")
    assert (channel.asked, statistics.batches) == (["m"], {4: 3})
    assert statistics.executing_s == pytest.approx(3 * 3 * 0.010)


# Points


def sent(last_before_s: float | None, answers_s: Sequence[float], **changes: Any) -> Sent:
    return Sent(
        answered=len(answers_s),
        last_before_s=last_before_s,
        last_s=max(answers_s, default=None),
        latencies_s=list(answers_s) or [1.0],
        turned_away=0,
        turned_away_text=None,
        errors=(),
        cpu_s=1.0,
        lag_p99_s=None,
        **changes,
    )


@given(st.floats(0, 3.99), st.floats(9.0, 30.0), st.integers(1, 3))
def test_the_rate_is_the_servers_however_long_an_answer_takes(begin: float, seconds: float, processes: int) -> None:
    """Batches of 8 each 4 s are 2 tiles a second, wherever the interval begins and ends, by whoever they were sent."""
    bursts = [4.0 * i for i in range(20)]
    each = [8 // processes + (i < 8 % processes) for i in range(processes)]
    said = []
    for share in each:
        inside = [at for at in bursts if begin <= at - 8 < begin + seconds for _ in range(share)]
        said.append(sent(max(at for at in bursts if at - 8 < begin), inside))
    point = server_point(8, said, begin + 8, begin + seconds + 8, Statistics(), None)
    assert point.tiles_per_s == pytest.approx(2.0)


def test_a_point_whose_answers_cannot_be_all_that_was_computed_tells_of_neither_batches_nor_times() -> None:
    said = [sent(9.0, [11.0, 12.0]), sent(9.5, [11.0])]
    alone = server_point(4, said, 10.0, 13.0, counters({1: 3, 4: 1}, 7, 1.0, 3.0), None)
    assert (alone.batch_sizes, alone.untold) == ({1: 3, 4: 1}, None), "four are on their way"
    shared = server_point(4, said, 10.0, 13.0, counters({1: 4, 4: 1}, 8, 1.0, 3.0), None)
    assert (shared.batch_sizes, shared.queue_s, shared.compute_s) == (None, None, None)
    assert "other clients used the model meanwhile: the server computed 8 tiles, at most 7" in str(shared.untold)
    assert (shared.tiles, shared.seconds) == (3, 2.5)


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
    # Triton looks each 2 s; the readings see its values change at 11, 13 and 15 s: 200 W and 50 W between those.
    # What is read at 10 s is of the time before.
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
    assert (use.gpus, use.gpus_named) == (2, 2)
    assert use.utilisation == pytest.approx((0.635 + 0.1) / 2)
    assert use.memory_bytes == 7e9
    assert use.power_w == pytest.approx(50 + (5 * 350 + 420) / 6)
    assert use.energy_j == pytest.approx((200 + 50) * 6)


def test_a_gpu_that_is_not_used_is_no_part_of_the_figures() -> None:
    """One of two works: its utilisation, memory, watts and joules are what tiles a second are to be divided by."""
    readings = [two_gpus(10.0 + i, a_j=300 * i, b_j=50 * i, a_busy=0.8, b_busy=0.0, a_w=300) for i in range(5)]
    use = gpu_use(readings)
    assert use is not None
    assert (use.gpus, use.gpus_named) == (1, 2)
    assert use.utilisation == pytest.approx(0.8)
    assert (use.memory_bytes, use.power_w) == (4e9, 300)
    assert use.energy_j == pytest.approx(300 * 4)


def test_gpus_that_are_all_idle() -> None:
    use = gpu_use([two_gpus(10.0 + i, a_j=70 * i, b_j=50 * i, a_busy=0.0, b_busy=0.0) for i in range(5)])
    assert use is not None
    assert (use.gpus, use.gpus_named, use.utilisation, use.energy_j) == (0, 2, 0.0, None)


def test_what_was_before_the_interval_does_not_count() -> None:
    """Until Triton looks again, its values are of up to 2 s before: here of an idle GPU, and of a busy one."""
    for before, within in ((0.0, 0.9), (0.9, 0.0)):
        values = [before] * 4 + [within] * 6
        use = gpu_use([two_gpus(10 + i / 2, a_busy=busy, b_busy=0.0, a_w=50 + busy) for i, busy in enumerate(values)])
        assert use is not None
        assert use.utilisation == pytest.approx(within)
        assert use.gpus == (within > 0)


def test_gpus_at_which_triton_looks_at_different_times() -> None:
    """Of two machines: each GPU counts from its own first change."""
    a, b = [0.0, 0.6, 0.6, 0.6, 0.6], [0.0, 0.0, 0.0, 0.4, 0.4]
    use = gpu_use([two_gpus(10.0 + i, a_busy=x, b_busy=y) for i, (x, y) in enumerate(zip(a, b, strict=True))])
    assert use is not None
    assert use.utilisation == pytest.approx(0.5)


def test_an_interval_in_which_triton_did_not_look_tells_nothing() -> None:
    use = gpu_use([two_gpus(10.0 + i / 2, a_busy=0.9) for i in range(3)])
    assert use == GpuUse(gpus=2, gpus_named=2)


@pytest.mark.parametrize(
    "a_j", [[500, 500, 500], [500, 900, 900], [500, 900, 20]], ids=["stands still", "moves once", "begins anew"]
)
def test_a_counter_that_says_too_little_gives_way_to_power(a_j: list[float]) -> None:
    use = gpu_use([two_gpus(10.0 + i, a_j=joules, b_j=10 * i) for i, joules in enumerate(a_j)])
    assert use is not None
    assert use.energy_j == pytest.approx(400 * 2)


def test_no_counter_of_energy_gives_way_to_power() -> None:
    use = gpu_use([two_gpus(1.0, energy=False, a_w=9), two_gpus(4.0, energy=False)])
    assert use is not None
    assert (use.power_w, use.energy_j) == (400, 1200)


@pytest.mark.parametrize("text", ["", "nv_inference_count 3\n", "nv_gpu_utilization 0.5\n"])
def test_no_gpu_is_none(text: str) -> None:
    assert gpu_use([reading(1.0, text), reading(2.0, text)]) is None
    assert gpu_use([]) is None


def test_a_gpu_that_tells_part_of_it() -> None:
    use = gpu_use([reading(at, f'nv_gpu_utilization{{gpu_uuid="GPU-a"}} {at / 8}\n') for at in (1.0, 2.0)])
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


async def test_the_data_of_perf_analyzer_are_the_tiles(csmask_contract: ModelContract, tmp_path: Path) -> None:
    tiles = made_tiles(csmask_contract, tmp_path, count=3)
    path = tmp_path / "tiles.json"
    assert await write_perf_analyzer_data(tiles, csmask_contract, path, most=2) == 2
    data = json.loads(path.read_text())["data"]
    assert len(data) == 2
    for request, entry in zip(tiles.requests(), data, strict=False):
        tensor = entry["DN_20M"]
        assert tensor["shape"] == [6, 256, 256]
        assert np.array_equal(
            np.frombuffer(base64.b64decode(tensor["b64"]), "<u2").reshape(6, 256, 256), request.tensors["DN_20M"]
        )
        assert np.array_equal(np.frombuffer(base64.b64decode(entry["SCALE"]["b64"]), "<f4"), request.scale)
    with pytest.raises(OutputError, match=r"cannot write .*nowhere/t: .*: its folder is gone"):
        await write_perf_analyzer_data(tiles, csmask_contract, tmp_path / "nowhere" / "t")


async def test_a_file_for_perf_analyzer_that_cannot_be_finished_leaves_the_one_that_was_there(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    tiles = made_tiles(csmask_contract, tmp_path, count=2)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "t").write_text("earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OutputError, match="a limit on the size of files"):
            await write_perf_analyzer_data(tiles, csmask_contract, folder / "t")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("t", "earlier")]


async def test_a_full_temporary_folder_is_said_with_what_is_needed(
    coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is full, numpy raises an error of its own, without a number."""
    product = write_product(tmp_path, size=240, seed=1).product
    full = OSError("57600 requested and 0 written")
    monkeypatch.setattr("numpy.save", lambda *_: (_ for _ in ()).throw(full))
    async with Stores({}) as stores, opened_product(str(product), stores) as opened:
        with pytest.raises(OutputError) as caught:
            await write_tile_set(opened, coarse_l2a, "corrected", tmp_path, most=1)
    text = str(caught.value)
    assert text.startswith(f"cannot write {tmp_path}/")
    assert ".npy: 57600 requested and 0 written (" in text
    assert text.endswith("are free): choose another temporary folder with TMPDIR")


def test_tiles_that_are_gone(csmask_contract: ModelContract, tmp_path: Path) -> None:
    tiles = made_tiles(csmask_contract, tmp_path, count=1)
    (tmp_path / "OFFSET.npy").unlink()
    with pytest.raises(InputError, match="tiles of made cannot be read from"):
        tiles.requests()
