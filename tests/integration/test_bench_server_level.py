"""The benchmark's server level against real Tritons: what it counts, what it says of failures, and what it leaves."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient

from kappamask_stream.bench.server_level import ServerPlace, measure_server
from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ContractError, ServerUnavailableError
from kappamask_stream.inference import TritonClient
from kappamask_stream.server import lease_local_server
from kappamask_stream.settings import Settings
from tests.bench_tiles import made_tiles
from tests.integration.canaries import without_canary
from tests.integration.local_state import ROOT, is_alive, wait_until
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.bench.tiles import TileSet
    from kappamask_stream.bench.types import ServerLevel
    from tests.integration.conftest import Start
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

#: Nobody answers there.
DEAD_METRICS = "http://127.0.0.1:1/metrics"

#: A backend that takes its time: a queue of two fills up at once.
SLOW = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.02)
        return [pb.InferenceResponse([pb.Tensor("LABELS", np.full((1, 256, 256), 1, np.uint8))]) for _ in requests]
"""


@pytest.fixture
def tiles(null_repository: Path, tmp_path: Path) -> TileSet:
    contract = ModelContract.from_json((null_repository / "null_l2a" / "contract.json").read_text())
    folder = tmp_path / "tiles"
    folder.mkdir()
    return made_tiles(contract, folder, count=5)


@pytest.fixture
def quick_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of all sizes are not waited for."""
    monkeypatch.setattr("kappamask_stream.bench.server_level._LONGEST_WARM_UP_S", 0.0)


async def measured(address: str, tiles: TileSet, model: str = "null_l2a", **options: Any) -> ServerLevel:
    place = ServerPlace(
        endpoint=f"grpc://{address}",
        model=model,
        metrics_urls=options.pop("metrics", ()),
        memory_key=options.pop("memory_key", None),
    )
    given = {"concurrency": (1, 4), "duration_s": 1.0, "processes": 1, "settings": Settings()} | options
    return await measure_server(place, tiles, **given)


def children() -> list[psutil.Process]:
    """Client processes of this one."""
    return [p for p in psutil.Process().children() if "kappamask_stream.bench.load" in p.cmdline()]


async def test_points_agree_with_the_servers_own_counters(
    session_server: SessionServer, server_env: Path, tiles: TileSet
) -> None:
    """Of a lease's holder, who may share memory with the server."""
    async with (
        await TritonClient.connect(f"grpc://{session_server.address}", "null_l2a") as client,
        lease_local_server(model="null_l2a", env=server_env) as leased,
    ):
        before = await client.batch_sizes()
        said: list[str] = []
        level = await measured(
            session_server.address, tiles, processes=2, concurrency=(4, 1, 4), metrics=(DEAD_METRICS,),
            on_progress=said.append, memory_key=leased.memory_key,
        )  # fmt: skip
        all_batches = (await client.batch_sizes()).since(before).counts
    assert said[0] == "starting 2 client processes"
    assert said[1] == "tiles travel over shared memory"
    assert level.transport == "shared memory"
    assert said[2:] == [
        text for n in (1, 4) for text in (f"{n} in flight: warming up", f"{n} in flight: measuring for 1 s")
    ]
    assert (level.request_bytes, level.answer_bytes, list(level.failures)) == (6 * 256 * 256 * 2 + 48, 256 * 256, [])
    one, four = level.points
    assert [(p.concurrency, p.processes) for p in level.points] == [(1, 1), (4, 2)]
    assert one.batch_sizes is not None
    assert set(one.batch_sizes) == {1}
    assert four.batch_sizes is not None
    assert max(four.batch_sizes) <= 4, "there are never more in flight"
    for point in level.points:
        assert point.batch_sizes is not None
        executed = sum(size * count for size, count in point.batch_sizes.items())
        # Counted on the server when computed, here when the answer has come: what was on its way at both ends differs,
        # and what came while the counters were read.
        assert abs(executed - point.tiles) <= point.concurrency + 0.1 * point.tiles_per_s
        assert point.tiles >= point.concurrency
        assert point.seconds >= 1.0
        assert 0 < point.latency.p50_s <= point.latency.p95_s <= point.latency.p99_s < point.seconds
        parts = (point.queue_s, point.input_s, point.compute_s, point.output_s)
        assert all(part is not None and part >= 0 for part in parts)
        # By Little's law a request takes this long on average; one that hung as the interval began is in one mean only.
        mean_s = point.concurrency / point.tiles_per_s
        assert 0 < sum(part for part in parts if part is not None) <= max(point.latency.p99_s, 2 * mean_s)
        # At most half of them can take twice as long; and as many again as were whole may have been on their way.
        assert point.latency.p50_s <= 4 * mean_s
        assert point.client_cpu_s > 0
        assert point.lag_p99_s is not None
        assert point.untold is None
        assert point.gpu is None
    assert all_batches is not None
    assert sum(size * n for size, n in all_batches.items()) >= one.tiles + four.tiles
    assert not children()


