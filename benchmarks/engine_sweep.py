"""Which engine, how many streams of how many threads, which batch: tiles per second of one built model on this CPU.

Run in the server's environment, from the checkout::

    PYTHONPATH=. .venv-server/bin/python benchmarks/engine_sweep.py .venv-server/models/csmask_l2a [--tiles 8]

Every setting is measured `rounds` times, taking turns with the others, and the fastest round counts: the machine
may be shared. CPU seconds a tile do not depend on what else runs and tell settings apart where wall times cannot.
Digital numbers are random unless ``--pixels FOLDER`` (from `end_to_end.py`) gives a product's own tiles; then all of
them are inferred once more with the best setting: the inference floor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from kappamask_stream.contract import ModelContract
from server_models.openvino_engine import OpenVinoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table: `streams` inferences side by side, of `threads` threads and `batch` tiles each."""

    engine: str
    precision: str
    streams: int
    threads: int
    batch: int


class OnnxRuntimeEngine:
    """As many sessions as streams, with the same `run` as `OpenVinoEngine`."""

    def __init__(self, graph: Path, *, streams: int, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions = [
            onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
            for _ in range(streams)
        ]
        self._sessions = itertools.cycle(sessions)
        self._pool = ThreadPoolExecutor(streams)

    def run(self, tiles: list[Tensors], outputs: list[str]) -> list[Any]:
        jobs = [self._pool.submit(next(self._sessions).run, outputs, tile) for tile in tiles]
        return [job.result() for job in jobs]

    def close(self) -> None:
        self._pool.shutdown()


def random_tiles(contract: ModelContract, count: int) -> Tensors:
    generator = np.random.default_rng(7)
    tensors: Tensors = {
        group.tensor: generator.integers(0, 10_000, (count, len(group.bands), group.tile, group.tile), np.uint16)
        for group in contract.inputs
    }
    channels = len(contract.channels)
    unit = 65535.0 if contract.dn_unit == "full_scale" else 10_000.0
    tensors["OFFSET"] = np.zeros((count, channels), np.float32)
    tensors["SCALE"] = np.tile((1 / (unit * np.array(contract.divisors))).astype(np.float32), (count, 1))
    return tensors


def pixels_of(folder: Path, contract: ModelContract) -> Tensors:
    names = [group.tensor for group in contract.inputs] + ["OFFSET", "SCALE"]
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}


def batches_of(tiles: Tensors, batch: int, limit: int | None = None) -> list[Tensors]:
    count = min(len(tiles["OFFSET"]), limit or 2**31)
    return [
        {name: np.ascontiguousarray(values[start : start + batch]) for name, values in tiles.items()}
        for start in range(0, count, batch)
    ]


def settings(contract: ModelContract, cores: int, engines: list[str], batches: list[int]) -> Iterator[Setting]:
    for engine, batch in itertools.product(engines, batches):
        if engine == "onnxruntime" and contract.precision == "bf16":
            continue  # has no bfloat16 kernels on a CPU
        for streams in sorted({1, cores // 2, cores} - {0}):
            yield Setting(
                engine=engine, precision=contract.precision, streams=streams, threads=cores // streams, batch=batch
            )


def start(graph: Path, setting: Setting) -> Any:
    if setting.engine == "openvino":
        return OpenVinoEngine(graph, precision=setting.precision, streams=setting.streams, threads=setting.threads)
    return OnnxRuntimeEngine(graph, streams=setting.streams, threads=setting.threads)


def measure(engine: Any, batches: list[Tensors]) -> tuple[float, float]:
    """Return wall and CPU seconds of inferring `batches`."""
    wall, cpu = time.perf_counter(), time.process_time()
    engine.run(batches, ["LABELS"])
    return time.perf_counter() - wall, time.process_time() - cpu


def sweep(graph: Path, chosen: list[Setting], tiles: Tensors, *, count: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row per setting, fastest first: the setting, tiles_per_s, cpu_s_per_tile."""
    best = dict.fromkeys(chosen, (float("inf"), float("inf")))
    engines = {setting: start(graph, setting) for setting in chosen}
    for number, setting in itertools.product(range(rounds + 1), chosen):
        limit = max(count, setting.streams * setting.batch) if number else setting.streams * setting.batch  # 0 warms up
        batches = batches_of(tiles, setting.batch, limit)
        done = sum(len(batch["OFFSET"]) for batch in batches)
        wall, cpu = measure(engines[setting], batches)
        if number:
            best[setting] = min(best[setting][0], wall / done), min(best[setting][1], cpu / done)
    for engine in engines.values():
        engine.close()
    return [
        {**asdict(setting), "tiles_per_s": 1 / wall, "cpu_s_per_tile": cpu}
        for setting, (wall, cpu) in sorted(best.items(), key=lambda item: item[1])
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'engine':12} {'precision':9} {'streams':>7} {'threads':>7} {'batch':>5} {'tiles/s':>8} {'CPU-s/tile':>10}")
    for row in rows:
        print(
            f"{row['engine']:12} {row['precision']:9} {row['streams']:7} {row['threads']:7} {row['batch']:5} "
            f"{row['tiles_per_s']:8.2f} {row['cpu_s_per_tile']:10.3f}"
        )


def floor(graph: Path, setting: Setting, tiles: Tensors, rounds: int) -> dict[str, float]:
    """Infer all tiles with one setting; the fastest of `rounds` counts."""
    engine = start(graph, setting)
    batches = batches_of(tiles, setting.batch)
    measure(engine, batches[: setting.streams])
    wall, cpu = min(measure(engine, batches) for _ in range(rounds))
    engine.close()
    return {"tiles": len(tiles["OFFSET"]), "wall_s": wall, "cpu_s": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a built model in a repository")
    parser.add_argument("--engine", nargs="+", choices=("openvino", "onnxruntime"), default=["openvino", "onnxruntime"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4], help="tiles in one inference (default 1 4)")
    parser.add_argument("--tiles", type=int, default=8, help="tiles in a round (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the fastest counts (default 3)")
    parser.add_argument("--pixels", type=Path, help="folder with a product's tiles: DN_20M.npy, OFFSET.npy, …")
    parser.add_argument(
        "--floor-rounds", type=int, default=1, help="times that all of --pixels is inferred (default 1)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    contract = ModelContract.from_json((arguments.model / "contract.json").read_text())
    graph = arguments.model / "1" / "model.onnx"
    cores = len(os.sched_getaffinity(0))
    print(f"{contract.name}, {cores} cores, fastest of {arguments.rounds} rounds of {arguments.tiles} tiles")
    tiles = pixels_of(arguments.pixels, contract) if arguments.pixels else random_tiles(contract, arguments.tiles)
    chosen = list(settings(contract, cores, arguments.engine, arguments.batch))
    rows = sweep(graph, chosen, tiles, count=arguments.tiles, rounds=arguments.rounds)
    print_table(rows)
    figures: dict[str, Any] = {"model": contract.name, "cores": cores, "sweep": rows}
    if arguments.pixels:
        best = Setting(**{name: rows[0][name] for name in ("engine", "precision", "streams", "threads", "batch")})
        figures["floor"] = floor(graph, best, tiles, arguments.floor_rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
