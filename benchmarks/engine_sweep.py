"""Which engine, how many streams of how many threads, which batch: tiles per second of one built model on this CPU.

Run in the server's environment, from the checkout::

    PYTHONPATH=. .venv-server/bin/python benchmarks/engine_sweep.py MODEL.onnx [--tiles 8] [--rounds 3]

Every setting is measured `rounds` times, taking turns with the others, and the fastest round counts: the machine
may be shared. CPU seconds a tile do not depend on what else runs and tell settings apart where wall times cannot.
Digital numbers are random; the time a tile takes does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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


def read_contract(graph: Path) -> ModelContract:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return ModelContract.from_json(session.get_modelmeta().custom_metadata_map["contract"])


def random_batch(contract: ModelContract, batch: int) -> Tensors:
    generator = np.random.default_rng(7)
    tensors: Tensors = {
        group.tensor: generator.integers(0, 10_000, (batch, len(group.bands), group.tile, group.tile), np.uint16)
        for group in contract.inputs
    }
    channels = len(contract.channels)
    tensors["OFFSET"] = np.zeros((batch, channels), np.float32)
    tensors["SCALE"] = np.full((batch, channels), 1 / (65535 * np.array(contract.divisors)), np.float32)
    return tensors


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


def measure(engine: Any, batch: Tensors, count: int) -> tuple[float, float]:
    """Return wall and CPU seconds of `count` inferences."""
    wall, cpu = time.perf_counter(), time.process_time()
    engine.run([batch] * count, ["LABELS"])
    return time.perf_counter() - wall, time.process_time() - cpu


def sweep(graph: Path, chosen: list[Setting], contract: ModelContract, *, tiles: int, rounds: int) -> None:
    engines = {setting: start(graph, setting) for setting in chosen}
    batches = {setting.batch: random_batch(contract, setting.batch) for setting in chosen}
    best = dict.fromkeys(chosen, (float("inf"), float("inf")))
    for number, setting in itertools.product(range(rounds + 1), chosen):
        count = max(setting.streams, tiles // setting.batch) if number else setting.streams  # round 0 warms up
        wall, cpu = measure(engines[setting], batches[setting.batch], count)
        if number:
            done = count * setting.batch
            best[setting] = min(best[setting][0], wall / done), min(best[setting][1], cpu / done)
    print(f"{'engine':12} {'precision':9} {'streams':>7} {'threads':>7} {'batch':>5} {'tiles/s':>8} {'CPU-s/tile':>10}")
    for setting, (wall, cpu) in sorted(best.items(), key=lambda item: item[1]):
        print(
            f"{setting.engine:12} {setting.precision:9} {setting.streams:7} {setting.threads:7} {setting.batch:5} "
            f"{1 / wall:8.2f} {cpu:10.3f}"
        )
    for engine in engines.values():
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="ONNX file with its contract in the metadata")
    parser.add_argument("--engine", nargs="+", choices=("openvino", "onnxruntime"), default=["openvino", "onnxruntime"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4], help="tiles in one inference (default 1 4)")
    parser.add_argument("--tiles", type=int, default=8, help="tiles in a round (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the fastest counts (default 3)")
    arguments = parser.parse_args()
    contract = read_contract(arguments.model)
    cores = len(os.sched_getaffinity(0))
    print(f"{contract.name}, {cores} cores, fastest of {arguments.rounds} rounds of {arguments.tiles} tiles")
    chosen = list(settings(contract, cores, arguments.engine, arguments.batch))
    sweep(arguments.model, chosen, contract, tiles=arguments.tiles, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
