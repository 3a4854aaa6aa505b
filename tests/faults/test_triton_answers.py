"""A Triton that turns tiles away, fails on them, or answers nonsense: the mask is right, or there is none."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import ServerError, ServerOverloadedError
from kappamask_stream.inference import InferResult, TritonClient
from tests.faults.faulty_triton import FaultyModel
from tests.faults.triton_masks import Disturbed, scene, undisturbed
from tests.faults.triton_relay import relayed
from tests.integration.conftest import null_repository, private_tritons
from tests.integration.tiles import tile_for
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kappamask_stream import Masker
    from tests.fault_table import Fault
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["null_repository", "scene", "undisturbed"]

#: One tile at a time, and no more than two that wait.
TINY_QUEUE = ("max_queue_size: 128", "max_queue_size: 2"), ("max_batch_size: 8", "max_batch_size: 1")


@dataclass
class Server:
    """A real Triton that fails as told."""

    model: FaultyModel
    endpoint: str


@pytest.fixture(scope="module")
def any_server(server_env: Path, null_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = FaultyModel(tmp_path_factory.mktemp("faulty") / "repository", null_repository, *TINY_QUEUE)
    with private_tritons(server_env) as start:
        yield Server(model, f"grpc://{start(model.repository, ['null_l2a']).address}")


@pytest.fixture
def server(any_server: Server) -> Iterator[Server]:
    yield any_server
    any_server.model.recover()


@pytest.fixture
def disturbed(server: Server, scene: Scene, tmp_path: Path) -> Disturbed:
    """A product that is masked there, never with more tiles in flight than the queue takes."""
    return Disturbed(scene, server.endpoint, tmp_path / "out", {"max_in_flight": 2})


async def refused(disturbed: Disturbed, masker: Masker, fault: Fault, *causes: str) -> None:
    """Mask once more; the product has to fail with the cause, and to leave no file."""
    with pytest.raises(ServerError) as caught:
        await disturbed.mask(masker)
    fault.refused(caught.value, disturbed.output, *causes)


# Errors


@pytest.mark.fault("Triton", "answers an error for one tile")
async def test_a_tile_that_fails_is_sent_again(
    server: Server, disturbed: Disturbed, undisturbed: Path, fault: Fault
) -> None:
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        server.model.fail("if n == 3: raise RuntimeError('CUDA error: an illegal memory access was encountered')")
        made = await disturbed.mask(masker)
    assert len(server.model.injected) == 1
    fault.injected(len(disturbed.retries))
    assert disturbed.causes == {"ServerFaultError"}
    assert "an illegal memory access" in disturbed.retries[0][1]
    fault.identical(made, undisturbed)


@pytest.mark.fault("Triton", "answers an error for every tenth tile")
async def test_every_tenth_tile_fails(server: Server, disturbed: Disturbed, undisturbed: Path, fault: Fault) -> None:
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        server.model.fail("if n % 10 == 0: raise RuntimeError('out of memory')")
        for _ in range(fault.amount(5, 30)):
            fault.identical(await disturbed.mask(masker), undisturbed)
    fault.injected(len(server.model.injected))
    assert len(server.model.injected) == len(disturbed.retries) >= 2


@pytest.mark.fault("Triton", "answers an error for a tile every time")
async def test_a_tile_that_always_fails_fails_its_product_alone(
    server: Server, disturbed: Disturbed, undisturbed: Path, fault: Fault
) -> None:
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        server.model.fail("raise RuntimeError('out of memory')")
        await refused(disturbed, masker, fault, "tile at row", "INTERNAL: out of memory (tried 4 times)")
        fault.injected(len(server.model.injected))
        server.model.recover()
        fault.identical(await disturbed.mask(masker), undisturbed)


@pytest.mark.fault("Triton", "queue full for 30 s")
async def test_a_full_queue_is_waited_for(
    server: Server, disturbed: Disturbed, undisturbed: Path, fault: Fault, tmp_path: Path
) -> None:
    """Another client's tiles fill it, and the server works on none of them for a while."""
    gate = tmp_path / "gate"
    gate.touch()
    connecting = TritonClient.connect(server.endpoint, "null_l2a", priority="interactive")  # each lane has its queue
    async with disturbed.masker() as masker, await connecting as other:
        await disturbed.mask(masker)
        server.model.fail(f"import os, time\nwhile os.path.exists({str(gate)!r}): time.sleep(0.01)")
        try:
            filling = [asyncio.create_task(other.infer(tile_for(other))) for _ in range(12)]
            await until(lambda: any(task.done() for task in filling))
            masking = asyncio.create_task(disturbed.mask(masker))
            begun = time.monotonic()
            await until(
                lambda: (
                    len(disturbed.retries) >= fault.amount(3, 10) and time.monotonic() - begun > fault.amount(0.0, 30.0)
                )
            )
            assert not masking.done()
        finally:
            gate.unlink()
        fault.identical(await masking, undisturbed)
        answers = await asyncio.gather(*filling, return_exceptions=True)
    assert {type(answer) for answer in answers} == {InferResult, ServerOverloadedError}
    assert disturbed.causes == {"ServerOverloadedError"}
    assert "is full: Exceeds maximum queue size" in disturbed.retries[0][1]
    fault.injected(len(disturbed.retries))


