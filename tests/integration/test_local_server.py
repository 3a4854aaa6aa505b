"""The local server through its whole life, with real clients that end in every way, and what is left then."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from kappamask_stream.contract import PARAMETER_KEY
from kappamask_stream.errors import ServerError
from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, infer_with_retry
from server_models import leftovers
from tests.integration.local_state import LocalState, is_alive, wait_until
from tests.integration.tiles import labels_at, tile_for
from tests.stream.polling import until

if TYPE_CHECKING:
    from tests.fault_table import Fault
    from tests.integration.conftest import Start
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration


# Leases


def test_two_clients_share_one_server_until_the_last_has_ended(state: LocalState) -> None:
    first, second = state.holder(), state.holder()
    address = first.until("ready")["address"]
    assert second.until("ready")["address"] == address
    before = state.status()
    assert (before["running"], before["leases"], before["hold"]) == (True, 2, False)
    assert f"127.0.0.1:{before['grpc'].rpartition(':')[2]}" == address
    assert len(state.tritonservers()) == 1

    assert first.release() == 0
    wait_until(lambda: state.status()["leases"] == 1, "one lease given back")
    assert state.status()["triton_pid"] == before["triton_pid"]
    assert asyncio.run(labels_at(address, "null_l2a")) == {4}

    assert second.release() == 0
    state.wait_until_gone()
    assert state.status() == {"running": False}


def test_clients_that_start_at_the_same_moment_get_one_server(state: LocalState) -> None:
    holders = [state.holder() for _ in range(4)]
    assert len({holder.until("ready")["address"] for holder in holders}) == 1
    assert len(state.tritonservers()) == 1
    assert len([p for p in state.processes() if "supervise" in p.cmdline()]) == 1
    assert state.status()["leases"] == 4


@pytest.mark.fault("Process", "the last client of the local server is ended: SIGKILL, SIGINT, SIGTERM")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str
)
def test_nothing_is_left_of_a_client_that_is_ended(
    state: LocalState, number: signal.Signals, code: int, fault: Fault
) -> None:
    holder = state.holder()
    holder.until("ready")
    assert len(state.stubs()) == 1
    assert state.regions()
    holder.send(number)
    fault.injected()
    assert holder.process.returncode == code
    state.wait_until_gone()
    fault.outcome("nothing left of server, memory, sockets")


@pytest.mark.parametrize(
    "moment",
    [
        "building null_l2a",
        "starting Triton",
        "loading null_l2a",
        "checking null_l2a",
        "checking null_l2a at every batch size (once)",
    ],
)
def test_nothing_is_left_of_a_client_killed_while_it_waits(state: LocalState, moment: str) -> None:
    holder = state.holder()
    holder.until(f"progress: {moment}")
    holder.send(signal.SIGKILL)
    state.wait_until_gone()
    assert asyncio.run(leased_labels(state)) == {4}


async def leased_labels(state: LocalState) -> set[int]:
    holder = state.holder()
    answer = await labels_at(holder.until("ready")["address"], "null_l2a")
    holder.release()
    return answer


def test_a_long_build_ends_with_the_client_that_wanted_it(state: LocalState) -> None:
    holder = state.holder("csmask_l2a")
    holder.until("progress: building csmask_l2a")
    repository = state.environment / "models"
    wait_until(lambda: [*repository.glob(".csmask_l2a.*/made/csmask_l2a/1")], "the build has begun to write")
    holder.send(signal.SIGKILL)
    state.wait_until_gone()
    assert list(repository.iterdir()) == []


def test_what_a_killed_build_has_left_is_removed_by_the_next(state: LocalState) -> None:
    abandoned = state.environment / "models" / ".null_l2a.killed"
    abandoned.mkdir(parents=True)
    (abandoned / "model.onnx").write_bytes(b"half")
    state.holder().until("ready")
    assert [p.name for p in abandoned.parent.iterdir()] == ["null_l2a"]


def test_a_client_that_comes_as_the_last_one_leaves_is_served(state: LocalState) -> None:
    state.holder().until("ready")
    leaving = state.holder()
    leaving.until("ready")
    for holder in state._holders[:-1]:
        holder.release()
    for _ in range(3):
        leaving.process.stdin.close()
        coming = state.holder()
        assert coming.until("ready")["model"] == "null_l2a"
        leaving.process.wait()
        leaving = coming


def test_a_supervisor_whose_client_never_asks_ends_by_itself(state: LocalState) -> None:
    state.folder.mkdir(mode=0o700)
    command = [str(state.environment / "bin" / "python"), "-I", "-m", "server_models", "supervise"]
    command += ["--state", str(state.folder), "--repository", str(state.environment / "models")]
    state.cli("models", "list")  # links the code
    with subprocess.Popen(command) as process:
        assert process.wait(60) == 0
    assert state.remains() == []


# Deaths


@pytest.mark.fault("Process", "the local server's supervisor is killed")
def test_a_killed_supervisor_takes_triton_along_and_the_next_client_starts_afresh(
    state: LocalState, fault: Fault
) -> None:
    state.holder().until("ready")
    before = state.status()
    psutil.Process(before["pid"]).kill()
    fault.injected()
    holder = state.holder()  # at once: stubs may still live
    after_address = holder.until("ready")["address"]
    after = state.status()
    assert after["pid"] != before["pid"]
    assert not is_alive(before["triton_pid"])
    assert len(state.tritonservers()) == len(state.stubs()) == 1
    assert len(state.regions()) == 1
    assert asyncio.run(labels_at(after_address, "null_l2a")) == {4}
    fault.outcome("the next client has a new one, nothing left of the old")


def test_triton_and_its_stubs_die_with_a_killed_supervisor(state: LocalState) -> None:
    state.holder().until("ready")
    psutil.Process(state.status()["pid"]).kill()
    wait_until(lambda: not state.processes() and not state.regions(), "no process and no memory of the state")
    assert state.holder().until("ready")["model"] == "null_l2a"  # and the rest goes with the next server


#: Writes down that it is at work, and never again lets its interpreter go: so does a stub that waits for an answer of a
#: server that is dead, and then neither Triton's own look at its parent nor a thread of Python ends it.
STUCK = """
import ctypes, pathlib

