"""`models check`, and a local server that hands out no model that fails it: engines that are wrong in every way."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.synth import write_product
from server_models.check_tiles import builtin_tiles
from tests.integration.conftest import build, site_of
from tests.integration.local_state import CLI, LocalState, wait_until
from tests.integration.test_local_server import own_model
from tests.integration.tiles import labels_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.conftest import Start
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

ONCE = "checking null_l2a at every batch size (once)"
#: Run in every process of a server's environment: an engine that is wrong in one way.
WRONG_ENGINE = """
import os
import numpy as np
from server_models import openvino_engine

run = openvino_engine.OpenVinoEngine.run

def wrong(self, tiles, outputs):
    answers = run(self, tiles, outputs)
    {fault}
    return answers

openvino_engine.OpenVinoEngine.run = wrong
"""
SWAP = "np.where(a == 4, 1, 4).astype(np.uint8)"
AT_BATCH_3 = f"if len(tiles) == 3: a = answers[1]['LABELS']; answers[1]['LABELS'] = {SWAP}"
FIVE_PERCENT = f"for x in answers: a = x['LABELS']; x['LABELS'] = np.where(np.arange(256) % 20 == 3, {SWAP}, a)"
#: How an engine is wrong, and what is said of it.
FAULTS = {
    "one tile of a batch of 3": (AT_BATCH_3, "a batch of 3 is answered otherwise than its tiles alone on 33.333% of"),
    "probabilities of a batch of 5": (
        "if len(tiles) == 5: answers[4].update((k, 255 - v) for k, v in answers[4].items() if k == 'PROBABILITIES')",
        "a batch of 5 is answered otherwise than its tiles alone on 20.000% of the pixels, 0.01% are allowed",
    ),
    "every twentieth column": (FIVE_PERCENT, "its classes equal those of float32 (onnxruntime on this CPU) on 0.949"),
    "not finite": (
        "if len(tiles) == 6: answers[5] = {k: np.full_like(v, 255 if k == 'LABELS' else 0) for k, v in answers[5].items()}",
        "a batch of 6 has 1 tiles with values that are not finite",
    ),
    "a shape": (
        "if len(tiles) == 2: [x.update(LABELS=x['LABELS'][:, 1:]) for x in answers]",
        "a batch of 2 gave LABELS uint8 [2, 255, 256], the contract says uint8 [2, 256, 256]",
    ),
    "classes": (
        "if len(tiles) == 8: answers[7]['LABELS'] = answers[7]['LABELS'] + np.uint8(90)",
        "a batch of 8 gave classes [9",
    ),
    "an exception": ("if len(tiles) == 4: raise RuntimeError('no memory')", "a batch of 4 is not answered: "),
    "a crash": ("if len(tiles) == 7: os._exit(1)", "a batch of 7 is not answered: "),
}  # fmt: skip


def engine_is_wrong(state: LocalState, fault: str) -> None:
    site = site_of(state.environment)
    (site / "wrong_engine.py").write_text(WRONG_ENGINE.replace("{fault}", fault))
    (site / "wrong_engine.pth").write_text("import wrong_engine\n")  # after the code and the packages, by its name


def engine_is_right(state: LocalState) -> None:
    (site_of(state.environment) / "wrong_engine.pth").unlink()


def record_of(state: LocalState, model: str = "null_l2a") -> dict[str, Any]:
    document = json.loads((state.environment / "models" / model / "check.json").read_text())
    report: dict[str, Any] = document["report"]
    return report


def start(state: LocalState, model: str = "null_l2a", *, code: int = 0) -> list[str]:
    """Start the server with a model and stop it; returns what was said."""
    said = state.cli("server", "start", "--model", model, code=code).stderr.splitlines()
    if code == 0:
        state.cli("server", "stop")
    state.wait_until_gone()
    return said


def check(state: LocalState, *arguments: str, code: int = 0, model: str = "null_l2a") -> dict[str, Any]:
    """Run `models check --json`; returns the report."""
    ended = state.cli("models", "check", model, "--json", *arguments, code=code)
    report: dict[str, Any] = json.loads(ended.stdout)
    assert report["passed"] == (code == 0)
    return report


# The record


def test_a_model_is_checked_once_and_its_record_is_good_from_then_on(state: LocalState) -> None:
    assert ONCE in start(state)
    record = record_of(state)
    assert record["passed"]
    assert (record["tiles"], record["source"]) == (4, "built-in tiles")
    assert [b["batch"] for b in record["batches"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {b["agreement"] for b in record["batches"]} == {1.0}
    assert {b["differing"] for b in record["batches"][1:]} == {0.0}
    assert start(state) == ["starting Triton", "loading null_l2a", "checking null_l2a"]
    assert record_of(state) == record


def newer_engine(state: LocalState) -> None:
    """Another version of the engine, by what the package says of itself."""
    folder = site_of(state.environment) / "openvino-9999.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 9999.0\n")


def another_graph(state: LocalState) -> None:
    """Another file that means the same: protocol buffers may be appended to, here a doc_string."""
    with (state.environment / "models" / "null_l2a" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\x32\x01x")


def damaged_record(state: LocalState) -> None:
    (state.environment / "models" / "null_l2a" / "check.json").write_text("{")


def test_a_record_is_outdated_by_another_engine_another_graph_and_damage(state: LocalState) -> None:
    start(state)
    path = state.environment / "models" / "null_l2a" / "check.json"
    for change in (newer_engine, another_graph, damaged_record):
        before = path.read_text()
        change(state)
        assert ONCE in start(state), change
        after = path.read_text()
        assert json.loads(after)["report"]["passed"]
        if change is not damaged_record:
            assert json.loads(before)["rests_on"] != json.loads(after)["rests_on"]
    assert ONCE not in start(state)


def test_a_repository_that_cannot_be_written_is_checked_every_time(state: LocalState) -> None:
    start(state)
    record = state.environment / "models" / "null_l2a" / "check.json"
    record.unlink()
    record.mkdir()  # which nothing can be renamed to, whoever the user is
    (record / "in the way").touch()
    assert ONCE in start(state)


def test_a_model_of_ones_own_is_checked_when_its_owner_asks(state: LocalState, null_repository: Path) -> None:
    own_model(state, "own_l2a", null_repository)
    assert start(state, "own_l2a") == ["starting Triton", "loading own_l2a", "checking own_l2a"]
    report = check(state, model="own_l2a")
    assert report["reference"] == "float32 (onnxruntime on this CPU)"
    assert not (state.environment / "models" / "own_l2a" / "check.json").exists()


# Refused


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_is_refused_whose_engine_is_wrong_with(state: LocalState, fault: str) -> None:
    code, said = FAULTS[fault]
    engine_is_wrong(state, code)
    told = start(state, code=4)
    assert told[-1].startswith("error: null_l2a is not served, it failed its check on 4 built-in tiles: ")
    assert said in told[-1]
    for remedy in (
        "`kappamask-stream models check null_l2a --product SAFE`",
        "`kappamask-stream models remove null_l2a`",
    ):
        assert remedy in told[-1]
    record = record_of(state)
    assert not record["passed"]
    assert any(said in clause for clause in record["faults"])


def test_a_model_that_failed_stays_refused_until_it_passes(state: LocalState, tmp_path: Path) -> None:
    engine_is_wrong(state, FAULTS["every twentieth column"][0])
    first = start(state, code=4)
    again = start(state, code=4)
    assert again == ["starting Triton", first[-1]], "by the record, before anything is loaded"
    engine_is_right(state)
    product = write_product(tmp_path, size=240, seed=1).product
    ended = state.cli("run", str(product), "--model", "null_l2a", "--output", str(tmp_path), code=4)
    assert "null_l2a is not served, it failed its check" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("*/*.tif"))

    page = state.cli("models", "check", "null_l2a").stdout
    assert page.splitlines()[0] == ("null_l2a: 4 built-in tiles, compared with float32 (onnxruntime on this CPU)")
    assert page.splitlines()[-1] == "passed"
    assert start(state) == ["starting Triton", "loading null_l2a", "checking null_l2a"]


def test_remove_and_build_again_is_a_remedy(state: LocalState) -> None:
    engine_is_wrong(state, AT_BATCH_3)
    start(state, code=4)
    engine_is_right(state)
    state.cli("models", "remove", "null_l2a")
    assert ONCE in start(state)


def test_the_check_that_fails_shows_its_figures_first(state: LocalState) -> None:
    engine_is_wrong(state, AT_BATCH_3)
    ended = state.cli("models", "check", "null_l2a", code=4)
    page = ended.stdout.splitlines()
    assert page[2].split() == ["batch", "agreement", "unlike", "alone", "seconds"]
    assert page[3].split()[:3] == ["1", "1.00000", "-"]
    assert page[5].split()[2] == "33.3333%"
    assert page[-1].startswith("failed: ")
    assert ended.stderr.splitlines()[-1].startswith("error: null_l2a is not served, it failed its check")
    third = record_of(state)["batches"][2]
    assert third["differing"] == pytest.approx(1 / 3)
    assert third["agreement"] == 0.0
    state.wait_until_gone()


# Tiles of one's own


@pytest.fixture(scope="module")
def contract(null_repository: Path) -> ModelContract:
    return ModelContract.from_json((null_repository / "null_l2a" / "contract.json").read_text())


@pytest.fixture(scope="module")
def own_tiles(contract: ModelContract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiles with the labels that the null model should give: blue above 0.3 is cloud."""
    made = builtin_tiles(contract, 3)
    blue = np.maximum(made.tensors["DN_20M"][:, 0].astype(np.float32) - np.float32(1000), 0) * np.float32(1e-4)
    labels = np.where(blue > np.float32(0.3), 4, 1).astype(np.uint8)
    assert 0.05 < (labels == 4).mean() < 0.95
    path = tmp_path_factory.mktemp("tiles") / "mine.npz"
    np.savez(path, **made.tensors, LABELS=labels)
    return path


