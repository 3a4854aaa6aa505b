"""How many instances, streams, threads and tiles in a batch for the local Triton: tiles per second through the server.

Run in the server's environment, from the checkout::

    PYTHONPATH=. .venv-server/bin/python benchmarks/server_sweep.py .venv-server/models/kappamask_l2a_deeplabv3plus

For every setting a copy of the model gets a configuration of its own, a real Triton is started on it, and a closed
loop keeps the client's window of requests in flight (2 x max_batch x instances, one tile each). Every setting is
measured `rounds` times; the fastest counts. ``--pixels FOLDER`` (from `end_to_end.py`) gives a product's own tiles.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as triton
from engine_sweep import pixels_of, random_tiles
from tritonclient.utils import InferenceServerException

from kappamask_stream.contract import ModelContract
from server_models.configuration import config_pbtxt
from server_models.tritonserver import TritonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table: `instances` processes with an engine of `streams` streams of `threads` threads each."""

    instances: int
    streams: int
    threads: int
    max_batch: int


def settings(cores: int, batches: list[int]) -> list[Setting]:
    """Return all ways to use every core once, for each batch size."""
    shapes = {(1, cores, 1), (1, 1, cores), (cores, 1, 1)}
    return [
        Setting(instances=instances, streams=streams, threads=threads, max_batch=batch)
        for batch, (instances, streams, threads) in itertools.product(batches, sorted(shapes))
    ]


@contextlib.contextmanager
def serving(model: Path, contract: ModelContract, setting: Setting) -> Iterator[TritonProcess]:
    """Run a Triton on a copy of the model with this setting."""
    with tempfile.TemporaryDirectory(prefix="ks-") as folder:
        copy = Path(folder) / "models" / contract.name
        (copy / "1").mkdir(parents=True)
        for path in (model / "1").iterdir():
            (copy / "1" / path.name).symlink_to(path.resolve())
        engine = {"engine_streams": str(setting.streams), "engine_threads": str(setting.threads)}
        changed = replace(contract, max_batch=setting.max_batch, instances=setting.instances)
        (copy / "config.pbtxt").write_text(config_pbtxt(changed, "python", engine))
        private = Path(folder) / "server"
        private.mkdir()
        server = TritonProcess(copy.parent, private)
        server.start()
        try:
            load(server, contract.name)
            yield server
        except BaseException:
            shutil.copy(server.log_path, "server_sweep.log")
            raise
        finally:
            server.stop()


def load(server: TritonProcess, model: str) -> None:
    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")) as client:
        while server.is_alive:
            with contextlib.suppress(InferenceServerException):
                if client.is_server_ready(client_timeout=1.0):
                    break
            time.sleep(0.05)
        client.load_model(model, headers={TritonProcess.KEY_HEADER: server.key}, client_timeout=_TIMEOUT_S)


def requests_of(tiles: dict[str, NDArray[Any]], count: int) -> list[list[triton.InferInput]]:
    """Return `count` requests of one tile each, going round the tiles."""
    made = []
    for i in range(count):
        request = []
        for name, values in tiles.items():
            tile = np.ascontiguousarray(values[i % len(values)][None])
            request.append(triton.InferInput(name, list(tile.shape), "UINT16" if tile.dtype == np.uint16 else "FP32"))
            request[-1].set_data_from_numpy(tile)
        made.append(request)
    return made


def measure(server: TritonProcess, model: str, requests: list[list[triton.InferInput]], window: int) -> float:
    """Return wall seconds in which all requests are answered, `window` in flight."""
    free, failed = threading.Semaphore(window), []
    wanted = [triton.InferRequestedOutput("LABELS")]

    def answered(result: Any, error: Exception | None) -> None:  # noqa: ARG001 - called by keyword
        if error is not None:
            failed.append(error)
        free.release()

    with contextlib.closing(triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")) as client:
        wall = time.perf_counter()
        for request in requests:
            free.acquire()
            client.async_infer(model, request, answered, outputs=wanted, client_timeout=_TIMEOUT_S)
        for _ in range(window):
            free.acquire()
        wall = time.perf_counter() - wall
    if failed:
        raise failed[0]
    return wall


def resident_mb(group: int) -> float:
    """Return MB of memory that a process group holds by itself (proportional set size)."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, StopIteration, ProcessLookupError):
            if os.getpgid(int(folder.name)) == group:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024


def row(model: Path, contract: ModelContract, setting: Setting, tiles: Any, count: int, rounds: int) -> dict[str, Any]:
    window = 2 * setting.max_batch * setting.instances
    with serving(model, contract, setting) as server:
        measure(server, contract.name, requests_of(tiles, min(window, 4)), window)  # warms up
        wall = min(measure(server, contract.name, requests_of(tiles, count), window) for _ in range(rounds))
        assert server.process is not None
        memory = resident_mb(server.process.pid)
    return {**asdict(setting), "tiles_per_s": count / wall, "server_mb": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model built with --flavour python")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 8], help="max_batch (default 1 2 4 8)")
    parser.add_argument("--tiles", type=int, default=24, help="tiles in a round (default 24)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of which the fastest counts (default 2)")
    parser.add_argument("--pixels", type=Path, help="folder with a product's tiles: DN_20M.npy, OFFSET.npy, …")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    contract = ModelContract.from_json((arguments.model / "contract.json").read_text())
    cores = len(os.sched_getaffinity(0))
    tiles = pixels_of(arguments.pixels, contract) if arguments.pixels else random_tiles(contract, arguments.tiles)
    print(f"{contract.name}, {cores} cores, fastest of {arguments.rounds} rounds of {arguments.tiles} tiles")
    print(f"{'instances':>9} {'streams':>7} {'threads':>7} {'max_batch':>9} {'tiles/s':>8} {'server MB':>9}")
    rows = []
    for setting in settings(cores, arguments.batch):
        found = row(arguments.model, contract, setting, tiles, arguments.tiles, arguments.rounds)
        rows.append(found)
        print(
            f"{found['instances']:9} {found['streams']:7} {found['threads']:7} {found['max_batch']:9} "
            f"{found['tiles_per_s']:8.2f} {found['server_mb']:9.0f}",
            flush=True,
        )
    rows.sort(key=lambda found: -found["tiles_per_s"])
    if arguments.json:
        arguments.json.write_text(json.dumps({"model": contract.name, "cores": cores, "sweep": rows}, indent=1))


if __name__ == "__main__":
    main()
