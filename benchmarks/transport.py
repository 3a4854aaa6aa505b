"""What a tile's way to a local Triton and back costs the client: gRPC beside shared memory, taking turns in one run.

`benchmarks/transport.py [--json FILE]`: tiles of KappaMask's size (4 MB) to a network that costs nothing, on the local
server, a window of them in flight always. CPU seconds of the client's process per tile, the best of several rounds:

* **tritonclient**: its own call, as the client used it before it put messages together itself; for comparison;
* **gRPC**: what the client does where there is no shared memory;
* **shared memory**: from where the tiles were cut, as the pipeline does;
* **shared memory, copied**: of pixels that were cut elsewhere, as of the first tiles and of those that are sent again.

Besides, each with the tiles filled in anew before they are sent, which is what cutting them does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from kappamask_stream.inference import InFlightWindow, TileRequest, TritonClient
from kappamask_stream.server import lease_local_server
from kappamask_stream.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

    Pixels = dict[str, NDArray[np.uint16]]
    Send = Callable[[TileRequest], Awaitable[object]]

GOAL = 0.35
MODEL = "null_kappamask_l2a"
_LAG_STEP_S = 0.002


@dataclass
class Way:
    """One way of a tile, and what it was measured to cost.

    Attributes
    ----------
    new_tensors : gives arrays for a tile's pixels.
    send : sends a tile.
    cpu_ms, filled_cpu_ms : of the process per tile, each round; with tiles filled in anew.
    tiles_per_s : each round.
    lag_p99_ms : of the event loop, each round.
    """

    new_tensors: Callable[[], Pixels]
    send: Send
    cpu_ms: list[float] = field(default_factory=list)
    filled_cpu_ms: list[float] = field(default_factory=list)
    tiles_per_s: list[float] = field(default_factory=list)
    lag_p99_ms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        return {
            "cpu_ms": min(self.cpu_ms),
            "filled_cpu_ms": min(self.filled_cpu_ms),
            "tiles_per_s": max(self.tiles_per_s),
            "lag_p99_ms": statistics.median(self.lag_p99_ms),
        }


class Source:
    """Tiles of noise, more than the caches hold, and the requests made of them."""

    def __init__(self, client: TritonClient, count: int) -> None:
        rng = np.random.default_rng(0)
        contract = client.contract
        self._tiles = [
            {g.tensor: rng.integers(1, 9000, (len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs}
            for _ in range(count)
        ]
        self._channels = len(contract.channels)

    def fill(self, pixels: Pixels, number: int) -> Pixels:
        for name, tensor in self._tiles[number % len(self._tiles)].items():
            np.copyto(pixels[name], tensor)
        return pixels

    def request(self, pixels: Pixels) -> TileRequest:
        zeros = np.zeros(self._channels, np.float32)
        return TileRequest(name="tile", tensors=pixels, offset=zeros, scale=zeros + np.float32(1e-4))


def tritonclients_call(client: TritonClient) -> Send:
    """Return what sends a tile as tritonclient itself does."""

    async def send(request: TileRequest) -> object:
        inputs = []
        for name, array in {**request.tensors, "OFFSET": request.offset, "SCALE": request.scale}.items():
            tensor = InferInput(name, [1, *array.shape], np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array[np.newaxis])
            inputs.append(tensor)
        outputs = [InferRequestedOutput("LABELS")]
        answer = await client.connection.channel.infer(MODEL, inputs, outputs=outputs, client_timeout=120.0)
        return answer.as_numpy("LABELS")

    return send


async def closed_loop(way: Way, source: Source, window: int, tiles: int, *, fill: bool) -> tuple[float, float, float]:
    """Keep a window of tiles in flight; returns CPU ms per tile, tiles a second, and the loop's lag in ms (p99)."""
    warm = asyncio.Barrier(window + 1)
    requests = iter(range(tiles))
    lags: list[float] = []

    async def one(number: int) -> None:
        request = source.request(source.fill(way.new_tensors(), number))
        await way.send(request)
        await warm.wait()
        for each in requests:
            if fill:
                del request  # its memory may be the next one's
                request = source.request(source.fill(way.new_tensors(), each))
            await way.send(request)

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_LAG_STEP_S)
            lags.append(time.perf_counter() - began - _LAG_STEP_S)

    loops = [asyncio.create_task(one(number)) for number in range(window)]
    watching = asyncio.create_task(watch())
    await warm.wait()
    cpu, wall = time.process_time(), time.perf_counter()
    lags.clear()
    await asyncio.gather(*loops)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    watching.cancel()
    return 1000 * cpu / tiles, tiles / wall, 1000 * float(np.percentile(lags, 99))


async def measured(rounds: int, tiles: int) -> dict[str, Any]:
    settings = load_settings()
    async with lease_local_server(model=MODEL, env=settings.server_env) as server:
        endpoint = f"grpc://{server.grpc_address}"
        over_grpc = await TritonClient.connect(endpoint, MODEL, shared_memory=False)
        shared = await TritonClient.connect(endpoint, MODEL, memory_key=server.memory_key)
        async with over_grpc, shared:
            if shared.transport.name != "shared memory":
                raise SystemExit(f"there is no shared memory: {shared.transport.reason}")
            ways = {
                "tritonclient": Way(over_grpc.new_tensors, tritonclients_call(over_grpc)),
                "gRPC": Way(over_grpc.new_tensors, over_grpc.infer),
                "shared memory": Way(shared.new_tensors, shared.infer),
                "shared memory, copied": Way(over_grpc.new_tensors, shared.infer),
            }
            window = InFlightWindow.for_contract(shared.contract).maximum
            source = Source(shared, 2 * window)
            for _ in range(rounds):
                for way in ways.values():
                    cpu_ms, tiles_per_s, lag_ms = await closed_loop(way, source, window, tiles, fill=False)
                    way.cpu_ms.append(cpu_ms)
                    way.tiles_per_s.append(tiles_per_s)
                    way.lag_p99_ms.append(lag_ms)
                    way.filled_cpu_ms.append((await closed_loop(way, source, window, tiles, fill=True))[0])
    found = {name: way.summary() for name, way in ways.items()}
    return {
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "model": MODEL, "in_flight": window, "tiles": tiles, "rounds": rounds, "ways": found,
        "shared_memory_to_grpc": found["shared memory"]["cpu_ms"] / found["gRPC"]["cpu_ms"],
        "shared_memory_to_grpc_filled": found["shared memory"]["filled_cpu_ms"] / found["gRPC"]["filled_cpu_ms"],
        "goal": GOAL,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=200, help="of each round and way")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = asyncio.run(measured(arguments.rounds, arguments.tiles))
    print(f"{'client CPU per tile, ms':24} {'sent':>8} {'filled and sent':>16} {'tiles/s':>8} {'loop lag p99, ms':>17}")
    for name, way in report["ways"].items():
        print(
            f"{name:24} {way['cpu_ms']:8.2f} {way['filled_cpu_ms']:16.2f} {way['tiles_per_s']:8.0f} "
            f"{way['lag_p99_ms']:17.1f}"
        )
    print(f"shared memory / gRPC {report['shared_memory_to_grpc']:.3f}, goal <= {GOAL}")
    print(f"with the tiles filled in anew {report['shared_memory_to_grpc_filled']:.3f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
