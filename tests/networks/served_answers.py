"""Run in the server's environment: answers of small graphs for batches, and for tiles whose OFFSET or SCALE is broken.

python served_answers.py LEVEL ARCHITECTURE

Prints JSON per engine and precision.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import served_graph
import small_network

from server_models.openvino_engine import OpenVinoEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Feeds = dict[str, NDArray[Any]]
    Run = Callable[[Feeds], list[NDArray[np.uint8]]]

NAMES = ["LABELS", "PROBABILITIES"]
BREAKS = [(name, value) for name in ("OFFSET", "SCALE") for value in ("nan", "inf", "-inf")]


def engines(level: str, architecture: str, folder: Path) -> dict[str, Run]:
    found: dict[str, Run] = {}
    for precision in ("f32", "fp16"):
        _, model = small_network.small_network(level, architecture, precision)
        session = served_graph.session(model)
        found[f"onnxruntime {precision}"] = lambda feeds, s=session: s.run(NAMES, feeds)
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("f32", "bf16") if has_bf16 else ("f32",):
        _, model = small_network.small_network(level, architecture, precision)
        path = folder / f"{precision}.onnx"
        path.write_bytes(model.SerializeToString())
        engine = OpenVinoEngine(path, precision=precision, streams=1, threads=1)

        def run(feeds: Feeds, engine: OpenVinoEngine = engine) -> list[NDArray[np.uint8]]:
            count = len(feeds["OFFSET"])
            tiles = [{name: value[i : i + 1] for name, value in feeds.items()} for i in range(count)]
            answers = engine.run(tiles, NAMES)
            return [np.concatenate([a[name] for a in answers]) for name in NAMES]

        found[f"openvino {precision}"] = run
    return found


def main() -> None:
    level, architecture = sys.argv[1:]
    contract = served_graph.small_contract(level, architecture, small_network.TILE)
    feeds = served_graph.tiles(contract, seed=6, batch=3)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in engines(level, architecture, Path(folder)).items():
            labels, probabilities = run(feeds)
            alone = [run({key: value[i : i + 1] for key, value in feeds.items()}) for i in range(3)]
            report[name] = {
                "classes": np.unique(labels).tolist(),
                "tiles_differ": bool((labels[0] != labels[1]).any() and (labels[1] != labels[2]).any()),
                "batch_is_single": [
                    bool(np.array_equal(labels[i : i + 1], one[0]) and np.array_equal(probabilities[i : i + 1], one[1]))
                    for i, one in enumerate(alone)
                ],
                "probability_sums": [int(s) for s in np.quantile(probabilities.sum(axis=1, dtype=int), (0, 1))],
            }
            for tensor, value in BREAKS:
                broken = {key: array.copy() for key, array in feeds.items()}
                broken[tensor][1, 2] = np.float32(value)
                found, shares = run(broken)
                report[name][f"{tensor} {value}"] = {
                    "fault": bool((found[1] == 255).all() and (shares[1] == 0).all()),
                    "neighbours": bool(
                        np.array_equal(found[[0, 2]], labels[[0, 2]])
                        and np.array_equal(shares[[0, 2]], probabilities[[0, 2]])
                    ),
                }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
