"""What only an operator may do is closed: on the local server, and with the flags that docs/triton.md gives."""

from __future__ import annotations

import asyncio
import http.client
import shlex
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.integration.tiles import labels_at
from tests.unit.documents import ROOT, fences

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import PrivateTriton, Start
    from tests.integration.local_state import LocalState
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

#: Every call of the protocol is one or the other; a newer Triton's are to be put here.
OPEN = {
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics",
    "ModelInfer", "ModelStreamInfer",
}  # fmt: skip
CLOSED = {
    "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings",
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
}  # fmt: skip
HEADER = "triton-grpc-protocol-kappamask-key"


def refusal(address: str, call: str, key: str | None = None) -> str | None:
    """Make a call with an empty request; returns what a restricted protocol says, None where it lets us in."""
    method = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[call]
    request = getattr(service_pb2, method.input_type.name)()
    with grpc.insecure_channel(address) as channel:
        stub = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), call)
        try:
            stub(request, timeout=30, metadata=() if key is None else ((HEADER, key),))
        except grpc.RpcError as error:
            return error.details() if "restricted" in str(error.details()) else None
    return None


def test_every_call_is_open_or_closed() -> None:
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert {method.name for method in methods} == OPEN | CLOSED
    assert not OPEN & CLOSED


@pytest.mark.parametrize("call", sorted(CLOSED))
def test_the_local_server_is_closed_to_who_has_no_key(session_server: SessionServer, call: str) -> None:
    for key in (None, "", "0" * 32):
        assert "expecting header" in str(refusal(session_server.address, call, key))


@pytest.mark.parametrize("call", sorted(OPEN - {"ModelStreamInfer"}))
def test_the_local_server_is_open_to_who_masks(session_server: SessionServer, call: str) -> None:
    assert refusal(session_server.address, call) is None


def test_the_local_server_listens_on_loopback_for_grpc_and_metrics_only(session_server: SessionServer) -> None:
    (server,) = session_server.state.tritonservers()
    listening = {c.laddr for c in server.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    status = session_server.state.status()
    metrics = urlsplit(status["metrics"]).port
    assert {address.port for address in listening} == {int(status["grpc"].rpartition(":")[2]), metrics}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_a_proxy_for_the_web_does_not_come_between_the_local_server_and_us(state: LocalState) -> None:
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        state.variables[variable] = "http://127.0.0.1:9"
    state.variables.pop("no_proxy", None)
    assert state.holder().until("ready")["address"]


# The flags of the documentation


@pytest.fixture
def cluster_server(null_repository: Path, private_triton: Start) -> tuple[PrivateTriton, int]:
    """A Triton with the flags that docs/triton.md gives, and the port of its HTTP."""
    (shown,) = [code for code in fences(ROOT / "docs" / "triton.md", "sh") if "tritonserver " in code]
    words = shlex.split(shown.partition("\n")[2].replace("\\\n", " "))
    assert words[0] == "tritonserver"
    flags = [word.replace("$KEY", "{key}") for word in words[1:] if not word.startswith("--model-repository")]
    assert len(flags) == 10
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags += ["--allow-http=true", "--http-address=127.0.0.1", f"--http-port={port}"]
    return private_triton(null_repository, ["null_l2a"], flags=flags), port


HTTP_OPEN = ["GET v2/health/live", "GET v2/health/ready", "GET v2/models/null_l2a/ready"]
HTTP_CLOSED = [
    "GET v2", "GET v2/models/null_l2a", "GET v2/models/null_l2a/config", "GET v2/models/null_l2a/stats",
    "GET v2/models/stats", "POST v2/models/null_l2a/infer", "POST v2/models/null_l2a/generate",
    "POST v2/repository/index", "POST v2/repository/models/null_l2a/load", "POST v2/repository/models/null_l2a/unload",
    *(f"GET v2/{kind}sharedmemory/status" for kind in ("system", "cuda")),
    *(f"POST v2/{kind}sharedmemory/region/r/{what}" for kind in ("system", "cuda") for what in ("register", "unregister")),
    *(f"POST v2/{kind}sharedmemory/unregister" for kind in ("system", "cuda")),
    *(f"{verb} v2/{path}" for verb in ("GET", "POST") for path in ("trace/setting", "models/null_l2a/trace/setting")),
    "GET v2/logging", "POST v2/logging",
]  # fmt: skip


def over_http(port: int, what: str, key: str | None = None) -> tuple[int, bytes]:
    verb, path = what.split()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {} if key is None else {"kappamask-key": key}
        connection.request(verb, f"/{path}", b"{}" if verb == "POST" else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_a_cluster_is_closed_by_the_flags_that_are_documented(cluster_server: tuple[PrivateTriton, int]) -> None:
    server, port = cluster_server
    assert await labels_at(server.address, "null_l2a") == {4}
    await asyncio.to_thread(look_around, server, port)
    assert await labels_at(server.address, "null_l2a") == {4}


def look_around(server: PrivateTriton, port: int) -> None:
    denied: dict[str, Any] = {call: refusal(server.address, call) for call in sorted(CLOSED)}
    assert {call for call, said in denied.items() if said is None} == set()
    assert refusal(server.address, "RepositoryIndex", server.key) is None

    assert {what: over_http(port, what)[0] for what in HTTP_OPEN} == dict.fromkeys(HTTP_OPEN, 200)
    for key in (None, "0" * 32):
        answers = {what: over_http(port, what, key) for what in HTTP_CLOSED}
        assert {what for what, (status, said) in answers.items() if status != 403 or b"restricted" not in said} == set()
    assert over_http(port, "POST v2/repository/index", server.key)[0] == 200