# Answers that a real Triton gives of a backend's nonsense

NONSENSE = {
    "wrong shape": ("answer['LABELS'] = answer['LABELS'][:, :128]", "[1, 128, 256]"),
    "wrong shape of as many bytes": ("answer['LABELS'] = answer['LABELS'].reshape(1, 128, 512)", "[1, 128, 512]"),
    "wrong dtype": ("answer['LABELS'] = answer['LABELS'].astype(np.int64)", "INT64"),
    "wrong dtype of as many bytes": ("answer['LABELS'] = answer['LABELS'].view(np.int8)", "INT8"),
    "empty tensor": ("answer['LABELS'] = answer['LABELS'][:0]", "[0, 256, 256]"),
    "no tensor": ("answer.clear()", "LABELS"),
    "LABELS 255": ("answer['LABELS'][:] = 255", "not finite (LABELS 255)"),
    "one label of 255": ("answer['LABELS'] = answer['LABELS'].copy(); answer['LABELS'][0, 255, 255] = 255", "255"),
    "labels outside the classes": ("answer['LABELS'] = answer['LABELS'] + np.uint8(6)", "hold classes [7"),
}


#: To a blend, which is made of PROBABILITIES.
UNBLENDED = {
    "wrong shape": ("answer['PROBABILITIES'] = answer['PROBABILITIES'][:, :2]", "PROBABILITIES is UINT8 [1, 2, 256"),
    "wrong dtype": ("answer['PROBABILITIES'] = answer['PROBABILITIES'].view(np.int8)", "PROBABILITIES is INT8"),
    "no tensor": ("del answer['PROBABILITIES']", "PROBABILITIES"),
    "all 0": ("answer['PROBABILITIES'] = answer['PROBABILITIES'] * 0", "are 0 for all classes"),
    "classes in another order": (
        "answer['PROBABILITIES'] = np.ascontiguousarray(answer['PROBABILITIES'][:, ::-1])", "contradict LABELS at",
    ),
    "of one pixel": (
        "p = answer['PROBABILITIES'] = np.array(answer['PROBABILITIES']); p[:, :, 255, 255] = 255 - p[:, :, 255, 255]",
        "contradict LABELS at 1 of 65536 pixels",
    ),
}  # fmt: skip


@pytest.mark.fault("Triton", "PROBABILITIES of another shape, dtype, class, order, or 0")
async def test_probabilities_that_are_none_of_labels_are_refused(
    server: Server, disturbed: Disturbed, fault: Fault
) -> None:
    blended = replace(disturbed, mosaic="blend")
    async with blended.masker() as masker:
        undisturbed = await blended.mask(masker)
        for code, said in UNBLENDED.values():
            server.model.fail(code)
            await refused(blended, masker, fault, said)
            fault.injected()
            server.model.recover()
            fault.identical(await blended.mask(masker), undisturbed)


@pytest.mark.fault("Triton", "wrong shape, dtype, empty, LABELS 255, other classes")
async def test_an_answer_that_is_no_mask_is_refused(
    server: Server, disturbed: Disturbed, undisturbed: Path, fault: Fault
) -> None:
    async with disturbed.masker() as masker:
        await disturbed.mask(masker)
        for code, said in list(NONSENSE.values())[:: fault.amount(3, 1)]:
            server.model.fail(code)
            await refused(disturbed, masker, fault, said)
            fault.injected()
            server.model.recover()
            fault.identical(await disturbed.mask(masker), undisturbed)


# Answers that only something broken between a Triton and us gives


def other_request(answer: Any) -> None:
    answer.id = "0"


def truncated(answer: Any) -> None:
    answer.raw_output_contents[0] = answer.raw_output_contents[0][:-1]


def bytes_left_out(answer: Any) -> None:
    del answer.raw_output_contents[:]


def one_more(answer: Any) -> None:
    answer.outputs.add(name="EXTRA", datatype="UINT8", shape=(1,))
    answer.raw_output_contents.append(b"0")


def twice(answer: Any) -> None:
    answer.outputs.append(answer.outputs[0])
    answer.raw_output_contents.append(answer.raw_output_contents[0])


BROKEN = {
    other_request: "it is to the request '0', not to '",
    truncated: "LABELS has 65535 bytes",
    bytes_left_out: "LABELS has 0 bytes",
    one_more: "it holds EXTRA, LABELS, ",
    twice: "it holds LABELS, LABELS, ",
}


@pytest.mark.fault("Triton", "answer cut short, too many outputs, of another request")
async def test_an_answer_that_is_broken_is_refused(
    session_server: SessionServer, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    async with relayed(session_server.address) as (relay, endpoint):
        disturbed = Disturbed(scene, endpoint, tmp_path / "out")
        async with disturbed.masker() as masker:
            await disturbed.mask(masker)
            for breaking, said in BROKEN.items():
                relay.change["ModelInfer"] = breaking
                await refused(disturbed, masker, fault, "is malformed", said)
                fault.injected()
                relay.change.clear()
                fault.identical(await disturbed.mask(masker), undisturbed)
