"""Another network takes the place of the one that a mask was begun with: no mask is of two networks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tritonclient.grpc.aio import InferenceServerClient

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ServerError
from tests.faults.faulty_triton import FaultyModel, Waiting
from tests.faults.triton_masks import TILES, Disturbed, scene, undisturbed
from tests.faults.triton_relay import TritonRelay, relayed
from tests.integration.conftest import build, null_repository, private_triton
from tests.integration.fault_proxy import FaultProxy
from tests.integration.local_state import is_alive
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from kappamask_stream import Masker
    from tests.fault_table import Fault
    from tests.integration.conftest import PrivateTriton, Start
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["null_repository", "private_triton", "scene", "undisturbed"]

#: Tiles are answered one by one, so that a product has a middle.
ONE_BY_ONE = (("max_batch_size: 8", "max_batch_size: 1"),)
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

    async def other_contract(self, change: Callable[[ModelContract], ModelContract]) -> None:
        """Put a network in the place of the first whose contract says another thing."""
        config = self._folder / "config.pbtxt"
        text = config.read_text()
        (written,) = re.findall(r'key: "contract" value: { string_value: ("(?:[^"\\]|\\.)*")', text)
        contract = change(ModelContract.from_json(json.loads(written)))
        config.write_text(text.replace(written, json.dumps(contract.to_json())))
        await self.load()

    async def other_network(self, model: Path) -> None:
        """Put a model of another name in the place of the first, under its name."""
        for folder in self._folder.glob("[0-9]*"):
            shutil.rmtree(folder)
        shutil.copytree(model / "1", self._folder / "1")
        text = (model / "config.pbtxt").read_text()
        (self._folder / "config.pbtxt").write_text(text.replace(model.name, self._folder.name))
        await self.load()


@pytest.fixture(scope="module")
def other_tiles(server_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The null model with KappaMask's tiles: 512 pixels, of bands of three resolutions."""
    return build(server_env, "null_kappamask_l2a", tmp_path_factory.mktemp("other-tiles"))


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


def other_classes(contract: ModelContract) -> ModelContract:
    """The same values, of which two mean what the other one did: clear and cloud."""
    by_value = {one.value: one for one in contract.classes}
    values = [{1: 4, 4: 1}.get(one.value, one.value) for one in contract.classes]
    classes = (replace(by_value[other], value=one.value) for one, other in zip(contract.classes, values, strict=True))
    return replace(contract, classes=tuple(classes))


#: What another network's contract says; by what is named then.
OTHERS: dict[str, Callable[[ModelContract], ModelContract]] = {
    "weights_sha256": lambda contract: replace(contract, weights_sha256="cd" * 32),
    "classes": other_classes,
    "divisors": lambda contract: replace(contract, divisors=tuple(2 * one for one in contract.divisors)),
}


@pytest.mark.fault("Triton", "replaced by another network in the middle: weights, classes, divisors")
async def test_another_network_under_the_same_name(deployed: Deployed, disturbed: Disturbed, fault: Fault) -> None:
    for what, change in OTHERS.items():
        said = await replaced(deployed, disturbed, partial(deployed.other_contract, change))
        fault.injected()
        fault.refused(said, disturbed.output, "serves another null_l2a than before", what)


@pytest.mark.fault("Triton", "replaced by a network of other tiles and bands in the middle")
async def test_a_network_of_other_tiles_under_the_same_name(
    deployed: Deployed, disturbed: Disturbed, fault: Fault, other_tiles: Path
) -> None:
    said = await replaced(deployed, disturbed, partial(deployed.other_network, other_tiles))
    fault.injected()
    fault.refused(said, disturbed.output, "serves another null_l2a than before", "tile_size", "256", "512")


# One of several


@dataclass
class Real:
    """One of several Tritons, each with a repository of its own."""

    server: PrivateTriton
    model: FaultyModel

    @property
    def tiles(self) -> int:
        """How many it has answered."""
        return self.server.answered("null_l2a")


@pytest.fixture
async def tritons(null_repository: Path, private_triton: Start, tmp_path: Path) -> list[Real]:
    made = []
    for number in range(3):
        model = FaultyModel(tmp_path / f"repository-{number}", null_repository, *ONE_BY_ONE)
        made.append(Real(await asyncio.to_thread(private_triton, model.repository, ["null_l2a"]), model))
    return made


@pytest.mark.fault("Triton", "one of three Tritons killed in the middle")
async def test_one_of_three_that_is_killed_is_not_missed(
    tritons: list[Real], scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    """All three have tiles that they work on; the killed one's are answered by the others."""
    disturbed = Disturbed(scene, "grpc://" + ",".join(one.server.address for one in tritons), tmp_path / "out")
    async with disturbed.masker() as masker:
        begun = [one.tiles for one in tritons]
        while any(one.tiles < tiles + 1 for one, tiles in zip(tritons, begun, strict=True)):
            await disturbed.mask(masker)  # connections come about one after the other
        waiting = [Waiting(one.model, after=fault.amount(0, 2)) for one in tritons]
        masking = asyncio.create_task(disturbed.mask(masker))
        for one in waiting:
            await one.come()
        await until(lambda: disturbed.progress.tiles_done >= fault.amount(0, 6))
        killed, *others = tritons
        os.kill(killed.server.pid, signal.SIGKILL)
        await until(lambda: not is_alive(killed.server.pid))
        fault.injected()
        assert disturbed.progress.tiles_done < TILES
        assert not masking.done()
        before = [one.tiles for one in others]
        for one in waiting:
            one.end()
        fault.identical(await masking, undisturbed)
        assert disturbed.causes == {"ServerUnavailableError"}, "tiles that it had were lost with it"
        assert all(one.tiles > tiles for one, tiles in zip(others, before, strict=True))
        fault.identical(await disturbed.mask(masker), undisturbed)


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