@pytest.fixture(scope="module")
def wrong_tiles(own_tiles: Path) -> Path:
    """The same with other labels in 2 % of the second tile's pixels."""
    with np.load(own_tiles) as archive:
        arrays = dict(archive)
    arrays["LABELS"][1, :, ::50] = 5 - arrays["LABELS"][1, :, ::50]
    path = own_tiles.with_name("wrong.npz")
    np.savez(path, **arrays)
    return path


def test_labels_of_ones_own_tiles_decide_and_are_recorded(
    state: LocalState, own_tiles: Path, wrong_tiles: Path
) -> None:
    report = check(state, "--tiles", str(own_tiles))
    assert (report["tiles"], report["source"], report["reference"]) == (3, "tiles of mine.npz", "the file's LABELS")
    assert {b["agreement"] for b in report["batches"]} == {1.0}
    assert record_of(state) == report
    assert ONCE not in start(state)

    wrong = 6 / 256
    report = check(state, "--tiles", str(wrong_tiles), code=4)
    assert report["batches"][0]["agreement"] == pytest.approx(1 - wrong)
    assert report["batches"][0]["agreement_all"] == pytest.approx(1 - wrong / 3)
    assert record_of(state) == report
    assert "its classes equal those of the file's LABELS on 0.97656 of the pixels" in start(state, code=4)[-1]


