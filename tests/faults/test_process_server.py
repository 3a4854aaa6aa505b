"""Runs that had started a server or children of their own, ended at random moments: nothing of either is left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import psutil
import pytest

from kappamask_stream.synth import write_product
from tests.integration.conftest import make_state, null_repository, state
from tests.integration.local_state import PATIENCE_S, LocalState, is_alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fault_table import Fault
    from tests.faults.plant import Plant
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

__all__ = ["make_state", "null_repository", "state"]

PROGRAM = [sys.executable, "-m", "kappamask_stream"]
#: Seconds after the start within which a server is up and a small product masked, on a quiet machine.
LIFE_S = 6.0


@pytest.mark.fault("Process", "killed with the server that it had started (and with its supervisor)")
def test_killed_with_its_own_server(plant: Plant, state: LocalState, null_repository: Path, fault: Fault) -> None:
    shutil.copytree(null_repository, state.environment / "models")
    variables = {**state.variables, "TMPDIR": str(plant.tmp)}
    draw = random.Random(11)
    for turn in range(fault.amount(1, 20)):
        kept = turn % 2 == 0
        command = [*PROGRAM, *plant.arguments(), *["--keep-server"] * kept]
        plant.fresh()
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            if turn == 0:
                wait_until(lambda process=process: process.poll() is not None or supervisors(state), "its server")
            else:
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=draw.uniform(0.0, LIFE_S))
            lived = process.poll() is None
            victims = [process.pid]
            if turn % 4 > 1:  # with the supervisor: nobody is there to clean up
                victims += supervisors(state)
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            fault.injected(lived)
        again = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        plant.require_whole()
        if kept:
            assert state.status()["hold"]
            state.cli("server", "stop")
        state.wait_until_gone()
        fault.outcome("the same command: byte-identical, nothing left of server, memory, sockets", lived)


def supervisors(state: LocalState) -> list[int]:
    return [found.pid for found in state.processes() if "supervise" in found.cmdline()]


def has_children(process: subprocess.Popen[str], parent: psutil.Process, count: int) -> bool:
    return process.poll() is not None or len(parent.children()) == count


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("two")
    return [str(write_product(folder, size=240, seed=seed).product) for seed in (11, 12)]


@pytest.mark.fault(
    "Process", "run --processes 2: SIGKILL, SIGTERM of the parent, SIGKILL of a child, at random moments"
)
def test_children_end_with_their_parent(
    plant: Plant, session_server: SessionServer, two: list[str], fault: Fault, tmp_path: Path
) -> None:
    def command(out: Path, processes: int = 2) -> list[str]:
        there = ["--output", str(out), "--stac", "--processes", str(processes)]
        return ["run", *two, "--model", "null_l2a", *there]

    def content(out: Path) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    assert plant.cli(*command(tmp_path / "whole", 1)).code == 0
    draw = random.Random(13)
    kinds = ("SIGKILL", "SIGTERM", "child")
    for turn in range(fault.amount(1, 24)):
        out, kind = tmp_path / "out", kinds[turn % len(kinds)]
        with subprocess.Popen(
            [*PROGRAM, *command(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            parent = psutil.Process(process.pid)
            if turn % 2 == 0:
                wait_until(partial(has_children, process, parent, len(two)), "children")
            with suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0.0, 1.5 if turn else 0.2))
            lived, children = process.poll() is None, []
            with suppress(psutil.NoSuchProcess):
                children = [child.pid for child in parent.children()]
                if kind == "child":
                    lived = lived and bool(children)
                    for pid in children[:1]:
                        os.kill(pid, signal.SIGKILL)
                else:
                    process.send_signal(signal.Signals[kind])
            fault.injected(lived)
            _, said = process.communicate(timeout=PATIENCE_S)
        assert kind == "SIGKILL" or process.returncode in (0, -signal.SIGTERM, 143), said
        assert "Traceback" not in said
        wait_until(lambda pids=children: not any(map(is_alive, pids)), "its children end")
        again = plant.cli(*command(out))
        assert again.code == 0, again.err
        assert content(out) == content(tmp_path / "whole")
        shutil.rmtree(out)
        fault.outcome("no child left, the same command: byte-identical", lived)
