"""Start Triton on a repository and say where it listens, as JSON; end with standard input. For the server's Python.

    serve.py REPOSITORY PRIVATE MODEL [TRITONSERVER [ARGUMENT ...]]

Without TRITONSERVER it is the server of nvidia-pytriton, with the Python backend; with it that program with its own
backends, as in NVIDIA's container.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from server_models.tritonserver import TritonProcess, free_ports


class OwnTriton(TritonProcess):
    """A tritonserver that is installed with its backends: nothing of nvidia-pytriton's is needed."""

    program: list[str]

    def start(self) -> None:
        self.grpc_port, self.metrics_port = free_ports(2)
        arguments = [
            f"--model-repository={self.repository}", "--model-control-mode=explicit", "--disable-auto-complete-config",
            "--allow-http=false", "--grpc-address=127.0.0.1", f"--grpc-port={self.grpc_port}",
            "--metrics-address=127.0.0.1", f"--metrics-port={self.metrics_port}",
            # What goes from one model of an ensemble to the next is kept here; what does not fit goes through the CPU.
            "--cuda-memory-pool-byte-size=0:4294967296", "--grpc-infer-allocation-pool-size=512",
        ]  # fmt: skip
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program[0], *arguments, *self.program[1:]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ.copy(), start_new_session=True,
            )  # fmt: skip


def main() -> None:
    repository, private, model, *program = sys.argv[1:]
    kind = OwnTriton if program else TritonProcess
    server = kind(Path(repository), Path(private), backend_bytes=1 << 30)
    if isinstance(server, OwnTriton):
        server.program = program
    server.start()
    try:
        with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")) as client:
            while server.is_alive:
                with contextlib.suppress(InferenceServerException):
                    if client.is_server_ready(client_timeout=1.0):
                        break
                time.sleep(0.1)
            # An engine of TensorRT's takes minutes to build.
            client.load_model(model, headers={TritonProcess.KEY_HEADER: server.key}, client_timeout=1800.0)
        print(json.dumps({"grpc": f"127.0.0.1:{server.grpc_port}", "metrics": server.metrics_port,
                          "header": TritonProcess.MEMORY_HEADER, "key": server.memory_key}), flush=True)  # fmt: skip
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
