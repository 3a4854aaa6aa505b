"""Who can reach the local server and do what, and servers side by side."""

from __future__ import annotations

import asyncio
import signal
import stat
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.integration.local_state import LocalState, is_alive, wait_until
from tests.integration.tiles import labels_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration


# Who may do what


def test_only_loopback_addresses_listen(session_server: SessionServer) -> None:
    listening = [
        connection.laddr
        for process in session_server.state.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    port = int(session_server.address.rpartition(":")[2])
    assert port in {address.port for address in listening}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


CONTROL: dict[str, Callable[[triton.InferenceServerClient], object]] = {
    "load": lambda c: c.load_model("null_l2a"),
    "unload": lambda c: c.unload_model("null_l2a"),
    "load with a wrong key": lambda c: c.load_model(
        "null_l2a", headers={"triton-grpc-protocol-kappamask-key": "0" * 32}
    ),
    "index": lambda c: c.get_model_repository_index(),
    "map memory": lambda c: c.register_system_shared_memory("region", "/somebody's", 16),
    "see mapped memory": lambda c: c.get_system_shared_memory_status(),
    "map GPU memory": lambda c: c.get_cuda_shared_memory_status(),
    "write the log elsewhere": lambda c: c.update_log_settings({"log_file": "/tmp/somewhere"}),
    "trace into a file": lambda c: c.update_trace_settings("null_l2a", {"trace_file": "/tmp/somewhere"}),
}


@pytest.mark.parametrize("operation", CONTROL.values(), ids=CONTROL.keys())
def test_control_without_the_key_is_refused(
    session_server: SessionServer, operation: Callable[[triton.InferenceServerClient], object]
) -> None:
    client = triton.InferenceServerClient(session_server.address)
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        operation(client)
    client.close()


@pytest.mark.parametrize("key", ["kappamask-key=", "kappamask-memory="])
def test_the_keys_are_nowhere_to_read(session_server: SessionServer, key: str) -> None:
    (server,) = session_server.state.tritonservers()
    (argument,) = [a for a in server.cmdline() if key in a]
    assert set(argument.partition(key)[2]) == {"*"}
    for path in session_server.state.folder.rglob("*.log"):
        text = path.read_text(errors="replace")
        assert key not in text
        assert session_server.memory_key not in text
    assert not {"key", "memory_key"} & set(session_server.state.status())


def test_the_state_folder_is_private(session_server: SessionServer) -> None:
    assert stat.S_IMODE(session_server.state.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("trap", ["open to others", "a link"])
def test_a_state_folder_that_others_could_have_made_is_refused(state: LocalState, trap: str) -> None:
    if trap == "a link":
        (state.runtime / "elsewhere").mkdir(mode=0o700)
        state.folder.symlink_to(state.runtime / "elsewhere")
    else:
        state.folder.mkdir()
        state.folder.chmod(0o755)
    for command in (("start", "--model", "null_l2a"), ("status",)):
        told = state.cli("server", *command, code=4).stderr
        assert f"{state.folder} is no folder that only this user can enter: remove it" in told
    assert not list((state.runtime / "elsewhere").glob("*"))


# Side by side


def test_two_states_do_not_disturb_each_other(make_state: Callable[[], LocalState]) -> None:
    one, other = make_state(), make_state()
    holder, kept = one.holder(), other.holder()
    first, second = holder.until("ready")["address"], kept.until("ready")["address"]
    assert first != second
    holder.send(signal.SIGKILL)
    one.wait_until_gone()
    assert len(other.regions()) == len(other.stubs()) == 1
    assert asyncio.run(labels_at(second, "null_l2a")) == {4}
    assert other.status()["leases"] == 1


def test_two_runtime_folders_share_an_environment_and_its_repository(
    make_state: Callable[[], LocalState], tmp_path: Path
) -> None:
    one = make_state()
    other = LocalState(tmp_path, one.environment)  # both build the same model at the same time
    holders = [one.holder(), other.holder()]
    try:
        addresses = [holder.until("ready")["address"] for holder in holders]
        assert len(set(addresses)) == 2
        for address in addresses:
            assert asyncio.run(labels_at(address, "null_l2a")) == {4}
    finally:
        assert other.close() == []


def test_a_very_long_runtime_folder_is_no_obstacle(state: LocalState) -> None:
    long = state.runtime / ("x" * 100) / ("y" * 100)
    long.mkdir(parents=True)
    state.variables["XDG_RUNTIME_DIR"] = str(long)
    holder = state.holder()
    ready = holder.until("ready")
    assert asyncio.run(labels_at(ready["address"], "null_l2a")) == {4}
    folder = Path(ready["log"]).parent
    assert len(str(folder / "lease.sock")) < 108
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    pid = state.status()["pid"]
    holder.release()
    wait_until(lambda: not is_alive(pid), "the supervisor has ended")
    assert sorted(p.name for p in folder.iterdir()) == ["lock", "supervisor.log", "tritonserver.log"]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


# What is open


def test_metrics_are_served_where_status_says(session_server: SessionServer) -> None:
    with urllib.request.urlopen(session_server.state.status()["metrics"], timeout=10) as answer:
        assert b"nv_inference_count" in answer.read()


def test_the_health_protocol_is_open_to_probes(session_server: SessionServer) -> None:
    with grpc.insecure_channel(session_server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready
