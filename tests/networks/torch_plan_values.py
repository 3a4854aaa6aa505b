"""Run in the server's environment: the GPU engine's plan of each network, evaluated in plain numpy, against onnxruntime.

python torch_plan_values.py

Prints JSON per network and precision: the kinds of steps, and the largest difference of probabilities.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import numpy as np
import numpy_layers as layers
import onnx
import served_graph
import small_network

from server_models import torch_plan as plans


def evaluate(plan: plans.Plan, x: np.ndarray) -> np.ndarray:
    """Return probabilities [height, width, classes] of a normalised image [height, width, channels]."""
    images = {"normalised": x.astype(np.float64)}
    for step in plan.steps:
        images[step.output] = answer(step, [images[name] for name in step.inputs])
    logits = images[plan.steps[-1].output]
    logits = layers.upsample_bilinear(logits, plan.enlarge) if plan.enlarge > 1 else logits
    if plan.activation == "Sigmoid":
        return 1 / (1 + np.exp(-logits))
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def answer(step: plans.Step, inputs: list[np.ndarray]) -> np.ndarray:  # noqa: PLR0911 - one for each kind
    x = inputs[0]
    match step:
        case plans.Conv():
            x = layers.upsample_nearest(x, step.enlarge)
            x = layers.pad(x, step.before, step.after, "symmetric" if step.symmetric else "constant")
            y = layers.conv2d(x, step.weight, step.bias, stride=step.stride, dilation=step.dilation)
            return layers.relu(y) if step.relu else y
        case plans.Depthwise():
            x = layers.pad(layers.relu(x) if step.relu else x, 1, 1)
            return layers.separable_conv2d(x, step.weight[..., None], np.eye(x.shape[2])[None, None])
        case plans.MaxPool():
            y = layers.max_pool(layers.pad(x, 0, 1, "edge") if step.kernel == 3 else x, step.kernel, 2)
            return y + inputs[1] if len(inputs) > 1 else y
        case plans.Upsample():
            return layers.upsample_bilinear(x, step.factor)
        case plans.Mean():
            return x.mean((0, 1), keepdims=True)
        case plans.Add():
            return x + inputs[1]
    size = max(part.shape[:2] for part in inputs)
    return np.concatenate([np.broadcast_to(part, (*size, part.shape[2])) for part in inputs], axis=2)


def main() -> None:
    report = {}
    for level, architecture in served_graph.NETWORKS:
        contract = served_graph.small_contract(level, architecture, small_network.TILE)
        tensors = small_network.random_weights(contract, share=1 / 16).tensors
        feeds = served_graph.tiles(contract, seed=6)
        seen = [("normalised", onnx.TensorProto.FLOAT), ("probabilities", onnx.TensorProto.FLOAT)]
        model = served_graph.build(contract, tensors)
        x, p = served_graph.session(model, seen).run(["normalised", "probabilities"], feeds)
        for precision in ("f32", "fp16"):
            made = served_graph.small_contract(level, architecture, small_network.TILE, precision)
            plan = plans.read_plan(served_graph.build(made, tensors))
            found = evaluate(plan, x[0].transpose(1, 2, 0))
            report[f"{level} {architecture} {precision}"] = {
                "steps": Counter(type(step).__name__ for step in plan.steps),
                "largest_difference": float(np.abs(found.transpose(2, 0, 1) - p[0]).max()),
            }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