class TritonPythonModel:
    def initialize(self, args):
        self.folder = pathlib.Path(args["model_repository"])
    def execute(self, requests):
        (self.folder / "at_work").touch()
        ctypes.PyDLL(None).sleep(3600)
"""


@pytest.fixture
def stuck_repository(null_repository: Path, tmp_path: Path) -> Path:
    source, folder = null_repository / "null_l2a", tmp_path / "null_l2a"
    config = text_format.Parse((source / "config.pbtxt").read_text(), pb.ModelConfig())
    del config.model_warmup[:]
    contract = json.loads(config.parameters[PARAMETER_KEY].string_value)
    config.parameters[PARAMETER_KEY].string_value = json.dumps(contract | {"canary": None})  # asked on connecting
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(STUCK)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    return tmp_path


@pytest.mark.fault("Process", "tritonserver, or who started it, is killed while a stub is stuck")
@pytest.mark.parametrize("victim", ["tritonserver", "its starter", "both, and nobody waits for the dead"])
async def test_stubs_and_memory_of_a_killed_triton_go_where_nobody_is_left_to_end_them(
    private_triton: Start, stuck_repository: Path, victim: str, fault: Fault
) -> None:
    server = await asyncio.to_thread(private_triton, stuck_repository, ["null_l2a"])
    triton = psutil.Process(server.pid)
    starter = triton.parent()
    assert starter is not None
    (prefix,) = [part.rpartition("=")[2] for part in triton.cmdline() if "shm-region-prefix-name" in part]

    def left() -> list[object]:
        return [*leftovers._running_in(str(server.pid)), *Path("/dev/shm").glob(f"{prefix}*")]

    async with await TritonClient.connect(f"grpc://{server.address}", "null_l2a") as client:
        asked = asyncio.create_task(client.infer(tile_for(client)))
        await until((stuck_repository / "null_l2a" / "at_work").exists)
        assert len(left()) == 3  # tritonserver, a stub, its memory
        if victim.startswith("both"):
            starter.suspend()
        for process in [triton] if victim != "its starter" else [starter]:
            process.kill()
        fault.injected()
        try:
            await until(lambda: not left())
        finally:
            for pid in leftovers._running_in(str(server.pid)):
                os.kill(pid, signal.SIGKILL)
            with suppress(psutil.NoSuchProcess):
                starter.kill()
        with pytest.raises(ServerError):
            await asked
    fault.outcome("no process and no memory left")


def test_a_private_triton_ends_with_who_started_it_though_its_input_stays_open(
    server_env: Path, null_repository: Path, tmp_path: Path
) -> None:
    """As where a test run is killed and a process that it forked lives on."""
    script = Path(__file__).with_name("private_triton.py")
    command = [str(server_env / "bin" / "python"), "-I", str(script), str(null_repository), str(tmp_path), "{}"]
    read, write = os.pipe()
    code = f"import subprocess, sys; subprocess.Popen({command!r}, stdin={read}, close_fds=True).wait()"
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=[read], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline()
            started = psutil.Process(parent.pid).children(recursive=True)
            assert "tritonserver" in [process.name() for process in started]
            parent.kill()
            wait_until(lambda: not any(is_alive(process.pid) for process in started), "the private Triton has ended")
        finally:
            os.close(write)
            os.close(read)


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_guard_ends_a_group_once_its_leader_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_pidfd: bool
) -> None:
    """Also with a Python that has no pidfd, and where nobody waits for the leader."""
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    region = Path("/dev/shm") / f"{leftovers.region_prefix(tmp_path)}1"
    region.touch()
    code = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        with leftovers.guard(tmp_path, leader.pid) as guard:
            assert len(leftovers._running_in(str(leader.pid))) == 2
            assert guard.poll() is None
            leader.kill()
            assert guard.wait(60) == 0
        assert leftovers._running_in(str(leader.pid)) == []
        assert not region.exists()


def test_a_client_that_waits_outlives_its_supervisor(state: LocalState) -> None:
    holder = state.holder()
    holder.until("progress: loading null_l2a")
    psutil.Process(state.status()["pid"]).kill()
    address = holder.until("ready")["address"]
    assert asyncio.run(labels_at(address, "null_l2a")) == {4}


@pytest.mark.parametrize("victim", ["tritonserver", "stub"])
async def test_a_tile_survives_the_death_of(state: LocalState, victim: str) -> None:
    address = await asyncio.to_thread(lambda: state.holder().until("ready")["address"])
    before = await asyncio.to_thread(state.status)
    window, policy = InFlightWindow(4), RetryPolicy(server_wait_s=60.0)
    async with await TritonClient.connect(f"grpc://{address}", "null_l2a") as client:
        notes: list[tuple[str, str]] = []

        async def answers() -> int:
            """Send tiles until one has been tried again and answered."""
            count = 0
            while not notes or count < 2:
                result = await infer_with_retry(
                    client, tile_for(client), window=window, policy=policy, on_retry=lambda *said: notes.append(said)
                )
                assert (result.labels == 4).all()
                count += 1
            return count

        sending = asyncio.create_task(answers())
        victims = state.tritonservers() if victim == "tritonserver" else state.stubs()
        for process in victims:
            process.kill()
        assert await asyncio.wait_for(sending, 60) >= 2
    after = await asyncio.to_thread(state.status)
    assert (after["grpc"], after["models"]) == (before["grpc"], before["models"])
    assert after["triton_pid"] != before["triton_pid"]
    assert len(state.regions()) == 1


def test_a_triton_that_keeps_dying_is_given_up_with_a_reason(state: LocalState) -> None:
    state.holder().until("ready")
    killed: set[int] = set()
    for _ in range(3):
        wait_until(
            lambda: (s := state.status())["models"] == ["null_l2a"] and s["triton_pid"] not in killed, "it serves"
        )
        killed.add(state.status()["triton_pid"])
        state.tritonservers()[0].kill()
    state.wait_until_gone()
    log = (state.folder / "supervisor.log").read_text()
    assert log == f"Triton or its backend died 3 times within 600 s; its log: {state.folder / 'tritonserver.log'}\n"


# Several models


def test_a_second_model_is_loaded_into_the_running_server(state: LocalState, null_repository: Path) -> None:
    state.holder().until("ready")
    before = state.status()
    own_model(state, "other_l2a", null_repository)
    state.holder("other_l2a").until("ready")
    after = state.status()
    assert after["models"] == ["null_l2a", "other_l2a"]
    assert after["triton_pid"] == before["triton_pid"]
    for model in after["models"]:
        assert asyncio.run(labels_at(after["grpc"], model)) == {4}
    victim = state.tritonservers()[0]
    victim.kill()
    wait_until(
        lambda: (s := state.status())["running"] and s["triton_pid"] != victim.pid and s["models"] == after["models"],
        "both models are back",
    )
    assert state.status()["grpc"] == after["grpc"]


def own_model(state: LocalState, name: str, repository: Path) -> Path:
    """Add a user's own model: a folder in the repository with a contract in its configuration, nothing else."""
    source, folder = repository / "null_l2a", state.environment / "models" / name
    (folder / "1").mkdir(parents=True)
    for path in ("1/model.onnx", "1/model.py"):
        (folder / path).write_bytes((source / path).read_bytes())
    (folder / "config.pbtxt").write_text((source / "config.pbtxt").read_text().replace("null_l2a", name))
    return folder


def test_csmask_for_l1c_joins_csmask_for_l2a(session_server: SessionServer, csmask_address: str) -> None:
    assert csmask_address == session_server.address
    assert {"csmask_l1c", "csmask_l2a", "null_l2a"} <= set(session_server.state.status()["models"])
    for model in ("csmask_l1c", "csmask_l2a"):
        assert asyncio.run(labels_at(csmask_address, model)) <= {1, 2, 4}
