"""A real Triton whose answers are plausible and wrong: the canary finds it out, and no file is written."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import tritonclient.grpc as triton

from kappamask_stream.errors import CanaryError
from tests.faults.faulty_triton import FaultyModel
from tests.faults.queue_crew import crew, products, whole
from tests.faults.triton_masks import Disturbed, scene, undisturbed
from tests.integration.conftest import PrivateTriton, null_repository, private_tritons
from tests.integration.queue_servers import queue_server
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fault_table import Fault
    from tests.faults.queue_crew import Crew
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["crew", "null_repository", "products", "queue_server", "scene", "undisturbed", "whole"]

#: What a model of the right contract may answer: every class is known, nothing is missing, and all of it is wrong.
GARBAGE = {
    name: f"{code}; values = np.array([[[1]], [[2]], [[4]]]); "
    "answer['PROBABILITIES'] = np.uint8(255) * (answer['LABELS'][:, None] == values)"
    for name, code in {
        "one class": "answer['LABELS'] = np.ones_like(answer['LABELS'])",
        "mirrored": "answer['LABELS'] = np.ascontiguousarray(answer['LABELS'][:, ::-1])",
        "a row aside": "answer['LABELS'] = np.roll(answer['LABELS'], 1, axis=1)",
        "other classes": "answer['LABELS'] = np.choose(answer['LABELS'], [0, 4, 2, 3, 1]).astype(np.uint8)",
        "a 64th of the tile": "answer['LABELS'] = np.array(answer['LABELS']); answer['LABELS'][:, 96:128, 96:128] = 2",
    }.items()
}
#: Right are LABELS, of which a mask is made, or PROBABILITIES, of which a blend is; not both.
MISLEADING = {
    "PROBABILITIES of 15 of 16 rows in another order": (
        "p = answer['PROBABILITIES'] = np.array(answer['PROBABILITIES']); rows = np.arange(p.shape[2]) % 16 != 8; "
        "p[:, :, rows] = p[:, ::-1, rows]"
    ),
    "PROBABILITIES of one row in another order": (
        "p = answer['PROBABILITIES'] = np.array(answer['PROBABILITIES']); p[:, :, 1] = p[:, ::-1, 1].copy()"
    ),
    "PROBABILITIES that are certain of two classes": (
        "answer['PROBABILITIES'] = np.array(answer['PROBABILITIES']); answer['PROBABILITIES'][:, 0] = 255"
    ),
    "LABELS that are mirrored alone": "answer['LABELS'] = np.ascontiguousarray(answer['LABELS'][:, ::-1])",
    "PROBABILITIES that are the same": "answer['PROBABILITIES'] = np.full_like(answer['PROBABILITIES'], 255)",
}
ALL_GARBAGE = GARBAGE | MISLEADING
#: What is said of the canary; of those that are not named here, how many of its pixels are right.
SAID = {
    **dict.fromkeys(MISLEADING, "its answer cannot be used: PROBABILITIES from"),
    "PROBABILITIES that are certain of two classes": "by the largest of PROBABILITIES 0.",
    "PROBABILITIES that are the same": "are the same for all classes",
}
WRONG = "of the canary, a tile whose answer is known, "
#: The canary comes before each tile, so to say; and once on connecting, and never again.
ALWAYS, ONCE = {"canary_s": 1e-6}, {"canary_s": 0.0}


@dataclass
class Server:
    """A real Triton that fails as told.

    Attributes
    ----------
    other : the null model's graph with another threshold: other weights, so to say.
    """

    model: FaultyModel
    triton: PrivateTriton
    other: Path

    @property
    def endpoint(self) -> str:
        return f"grpc://{self.triton.address}"

    def deploy(self, graph: bytes) -> None:
        """Put another graph under the same contract, in place: no request fails meanwhile."""
        (self.model.repository / "null_l2a" / "1" / "model.onnx").write_bytes(graph)
        with triton.InferenceServerClient(self.triton.address) as client:
            client.load_model("null_l2a", headers={"triton-grpc-protocol-kappamask-key": self.triton.key})


_OTHER = """
import sys
from pathlib import Path
from server_models import null_model

