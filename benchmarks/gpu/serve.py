"""Start Triton on a repository and say where it listens, as JSON; end with standard input. For the server's Python."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from server_models.tritonserver import TritonProcess


def main() -> None:
    repository, private, *models = sys.argv[1:]
    server = TritonProcess(Path(repository), Path(private), backend_bytes=1 << 30)
    server.start()
    try:
        with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")) as client:
            while server.is_alive:
                with contextlib.suppress(InferenceServerException):
                    if client.is_server_ready(client_timeout=1.0):
                        break
                time.sleep(0.1)
            for model in models:
                client.load_model(model, headers={TritonProcess.KEY_HEADER: server.key}, client_timeout=300.0)
        print(json.dumps({"grpc": f"127.0.0.1:{server.grpc_port}", "metrics": server.metrics_port,
                          "header": TritonProcess.KEY_HEADER, "key": server.key}), flush=True)  # fmt: skip
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
