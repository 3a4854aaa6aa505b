"""One client process: keeps a window of single-tile requests in flight and counts answers between two times."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import shared_memory

_TIMEOUT_S = 120.0


class Requests:
    """Requests of one tile each, in system shared memory or inline; LABELS come back the same way."""

    def __init__(
        self, client: Any, headers: dict[str, str], tensors: dict[str, Any], count: int, *, shared: bool
    ) -> None:
        self._client, self._headers = client, headers
        size = max(values.shape[-1] for values in tensors.values() if values.ndim == 4)
        name = f"ks_bench_{os.getpid()}"
        tile_bytes = sum(values[0].nbytes for values in tensors.values())
        each = -(-(tile_bytes + size * size) // 4096) * 4096
        self._region: Any = None
        if shared:
            self._region = shared_memory.create_shared_memory_region(name, f"/{name}", each * count)
            client.register_system_shared_memory(name, f"/{name}", each * count, headers=headers)
        self.made = [self._request(name, each * i, i, tensors) for i in range(count)]

    def _request(self, region: str, start: int, number: int, tensors: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        inputs, offset = [], start
        for name, values in tensors.items():
            tile = np.ascontiguousarray(values[number % len(values)][None])
            entry = triton.InferInput(name, list(tile.shape), "UINT16" if tile.dtype == np.uint16 else "FP32")
            if self._region is not None:
                shared_memory.set_shared_memory_region(self._region, [tile], offset=offset)
                entry.set_shared_memory(region, tile.nbytes, offset=offset)
            else:
                entry.set_data_from_numpy(tile)
            offset += tile.nbytes
            inputs.append(entry)
        wanted = triton.InferRequestedOutput("LABELS")
        if self._region is not None:
            size = max(values.shape[-1] for values in tensors.values() if values.ndim == 4)
            wanted.set_shared_memory(region, size * size, offset=offset)
        return inputs, [wanted]

    def close(self) -> None:
        if self._region is not None:
            self._client.unregister_system_shared_memory(headers=self._headers, name=f"ks_bench_{os.getpid()}")
            shared_memory.destroy_shared_memory_region(self._region)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--grpc", "--header", "--key", "--model", "--transport"):
        parser.add_argument(name, required=True)
    parser.add_argument("--tiles", type=Path, required=True, help="npz with the model's inputs")
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--start", type=float, required=True, help="Unix time")
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    with np.load(arguments.tiles) as file:
        tensors = {name: file[name] for name in file.files}
    client = triton.InferenceServerClient(arguments.grpc)
    headers = {arguments.header: arguments.key}
    requests = Requests(client, headers, tensors, arguments.window, shared=arguments.transport == "shared memory")
    free: list[int] = list(range(arguments.window))
    ready, latencies, failed, end = threading.Semaphore(arguments.window), [], [], arguments.start + arguments.seconds

    def answered(number: int, sent: float, error: Exception | None) -> None:
        now = time.time()
        if error is not None:
            failed.append(str(error))
        elif arguments.start <= now < end:
            latencies.append(now - sent)
        free.append(number)
        ready.release()

    while time.time() < end and len(failed) < 10:
        ready.acquire()
        number = free.pop()
        inputs, outputs = requests.made[number]
        sent = time.time()
        client.async_infer(
            arguments.model, inputs, lambda result, error, n=number, s=sent: answered(n, s, error),  # noqa: ARG005
            outputs=outputs, client_timeout=_TIMEOUT_S,
        )  # fmt: skip
    for _ in range(arguments.window):
        ready.acquire()
    requests.close()
    client.close()
    cpu = time.process_time()
    print(json.dumps({"answers": len(latencies), "latencies": latencies[:20000], "failed": failed[:3], "cpu_s": cpu}))


if __name__ == "__main__":
    main()
