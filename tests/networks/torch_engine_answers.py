"""Run where torch, triton, onnx and onnxruntime are: the GPU engine's kernels in Triton's interpreter, on the CPU.

python torch_engine_answers.py ARCHITECTURE [DEVICE]

Prints JSON: how the answers compare with onnxruntime's, and what becomes of tiles that are not finite.
"""

from __future__ import annotations

import json
import os
import sys

DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np  # noqa: E402 - the interpreter is chosen when triton is imported
import served_graph  # noqa: E402
import small_network  # noqa: E402

from server_models.torch_engine import TorchEngine  # noqa: E402

TILE = 32


def main() -> None:
    architecture = sys.argv[1]
    contract = served_graph.small_contract("L2A", architecture, TILE)
    model = served_graph.build(contract, small_network.random_weights(contract, share=1 / 16).tensors)
    feeds = served_graph.tiles(contract, seed=3, batch=3)
    names = ["LABELS", "PROBABILITIES"]
    labels, probabilities = served_graph.session(model).run(names, feeds)
    report = {}
    for precision in ("f32", "fp16"):
        engine = TorchEngine(model, precision=precision, batches=(1, 3), device=DEVICE)
        parts = [{n: v[:1] for n, v in feeds.items()}, {n: v[1:] for n, v in feeds.items()}]
        found = [{n: v.copy() for n, v in answer.items()} for answer in engine.run(parts, names)]
        together = {n: np.concatenate([answer[n] for answer in found]) for n in names}
        alone = engine.run([{n: v[1:2] for n, v in feeds.items()}], names)[0]
        report[precision] = {
            "same": float((together["LABELS"] == labels).mean()),
            "probabilities_differ": int(np.abs(together["PROBABILITIES"].astype(int) - probabilities).max()),
            "batch_is_single": all(np.array_equal(alone[n][0], together[n][1]) for n in names),
        }
    broken = {n: v.copy() for n, v in feeds.items()}
    broken["OFFSET"][1, 2] = np.nan
    broken["SCALE"][2] *= 2e4  # float16 cannot hold what comes of it
    answer = engine.run([broken], names)[0]
    report["faults"] = [bool((tile == 255).all()) for tile in answer["LABELS"]]
    report["shares_of_faults"] = int(answer["PROBABILITIES"][1:].max())
    report["neighbour_is_itself"] = bool(np.array_equal(answer["LABELS"][0], together["LABELS"][0]))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
