"""The PyTorch engine alone: tiles per second from pinned memory and back, at each batch size and precision.

Two lanes take turns, so that one copies while the other computes. Beside it: the time of the recorded graph alone,
the share of the measured ceiling, agreement of LABELS with float32 on onnxruntime's CPU, equality over batch sizes.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from material import GFLOP, add_arguments, graph, tiles, write
from roofline import median_s

from server_models.torch_engine import TorchEngine, contract_of

if TYPE_CHECKING:
    import onnx
    from material import Tensors


def loop(engine: TorchEngine, source: dict[str, torch.Tensor], batch: int, seconds: float) -> float:
    """Return tiles per second with all copies; `source` is pinned, ``[lanes * batch, ...]``."""
    answers = torch.empty(
        (len(engine.lanes), batch, *engine.lanes[0].outputs["LABELS"].shape[1:]), dtype=torch.uint8, pin_memory=True
    )
    done = [torch.cuda.Event() for _ in engine.lanes]
    views = [{n: t[i * batch : (i + 1) * batch].numpy() for n, t in source.items()} for i in range(len(engine.lanes))]

    def submit(number: int) -> None:
        lane = engine.lanes[number]
        done[number].synchronize()  # its answers are on the host, its inputs may be replaced
        lane.load(views[number], 0, batch, pinned=True)
        lane.start(batch)
        with torch.cuda.stream(lane.stream):
            answers[number].copy_(lane.outputs["LABELS"][:batch], non_blocking=True)
            done[number].record()

    for number in range(2 * len(engine.lanes)):
        submit(number % len(engine.lanes))
    torch.cuda.synchronize()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count < 4:
        submit(count % len(engine.lanes))
        count += 1
    torch.cuda.synchronize()
    return count * batch / (time.perf_counter() - started)


def pinned(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values).pin_memory() for name, values in tensors.items()}


def labels(engine: TorchEngine, tensors: Tensors, batch: int) -> np.ndarray:
    """Return LABELS of all tiles, computed in batches of `batch`."""
    count, found = len(tensors["SCALE"]), []
    for first in range(0, count, batch):
        part = {name: values[first : first + batch] for name, values in tensors.items()}
        found.append(engine.run([part], ["LABELS"])[0]["LABELS"].copy())
    return np.concatenate(found)


def reference(model: onnx.ModelProto, tensors: Tensors) -> np.ndarray:
    """Return LABELS of onnxruntime on the CPU, tile by tile."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    count = len(tensors["SCALE"])
    return np.concatenate(
        [session.run(["LABELS"], {n: v[i : i + 1] for n, v in tensors.items()})[0] for i in range(count)]
    )


def measure(
    architecture: str, precision: str, model: onnx.ModelProto, arguments: argparse.Namespace, truth: np.ndarray
) -> dict[str, Any]:
    started = time.perf_counter()
    batches = [b for b in arguments.batches if precision != "f32" or b in {1, 8, 32}]
    engine = TorchEngine(model, precision=precision, batches=batches, lanes=2)
    ready = time.perf_counter() - started
    contract = engine.contract
    found: dict[str, Any] = {"ready_s": ready, "ways": {k: str(v) for k, v in engine.network.ways.items()}, "rows": []}
    check = tiles(contract, arguments.tiles, 6)
    alone = labels(engine, check, 1)
    agreement = [float((alone[i] == truth[i]).mean()) for i in range(len(truth))]
    found["agreement_with_f32_on_cpu"] = agreement
    print(f"{architecture} {precision}: ready in {ready:.1f} s, agreement {min(agreement):.5f} at worst", flush=True)
    for batch in batches:
        source = pinned(tiles(contract, arguments.tiles, 2 * batch))
        rate = loop(engine, source, batch, arguments.seconds)
        lane = engine.lanes[0]
        with torch.cuda.stream(lane.stream):
            graph_s = median_s(lambda lane=lane, batch=batch: lane.start(batch), 5)
        mixed = labels(engine, check, batch)
        row = {
            "batch": batch, "tiles_per_s": rate, "graph_tiles_per_s": batch / graph_s,
            "achieved_tflops": rate * GFLOP[architecture] / 1000,
            "pixels_unlike_batch_1": float((mixed != alone).mean()), "faults": int((mixed == 255).sum()),
        }  # fmt: skip
        found["rows"].append(row)
        unlike = row["pixels_unlike_batch_1"]
        print(f"  batch {batch:3}: {rate:8.1f} tiles/s, graph alone {batch / graph_s:8.1f}, "
              f"{row['achieved_tflops']:6.1f} TFLOP/s, unlike batch 1: {unlike:.6f}", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--networks", nargs="+", default=list(GFLOP))
    parser.add_argument("--precisions", nargs="+", default=["fp16", "bf16", "f32"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=0.8, help="of each measurement")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for architecture in arguments.networks:
        weights = arguments.weights if architecture == "DeepLabv3Plus" else None
        model = graph(architecture, "f32", weights)
        contract = contract_of(model)
        truth = reference(model, tiles(contract, arguments.tiles, 6))
        figures[architecture] = {"weights": "file" if weights else "seeded"}
        for precision in arguments.precisions:
            try:
                figures[architecture][precision] = measure(architecture, precision, model, arguments, truth)
            except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                figures[architecture][precision] = {"failed": str(error)[:2000]}
                print(f"{architecture} {precision} failed: {str(error)[:1500]}", flush=True)
            torch.cuda.empty_cache()
            write(arguments.json, "bare", {"bare": figures})


if __name__ == "__main__":
    main()
