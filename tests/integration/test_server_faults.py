"""What is missing or wrong with the local server is said in one sentence, with the remedy and the path of the log."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.integration.conftest import overlay_environment, site_of
from tests.integration.local_state import LocalState
from tests.integration.session import short_folder

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.integration


def failed_start(state: LocalState, model: str = "null_l2a", *options: str, code: int = 4) -> str:
    """Return the one error line of a start that fails, and see to it that nothing is left."""
    told = state.cli("server", "start", "--model", model, *options, code=code).stderr
    (error,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert told.splitlines()[-1] == error, "one sentence, and the last thing said"
    assert "Traceback" not in told
    state.wait_until_gone()
    return error


def test_an_environment_that_is_not_installed(tmp_path: Path) -> None:
    with short_folder() as runtime:
        state = LocalState(runtime, tmp_path / "nowhere")
        told = state.cli("server", "start", code=4).stderr
        assert f"is not installed at {tmp_path / 'nowhere'}" in told
        assert "run `kappamask-stream server install`" in told
        assert "--triton grpc://HOST:PORT" in told
        assert state.status() == {"running": False}


@pytest.mark.parametrize("model", ["no_such_model", "../null_l2a"])
def test_an_unknown_model_is_a_mistake_of_usage(state: LocalState, model: str) -> None:
    error = failed_start(state, model, code=2)
    assert f"no model '{model}' can be built here; there are csmask_l1c, csmask_l1c_reduced, csmask_l2a" in error


def test_a_model_without_its_weights_is_a_mistake_of_usage(state: LocalState) -> None:
    assert "needs KappaMask's weights" in failed_start(state, "kappamask_l2a_unet", code=2)


def test_the_kind_of_a_build_error_reaches_the_client(state: LocalState, tmp_path: Path) -> None:
    damaged = tmp_path / "weights.hdf5"
    damaged.write_bytes(b"no HDF5")
    for weights, kind, code in ((damaged, "InputError", 3), (tmp_path / "missing.hdf5", "UsageError", 2)):
        holder = state.holder("kappamask_l2a_unet", "--weights", str(weights))
        error = holder.until("error")
        assert error["kind"] == kind
        assert error["message"].startswith("cannot build kappamask_l2a_unet: ")
        assert str(weights) in error["message"]
        assert holder.process.wait() == code
        state.wait_until_gone()


def test_a_repository_that_cannot_be_written(state: LocalState) -> None:
    (state.environment / "models").write_text("a file in the way")
    error = failed_start(state, code=5)
    assert "cannot write null_l2a into the model repository" in error
    assert str(state.environment / "models") in error


def test_a_damaged_model_is_refused_and_can_be_built_again(state: LocalState) -> None:
    state.cli("models", "build", "null_l2a")
    (state.environment / "models" / "null_l2a" / "1" / "model.onnx").write_bytes(b"corrupt")
    error = failed_start(state)
    for text in ("Triton cannot load null_l2a", "`kappamask-stream models remove null_l2a`", "tritonserver.log"):
        assert text in error
    assert str(state.folder / "tritonserver.log") in error
    assert "model.onnx" in state.log()
    state.cli("models", "remove", "null_l2a")
    state.holder().until("ready")


def test_a_model_of_ones_own_without_a_contract(state: LocalState, null_repository: Path) -> None:
    folder = state.environment / "models" / "own"
    shutil.copytree(null_repository / "null_l2a", folder)
    text = (folder / "config.pbtxt").read_text().replace("null_l2a", "own").replace('"contract"', '"something"')
    (folder / "config.pbtxt").write_text(text)
    (folder / "1" / "model.py").write_text(ANSWERS_OF_ONES)
    assert f"{folder} has no contract in its configuration (parameter 'contract')" in failed_start(state, "own")


#: A user's own backend that does not look at numpy's version.
ANSWERS_OF_ONES = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        def answer(request):
            count = len(pb.get_input_tensor_by_name(request, "OFFSET").as_numpy())
            return pb.InferenceResponse([pb.Tensor("LABELS", np.full((count, 256, 256), {value}, np.uint8))])
        return [answer(request) for request in requests]
""".replace("{value}", "1")


def own_backend(state: LocalState, null_repository: Path, code: str) -> None:
    folder = state.environment / "models" / "own_l2a"
    shutil.copytree(null_repository / "null_l2a", folder)
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace("null_l2a", "own_l2a"))
    (folder / "1" / "model.py").write_text(code)


