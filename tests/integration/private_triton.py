"""Run in the server's environment: a tritonserver of its own until standard input ends.

python private_triton.py REPOSITORY FOLDER RESTRICTED[,…] [MODEL ...]

RESTRICTED names parts of the protocol that want a key, beside those that always do.
"""

import json
import sys
import time
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from server_models.leftovers import scratch_noted
from server_models.tritonserver import RESTRICTED, TritonProcess


def main() -> None:
    repository, folder, restricted, *models = sys.argv[1:]
    more = tuple(name for name in restricted.split(",") if name)
    server = TritonProcess(Path(repository), Path(folder), restricted=(*RESTRICTED, *more))
    server.start()
    try:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        wait_until_ready(client, server)
        with scratch_noted(Path(folder)):
            for model in models:
                client.load_model(model, headers={TritonProcess.KEY_HEADER: server.key})
        client.close()
        print(json.dumps({"address": f"127.0.0.1:{server.grpc_port}", "pid": server.process.pid}), flush=True)
        sys.stdin.read()
    finally:
        server.stop()


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
