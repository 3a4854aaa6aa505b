"""The same network in plain PyTorch (channels last, cuDNN) and on onnxruntime: what the own kernels are worth.

``eager`` records the framework's own kernels as a CUDA graph, ``inductor`` compiles them first (max-autotune). Both
take the normalised image, without pre-processing or classes, so they are flattered. ``onnxruntime`` runs the
served graph, with copies, on the CUDA execution provider without TF32.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from material import GFLOP, add_arguments, graph, tiles, write
from roofline import median_s
from torch.nn import functional

from server_models import torch_plan as plans
from server_models.torch_engine import contract_of
from server_models.torch_ways import DTYPES

if TYPE_CHECKING:
    import onnx


class PlainNetwork(torch.nn.Module):
    """A plan in the framework's functions, NCHW in memory format channels last."""

    def __init__(self, plan: plans.Plan, dtype: torch.dtype) -> None:
        super().__init__()
        self.plan = plan
        # DeepLabv3+'s pyramid stands at 1/16 of the tile. Copies to the GPU cannot be recorded: made beforehand.
        depths = {s.before for s in plan.steps if isinstance(s, plans.Conv) and s.symmetric and s.before > 1}
        self.edges = {(n, 32): torch.from_numpy(np.pad(np.arange(32), n, mode="symmetric")).cuda() for n in depths}
        for step in plan.steps:
            if isinstance(step, plans.Conv | plans.Depthwise):
                weight = (
                    step.weight.transpose(3, 2, 0, 1)
                    if step.weight.ndim == 4
                    else step.weight.transpose(2, 0, 1)[:, None]
                )
                tensor = torch.from_numpy(np.ascontiguousarray(weight)).cuda().to(dtype)
                self.register_buffer(step.output, tensor.contiguous(memory_format=torch.channels_last))
            if isinstance(step, plans.Conv):
                self.register_buffer(f"{step.output}_bias", torch.from_numpy(step.bias).cuda().to(dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images = {"normalised": x}
        for step in self.plan.steps:
            images[step.output] = self.step(step, [images[name] for name in step.inputs])
        return images[self.plan.steps[-1].output]

    def step(self, step: plans.Step, inputs: list[torch.Tensor]) -> torch.Tensor:
        x = inputs[0]
        if isinstance(step, plans.Conv):
            y = self.conv(step, x)
        elif isinstance(step, plans.Depthwise):
            padded = functional.pad(torch.relu(x) if step.relu else x, (1, 1, 1, 1), mode="replicate")
            y = functional.conv2d(padded, getattr(self, step.output), groups=x.shape[1])
        elif isinstance(step, plans.MaxPool):
            padded = functional.pad(x, (0, 1, 0, 1), mode="replicate") if step.kernel == 3 else x
            y = functional.max_pool2d(padded, step.kernel, 2)
            y = y + inputs[1] if len(inputs) > 1 else y
        elif isinstance(step, plans.Upsample):
            y = functional.interpolate(x, scale_factor=step.factor, mode="bilinear")
        elif isinstance(step, plans.Mean):
            y = x.mean((2, 3), keepdim=True)
        elif isinstance(step, plans.Add):
            y = x + inputs[1]
        else:
            size = max(part.shape[2] for part in inputs)
            y = torch.cat([part.expand(-1, -1, size, size) for part in inputs], 1)
        return y

    def conv(self, step: plans.Conv, x: torch.Tensor) -> torch.Tensor:
        if step.enlarge > 1:
            x = functional.interpolate(x, scale_factor=step.enlarge, mode="nearest")
        padding = 0
        if step.symmetric and max(step.before, step.after) == 1:
            x = functional.pad(x, (step.before, step.after, step.before, step.after), mode="replicate")
        elif step.symmetric:
            edge = self.edges[step.before, x.shape[2]]
            x = x[:, :, edge][:, :, :, edge]
        elif step.before == step.after:
            padding = step.before
        else:
            x = functional.pad(x, (step.before, step.after, step.before, step.after))
        weight, bias = getattr(self, step.output), getattr(self, f"{step.output}_bias")
        y = functional.conv2d(x, weight, bias, step.stride, padding, step.dilation)
        return torch.relu(y) if step.relu else y


def plain(model: onnx.ModelProto, precision: str, batch: int, *, compiled: bool) -> float:
    """Return tiles per second of the recorded network alone."""
    dtype = DTYPES[precision]
    network: Any = PlainNetwork(plans.read_plan(model), dtype).eval()
    channels = len(contract_of(model).channels)
    x = torch.rand((batch, channels, 512, 512), device="cuda").to(dtype).contiguous(memory_format=torch.channels_last)
    if compiled:
        network = torch.compile(network, mode="max-autotune-no-cudagraphs", fullgraph=False)
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(x)
        torch.cuda.synchronize()
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, stream=stream):
            network(x)
        with torch.cuda.stream(stream):
            return batch / median_s(recorded.replay, 5)


def onnxruntime_rate(model: onnx.ModelProto, batch: int, tensors: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return tiles per second of the served graph on the CUDA provider, and its LABELS of the first batch."""
    import onnxruntime

    options = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=[("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    )
    if "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError(f"onnxruntime took {session.get_providers()}")
    feeds = {name: values[:batch] for name, values in tensors.items()}
    found = session.run(["LABELS"], feeds)[0]
    session.run(["LABELS"], feeds)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or count < 2:
        session.run(["LABELS"], feeds)
        count += 1
    return {"tiles_per_s": count * batch / (time.perf_counter() - started), "labels": found}


def rows_of_onnxruntime(architecture: str, weights: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    truth = None
    for precision in ("f32", "fp16"):
        model = graph(architecture, precision, weights)
        for batch in arguments.batches:
            tensors = tiles(contract_of(model), arguments.tiles, max(batch, 6))
            row: dict[str, Any] = {"engine": "onnxruntime CUDA", "precision": precision, "batch": batch}
            try:
                found = onnxruntime_rate(model, batch, tensors, arguments.seconds)
                truth = found["labels"] if truth is None else truth
                same = min(len(truth), len(found["labels"]))
                row |= {"tiles_per_s": found["tiles_per_s"],
                        "agreement_with_first": float((truth[:same] == found["labels"][:same]).mean())}  # fmt: skip
            except Exception as error:  # noqa: BLE001 - the next one may run
                row["failed"] = str(error)[:1000]
            rows.append(row)
            print(architecture, row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--engines", nargs="+", default=["eager", "inductor", "onnxruntime"])
    parser.add_argument("--networks", nargs="+", default=list(GFLOP))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    figures: dict[str, list[dict[str, Any]]] = {}
    for architecture in arguments.networks:
        weights = arguments.weights if architecture == "DeepLabv3Plus" else None
        rows = figures.setdefault(architecture, [])
        model = graph(architecture, "f32", weights)
        for engine in (e for e in arguments.engines if e != "onnxruntime"):
            for batch in arguments.batches[-1:] if engine == "inductor" else arguments.batches:
                row: dict[str, Any] = {"engine": engine, "precision": "fp16", "batch": batch}
                started = time.perf_counter()
                try:
                    row["graph_tiles_per_s"] = plain(model, "fp16", batch, compiled=engine == "inductor")
                except Exception as error:  # noqa: BLE001 - the next one may run
                    row["failed"] = str(error)[:1000]
                rows.append({**row, "seconds": time.perf_counter() - started})
                print(architecture, rows[-1], flush=True)
                write(arguments.json, "frameworks", {"frameworks": figures})
        if "onnxruntime" in arguments.engines:
            rows += rows_of_onnxruntime(architecture, weights, arguments)
        write(arguments.json, "frameworks", {"frameworks": figures})


if __name__ == "__main__":
    main()
