"""Run in the server's environment: a tritonserver of its own until standard input ends, or who started this is gone.

python private_triton.py REPOSITORY FOLDER OPTIONS [MODEL ...]

OPTIONS is a JSON object: ``restrict`` names parts of the protocol that want a key, beside those that always do;
``flags`` are further arguments of tritonserver, in the place of those of the same name, {key} stands for the key;
``address`` is what it listens on, ``port`` 0 is any; ``tls`` holds the files (``ca``, and ``certificate`` and ``key``
of a client) with which a server is asked whose flags want TLS; ``memory_key`` is the key for shared memory.
"""

import json
import os
import select
import sys
import time
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from server_models.leftovers import scratch_noted
from server_models.tritonserver import RESTRICTED, TritonProcess


class PrivateTriton(TritonProcess):
    """A server with further arguments."""

    flags: list[str]

    def _command(self, program: Path, backends: Path) -> list[str]:
        names = {flag.partition("=")[0] for flag in self.flags}
        usual = [part for part in super()._command(program, backends) if part.partition("=")[0] not in names]
        return [*usual, *(flag.replace("{key}", self.key) for flag in self.flags)]


def main() -> None:
    over = select.poll()
    for descriptor in (sys.stdin.fileno(), os.pidfd_open(os.getppid())):  # others may have inherited the input's end
        over.register(descriptor, select.POLLIN)
    repository, folder, options, *models = sys.argv[1:]
    usual = {"restrict": [], "flags": [], "address": "127.0.0.1", "port": 0, "tls": None, "memory_key": None}
    given = usual | json.loads(options)
    server = PrivateTriton(
        Path(repository), Path(folder), grpc_port=given["port"], restricted=(*RESTRICTED, *given["restrict"])
    )
    server.memory_key = given["memory_key"] or server.memory_key
    server.flags = [f"--grpc-address={given['address']}", *given["flags"]]
    server.start()
    try:
        address = f"{given['address']}:{server.grpc_port}"
        client = connected(address, given["tls"])
        wait_until_ready(client, server)
        with scratch_noted(Path(folder)):
            for model in models:
                client.load_model(model, headers={TritonProcess.KEY_HEADER: server.key})
        client.close()
        metrics = f"http://127.0.0.1:{server.metrics_port}/metrics"
        said = {"address": address, "pid": server.process.pid, "metrics": metrics, "key": server.key}
        said["memory_key"] = server.memory_key
        print(json.dumps(said), flush=True)
        over.poll()
    finally:
        server.stop()


def connected(address: str, tls: dict[str, str] | None) -> triton.InferenceServerClient:
    if tls is None:
        return triton.InferenceServerClient(address)
    files = {"root_certificates": tls["ca"], "private_key": tls.get("key"), "certificate_chain": tls.get("certificate")}
    return triton.InferenceServerClient(address, ssl=True, **files)


def wait_until_ready(client: triton.InferenceServerClient, server: TritonProcess) -> None:
    while server.is_alive:
        try:
            if client.is_server_ready(client_timeout=1.0):
                return
        except InferenceServerException:
            time.sleep(0.02)
    raise SystemExit(server.log_path.read_text())


if __name__ == "__main__":
    main()
