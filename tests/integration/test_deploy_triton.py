"""How the Triton image and the chart start NVIDIA's server: the same script and flags on the server of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
import tritonclient.grpc as triton
import trustme
from tritonclient.utils import InferenceServerException

from tests.integration.local_state import PATIENCE_S, ROOT, wait_until
from tests.integration.s3_servers import free_port
from tests.integration.session import short_folder
from tests.unit.helm_chart import container, variables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

SCRIPT = ROOT / "deploy" / "containers" / "serve_triton"
KEY = {"triton-grpc-protocol-kappamask-key": "of-operators"}
#: Run in the server's environment: where its program, backends and libraries are.
_PLACES = """
import json, sys, pathlib
from server_models.tritonserver import TritonProcess, triton_files, triton_program
server = TritonProcess(pathlib.Path("/"), pathlib.Path(sys.argv[1]))
backends = server._private_backends(triton_files())
print(json.dumps({"program": str(triton_program()), "backends": str(backends), "env": server._environment(triton_files())}))
"""


@dataclass(frozen=True)
class Served:
    """A server that runs as in a cluster, with certificates for both sides."""

    http: str
    grpc_port: int
    metrics: str
    process: subprocess.Popen[bytes]
    ca: bytes
    certificate: bytes
    key: bytes

    def client(self, *, with_certificate: bool = True) -> triton.InferenceServerClient:
        mine = (self.key, self.certificate) if with_certificate else (None, None)
        return triton.InferenceServerClient(
            f"localhost:{self.grpc_port}", creds=grpc.ssl_channel_credentials(self.ca, *mine)
        )


@pytest.fixture(scope="module")
def served(server_env: Path, null_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    mine = authority.issue_cert("worker")
    server = authority.issue_cert("localhost")
    server.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    server.private_key_pem.write_to_path(folder / "tls.key")
    ports = {name: free_port() for name in ("http", "grpc", "metrics")}
    with ExitStack() as stack:
        private = stack.enter_context(short_folder())
        python = str(server_env / "bin" / "python")
        said = subprocess.run([python, "-I", "-c", _PLACES, str(private)], check=True, capture_output=True, text=True)
        places = json.loads(said.stdout)
        given = [*container("tls", "triton")["args"]]  # the chart's, and where things lie on this machine
        for there, here in (
            ("/etc/triton/tls", folder),
            ("/etc/triton/client-ca", folder),
            ("/models", null_repository),
        ):
            given = [argument.replace(there, str(here)) for argument in given]
        given += [f"--{name}-port={port}" for name, port in ports.items()]
        given += [f"--{name}-address=127.0.0.1" for name in ports]
        given += [f"--backend-directory={places['backends']}", "--allow-gpu-metrics=false"]
        given += [f"--backend-config=python,shm-region-prefix-name=deploy_{os.getpid()}_"]
        env = places["env"] | {"TRITONSERVER": places["program"], "RESTRICTED_KEY": "of-operators"}
        env |= {key: value for key, value in variables("tls", "triton").items() if value is not None}
        log = private / "log"
        with log.open("wb") as file:
            process = subprocess.Popen([str(SCRIPT), *given], env=env, stdout=file, stderr=file, start_new_session=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        http = f"http://127.0.0.1:{ports['http']}"
        wait_until(lambda: process.poll() is not None or status(f"{http}/v2/health/ready") == 200, "Triton is ready")
        assert process.poll() is None, log.read_text()[-2000:]
        yield Served(
            http=http, grpc_port=ports["grpc"], metrics=f"http://127.0.0.1:{ports['metrics']}/metrics",
            process=process, ca=authority.cert_pem.bytes(), certificate=mine.cert_chain_pems[0].bytes(),
            key=mine.private_key_pem.bytes(),
        )  # fmt: skip


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def test_probes_are_answered_and_nothing_else_over_http(served: Served) -> None:
    for path in ("live", "ready"):
        assert status(f"{served.http}/v2/health/{path}") == 200
    assert status(f"{served.metrics}") == 200
    for path in (
        "v2",
        "v2/models/null_l2a",
        "v2/models/null_l2a/config",
        "v2/models/stats",
        "v2/systemsharedmemory/status",
    ):
        assert status(f"{served.http}/{path}") == 403, path


def test_clients_see_what_they_need_and_operators_more(served: Served) -> None:
    with served.client() as client:
        config = client.get_model_config("null_l2a", as_json=True, client_timeout=PATIENCE_S)
        assert "contract" in config["config"]["parameters"]
        assert client.is_model_ready("null_l2a")
        closed = {
            "model-repository": lambda headers: client.get_model_repository_index(headers=headers),
            "shared-memory": lambda headers: client.get_system_shared_memory_status(headers=headers),
            "trace": lambda headers: client.get_trace_settings(headers=headers),
            "logging": lambda headers: client.get_log_settings(headers=headers),
        }
        for name, ask in closed.items():
            with pytest.raises(InferenceServerException, match="restricted"):
                ask(None)
            assert ask(KEY) is not None, name
        with pytest.raises(InferenceServerException, match="explicit model load"):
            client.load_model("null_l2a", headers=KEY)


def test_who_has_no_certificate_is_not_let_in(served: Served) -> None:
    with served.client(with_certificate=False) as client, pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=2.0)


def test_it_ends_by_itself_when_asked_to(served: Served) -> None:  # the last one: it ends the server
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE_S) == 0