def test_tiles_without_labels_are_compared_with_float32(state: LocalState, own_tiles: Path, tmp_path: Path) -> None:
    with np.load(own_tiles) as archive:
        arrays = {name: array for name, array in archive.items() if name != "LABELS"}
    np.savez(tmp_path / "plain.npz", **arrays)
    engine_is_wrong(state, FAULTS["every twentieth column"][0])
    report = check(state, "--tiles", str(tmp_path / "plain.npz"), code=4)
    assert report["reference"] == "float32 (onnxruntime on this CPU)"
    assert report["batches"][0]["agreement"] == pytest.approx(1 - 13 / 256)


def test_a_file_that_does_not_fit_changes_nothing(state: LocalState, own_tiles: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", OFFSET=np.zeros((1, 6), np.float32))
    np.savez(tmp_path / "pickled.npz", OFFSET=np.array([print], object))
    for name, said in (("bad.npz", "lacks DN_20M, SCALE"), ("pickled.npz", "OFFSET is object [1], not float32")):
        told = state.cli("models", "check", "null_l2a", "--tiles", str(tmp_path / name), code=3).stderr
        error = told.splitlines()[-1]
        assert error.startswith(f"error: cannot check null_l2a: {tmp_path / name}")
        assert said in error
        assert not (state.environment / "models" / "null_l2a" / "check.json").exists()
    state.wait_until_gone()
    assert ONCE in start(state), "a check that was none is no reason to hand it out"


def test_tiles_are_cut_from_a_product(state: LocalState, tmp_path: Path) -> None:
    product = write_product(tmp_path, size=1152, seed=2).product
    report = check(state, "--product", str(product), "--count", "3")
    assert (report["tiles"], report["source"]) == (3, f"tiles of {product.name.removesuffix('.SAFE')}")
    assert record_of(state) == report
    told = state.cli("models", "check", "null_l2a", "--product", str(tmp_path / "none.SAFE"), code=3).stderr
    assert f"{tmp_path / 'none.SAFE'} does not exist" in told
    said = state.cli(
        "models", "check", "null_l2a", "--product", str(product), "--radiometry", "km_predict", code=2
    ).stderr
    assert "use --radiometry corrected" in said


def test_wrong_uses_are_said_in_one_line(state: LocalState, own_tiles: Path, tmp_path: Path) -> None:
    cases = {
        "--tiles and --product both": ["--tiles", str(own_tiles), "--product", str(tmp_path)],
        "--repository is for a server at --triton": ["--repository", str(tmp_path)],
        "--weights is for the server on this machine": ["--weights", str(own_tiles), "--triton", "grpc://h:1"],
        "does not exist": ["--tiles", str(tmp_path / "none.npz")],
    }
    for said, arguments in cases.items():
        told = state.cli("models", "check", "null_l2a", *arguments, code=2).stderr
        assert said in told.replace("\n", " ")
        assert told.count("error: ") == 1
    assert "no model 'nothing_l2a' can be built here" in state.cli("models", "check", "nothing_l2a", code=2).stderr


# Beside others


def test_a_model_in_use_stays_for_those_who_use_it_when_somebodys_check_fails(
    state: LocalState, own_tiles: Path, wrong_tiles: Path
) -> None:
    first = state.holder()
    address = first.until("ready")["address"]
    check(state, "--tiles", str(wrong_tiles), code=4)
    assert asyncio.run(labels_at(address, "null_l2a")) == {4}
    refused = state.holder()
    assert "null_l2a is not served, it failed its check on 3 tiles of wrong.npz" in refused.until("error")["message"]
    assert refused.process.wait() == 4
    check(state, "--tiles", str(own_tiles))
    assert state.holder().until("ready")["address"] == address
    assert asyncio.run(labels_at(address, "null_l2a")) == {4}


def test_a_crash_does_not_take_a_model_from_those_who_use_it_after_somebodys_check_failed(
    state: LocalState, wrong_tiles: Path
) -> None:
    address = state.holder().until("ready")["address"]
    check(state, "--tiles", str(wrong_tiles), code=4)
    (stub,) = state.stubs()
    stub.kill()
    wait_until(lambda: [p for p in state.stubs() if p.pid != stub.pid], "the model's process is there again")
    wait_until(lambda: state.status()["models"] == ["null_l2a"], "the model is loaded again")
    assert asyncio.run(labels_at(address, "null_l2a")) == {4}
    refused = state.holder()
    assert "null_l2a is not served, it failed its check" in refused.until("error")["message"]


def test_a_model_that_failed_and_was_built_again_is_served_on_the_same_server(
    state: LocalState, wrong_tiles: Path
) -> None:
    state.cli("server", "start", "--model", "csmask_l2a")  # keeps the server
    user = state.holder()
    user.until("ready")
    check(state, "--tiles", str(wrong_tiles), code=4)
    assert user.release() == 0
    state.cli("models", "remove", "null_l2a")
    assert state.holder().until("ready")
    assert state.status()["models"] == ["csmask_l2a", "null_l2a"]


#: One tile to warm up, two of the self-check: the fourth is the check's first, and is answered when a file is gone.
WAITS = (
    "self.count = getattr(self, 'count', 0) + 1\n"
    "    import time\n"
    "    while self.count > 3 and os.path.exists({flag!r}): time.sleep(0.02)"
)


def test_a_check_holds_up_nobody_who_wants_what_is_served_and_leaves_nothing_when_its_client_is_gone(
    state: LocalState,
) -> None:
    state.holder().until("ready")
    flag = state.runtime / "wait"
    flag.touch()
    engine_is_wrong(state, WAITS.format(flag=str(flag)))
    waiting = state.holder("csmask_l2a")
    waiting.until("progress: checking csmask_l2a at every batch size (once)")
    state.holder().until("ready")  # while the check goes on
    assert len(state.stubs()) == 3, "the null model's one, and csmask's two instances"
    waiting.process.kill()
    waiting.process.wait()
    flag.unlink()  # Triton unloads no model that still answers: on a busy machine the check has reached it by now
    wait_until(lambda: len(state.stubs()) == 1, "the model that was being checked is unloaded")
    assert state.status()["models"] == ["null_l2a"]
    assert state.holder("csmask_l2a").until("ready")["address"]


def test_a_server_that_is_kept_loses_a_model_that_fails_and_serves_it_again(
    state: LocalState, own_tiles: Path, wrong_tiles: Path
) -> None:
    state.cli("server", "start", "--model", "null_l2a")
    before = state.status()
    check(state, "--tiles", str(wrong_tiles), code=4)
    assert state.status()["models"] == []
    state.cli("server", "start", "--model", "null_l2a", code=4)
    check(state, "--tiles", str(own_tiles))
    after = state.status()
    assert (after["models"], after["triton_pid"]) == (["null_l2a"], before["triton_pid"])
    assert asyncio.run(labels_at(after["grpc"], "null_l2a")) == {4}


def test_nothing_is_left_of_a_check_whose_client_is_killed(state: LocalState) -> None:
    temporary = state.runtime / "tmp"
    temporary.mkdir()
    state.variables["TMPDIR"] = str(temporary)
    # One tile to warm up, two of the self-check: the fourth is the check's first, and is never answered.
    engine_is_wrong(state, "self.count = getattr(self, 'count', 0) + 1; import time; time.sleep(self.count // 4 * 600)")
    holder = state.holder()
    holder.until(f"progress: {ONCE}")
    wait_until(
        lambda: list(temporary.glob("kappamask-check-*/labels.npy")), "the reference is there, the answer is not"
    )
    holder.process.kill()
    state.wait_until_gone()
    assert list(temporary.iterdir()) == []
    assert not (state.environment / "models" / "null_l2a" / "check.json").exists()


# A server elsewhere


def remote(environment: Path, address: str, *arguments: str, code: int = 0, model: str = "null_l2a") -> dict[str, Any]:
    """Run `models check --triton --json`; the report, with what was said on stderr."""
    ended = subprocess.run(
        [str(CLI), "models", "check", model, "--triton", f"grpc://{address}", "--json", *arguments],
        env={**os.environ, "KAPPAMASK_SERVER_ENV": str(environment)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    return {"stderr": ended.stderr, **(json.loads(ended.stdout) if ended.stdout else {})}


def test_a_server_elsewhere_is_checked_with_what_there_is(
    session_server: SessionServer, server_env: Path, null_repository: Path, own_tiles: Path, wrong_tiles: Path
) -> None:
    address = session_server.address
    report = remote(server_env, address)
    assert report["reference"] is None
    assert {b["agreement"] for b in report["batches"]} == {None}
    assert [b["batch"] for b in report["batches"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    report = remote(server_env, address, "--repository", str(null_repository))
    assert (report["reference"], report["batches"][7]["agreement"]) == ("float32 (onnxruntime on this CPU)", 1.0)
    assert not (null_repository / "null_l2a" / "check.json").exists()
    assert remote(server_env, address, "--tiles", str(own_tiles))["batches"][0]["agreement"] == 1.0
    report = remote(server_env, address, "--tiles", str(wrong_tiles), code=4)
    assert f"error: null_l2a at grpc://{address} fails its check: its classes equal those of" in report["stderr"]
    assert session_server.state.holder().until("ready")["address"] == address  # it was told nothing


def test_a_page_without_a_reference_says_so(session_server: SessionServer, server_env: Path) -> None:
    page = subprocess.run(
        [str(CLI), "models", "check", "null_l2a", "--triton", f"grpc://{session_server.address}"],
        env={**os.environ, "KAPPAMASK_SERVER_ENV": str(server_env)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "no reference is known: --repository DIR, or LABELS in --tiles FILE, would give one" in page
    assert page.splitlines()[-1] == "passed"


def test_a_reference_must_be_the_same_networks(
    session_server: SessionServer, server_env: Path, null_repository: Path, tmp_path: Path
) -> None:
    told = remote(server_env, session_server.address, "--repository", str(tmp_path), code=2)["stderr"]
    assert f"{tmp_path / 'null_l2a'} holds no model that kappamask-stream built" in told
    shutil.copytree(null_repository, tmp_path / "other")
    path = tmp_path / "other" / "null_l2a" / "contract.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"weights_sha256": "0" * 64}))
    told = remote(server_env, session_server.address, "--repository", str(tmp_path / "other"), code=2)["stderr"]
    assert "is built from other weights (000000000000) than the one served" in told


def test_a_server_that_is_not_there(server_env: Path) -> None:
    assert "no server answers at grpc://127.0.0.1:1" in remote(server_env, "127.0.0.1:1", code=4)["stderr"]


def test_the_check_of_a_server_elsewhere_needs_the_environment_all_the_same(tmp_path: Path) -> None:
    said = remote(tmp_path / "none", "127.0.0.1:1", code=4)["stderr"].splitlines()[-1]
    assert "the check of a server elsewhere, too, is computed in the local server's environment" in said
    assert "`kappamask-stream server install` makes it" in said


def test_triton_ignores_the_reference_beside_a_model_and_the_check_takes_it(
    private_triton: Start, server_env: Path, null_repository: Path, tmp_path: Path
) -> None:
    """As the builder lays out models whose own graph is not float32; here the reference is another network, to be seen."""
    shutil.copytree(null_repository / "null_l2a", tmp_path / "null_l2a")
    other = build(server_env, "csmask_l2a", tmp_path / "csmask")
    shutil.copy(other / "1" / "model.onnx", tmp_path / "null_l2a" / "reference.onnx")
    (tmp_path / "csmask").rename(tmp_path.with_name(tmp_path.name + "_csmask"))
    address = private_triton(tmp_path, ["null_l2a"]).address
    assert asyncio.run(labels_at(address, "null_l2a")) == {4}
    report = remote(server_env, address, "--repository", str(tmp_path), code=4)
    assert report["batches"][0]["agreement"] < 0.99
    assert remote(server_env, address, "--repository", str(null_repository))["batches"][0]["agreement"] == 1.0


# Real networks


def test_csmask_agrees_with_its_graph_on_another_engine(session_server: SessionServer, csmask_address: str) -> None:
    for model in ("csmask_l1c", "csmask_l2a"):
        report = record_of(session_server.state, model)
        assert report["passed"]
        assert min(b["agreement"] for b in report["batches"]) >= 0.9995
        assert {b["differing"] for b in report["batches"][1:]} == {0.0}


@pytest.fixture(scope="module")
def unet_weights(shared_dir: Path) -> list[str]:
    return ["--weights", str(shared_dir / "data" / "kappamask" / "l2a_unet_8filters.hdf5")]


NO_BFLOAT16 = """
import openvino
ask = openvino.Core.get_property
openvino.Core.get_property = lambda self, *a: ["FP32", "INT8"] if "OPTIMIZATION_CAPABILITIES" in a else ask(self, *a)
"""


@pytest.mark.shared
def test_kappamasks_unet_passes_in_f32_and_in_bf16_where_the_cpu_has_it(
    state: LocalState, unet_weights: Sequence[str]
) -> None:
    report = check(state, *unet_weights, model="kappamask_l2a_unet")
    assert min(b["agreement"] for b in report["batches"]) >= 0.9995
    name = "kappamask_l2a_unet_bf16"
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text():
        report = check(state, *unet_weights, model=name)
        assert 0.98 <= min(b["agreement"] for b in report["batches"]) < 1.0
        assert {b["differing"] for b in report["batches"][1:]} == {0.0}
        folder = state.environment / "models" / name
        contract = ModelContract.from_json((folder / "contract.json").read_text())
        assert contract.measured_agreement is not None
        assert contract.min_agreement <= contract.measured_agreement < 1
    site = site_of(state.environment)
    (site / "without_bfloat16.py").write_text(NO_BFLOAT16)
    (site / "without_bfloat16.pth").write_text("import without_bfloat16\n")
    refusal = "this CPU has no bfloat16 (OpenVINO finds FP32, INT8): take --precision f32"
    told = state.cli("models", "build", name, *unet_weights, code=2).stderr
    assert told == f"error: {refusal}\n"
    if (state.environment / "models" / name).exists():  # as built where the CPU has it
        told = state.cli("models", "check", name, code=4).stderr
        assert refusal in told.splitlines()[-1]
    state.wait_until_gone()


@pytest.mark.shared
def test_precisions_are_built_for_the_engines_that_have_them(
    server_env: Path, unet_weights: Sequence[str], tmp_path: Path
) -> None:
    def built(model: str, flavour: str) -> subprocess.CompletedProcess[str]:
        command = [str(CLI), "models", "build", model, *unet_weights, "--repository", str(tmp_path)]
        variables = {**os.environ, "KAPPAMASK_SERVER_ENV": str(server_env)}
        return subprocess.run(
            [*command, "--flavour", flavour], env=variables, capture_output=True, text=True, check=False
        )

    refused = built("kappamask_l2a_unet_fp16", "python")
    assert (refused.returncode, refused.stderr.split(":")[:2]) == (2, ["error", " fp16 is for GPUs"])
    refused = built("kappamask_l2a_unet_bf16", "onnxruntime")
    assert refused.returncode == 2
    assert "is for CPUs that have bfloat16 (--flavour python)" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    assert built("kappamask_l2a_unet_fp16", "onnxruntime").returncode == 0
    assert built("kappamask_l2a_unet", "onnxruntime").returncode == 0
    half, full = (tmp_path / name for name in ("kappamask_l2a_unet_fp16", "kappamask_l2a_unet"))
    reference, graph = half / "reference.onnx", full / "1" / "model.onnx"
    assert reference.read_bytes() == graph.read_bytes()
    assert (half / "1" / "model.onnx").stat().st_size < 0.8 * graph.stat().st_size
    listed = subprocess.run(
        [str(CLI), "models", "list", "--json", "--repository", str(tmp_path)],
        env={**os.environ, "KAPPAMASK_SERVER_ENV": str(server_env)}, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert {m["name"] for m in map(json.loads, listed) if m["current"]} == {half.name, full.name}
    reference.unlink()
    assert not json.loads(remote_list(server_env, tmp_path, half.name))["current"]


def remote_list(server_env: Path, repository: Path, model: str) -> str:
    lines = subprocess.run(
        [str(CLI), "models", "list", "--json", "--repository", str(repository)],
        env={**os.environ, "KAPPAMASK_SERVER_ENV": str(server_env)}, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return next(line for line in lines if json.loads(line)["name"] == model)


# The engine

FIRST_ARRAYS_MEET = """
import sys
from pathlib import Path
import numpy as np
from server_models.openvino_engine import OpenVinoEngine

sys.setswitchinterval(1e-6)
engine = OpenVinoEngine(Path(sys.argv[1]), precision="f32", streams=8, threads=1)
tile = {"DN_20M": np.ones((1, 6, 256, 256), np.uint16), "OFFSET": np.zeros((1, 6), np.float32)}
answers = engine.run([tile | {"SCALE": np.ones((1, 6), np.float32)}] * 8, ["LABELS"])
print(len(answers), {int(a["LABELS"].max()) for a in answers})
"""


def test_streams_whose_first_tiles_come_at_the_same_moment_do_not_wait_for_each_other_for_ever(
    server_env: Path, null_repository: Path
) -> None:
    """OpenVINO's bindings deadlock there in nearly every process unless the engine has made them ready."""
    graph = null_repository / "null_l2a" / "1" / "model.onnx"
    for _ in range(2):
        ended = subprocess.run(
            [str(server_env / "bin" / "python"), "-I", "-c", FIRST_ARRAYS_MEET, str(graph)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert ended.stdout == "8 {4}\n"
