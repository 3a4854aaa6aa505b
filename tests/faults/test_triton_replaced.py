"""Another network takes the place of the one that a mask was begun with: no mask is of two networks."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from tritonclient.grpc.aio import InferenceServerClient

from kappamask_stream.errors import ServerError
from tests.faults.faulty_triton import FaultyModel, Waiting
from tests.faults.triton_masks import Disturbed, scene, undisturbed
from tests.faults.triton_relay import TritonRelay, relayed
from tests.integration.conftest import null_repository, private_triton
from tests.integration.fault_proxy import FaultProxy
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kappamask_stream import Masker
    from tests.fault_table import Fault
    from tests.integration.conftest import PrivateTriton, Start
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["null_repository", "private_triton", "scene", "undisturbed"]

#: Header of private servers for what changes them.
_KEY = "triton-grpc-protocol-kappamask-key"


class Deployed:
    """A Triton with model control, in which a model is replaced while it serves."""

    def __init__(self, server: PrivateTriton, model: FaultyModel) -> None:
        self._server, self.model, self._folder = server, model, model.repository / "null_l2a"

    async def load(self) -> None:
        """Have the server take what lies in the repository now."""
        async with InferenceServerClient(self._server.address) as client:
            await client.load_model("null_l2a", headers={_KEY: self._server.key}, client_timeout=60.0)

    async def another_version(self) -> None:
        """Put version 2 beside version 1, under the same configuration."""
        shutil.copytree(self._folder / "1", self._folder / "2")
        await self.load()

    async def first_version(self) -> None:
        """Take version 2 away."""
        shutil.rmtree(self._folder / "2")
        await self.load()

    async def other_weights(self) -> None:
        """Put another network in the place of the first."""
        config = self._folder / "config.pbtxt"
        text = config.read_text()
        before = text.partition(r"\"weights_sha256\":\"")[2][:64]
        config.write_text(text.replace(before, "cd" * 32))
        await self.load()


@pytest.fixture
async def deployed(null_repository: Path, private_triton: Start, tmp_path: Path) -> Deployed:
    model = FaultyModel(tmp_path / "repository", null_repository)
    return Deployed(await asyncio.to_thread(private_triton, model.repository, ["null_l2a"]), model)


@pytest.fixture
def disturbed(deployed: Deployed, scene: Scene, tmp_path: Path) -> Disturbed:
    """A product that is masked there, tile by tile."""
    return Disturbed(scene, f"grpc://{deployed._server.address}", tmp_path / "out", {"max_in_flight": 1})


async def replaced(deployed: Deployed, disturbed: Disturbed, *steps: Any) -> str:
    """Mask a product and do something to the server while it has the second tile; returns why that failed."""
    async with disturbed.masker() as masker:
        waiting = Waiting(deployed.model, 1)
        masking = asyncio.create_task(disturbed.mask(masker))
        await waiting.come()
        loading = [asyncio.create_task(step()) for step in steps[:1]]
        await asyncio.gather(*loading)
        waiting.end()
        with pytest.raises(ServerError) as caught:
            await masking
        assert caught.value.retryable, "begun anew it takes the other network"
    return str(caught.value)


@pytest.mark.fault("Triton", "replaced by another version of the model in the middle")
async def test_another_version_under_the_same_contract(
    deployed: Deployed, disturbed: Disturbed, undisturbed: Path, fault: Fault
) -> None:
    """Its configuration is that of the first version: only the answers tell."""
    said = await replaced(deployed, disturbed, deployed.another_version)
    fault.injected()
    fault.refused(said, disturbed.output, "version 2 of null_l2a answers", "version 1 did before", "start it again")
    fault.identical(await disturbed.mask(), undisturbed)


@pytest.mark.fault("Triton", "replaced by another network in the middle")
async def test_another_network_under_the_same_name(deployed: Deployed, disturbed: Disturbed, fault: Fault) -> None:
    said = await replaced(deployed, disturbed, deployed.other_weights)
    fault.injected()
    fault.refused(said, disturbed.output, "serves another null_l2a than before", "weights_sha256", "cd" * 32)


# One of several


class Replica:
    """A server of several: a relay to one Triton, behind a proxy that can cut it off."""

    def __init__(self, relay: TritonRelay, proxy: FaultProxy) -> None:
        self.relay, self.proxy = relay, proxy

    def die(self) -> None:
        """End all connections, and take no new ones."""
        self.proxy.refuses = True
        self.proxy.cut()
        self.proxy.let_go()

    def come_back(self) -> None:
        """Take connections again."""
        self.proxy.refuses = False


@pytest.fixture
async def replicas(session_server: SessionServer) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(3):
            relay, endpoint = await stack.enter_async_context(relayed(session_server.address))
            made.append(Replica(relay, stack.enter_context(FaultProxy(endpoint.removeprefix("grpc://")))))
        yield made


def at(replicas: list[Replica], scene: Scene, folder: Path) -> Disturbed:
    """A product that is masked at several servers."""
    return Disturbed(scene, "grpc://" + ",".join(replica.proxy.address for replica in replicas), folder)


async def both_work(masker: Masker, disturbed: Disturbed, replicas: list[Replica]) -> None:
    """Mask until each has had tiles: connections come about one after the other."""
    begun = [replica.relay.tiles for replica in replicas]
    while any(replica.relay.tiles < tiles + 2 for replica, tiles in zip(replicas, begun, strict=True)):
        await disturbed.mask(masker)


async def one_dies(masker: Masker, disturbed: Disturbed, replicas: list[Replica]) -> asyncio.Task[Path]:
    """Begin a product, and let the first server die while all of them have tiles that they keep back."""
    for replica in replicas:
        replica.proxy.hold_after = 0
    masking = asyncio.create_task(disturbed.mask(masker))
    await until(lambda: all(replica.proxy.held.is_set() for replica in replicas))
    replicas[0].die()
    return masking


@pytest.mark.fault("Triton", "one of three replicas dies")
async def test_one_of_three_that_dies_is_not_missed(
    replicas: list[Replica], scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    disturbed = at(replicas, scene, tmp_path / "out")
    async with disturbed.masker() as masker:
        await both_work(masker, disturbed, replicas)
        masking = await one_dies(masker, disturbed, replicas)
        fault.injected()
        for replica in replicas[1:]:
            replica.proxy.let_go()
        fault.identical(await masking, undisturbed)


@pytest.mark.fault("Triton", "one of three replicas dies and comes back with another network")
async def test_one_of_three_that_comes_back_as_another_fails_the_product(
    replicas: list[Replica], scene: Scene, tmp_path: Path, fault: Fault
) -> None:
    disturbed = at(replicas, scene, tmp_path / "out")
    async with disturbed.masker() as masker:
        await both_work(masker, disturbed, replicas)
        masking = await one_dies(masker, disturbed, replicas)
        first, before = replicas[0], replicas[0].proxy.passed
        first.relay.change["ModelConfig"] = other_weights
        first.come_back()
        await until(lambda: first.proxy.passed > before)  # the client has found it again
        fault.injected()
        for replica in replicas[1:]:
            replica.proxy.let_go()
        with pytest.raises(ServerError) as caught:
            await masking
        fault.refused(caught.value, disturbed.output, "null_l2a", "weights_sha256", "cd" * 32)


def other_weights(answer: Any) -> None:
    """Make a configuration that of another network."""
    contract = answer.config.parameters["contract"]
    before = contract.string_value.partition('"weights_sha256":"')[2][:64]
    contract.string_value = contract.string_value.replace(before, "cd" * 32)
