"""Shared memory with real Tritons: who uses it, who falls back, and what is left when requests, clients or servers die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import InferenceTimeoutError
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, infer_with_retry, shared_memory
from kappamask_stream.inference.model_infer import inline_request
from kappamask_stream.inference.server_memory import KEY_HEADER
from kappamask_stream.inference.shared_memory import Region, is_of_the_dead
from kappamask_stream.inference.tensors import TileLayout
from tests.integration.canaries import without_canary
from tests.integration.local_state import CLI, PATIENCE_S, is_alive, wait_until
from tests.integration.tiles import tile_for
from tests.stream.polling import until

if TYPE_CHECKING:
    from tests.integration.conftest import PrivateTriton, Start
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

#: A backend that answers with the tile's first pixel, once a file is there that the tile's second one numbers.
WAITING = """
import pathlib, time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.gates = pathlib.Path(args["model_repository"]) / "gates"
    def execute(self, requests):
        def answer(request):
            pixels = pb.get_input_tensor_by_name(request, "DN_20M").as_numpy()
            while not (self.gates / str(pixels[0, 0, 0, 1])).exists():
                time.sleep(0.002)
            value = np.uint8(pixels[0, 0, 0, 0])
            return pb.InferenceResponse([pb.Tensor("LABELS", np.full((1, 256, 256), value, np.uint8))])
        return [answer(request) for request in requests]
"""


class Gates:
    """A repository with a model that holds each tile until its gate is opened; two tiles at a time."""

    def __init__(self, repository: Path, source: Path) -> None:
        self.repository, folder = repository, repository / "waiting_l2a"
        shutil.copytree(source / "null_l2a", folder)
        config = folder / "config.pbtxt"
        text = without_canary(config.read_text()).replace("null_l2a", "waiting_l2a")
        text = text.replace("max_batch_size: 8", "max_batch_size: 1").replace("count: 1 kind", "count: 2 kind")
        text = text.replace(r"\"max_batch\":8", r"\"max_batch\":1").replace(r"\"instances\":1", r"\"instances\":2")
        start = text.index("model_warmup")  # it would wait for its gate, too
        config.write_text(text[:start] + text[text.index("\n]\n", start) + 3 :])
        (folder / "1" / "model.py").write_text(WAITING)
        self.folder = folder / "gates"
        self.folder.mkdir()

    def open(self, gate: int) -> None:
        (self.folder / str(gate)).touch()


@pytest.fixture
def gates(null_repository: Path, tmp_path: Path) -> Gates:
    return Gates(tmp_path / "repository", null_repository)


def files() -> list[str]:
    return [path.name for path in Path("/dev/shm").glob("kappamask-*")]


def registered(server: PrivateTriton | SessionServer) -> set[str]:
    with contextlib.closing(triton.InferenceServerClient(server.address)) as client:
        return set(client.get_system_shared_memory_status(headers={KEY_HEADER: server.memory_key}).regions)


async def connected(
    server: PrivateTriton | SessionServer, model: str = "null_l2a", infer_timeout_s: float = 60.0
) -> TritonClient:
    client = await TritonClient.connect(
        f"grpc://{server.address}", model, memory_key=server.memory_key, infer_timeout_s=infer_timeout_s
    )
    assert client.transport.name == "shared memory", client.transport
    return client


# Late answers


async def ask(client: TritonClient, label: int, gate: int) -> int:
    """Send a tile that is answered with a label when its gate is open; returns the only label in the answer."""
    request = tile_for(client, label)
    request.tensors["DN_20M"][0, 0, 1] = gate
    (answered,) = np.unique((await client.infer(request)).labels).tolist()
    return int(answered)


@pytest.mark.parametrize("end", ["cancelled", "timed out"])
async def test_a_late_answer_is_nobodys(gates: Gates, private_triton: Start, end: str) -> None:
    """The server writes it after the request was given up, and while others wait for theirs: theirs must be right."""
    server = private_triton(gates.repository, ["waiting_l2a"])
    async with await connected(server, "waiting_l2a", 1.5 if end == "timed out" else 60.0) as client:
        gates.open(0)
        assert await ask(client, 1, 0) == 1
        (first,) = registered(server)
        late = asyncio.create_task(ask(client, 4, 7))
        if end == "cancelled":
            await until(lambda: "0 idle" in repr(client.connection.memory))
            await asyncio.sleep(0.1)  # the server has it, most likely; the answer must be right either way
            late.cancel()
        (ended,) = await asyncio.gather(late, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError if end == "cancelled" else InferenceTimeoutError)
        assert await ask(client, 2, 0) == 2
        assert registered(server) > {first}  # the server keeps it as long as it works on the request
        others = [asyncio.create_task(ask(client, 3, 0)) for _ in range(4)]
        gates.open(7)
        assert await asyncio.gather(*others) == [3] * 4
        await until(lambda: first not in registered(server))
        await until(lambda: "0 given up" in repr(client.connection.memory))
    assert registered(server) == set()


async def test_closing_while_requests_run_leaves_the_server_alive(gates: Gates, private_triton: Start) -> None:
    server = private_triton(gates.repository, ["waiting_l2a"])
    client = await connected(server, "waiting_l2a")
    running = [asyncio.create_task(ask(client, 4, 9)) for _ in range(3)]
    await until(lambda: len(registered(server)) == 3)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    closing = asyncio.create_task(client.aclose())
    gates.open(9)
    await closing
    assert registered(server) == set()
    async with await connected(server, "waiting_l2a") as client:
        assert await ask(client, 2, 9) == 2
    assert is_alive(server.pid)


# The death of clients and servers

CLIENT = """
import asyncio, sys
from kappamask_stream.inference import TritonClient
from tests.integration.tiles import tile_for

