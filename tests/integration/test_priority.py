"""Two lanes to one server: what is interactive goes before all of the backlog that waits. All with a real Triton.

Its Python backend writes down in which order tiles are taken into work, one by one, and holds them until a gate opens:
so a queue can be filled with what the test wants before anything is taken out of it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from kappamask_stream.contract import PARAMETER_KEY
from kappamask_stream.errors import ServerOverloadedError
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, infer_with_retry
from kappamask_stream.inference.pressure import MetricsPressure
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.settings import Settings
from kappamask_stream.worker.service import Service
from tests.integration.conftest import private_tritons
from tests.integration.tiles import tile_for
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from kappamask_stream.inference.types import Priority
    from tests.integration.conftest import PrivateTriton

pytestmark = pytest.mark.integration

#: Writes down the first pixel of each tile that it takes, and answers once the gate is open.
GATED = """
import pathlib, time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.folder = pathlib.Path(args["model_repository"])
    def execute(self, requests):
        def answer(request):
            pixels = pb.get_input_tensor_by_name(request, "DN_20M").as_numpy()
            with (self.folder / "order").open("a") as order:
                order.write(f"{pixels[0, 0, 0, 0]}\\n")
            while not (self.folder / "open").exists():
                time.sleep(0.002)
            time.sleep(0.02)
            return pb.InferenceResponse([pb.Tensor("LABELS", np.full((1, 256, 256), 1, np.uint8))])
        return [answer(request) for request in requests]
"""
QUEUE = 4
#: A model as `models build` configures it but for the queue's size; one as users may have it, without levels; one with
#: a level more than we know; and an ensemble around one.
LANES, FLAT, THREE, ENSEMBLE, INNER = "lanes_l2a", "flat_l2a", "three_l2a", "ensemble_l2a", "inner_l2a"


class Gate:
    """The gate of one model, and the order in which it took tiles."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        (self._folder / "open").touch()

    def close(self) -> None:
        (self._folder / "open").unlink(missing_ok=True)
        (self._folder / "order").unlink(missing_ok=True)

    @property
    def order(self) -> list[int]:
        path = self._folder / "order"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture(scope="module")
