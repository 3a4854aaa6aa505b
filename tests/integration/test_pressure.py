"""How many requests wait in a server: by its metrics, and by its statistics; both of a real Triton that is busy."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import UsageError
from kappamask_stream.inference import TritonClient
from kappamask_stream.inference.pressure import MetricsPressure, StatisticsPressure
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.settings import Settings
from tests.integration.canaries import without_canary
from tests.integration.tiles import tile_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.integration.conftest import Start
    from tests.integration.session import SessionServer

#: A backend that takes its time, so that what it does not work on waits; batches are of one.
SLOW = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05)
        return [pb.InferenceResponse([pb.Tensor("LABELS", np.full((1, 256, 256), 1, np.uint8))]) for _ in requests]
"""
IN_FLIGHT = 20


@pytest.fixture
def slow_repository(null_repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "slow_l2a"
    shutil.copytree(null_repository / "null_l2a", folder)
    (folder / "1" / "model.py").write_text(SLOW)
    config = folder / "config.pbtxt"
    text = without_canary(config.read_text()).replace("null_l2a", "slow_l2a")
    text = text.replace("max_batch_size: 8", "max_batch_size: 1")
    config.write_text(text)
    return folder.parent


@asynccontextmanager
async def flood(client: TritonClient) -> AsyncIterator[None]:
    """Keep `IN_FLIGHT` requests in the server: one is worked on, the others wait."""

    async def again_and_again() -> None:
        while True:
            await client.infer(tile_for(client))

    tasks = [asyncio.create_task(again_and_again()) for _ in range(IN_FLIGHT)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first(pool: ModelPool, is_it: Callable[[float], bool]) -> float:
    """Ask until a number is as it should be; all that are less than what is wanted may come before."""
    while True:
        pending = await pool.pending()
        if pending is not None and is_it(pending):
            return pending
        await asyncio.sleep(0.05)


@pytest.mark.integration
async def test_a_busy_server_tells_what_waits(slow_repository: Path, private_triton: Start) -> None:
    server = await asyncio.to_thread(private_triton, slow_repository, ["slow_l2a"])
    endpoint = f"grpc://{server.address}"
    by_metrics = Settings(triton=endpoint, triton_metrics=server.metrics)
    async with (
        ModelPool(ModelChoice(model="slow_l2a"), by_metrics) as told,
        ModelPool(ModelChoice(model="slow_l2a"), Settings(triton=endpoint)) as reckoned,
    ):
        assert await told.pending() is None  # nothing is connected
        client = (await told.get("L2A")).client
        await reckoned.get("L2A")
        assert await told.pending() == 0.0
        assert await reckoned.pending() is None  # there is nothing to compare with

        async with flood(client), asyncio.timeout(60):
            assert IN_FLIGHT - 3 <= await first(told, lambda pending: pending >= IN_FLIGHT - 3) <= IN_FLIGHT
            # On average over seconds: it rises from nothing to what waits now.
            assert await first(reckoned, lambda pending: pending >= IN_FLIGHT - 5) <= IN_FLIGHT

        async with asyncio.timeout(60):
            await first(told, lambda pending: pending == 0.0)


@pytest.mark.integration
async def test_a_server_that_denies_its_statistics_tells_nothing(null_repository: Path, private_triton: Start) -> None:
    server = await asyncio.to_thread(private_triton, null_repository, ["null_l2a"], restrict=["statistics"])
    async with await TritonClient.connect(f"grpc://{server.address}", "null_l2a") as client:
        pressure = StatisticsPressure(client.connection.one)
        for _ in range(2):
            assert await pressure.pending({"null_l2a"}) is None


@pytest.mark.integration
async def test_the_local_server_tells(session_server: SessionServer, server_env: Path) -> None:
    async with ModelPool(ModelChoice(model="null_l2a"), Settings(server_env=server_env)) as pool:
        await pool.get("L2A")
        assert await pool.pending() == 0.0


# Metrics that are not as they should be

METRICS = """\
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="ours_l1c",version="1"} %d
nv_inference_pending_request_count{model="ours_l2a",version="1"} %d
nv_inference_pending_request_count{model="somebody_elses",version="1"} 1000
nv_inference_pending_request_count_of_another_kind{model="ours_l1c"} 1000
nv_gpu_utilization{gpu_uuid="GPU-0"} 0.5
"""


@asynccontextmanager
async def metrics(content: bytes, *, status: str = "200 OK", host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve one text, whatever is asked for."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nLocation: /elsewhere\r\n\r\n"
        writer.write(head.encode() + content)
        writer.close()

    server = await asyncio.start_server(answer, host, 0)
    async with server:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}/metrics"


OURS = {"ours_l1c", "ours_l2a"}


async def pending(urls: str) -> float | None:
    pressure = MetricsPressure(urls)
    try:
        return await pressure.pending(OURS)
    finally:
        await pressure.aclose()


async def test_models_are_added_up_and_servers_averaged() -> None:
    async with metrics((METRICS % (3, 4)).encode()) as one, metrics((METRICS % (10, 3)).encode()) as other:
        assert await pending(one) == 7.0
        assert await pending(f"{one}, {other}") == 10.0
        assert await pending(f"{one} http://127.0.0.1:1/metrics") == 7.0
        assert await pending(f"{one},http://no.such.host.invalid/metrics") == 7.0
        by_name = one.replace("127.0.0.1", "localhost")  # which may have an address on which nobody listens
        assert await pending(by_name) == 7.0


async def test_all_addresses_of_a_name_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with metrics((METRICS % (1, 1)).encode()) as one:
        port = int(one.rpartition(":")[2].removesuffix("/metrics"))
        busier = (METRICS % (5, 5)).encode()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert f"Host: triton.test:{port}\r\n".encode() in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(busier) + busier)
            writer.close()

        async def found(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            assert host == "triton.test"
            return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1")]

        async with await asyncio.start_server(answer, "127.0.0.2", port):
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
            assert await pending(f"http://triton.test:{port}/metrics") == 6.0


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", "200 OK"),
        (b"<html>nothing here</html>", "200 OK"),
        (b"\xff\xfe", "200 OK"),
        (b"nv_inference_pending_request_count{model=", "200 OK"),
        (b'nv_inference_pending_request_count{model="ours_l1c"} many', "200 OK"),
        (b'nv_inference_pending_request_count{model="somebody_elses"} 3', "200 OK"),
        (b"nv_inference_count 3\n" * 500_000, "200 OK"),
        ((METRICS % (1, 1)).encode(), "404 Not Found"),
        ((METRICS % (1, 1)).encode(), "302 Found"),
        ((METRICS % (1, 1)).encode(), "503 Unavailable"),
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_what_is_no_answer_is_none(content: bytes, status: str) -> None:
    async with metrics(content, status=status) as url:
        assert await pending(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "", " , ", "triton:8002", "grpc://triton:8002/metrics", "http://", "http:///metrics", "http://[::1",
        "http://a..b:8002/metrics", f"http://{'a' * 64}:8002/metrics",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"^setting triton_metrics .*http://HOST:8002/metrics"):
        ModelPool(ModelChoice(model="csmask"), Settings(triton="grpc://127.0.0.1:1", triton_metrics=url))


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match=r"without user and password; there is 'triton:8002/metrics'"):
        MetricsPressure("http://me:secret@triton:8002/metrics")