async def main():
    client = await TritonClient.connect(f"grpc://{sys.argv[1]}", "waiting_l2a", memory_key=sys.argv[2])
    asking = [asyncio.create_task(client.infer(tile_for(client, 1))) for _ in range(5)]
    print("asking", flush=True)
    await asyncio.gather(*asking)

asyncio.run(main())
"""


def test_a_killed_client_leaves_no_file_and_the_next_one_clears_up(gates: Gates, private_triton: Start) -> None:
    server = private_triton(gates.repository, ["waiting_l2a"])
    before = set(files())
    command = [sys.executable, "-c", CLIENT, server.address, server.memory_key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        wait_until(lambda: len(registered(server)) == 5 and set(files()) <= before, "five regions without files")
        process.send_signal(signal.SIGKILL)
    assert set(files()) <= before
    killed = registered(server)
    assert len(killed) == 5  # the memory is the server's now
    assert all(map(is_of_the_dead, killed))
    gates.open(1)
    asyncio.run(_next_client(server, killed))
    assert is_alive(server.pid)


async def _next_client(server: PrivateTriton, killed: set[str]) -> None:
    """Tiles of the dead may be in work when a client comes: they are another one's to clear up."""
    while killed & registered(server):
        async with await connected(server, "waiting_l2a") as client:
            assert await ask(client, 2, 1) == 2


async def test_a_tile_is_sent_again_to_a_server_that_was_started_again(
    null_repository: Path, private_triton: Start
) -> None:
    server = private_triton(null_repository, ["null_l2a"])
    async with await connected(server) as client:
        assert (await client.infer(tile_for(client, 4000))).labels.max() == 4
        known = registered(server)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(server.pid), "the server is dead")
        again = await asyncio.to_thread(
            private_triton, null_repository, ["null_l2a"], port=server.port, memory_key=server.memory_key
        )  # as the supervisor does it
        causes: list[str] = []
        policy = RetryPolicy(server_wait_s=60.0, backoff_s=0.05)
        result = await infer_with_retry(
            client,
            tile_for(client, 2000),
            window=InFlightWindow(4),
            policy=policy,
            on_retry=lambda cause, _: causes.append(cause),
        )
        assert set(np.unique(result.labels).tolist()) == {1}
        assert set(causes) == {"ServerUnavailableError"}
        assert client.transport.name == "shared memory"
        assert registered(again) != known
        assert len(registered(again)) == 1
    assert registered(again) == set()


# Others


async def test_who_lists_files_cannot_have_an_answer_written_into_anothers_tile(
    session_server: SessionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests may name any region that the server knows, whoever made it; they want no key."""
    seen: set[str] = set()
    unlink = Region.unlink

    def looked_at(region: Region) -> None:  # the server has mapped it
        seen.update(files())
        unlink(region)

    monkeypatch.setattr(Region, "unlink", looked_at)
    before = registered(session_server)
    async with await connected(session_server) as client:
        (name,) = registered(session_server) - before
        (pixels,) = client.new_tensors().values()
        pixels[:] = 1000
        assert seen
        for file in seen:
            with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
                await intrude(client, file)
        assert (pixels == 1000).all()
        await intrude(client, name)  # so it must be a secret
        assert not (pixels == 1000).all()
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            await client.connection.channel.get_system_shared_memory_status()


async def intrude(client: TritonClient, region: str) -> None:
    """Ask for an answer where somebody's tile is."""
    tile, layout = tile_for(client), TileLayout.of(client.contract, probabilities=False)
    message = inline_request(client.contract.name, layout, [*tile.tensors.values(), tile.offset, tile.scale])
    request = service_pb2.ModelInferRequest.FromString(message)
    parameters = request.outputs[0].parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_offset"].int64_param = 0
    parameters["shared_memory_byte_size"].int64_param = layout.outputs[0].nbytes
    await client.connection.infer(request.SerializeToString(), timeout_s=60.0)


# Falling back


async def test_without_the_key_tiles_go_over_grpc(session_server: SessionServer) -> None:
    async with await TritonClient.connect(f"grpc://{session_server.address}", "null_l2a") as client:
        assert client.transport.name == "gRPC"
        assert "This protocol is restricted, expecting header" in str(client.transport.reason)
        assert (await client.infer(tile_for(client, 4000))).labels.max() == 4
        assert repr(client).endswith(", gRPC>")


async def test_a_server_that_sees_other_files_is_spoken_to_over_grpc(
    session_server: SessionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in a container of its own."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    monkeypatch.setattr(shared_memory, "_FOLDER", folder)
    async with await TritonClient.connect(
        f"grpc://{session_server.address}", "null_l2a", memory_key=session_server.memory_key
    ) as client:
        assert client.transport.name == "gRPC"
        assert "Unable to open shared memory region" in str(client.transport.reason)
        assert (await client.infer(tile_for(client, 4000))).labels.max() == 4
    folder.rmdir()  # it is empty


# Masks


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    done = subprocess.run(
        [str(CLI), "synth", str(folder), "--size", "600", "--seed", "3"], check=True, capture_output=True
    )
    assert done.returncode == 0
    (made,) = folder.glob("*.SAFE")
    return made


def test_masks_are_the_same_byte_for_byte(session_server: SessionServer, product: Path, tmp_path: Path) -> None:
    masks = {}
    for choice in ("auto", "off"):
        output = tmp_path / choice
        done = subprocess.run(
            [str(CLI), "run", str(product), "--model", "null_l2a", "--mosaic", "blend", "--shared-memory", choice,
             "--output", str(output), "--json"],
            env=session_server.state.variables, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
        masks[choice] = {path.name: path.read_bytes() for path in output.rglob("*.tif")}
    assert masks["auto"] == masks["off"]
    assert masks["auto"]