def repository(null_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("lanes")
    source = null_repository / "null_l2a"
    built = text_format.Parse((source / "config.pbtxt").read_text(), pb.ModelConfig())
    for name in (LANES, FLAT, THREE, INNER):
        config = pb.ModelConfig()
        config.CopyFrom(built)
        config.max_batch_size = 1
        config.instance_group[0].count = 1
        del config.model_warmup[:]
        config.dynamic_batching.default_queue_policy.max_queue_size = QUEUE
        if name == FLAT:
            config.ClearField("dynamic_batching")
        if name == THREE:
            config.dynamic_batching.priority_levels = config.dynamic_batching.default_priority_level = 3
        _write(repository / name, config)
        shutil.copytree(source / "1", repository / name / "1")
        (repository / name / "1" / "model.py").write_text(GATED)
    ensemble = pb.ModelConfig(platform="ensemble", max_batch_size=1, input=built.input, output=built.output[:])
    ensemble.parameters[PARAMETER_KEY].CopyFrom(built.parameters[PARAMETER_KEY])
    step = ensemble.ensemble_scheduling.step.add(model_name=INNER, model_version=-1)
    step.input_map.update({tensor.name: tensor.name for tensor in built.input})
    step.output_map.update({tensor.name: tensor.name for tensor in built.output})
    _write(repository / ENSEMBLE, ensemble)
    (repository / ENSEMBLE / "1").mkdir()
    return repository


def _write(folder: Path, config: pb.ModelConfig) -> None:
    """Write a model's configuration; its contract is of the same name, or clients would refuse it."""
    contract = json.loads(config.parameters[PARAMETER_KEY].string_value)
    config.parameters[PARAMETER_KEY].string_value = json.dumps(
        contract | {"name": folder.name, "max_batch": 1, "canary": None}
    )
    config.name = folder.name
    folder.mkdir()
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def server(server_env: Path, repository: Path) -> Iterator[PrivateTriton]:
    with private_tritons(server_env) as start:
        yield start(repository, [LANES, FLAT, THREE, INNER, ENSEMBLE])


@pytest.fixture
async def lane(server: PrivateTriton) -> AsyncIterator[Callable[..., Any]]:
    """``await lane(model, priority)`` connects a client to a lane."""
    async with AsyncExitStack() as stack:

        async def connect(model: str, priority: Priority | None, **options: Any) -> TritonClient:
            client = await TritonClient.connect(f"grpc://{server.address}", model, priority=priority, **options)
            return await stack.enter_async_context(client)

        yield connect


@pytest.fixture
async def waiting(server: PrivateTriton) -> AsyncIterator[Callable[..., Any]]:
    """``await waiting(model, count)`` returns once so many requests, or more, wait in the model's queue; 0 is none.

    Exactly so many would be missed where requests come by themselves, as those do that are tried again.
    """
    pressure = MetricsPressure(server.metrics)

    async def until_waiting(model: str, count: int) -> None:
        async with asyncio.timeout(60):
            found = None
            while found is None or found < count or (found and not count):
                found = await pressure.pending({model})
                await asyncio.sleep(0.005)

    yield until_waiting
    await pressure.aclose()


async def taken(gate: Gate, clients: Sequence[TritonClient], waiting: Callable[..., Any], queued_at: str) -> list[int]:
    """Send a tile of the first client, which is worked on, then one of each in turn, each once the last one waits.

    Returns the numbers of the tiles, 1 the first, in the order in which the server took them.
    """
    gate.close()
    async with asyncio.TaskGroup() as sent:
        sent.create_task(clients[0].infer(tile_for(clients[0], 1)))
        await until(lambda: gate.order == [1])
        await waiting(queued_at, 0)  # the count may be late: the first tile is not to be taken for the second
        for count, client in enumerate(clients, 1):
            sent.create_task(client.infer(tile_for(client, 1 + count)))
            await waiting(queued_at, count)
        gate.open()
    return gate.order


@pytest.mark.parametrize(("model", "queued_at"), [(LANES, LANES), (THREE, THREE), (ENSEMBLE, INNER)])
async def test_what_is_interactive_goes_before_the_backlog(
    repository: Path, lane: Callable[..., Any], waiting: Callable[..., Any], model: str, queued_at: str
) -> None:
    """Through an ensemble, too: its models are asked with the priority of the request."""
    clients = [await lane(model, priority) for priority in ("backlog", "backlog", "interactive", "interactive")]
    order = await taken(Gate(repository / queued_at), clients, waiting, queued_at)
    assert order == [1, 4, 5, 2, 3]


async def test_who_says_nothing_is_backlog(
    repository: Path, lane: Callable[..., Any], waiting: Callable[..., Any]
) -> None:
    """A client that does not know of lanes cannot be told from a backlog, and a person must not wait for one."""
    clients = [await lane(LANES, priority) for priority in ("backlog", None, "backlog", "interactive")]
    assert await taken(Gate(repository / LANES), clients, waiting, LANES) == [1, 5, 2, 3, 4]


async def test_a_model_without_levels_serves_in_the_order_of_arrival(
    repository: Path, lane: Callable[..., Any], waiting: Callable[..., Any]
) -> None:
    clients = [await lane(FLAT, priority) for priority in ("backlog", None, "interactive", "backlog")]
    assert await taken(Gate(repository / FLAT), clients, waiting, FLAT) == [1, 2, 3, 4, 5]


async def test_a_queue_full_of_backlog_lets_interactive_tiles_in(
    repository: Path, lane: Callable[..., Any], waiting: Callable[..., Any]
) -> None:
    """Each lane has a queue of its own of the size that the configuration says."""
    backlog, interactive = await lane(LANES, "backlog"), await lane(LANES, "interactive")
    gate = Gate(repository / LANES)
    gate.close()
    async with asyncio.TaskGroup() as sent:
        for number in range(1, QUEUE + 2):
            sent.create_task(backlog.infer(tile_for(backlog, number)))
            await until(lambda: gate.order == [1])
            await waiting(LANES, number - 1)
        with pytest.raises(ServerOverloadedError, match="is full: Exceeds maximum queue size"):
            await backlog.infer(tile_for(backlog, 90))
        for number in range(QUEUE):
            sent.create_task(interactive.infer(tile_for(interactive, 100 + number)))
            await waiting(LANES, QUEUE + number + 1)
        with pytest.raises(ServerOverloadedError, match="is full: Exceeds maximum queue size"):
            await interactive.infer(tile_for(interactive, 190))
        gate.open()
    assert gate.order == [1, 100, 101, 102, 103, 2, 3, 4, 5]


async def test_a_backlog_is_not_starved_for_ever(
    repository: Path, lane: Callable[..., Any], waiting: Callable[..., Any]
) -> None:
    """A tile that was not answered in time is sent again in the interactive lane, where it has its turn."""
    interactive, backlog = await lane(LANES, "interactive"), await lane(LANES, "backlog")
    hurried = await lane(LANES, "backlog", infer_timeout_s=3.0)
    gate, retries = Gate(repository / LANES), []
    gate.close()
    async with asyncio.TaskGroup() as sent:
        sent.create_task(interactive.infer(tile_for(interactive, 1)))
        await until(lambda: gate.order == [1])
        await waiting(LANES, 0)
        sent.create_task(backlog.infer(tile_for(backlog, 2)))
        await waiting(LANES, 1)
        starved = infer_with_retry(
            hurried, tile_for(hurried, 3), window=InFlightWindow(1), policy=RetryPolicy(attempts=20, backoff_s=0.01),
            on_retry=lambda cause, _: retries.append(cause),
        )  # fmt: skip
        sent.create_task(starved)
        await until(lambda: retries)
        await waiting(LANES, 3)  # the server looks at a request that was given up only when its turn comes
        gate.open()
    assert set(retries) == {"InferenceTimeoutError"}
    # A busy machine may give up, and send again, the very try that the server has just begun with.
    assert list(dict.fromkeys(gate.order)) == [1, 3, 2]


async def test_runs_are_interactive_and_workers_backlog_unless_told_otherwise(
    server: PrivateTriton, repository: Path, waiting: Callable[..., Any]
) -> None:
    endpoint = f"grpc://{server.address}"
    plain, other = Settings(triton=endpoint), Settings(triton=endpoint, priority="backlog")
    chosen = Settings(triton=endpoint, priority="interactive")
    async with AsyncExitStack() as stack:
        clients = []
        for settings in (Service(settings=plain).settings, other, plain, Service(settings=chosen).settings):
            pool = await stack.enter_async_context(ModelPool(ModelChoice(model=LANES), settings))
            await pool.get("L2A")
            clients.append(pool.connected("L2A"))
        assert await taken(Gate(repository / LANES), clients, waiting, LANES) == [1, 4, 5, 2, 3]
