"""`kappamask-stream server start|status|stop|logs`."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.integration.local_state import LocalState, wait_until
from tests.integration.tiles import labels_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration


def test_start_keeps_the_server_and_stop_ends_it_for_all(state: LocalState) -> None:
    started = state.cli("server", "start", "--model", "null_l2a")
    address = started.stdout.strip().removeprefix("grpc://")
    assert started.stderr.splitlines() == [
        "building null_l2a", "starting Triton", "loading null_l2a", "checking null_l2a",
        "checking null_l2a at every batch size (once)",
    ]  # fmt: skip
    status = state.status()
    assert status | {"running": True, "grpc": address, "models": ["null_l2a"], "leases": 0, "hold": True} == status
    assert asyncio.run(labels_at(address, "null_l2a")) == {4}
    for text in (address, "null_l2a", "0 leases, kept", str(state.folder / "tritonserver.log")):
        assert text in state.cli("server", "status").stdout

    holder = state.holder()
    assert holder.until("ready")["address"] == address
    assert state.cli("server", "stop").stdout == "stopped\n"
    assert state.remains() == []  # at once: `stop` waits for the end
    assert state.cli("server", "stop").stdout == "not running\n"
    assert state.cli("server", "status").stdout == "not running\n"


def test_stop_ends_clients_that_wait_too_and_they_do_not_start_it_again(state: LocalState) -> None:
    holder = state.holder("csmask_l2a")
    holder.until("progress: building csmask_l2a")
    state.cli("server", "stop")
    said = holder.until("error")
    assert said["kind"] == "ServerSetupError"
    assert "stopped with `kappamask-stream server stop`" in said["message"]
    assert holder.process.wait() == 4
    assert state.remains() == []


def test_logs_print_the_end_of_tritons_log(state: LocalState) -> None:
    told = state.cli("server", "logs", code=4).stderr
    assert f"there is no log at {state.folder / 'tritonserver.log'}" in told
    state.cli("server", "start", "--model", "null_l2a")
    assert len(state.cli("server", "logs", "-n", "3").stdout.splitlines()) == 3
    assert "successfully loaded 'null_l2a'" in state.cli("server", "logs", "-n", "500").stdout
    state.cli("server", "stop")
    assert "successfully loaded 'null_l2a'" in state.cli("server", "logs", "-n", "500").stdout


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_said_in_one_sentence(state: LocalState, taken_port: int) -> None:
    told = state.cli("server", "start", "--model", "null_l2a", "--port", str(taken_port), code=4).stderr
    (error,) = [line for line in told.splitlines() if line.startswith("error:")]
    for text in (f"port {taken_port} of 127.0.0.1", "address already in use", "--port", "tritonserver.log"):
        assert text in error
    state.wait_until_gone()


def test_a_fixed_port_is_used_and_another_one_then_refused(state: LocalState) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = state.cli("server", "start", "--model", "null_l2a", "--port", str(port))
    assert started.stdout == f"grpc://127.0.0.1:{port}\n"
    told = state.cli("server", "start", "--model", "null_l2a", "--port", str(port + 1), code=4).stderr
    assert f"runs on port {port} already, not on {port + 1}" in told
    state.tritonservers()[0].kill()
    wait_until(lambda: state.status()["models"] == ["null_l2a"] and state.status()["running"], "it is back")
    assert state.status()["grpc"] == f"127.0.0.1:{port}"


def test_status_is_one_json_object(session_server: SessionServer) -> None:
    (line,) = session_server.state.cli("server", "status", "--json").stdout.splitlines()
    assert set(json.loads(line)) == {
        "running", "grpc", "metrics", "models", "leases", "hold", "log", "pid", "triton_pid",
    }  # fmt: skip
