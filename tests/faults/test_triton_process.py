"""A Triton that is killed, hangs, or is started again while a product is in work."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import models
from kappamask_stream.errors import ServerError
from kappamask_stream.inference import TritonClient
from tests.fault_table import Fault
from tests.faults.faulty_triton import FaultyModel, Waiting
from tests.faults.triton_masks import TILES, Disturbed, impatient, scene, undisturbed
from tests.integration.conftest import null_repository, private_triton
from tests.integration.local_state import is_alive
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.settings import Settings
    from tests.integration.conftest import PrivateTriton, Start
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["impatient", "null_repository", "private_triton", "scene", "undisturbed"]

_SEED = 7


@pytest.fixture
def model(null_repository: Path, tmp_path: Path) -> FaultyModel:
    return FaultyModel(tmp_path / "repository", null_repository)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The key for shared memory of the server at `Settings.triton`, which clients have for the local server only."""
    key: list[str] = []

    async def connect(settings: Settings, model: str, **rest: Any) -> TritonClient:
        return await TritonClient.connect(str(settings.triton), model, memory_key=key[0], **rest)

    monkeypatch.setattr(models, "connect", connect)
    return key


def regions() -> list[str]:
    """Files of shared memory that this process has made."""
    return [path.name for path in Path("/dev/shm").glob(f"kappamask-*-{os.getpid()}-*")]


@pytest.mark.parametrize("transport", Fault.amount(["shared memory"], ["gRPC", "shared memory"]))
@pytest.mark.fault("Triton", "killed and restarted in the middle")
async def test_killed_and_started_again(
    transport: str, model: FaultyModel, private_triton: Start, scene: Scene, tmp_path: Path, undisturbed: Path,
    shared: list[str], fault: Fault,
) -> None:  # fmt: skip
    server: PrivateTriton = await asyncio.to_thread(private_triton, model.repository, ["null_l2a"])
    shared.append(server.memory_key)
    choice = "auto" if transport == "shared memory" else "off"
    disturbed = Disturbed(scene, f"grpc://{server.address}", tmp_path / "out", {"shared_memory": choice})
    if transport == "gRPC":
        shared[0] = ""
    after = random.Random(_SEED)
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        for _ in range(fault.amount(1, 5)):
            waiting = Waiting(model, after.randrange(TILES // 2))
            masking = asyncio.create_task(disturbed.mask(masker))
            await waiting.come()
            os.kill(server.pid, signal.SIGKILL)
            fault.injected()
            await until(lambda pid=server.pid: not is_alive(pid))  # type: ignore[misc]
            waiting.end()
            server = await asyncio.to_thread(
                private_triton, model.repository, ["null_l2a"], port=server.port, memory_key=server.memory_key
            )
            fault.identical(await masking, undisturbed)
            assert disturbed.causes == {"ServerUnavailableError"}
            (client, _) = masker._workshop.models._models["null_l2a"]  # type: ignore[union-attr]
            assert client.transport.name == transport
    assert regions() == []


class Stopped:
    """A server that hangs within the block."""

    def __init__(self, server: PrivateTriton) -> None:
        self._pid = server.pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *exc_info: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


@pytest.fixture
def slow_model(null_repository: Path, tmp_path: Path) -> FaultyModel:
    """One whose tiles are answered one by one, so that a product has a middle."""
    return FaultyModel(tmp_path / "repository", null_repository, ("max_batch_size: 8", "max_batch_size: 1"))


@pytest.fixture
def hanging(slow_model: FaultyModel, private_triton: Start) -> Iterator[PrivateTriton]:
    """A server that a test may stop; it goes on at the end."""
    server = private_triton(slow_model.repository, ["null_l2a"])
    yield server
    os.kill(server.pid, signal.SIGCONT)


@pytest.mark.fault("Triton", "hung for 60 s (SIGSTOP) in the middle, then goes on")
async def test_a_server_that_hangs_for_a_while_is_waited_for(
    hanging: PrivateTriton, slow_model: FaultyModel, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    disturbed = Disturbed(scene, f"grpc://{hanging.address}", tmp_path / "out")
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        waiting = Waiting(slow_model, TILES // 2)
        masking = asyncio.create_task(disturbed.mask(masker))
        await waiting.come()
        await until(lambda: disturbed.progress.tiles_done >= TILES // 2)
        with Stopped(hanging):
            waiting.end()  # the model works on, and nobody hears of it
            fault.injected()
            assert not (await asyncio.wait([masking], timeout=fault.amount(3.0, 60.0)))[0]
            assert TILES // 2 <= disturbed.progress.tiles_done < TILES
        fault.identical(await masking, undisturbed)


@pytest.mark.fault("Triton", "hung in the middle for longer than requests may take")
async def test_a_server_that_hangs_too_long_fails_the_product(
    hanging: PrivateTriton, slow_model: FaultyModel, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault,
    impatient: None,
) -> None:  # fmt: skip
    seconds = fault.amount(0.5, 5.0)
    options = {"infer_timeout_s": seconds, "tile_attempts": 3, "server_wait_s": seconds}
    disturbed = Disturbed(scene, f"grpc://{hanging.address}", tmp_path / "out", options)
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        waiting = Waiting(slow_model, TILES // 2)
        masking = asyncio.create_task(disturbed.mask(masker))
        await waiting.come()
        await until(lambda: disturbed.progress.tiles_done >= TILES // 2)
        with Stopped(hanging):
            waiting.end()
            fault.injected()
            with pytest.raises(ServerError) as caught:
                await masking
            fault.refused(caught.value, disturbed.output, "tile at row", scene.name, hanging.address, "tried")
            # Which of the limits comes first depends on what the connection has room for: a request's, TCP's, or gRPC's.
            limits = (f"within {seconds:g} s", "does not answer within", "ping timeout", "timed out")
            assert any(limit in str(caught.value) for limit in limits), caught.value
            assert caught.value.retryable
        fault.identical(await disturbed.mask(masker), undisturbed)