null_model.THRESHOLD = 0.35
null_model.build("null_l2a", Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def any_server(server_env: Path, null_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = tmp_path_factory.mktemp("faulty")
    other = made / "other.onnx"
    subprocess.run([str(server_env / "bin" / "python"), "-I", "-c", _OTHER, str(other)], check=True)
    model = FaultyModel(made / "repository", null_repository)
    with private_tritons(server_env) as start:
        yield Server(model, start(model.repository, ["null_l2a"]), other)


@pytest.fixture
def server(any_server: Server) -> Iterator[Server]:
    yield any_server
    any_server.model.recover()


def masked_at(server: Server, scene: Scene, folder: Path, options: dict[str, float]) -> Disturbed:
    return Disturbed(scene, server.endpoint, folder, {"max_in_flight": 2, **options})


@pytest.mark.parametrize("garbage", ALL_GARBAGE)
@pytest.mark.fault("Triton", "returns garbage from the beginning")
async def test_a_server_that_answers_wrongly_is_not_worked_with(
    garbage: str, server: Server, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    server.model.fail(ALL_GARBAGE[garbage])
    disturbed = masked_at(server, scene, tmp_path, ONCE)
    async with disturbed.masker() as masker:
        for _ in range(2):
            with pytest.raises(CanaryError) as caught:
                await disturbed.mask(masker)
            fault.injected()
            fault.refused(caught.value, disturbed.output, WRONG, SAID.get(garbage, "are needed"), "no mask is written")
        server.model.recover()
        fault.identical(await disturbed.mask(masker), undisturbed)


@pytest.mark.parametrize("garbage", ALL_GARBAGE)
@pytest.mark.fault("Triton", "returns garbage after connecting, between products")
async def test_a_server_that_goes_wrong_between_products(
    garbage: str, server: Server, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    disturbed = masked_at(server, scene, tmp_path, ALWAYS)
    async with disturbed.masker() as masker:
        fault.identical(await disturbed.mask(masker), undisturbed)
        server.model.fail(ALL_GARBAGE[garbage])
        with pytest.raises(CanaryError) as caught:
            await disturbed.mask(masker)
        fault.injected()
        fault.refused(caught.value, disturbed.output, WRONG, "Its last right answer was", "in doubt")
        server.model.recover()
        fault.identical(await disturbed.mask(masker), undisturbed)


@pytest.mark.fault("Triton", "returns garbage after connecting, in the middle of a product")
async def test_a_server_that_goes_wrong_in_the_middle(
    server: Server, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    """From each of its answers on, to the last one, and to the canary after it."""
    disturbed = masked_at(server, scene, tmp_path, ALWAYS)
    async with disturbed.masker() as masker:
        answers = tmp_path / "answers"
        server.model.fail(f"with open({str(answers)!r}, 'a') as file: file.write('.')")
        fault.identical(await disturbed.mask(masker), undisturbed)
        assert answers.stat().st_size >= 9, "a canary before each of 4 tiles or more, and one at the end"
        for right in range(1, answers.stat().st_size, fault.amount(3, 1)):
            server.model.fail(f"if n > {right}: {GARBAGE['mirrored']}")
            with pytest.raises(CanaryError) as caught:
                await disturbed.mask(masker)
            fault.injected()
            fault.refused(caught.value, disturbed.output, WRONG)
            server.model.recover()
        fault.identical(await disturbed.mask(masker), undisturbed)


#: What is certain of two classes, only the canary knows.
CONTRADICTING = [name for name in MISLEADING if name.startswith("PROBABILITIES") and "two classes" not in name]


@pytest.mark.parametrize("garbage", CONTRADICTING)
@pytest.mark.fault("Triton", "returns garbage PROBABILITIES after connecting, to a blend")
async def test_a_blend_is_not_made_of_probabilities_that_are_not_those_of_labels(
    garbage: str, server: Server, scene: Scene, tmp_path: Path, fault: Fault
) -> None:
    """No canary is due any more: the tiles' own answers tell."""
    disturbed = replace(masked_at(server, scene, tmp_path, ONCE), mosaic="blend")
    async with disturbed.masker() as masker:
        undisturbed = await disturbed.mask(masker)
        server.model.fail(f"if n == 2: {MISLEADING[garbage]}")
        fault.identical(await disturbed.mask(masker), undisturbed)
        assert disturbed.causes == {"AnswerError"}
        fault.injected(len(disturbed.retries))
        server.model.fail(f"if n > 1: {MISLEADING[garbage]}")
        with pytest.raises(CanaryError) as caught:
            await disturbed.mask(masker)
        fault.injected()
        fault.refused(caught.value, disturbed.output, WRONG, SAID[garbage])
        server.model.recover()
        fault.identical(await disturbed.mask(masker), undisturbed)


@pytest.mark.fault("Triton", "other weights deployed under the same contract")
async def test_other_weights_under_the_same_contract(
    server: Server, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    """Whoever copies a graph over another one leaves the contract, its digest and all, as it was."""
    graph = (server.model.repository / "null_l2a" / "1" / "model.onnx").read_bytes()
    disturbed = masked_at(server, scene, tmp_path, ALWAYS)
    try:
        async with disturbed.masker() as masker:
            for _ in range(fault.amount(1, 10)):
                fault.identical(await disturbed.mask(masker), undisturbed)
                server.deploy(server.other.read_bytes())
                with pytest.raises(CanaryError) as caught:
                    await disturbed.mask(masker)
                fault.injected()
                fault.refused(caught.value, disturbed.output, WRONG, "0.999 are needed")
                server.deploy(graph)
            fault.identical(await disturbed.mask(masker), undisturbed)
    finally:
        server.deploy(graph)


@pytest.mark.fault("Triton", "one of two named replicas returns garbage")
async def test_one_of_two_replicas_answers_wrongly(
    server: Server, session_server: SessionServer, scene: Scene, tmp_path: Path, fault: Fault
) -> None:
    """Requests go to both in turn; each address is asked for the canary."""
    server.model.fail(GARBAGE["mirrored"])
    both = f"grpc://{session_server.address},{server.triton.address}"
    disturbed = replace(masked_at(server, scene, tmp_path, ONCE), endpoint=both)
    with pytest.raises(CanaryError) as caught:
        await disturbed.mask()
    fault.injected()
    fault.refused(caught.value, disturbed.output, f"{server.endpoint} answers wrongly", WRONG)
    server.model.recover()
    await disturbed.mask()


@pytest.mark.fault("Triton", "returns garbage in one answer")
async def test_an_answer_that_is_none_has_the_server_asked_for_the_canary(
    server: Server, scene: Scene, tmp_path: Path, undisturbed: Path, fault: Fault
) -> None:
    """Who is at fault for classes that nobody knows: the server still answers rightly, so the tile is sent again."""
    disturbed = masked_at(server, scene, tmp_path, ONCE)
    async with disturbed.masker() as masker:
        fault.identical(await disturbed.mask(masker), undisturbed)
        server.model.fail("if n == 2: answer['LABELS'] = np.full_like(answer['LABELS'], 77)")
        fault.identical(await disturbed.mask(masker), undisturbed)
        assert disturbed.causes == {"AnswerError"}
        fault.injected(len(disturbed.retries))
        server.model.fail("if n > 1: answer['LABELS'] = np.full_like(answer['LABELS'], 77)")
        with pytest.raises(CanaryError) as caught:
            await disturbed.mask(masker)
        fault.injected()
        fault.refused(caught.value, disturbed.output, "its answer cannot be used", "classes [77]")


@pytest.mark.parametrize("canary_s", [1e-6, 0.0], ids=["while it works", "when it starts anew"])
@pytest.mark.parametrize("garbage", ["mirrored", "unknown classes"])
@pytest.mark.fault("Triton", "returns garbage to a worker")
async def test_a_worker_gives_messages_back_and_waits(
    garbage: str, canary_s: float, server: Server, crew: Crew, fault: Fault
) -> None:
    """It is no product's fault: nothing comes to the dead-letter queue, and no message is taken on and on."""
    await crew.start(triton=server.endpoint, canary_s=canary_s)
    crew.queue.put(crew.names[0])
    await crew.is_done()
    server.model.fail((GARBAGE | {"unknown classes": "answer['LABELS'] = answer['LABELS'] + np.uint8(70)"})[garbage])
    if canary_s == 0.0 and garbage == "mirrored":  # nothing would tell a worker that never asks again
        await crew.end()
        with pytest.raises(CanaryError):
            await crew.start(triton=server.endpoint, canary_s=canary_s)
        fault.injected()
        fault.outcome("does not start, says why")
        crew.tasks.clear()
        return
    crew.queue.put(*crew.names[1:3])
    await until(lambda: any(state.phase == "paused" for state in crew.seen.states))
    await until(lambda: len(crew.seen.outcomes) >= 3)
    ended = crew.seen.ended[1:]
    fault.injected(len(ended))
    assert {outcome for _, outcome, _ in ended} == {"retry"}
    assert all("CanaryError: " in str(reason) and "no mask is written" in str(reason) for *_, reason in ended)
    assert list(crew.masks()) == [crew.names[0]]
    server.model.recover()
    await crew.is_done()
    assert crew.queue.dead is not None
    assert crew.queue.dead.counts() == (0, 0)
    crew.check_identical(fault, 0, 1, 2)
