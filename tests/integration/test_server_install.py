"""The server's environment, made for real: from half of one to a whole one, and quick the second time."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.integration.conftest import site_of
from tests.integration.local_state import CLI, LocalState, wait_until
from tests.integration.session import short_folder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


def test_a_half_made_environment_is_repaired_and_a_whole_one_left_alone(server_env: Path) -> None:
    """An installation that was killed, then a damaged package: both end in an environment that verifies."""
    with short_folder() as runtime:
        state = LocalState(runtime, runtime / "env")
        orphan = kill_while_pip_runs(state)
        assert state.cli("server", "status").stdout == "not running\n"
        assert "is not installed" in state.cli("models", "list", code=4).stderr
        (state.environment / "models" / "mine").mkdir(parents=True)
        (state.environment / "models" / "mine" / "config.pbtxt").write_text("a model that a user has added")

        said = []
        with installing(state) as process:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                if line == f"another process installs {state.environment}; waiting\n":
                    orphan.kill()  # what the killed installation has left running
        assert process.returncode == 0
        assert said[0].endswith("waiting\n")
        assert said[-1] == "verifying\n"
        assert (state.environment / "models" / "mine" / "config.pbtxt").exists()

        log = state.environment / "install.log"
        before = log.stat().st_mtime_ns
        again = state.cli("server", "install")
        assert again.stderr == f"{state.environment} is installed already\n"
        assert log.stat().st_mtime_ns == before

        program = site_of(state.environment) / "pytriton" / "tritonserver" / "bin" / "tritonserver"
        assert program.exists()
        program.unlink()
        told = subprocess.run(
            [str(CLI), "server", "install"], env=offline(state), capture_output=True, text=True, check=False
        )
        assert told.returncode == 4
        assert "is damaged, making it again: Triton's program" in told.stderr
        assert "pip install …` failed: " in told.stderr
        assert f"the whole output: {log}" in told.stderr


def installing(state: LocalState) -> subprocess.Popen[str]:
    command = [str(CLI), "server", "install"]
    return subprocess.Popen(command, env=state.variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_while_pip_runs(state: LocalState) -> psutil.Process:
    """Begin an installation and kill it, not its pip; returns that."""

    def pips() -> list[psutil.Process]:
        return [p for p in psutil.Process(process.pid).children() if "pip" in p.cmdline()]

    with installing(state) as process:
        wait_until(pips, "packages are being installed")
        (pip,) = pips()
        pip.suspend()  # it would soon notice that nobody reads what it says
        process.kill()
    return pip


def offline(state: LocalState) -> dict[str, str]:
    """Variables with which pip finds no packages."""
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(state.runtime), "PIP_CONFIG_FILE": os.devnull}
    return state.variables | nowhere


def test_verify_says_which_engines_the_environment_has(server_env: Path) -> None:
    ended = subprocess.run(
        [str(server_env / "bin" / "python"), "-I", "-m", "server_models", "verify"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    versions = json.loads(ended.stdout)["versions"]
    assert versions["numpy"].startswith("1.")
    assert set(versions) == {"numpy", "onnx", "onnxruntime", "openvino"}


def test_a_server_in_use_is_not_taken_away(state: LocalState) -> None:
    state.cli("server", "start", "--model", "null_l2a")
    stamp = state.environment / "kappamask-stream.json"
    stamp.write_text("{}")  # as if the requirements had changed with a new version
    try:
        told = state.cli("server", "install", code=4).stderr
        assert f"the server that runs on this machine uses {state.environment}" in told
        assert "`kappamask-stream server stop`" in told
        assert (state.environment / "bin" / "python").exists()
    finally:
        state.cli("server", "stop")