def test_a_model_that_gives_other_classes_than_its_contract_says(state: LocalState, null_repository: Path) -> None:
    own_backend(state, null_repository, ANSWERS_OF_ONES.replace(", 1, np", ", 77, np"))
    error = failed_start(state, "own_l2a")
    assert "the self-check of own_l2a got classes [77]" in error
    assert str(state.folder / "tritonserver.log") in error


@pytest.fixture
def numpy_2(state: LocalState) -> LocalState:
    """A server's environment in which somebody has installed numpy 2: the client's own."""
    mine = Path(np.__file__).parents[1]
    if site_of(state.environment).parent.name != f"python{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("client and server run different Pythons: the client's numpy does not fit")
    for name in ("numpy", "numpy.libs"):
        (site_of(state.environment) / name).symlink_to(mine / name)
    return state


def test_numpy_2_in_the_servers_environment_is_refused_by_the_backend(numpy_2: LocalState) -> None:
    error = failed_start(numpy_2)
    assert f"numpy {np.__version__} in the server's environment: Triton's Python backend needs numpy < 2" in error
    assert "`kappamask-stream server install`" in error


def test_numpy_2_shows_in_the_self_check_of_a_backend_that_does_not_look(
    numpy_2: LocalState, null_repository: Path
) -> None:
    own_backend(numpy_2, null_repository, ANSWERS_OF_ONES)
    error = failed_start(numpy_2, "own_l2a")
    assert "the self-check of own_l2a got an empty answer: the server's environment needs numpy < 2" in error
    assert "`kappamask-stream server install`" in error


def test_the_same_backend_serves_with_numpy_1(state: LocalState, null_repository: Path) -> None:
    own_backend(state, null_repository, ANSWERS_OF_ONES)
    assert state.holder("own_l2a").until("ready")["model"] == "own_l2a"


def missing_program(site: Path, pytriton: Path) -> None:
    (site / "pytriton" / "tritonserver" / "bin" / "tritonserver").unlink()


def missing_stub(site: Path, pytriton: Path) -> None:
    shutil.rmtree(site / "pytriton" / "tritonserver" / "python_backend_stubs")


def not_a_program(site: Path, pytriton: Path) -> None:
    program = site / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    program.unlink()
    program.write_text("#!/bin/sh\necho this is no Triton\nexit 1\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (missing_program, "tritonserver is missing or cannot be run: run `kappamask-stream server install` again"),
        (missing_stub, "nvidia-pytriton has no stub for Python 3."),
        (not_a_program, "Triton did not start, tried 3 times; its log says why: "),
    ],
)
def test_a_damaged_triton(state: LocalState, damage: Callable[[Path, Path], None], said: str) -> None:
    site = site_of(state.environment)
    base = Path((site / "packages_of_base.pth").read_text().strip())
    shutil.copytree(base / "pytriton", site / "pytriton", copy_function=lambda a, b: Path(b).hardlink_to(a))
    (site / "nvidia_pytriton.libs").symlink_to(base / "nvidia_pytriton.libs")
    damage(site, base / "pytriton")
    error = failed_start(state)
    assert said in error
    if damage is not_a_program:
        assert "this is no Triton" in state.log()
        assert str(state.folder / "tritonserver.log") in error


def test_a_fault_of_the_supervisor_is_not_taken_for_its_leaving(state: LocalState) -> None:
    """A damaged package makes the supervisor fail in an unforeseen way: it is said, with the log."""
    site = site_of(state.environment)
    (site / "tritonclient").mkdir()
    (site / "tritonclient" / "__init__.py").write_text("raise ImportError('somebody broke this')\n")
    error = failed_start(state)
    assert "the local server's supervisor did not start; its log: " in error
    assert "somebody broke this" in (state.folder / "supervisor.log").read_text()


def test_overlays_are_environments_of_their_own(server_env: Path, tmp_path: Path) -> None:
    """The tests above rest on it: the overlay sees the base's packages, and its own before them."""
    overlay = overlay_environment(tmp_path / "env", server_env)
    assert not (site_of(overlay) / "numpy").exists()
    assert (overlay / "kappamask-stream.json").read_text() == (server_env / "kappamask-stream.json").read_text()