async def test_a_server_that_is_lost_ends_the_point_and_not_those_before(
    null_repository: Path, private_triton: Start, tiles: TileSet, quick_warm_up: None
) -> None:
    """It restricts its statistics, too: what it denies is told with the reason."""
    server = private_triton(null_repository, ["null_l2a"], restrict=["statistics"])
    operator = InferenceServerClient(server.address)
    header = {"triton-grpc-protocol-kappamask-key": server.key}
    losses: dict[str, Callable[[], None]] = {
        "does not serve": lambda: operator.unload_model("null_l2a", headers=header),
        "no server answers at": lambda: os.kill(server.pid, signal.SIGKILL),
    }
    for words, lose in losses.items():
        operator.load_model("null_l2a", headers=header)
        level = await measured(
            server.address, tiles, concurrency=(2, 4, 8), duration_s=0.2,
            on_progress=lambda text, lose=lose: lose() if text == "4 in flight: measuring for 0.2 s" else None,
        )  # fmt: skip
        (point,) = level.points
        assert (point.concurrency, point.batch_sizes, point.queue_s, point.compute_s) == (2, None, None, None)
        assert "does not give statistics: This protocol is restricted" in str(point.untold)
        (failure,) = level.failures
        assert failure.startswith("4 in flight: ")
        assert words in failure
        assert server.address in failure
        assert level.broken_off == failure
        assert not children()
    operator.close()
    with pytest.raises(ServerUnavailableError, match="no server answers at"):
        await measured(server.address, tiles, settings=Settings(server_wait_s=0.0))


async def test_overload_is_counted_beside_tiles(
    null_repository: Path, private_triton: Start, tiles: TileSet, tmp_path: Path, quick_warm_up: None
) -> None:
    folder = tmp_path / "repository" / "slow_l2a"
    shutil.copytree(null_repository / "null_l2a", folder)
    (folder / "1" / "model.py").write_text(SLOW)
    config = without_canary((folder / "config.pbtxt").read_text())
    for old, new in (
        ("null_l2a", "slow_l2a"),
        ("max_batch_size: 8", "max_batch_size: 1"),
        ("max_queue_size: 128", "max_queue_size: 2"),
    ):
        assert old in config
        config = config.replace(old, new)
    (folder / "config.pbtxt").write_text(config)
    server = private_triton(folder.parent, ["slow_l2a"])
    level = await measured(server.address, tiles, model="slow_l2a", concurrency=(1, 8), duration_s=0.5)
    alone, flooded = level.points
    assert alone.tiles > 0
    assert flooded.tiles > 0
    assert flooded.batch_sizes == {1: pytest.approx(flooded.tiles, abs=9)}
    (failure,) = level.failures
    assert level.broken_off is None
    assert failure.startswith("8 in flight: ")
    assert f"beside {flooded.tiles} answered ones, found the queue full: " in failure
    assert "xceeds maximum queue size" in failure


async def test_another_client_is_noticed(session_server: SessionServer, tiles: TileSet) -> None:
    """It sends as much again: what the server tells of its batches and times is no longer of this measurement."""
    requests = itertools.cycle(tiles.requests())
    is_over = False
    async with await TritonClient.connect(f"grpc://{session_server.address}", "null_l2a") as other:

        async def disturb() -> None:
            while not is_over:
                await other.infer(next(requests))

        disturbing = [asyncio.create_task(disturb()) for _ in range(4)]
        level = await measured(session_server.address, tiles, concurrency=(1,))
        is_over = True
        await asyncio.gather(*disturbing)
    (point,) = level.points
    assert point.tiles > 0
    assert (point.batch_sizes, point.queue_s, point.compute_s) == (None, None, None)
    assert "other clients used the model meanwhile" in str(point.untold)


async def test_a_cancelled_measurement_leaves_no_process(session_server: SessionServer, tiles: TileSet) -> None:
    """At each stage: while processes start, and while they send."""
    for stage in ("starting", "2 in flight: measuring"):
        reached = asyncio.Event()
        task = asyncio.create_task(
            measured(
                session_server.address, tiles, concurrency=(2,), duration_s=600.0, processes=2,
                on_progress=lambda text, stage=stage, reached=reached: reached.set() if text.startswith(stage) else None,
            )
        )  # fmt: skip
        await reached.wait()
        await until(children)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not children()


def test_client_processes_end_with_whoever_started_them(session_server: SessionServer, tiles: TileSet) -> None:
    script = f"""
import asyncio
from pathlib import Path
from tests.integration.test_bench_server_level import measured
from kappamask_stream.bench.tiles import TileSet
tiles = TileSet(folder=Path({str(tiles.folder)!r}), names={tiles.names!r}, count={tiles.count}, product="made")
asyncio.run(measured({session_server.address!r}, tiles, duration_s=600.0, on_progress=lambda text: print(text, flush=True)))
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            if "measuring" in line:
                break
        (load,) = psutil.Process(parent.pid).children()
        parent.kill()
    wait_until(lambda: not is_alive(load.pid), "the client process has ended")


async def test_what_fails_before_anything_is_measured_is_raised(
    session_server: SessionServer, kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    with pytest.raises(
        ContractError, match=r"tile \d of made: OFFSET is float32 \[14\], the contract of null_l2a .* \[6\]"
    ):
        await measured(session_server.address, made_tiles(kappamask_contract, tmp_path, count=1), concurrency=(1,))
    assert not children()
