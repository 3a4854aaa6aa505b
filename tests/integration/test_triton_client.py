"""`TritonClient` against real servers: connecting, refusing, timing out, overload, restricted and dead ones."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import (
    ContractError,
    InferenceTimeoutError,
    ServerError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, infer_with_retry
from kappamask_stream.inference.channel import Connection
from kappamask_stream.inference.endpoint import parse_endpoint
from tests.integration.canaries import without_canary
from tests.integration.tiles import tile_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.conftest import Start
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

#: A backend that takes its time, so that what it does not work on waits.
SLOW = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.1)
        def answer(request):
            count = len(pb.get_input_tensor_by_name(request, "OFFSET").as_numpy())
            return pb.InferenceResponse([pb.Tensor("LABELS", np.full((count, 256, 256), 1, np.uint8))])
        return [answer(request) for request in requests]
"""


@pytest.fixture
def add_model(null_repository: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the null model into a repository of the test's own under another name, its configuration changed."""

    def add(name: str, *changes: tuple[str, str], backend: str | None = None) -> Path:
        folder = tmp_path / "repository" / name
        shutil.copytree(null_repository / "null_l2a", folder)
        config = folder / "config.pbtxt"
        text = config.read_text().replace("null_l2a", name)
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        config.write_text(text if backend is None else without_canary(text))
        if backend is not None:
            (folder / "1" / "model.py").write_text(backend)
        return folder.parent

    return add


def unconnected(address: str, repository: Path, infer_timeout_s: float = 60.0) -> TritonClient:
    """A client that has not asked the server for the contract: it would not have got one."""
    contract = ModelContract.from_json((repository / "null_l2a" / "contract.json").read_text())
    connection = Connection.open(parse_endpoint(f"grpc://{address}"), infer_timeout_s=infer_timeout_s)
    return TritonClient(connection, contract, infer_timeout_s)


# Connecting


async def test_the_contract_is_read_when_connecting(session_server: SessionServer) -> None:
    async with await TritonClient.connect(f"grpc://{session_server.address}", "null_l2a") as client:
        assert client.contract.name == "null_l2a"
        assert client.contract.inputs[0].bands == ("B02", "B03", "B04", "B8A", "B11", "B12")
        assert repr(client) == f"<TritonClient null_l2a at grpc://{session_server.address}, gRPC>"


async def test_a_model_that_is_not_there_is_refused_with_the_remedy(session_server: SessionServer) -> None:
    with pytest.raises(ContractError, match=r"does not serve nothing_l2a: .*models build nothing_l2a.*--model"):
        await TritonClient.connect(f"grpc://{session_server.address}", "nothing_l2a", server_wait_s=60.0)


CONTRADICTIONS = {
    "no_contract": ([('key: "contract"', 'key: "something else"')], r"carries no contract \(parameter 'contract'\)"),
    "newer_schema": ([(r"\"schema_version\":[1,3]", r"\"schema_version\":[2,0]")], r"2\.0, this client reads 1\.x"),
    "unreadable": ([(r"\"margin\":26", r"\"margin\":null")], "contract"),
    "other_input": (
        [("dims: [6, 256, 256]", "dims: [5, 256, 256]")],
        r"DN_20M \['UINT16', 5, 256, 256\], its contract",
    ),
    "other_output": ([("dims: [3, 256, 256]", "dims: [4, 256, 256]")], r"PROBABILITIES \['UINT8', 4, 256, 256\]"),
    "other_type": (
        [('"LABELS" data_type: TYPE_UINT8', '"LABELS" data_type: TYPE_INT64')],
        r"LABELS \['\?', 256, 256\], its contract says LABELS \['UINT8', 256, 256\]",
    ),
    "somebody_elses": (
        [(r"\"name\":\"somebody_elses\"", r"\"name\":\"csmask_l2a\"")],
        "carries the contract of csmask_l2a",
    ),
}


async def test_models_that_contradict_the_client_are_refused_with_both_sides(
    add_model: Callable[..., Path], private_triton: Start
) -> None:
    for name, (changes, _) in CONTRADICTIONS.items():
        repository = add_model(name, *changes, backend=SLOW)
    server = private_triton(repository, list(CONTRADICTIONS))
    for name, (_, message) in CONTRADICTIONS.items():
        with pytest.raises(ContractError, match=message):
            await TritonClient.connect(f"grpc://{server.address}", name)


@pytest.fixture
def silent_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port on which somebody accepts and never says a word; ten seconds of it are as good as one half."""
    for module in ("served", "triton"):
        monkeypatch.setattr(f"kappamask_stream.inference.{module}.CONTROL_TIMEOUT_S", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def test_an_endpoint_that_nobody_listens_on_is_unavailable(dead_port: int) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    with pytest.raises(ServerUnavailableError, match=rf"no server answers at grpc://127\.0\.0\.1:{dead_port}: "):
        await TritonClient.connect(f"grpc://127.0.0.1:{dead_port}", "null_l2a", server_wait_s=1.0)
    assert loop.time() - begin >= 1.0  # it was waited for


async def test_a_server_that_comes_up_late_is_waited_for(
    null_repository: Path, private_triton: Start, dead_port: int
) -> None:
    """The client is there first, at the address of a server that has died; a proxy stands for its return."""
    server = await asyncio.to_thread(private_triton, null_repository, ["null_l2a"])
    connecting = asyncio.create_task(
        TritonClient.connect(f"grpc://127.0.0.1:{dead_port}", "null_l2a", server_wait_s=60.0)
    )
    assert not (await asyncio.wait([connecting], timeout=0.3))[0]
    async with forwarded(dead_port, server.address), await connecting as client:
        assert (await client.infer(tile_for(client, 2000))).labels.max() == 1


class forwarded:  # noqa: N801 - reads as a word
    """A TCP proxy on `port`."""

    def __init__(self, port: int, address: str) -> None:
        self.port, (self.host, _, self.target) = port, address.rpartition(":")

    async def __aenter__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self.host, int(self.target))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                sink.close()

        for pair in ((reader, there_writer), (there_reader, writer)):
            self.tasks.add(asyncio.create_task(copy(*pair)))

    async def __aexit__(self, *exc_info: object) -> None:
        self.listener.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks)


# Servers that fail


async def test_a_server_that_never_answers_runs_into_the_timeout(null_repository: Path, silent_port: int) -> None:
    """A real socket that stays silent: the request ends after its time, and the message says how long that was."""
    async with unconnected(f"127.0.0.1:{silent_port}", null_repository, infer_timeout_s=0.3) as client:
        with pytest.raises(InferenceTimeoutError, match=rf"no answer from grpc://.*:{silent_port} within 0\.3 s"):
            await client.infer(tile_for(client, 2000))
        assert await client.is_ready() is False


async def test_connecting_to_a_silent_server_ends(silent_port: int) -> None:
    with pytest.raises(ServerUnavailableError, match=r"does not answer within 0\.5 s: is it the gRPC port of a Triton"):
        await TritonClient.connect(f"grpc://127.0.0.1:{silent_port}", "null_l2a")


TINY_QUEUE = ("max_queue_size: 128", "max_queue_size: 2"), ("max_batch_size: 8", "max_batch_size: 2")


async def test_a_full_queue_is_overload_and_all_tiles_are_answered_in_the_end(
    add_model: Callable[..., Path], private_triton: Start
) -> None:
    server = private_triton(add_model("slow_l2a", *TINY_QUEUE, backend=SLOW), ["slow_l2a"])
    async with await TritonClient.connect(f"grpc://{server.address}", "slow_l2a") as client:
        refused = await asyncio.gather(
            *(client.infer(tile_for(client, 2000)) for _ in range(12)), return_exceptions=True
        )
        overloads = [error for error in refused if isinstance(error, BaseException)]
        assert {type(error) for error in overloads} == {ServerOverloadedError}
        assert "is full: Exceeds maximum queue size" in str(overloads[0])
        assert len(overloads) < 12

        window = InFlightWindow(12)
        limits: list[int] = []
        policy = RetryPolicy(attempts=1, server_wait_s=0.0, backoff_s=0.05, backoff_max_s=0.5)
        results = await asyncio.gather(
            *(
                infer_with_retry(
                    client,
                    tile_for(client, 2000, f"tile {i}"),
                    window=window,
                    policy=policy,
                    on_retry=lambda *_: limits.append(window.limit),
                )
                for i in range(24)
            )
        )
        assert all((result.labels == 1).all() for result in results)
        assert min(limits) < 12
        assert window.in_flight == 0


async def test_patience_with_overload_ends_in_the_cause(add_model: Callable[..., Path], private_triton: Start) -> None:
    server = private_triton(add_model("slow_l2a", *TINY_QUEUE, backend=SLOW), ["slow_l2a"])
    async with await TritonClient.connect(f"grpc://{server.address}", "slow_l2a") as client:
        flood = [asyncio.create_task(client.infer(tile_for(client, 2000))) for _ in range(12)]
        policy = RetryPolicy(overload_wait_s=0.0, server_wait_s=60.0, backoff_s=0.01)
        with pytest.raises(ServerOverloadedError, match=r"tile 7: the queue .* is full: .*\(tried \d+ times\)"):
            await asyncio.gather(
                *(
                    infer_with_retry(client, tile_for(client, 2000, "tile 7"), window=InFlightWindow(8), policy=policy)
                    for _ in range(8)
                )
            )
        await asyncio.gather(*flood, return_exceptions=True)


async def test_a_dead_server_is_no_overload(null_repository: Path, private_triton: Start) -> None:
    server = private_triton(null_repository, ["null_l2a"])
    async with await TritonClient.connect(f"grpc://{server.address}", "null_l2a") as client:
        assert (await client.infer(tile_for(client, 2000))).labels.max() == 1
        os.kill(server.pid, 9)
        window = InFlightWindow(4)
        for policy in (RetryPolicy(server_wait_s=0.0, backoff_s=0.01), RetryPolicy(server_wait_s=0.5, backoff_s=0.01)):
            with pytest.raises(ServerUnavailableError, match=r"^tile: no server answers at .*\(tried \d+ times\)"):
                await infer_with_retry(client, tile_for(client, 2000), window=window, policy=policy)
        assert window.limit == 4
        assert await client.is_ready() is False
        sizes = await client.batch_sizes()
        assert sizes.counts is None
        assert "the server does not give statistics: " in str(sizes.reason)


async def test_a_model_that_is_unloaded_is_waited_for(null_repository: Path, private_triton: Start) -> None:
    """As while a server starts again: it listens before its models are there."""
    server = private_triton(null_repository, [])
    async with unconnected(server.address, null_repository) as client:
        with pytest.raises(ServerUnavailableError, match="does not serve the model now: Request for unknown model"):
            await client.infer(tile_for(client, 2000))


# Restricted servers


async def test_what_a_restricted_server_denies_is_told_with_the_reason(
    null_repository: Path, private_triton: Start
) -> None:
    server = private_triton(null_repository, ["null_l2a"], restrict=["statistics"])
    async with await TritonClient.connect(f"grpc://{server.address}", "null_l2a") as client:
        before = await client.batch_sizes()
        assert (await client.infer(tile_for(client, 2000))).labels.max() == 1
        sizes = (await client.batch_sizes()).since(before)
    assert (sizes.counts, sizes.mean) == (None, None)
    assert "the server does not give statistics: This protocol is restricted" in str(sizes.reason)
    assert json.dumps(sizes.reason)


@pytest.mark.parametrize("part", ["model-config", "inference"])
async def test_a_server_closed_to_this_client_is_not_waited_for(
    null_repository: Path, private_triton: Start, part: str
) -> None:
    server = private_triton(null_repository, ["null_l2a"], restrict=[part])
    with pytest.raises(ServerError, match=r"refuses: This protocol is restricted.*ask its operator") as caught:
        async with await TritonClient.connect(f"grpc://{server.address}", "null_l2a", server_wait_s=600.0) as client:
            await infer_with_retry(
                client, tile_for(client, 2000), window=InFlightWindow(2), policy=RetryPolicy(server_wait_s=600.0)
            )
    assert not caught.value.retryable
