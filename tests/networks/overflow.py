"""Run in the server's environment: what a float16 graph answers where one of its tensors overflows.

python overflow.py ARCHITECTURE [forgetful]

For one layer at a time the weights are scaled up, and its readers' down, so that a few values of one of three tiles
just pass float16's largest number; without overflow nothing would change. Prints, per layer: per tile the largest
magnitude as a share of the limit, whether all or any labels say "fault", the largest probability, and the share of
labels that float32 has too. ``forgetful`` puts ordinary ReLUs into the graph: what the product would be without care.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import served_graph
import small_network
from half_precision_engine import HalfPrecisionEngine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[np.float32]]

LIMIT = 65504


def deeplab_layers() -> Iterator[tuple[str, list[str], list[tuple[str, slice]]]]:
    """Yield a convolution of the graph, its tensors, and its readers' kernels with the channels that are its."""
    for number in (0, 1, 2, 3, 4, 5, 6, 14, 29, 30, 31):
        name = f"separable_conv2d_{number}" if number else "separable_conv2d"
        yield f"{name}_depthwise", [f"{name}/depthwise_kernel"], [(f"{name}/pointwise_kernel", slice(None))]
    for number, norm in ((0, 2), (2, 5), (4, 8), (7, 12), (30, 35)):  # the normalisation is folded into these
        name = f"separable_conv2d_{number}" if number else "separable_conv2d"
        tensors = [f"batch_normalization_{norm}/gamma", f"batch_normalization_{norm}/beta"]
        yield name, tensors, [(f"separable_conv2d_{number + 1}/depthwise_kernel", slice(None))]


def unet_layers() -> Iterator[tuple[str, list[str], list[tuple[str, slice]]]]:
    for number in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 20, 21):
        name = f"conv2d_{number}" if number else "conv2d"
        readers = [(f"conv2d_{number + 1}/kernel", slice(None))]
        if number in {1, 3, 5, 7}:  # the skip is the first half of what the expanding path joins
            width = int(64 * small_network.SHARE) * 2 ** (number // 2)
            readers.append((f"conv2d_{20 - 3 * (number // 2)}/kernel", slice(width)))
        yield name, [f"{name}/kernel", f"{name}/bias"], readers


def scaled(weights: Weights, tensors: list[str], readers: list[tuple[str, slice]], factor: float) -> Weights:
    changed = dict(weights)
    for name in tensors:
        changed[name] = weights[name] * np.float32(factor)
    for name, channels in readers:
        changed[name] = weights[name].copy()
        changed[name][:, :, channels] /= np.float32(factor)
    return changed


def forget(model: onnx.ModelProto) -> None:
    """Put the operator in that drops NaN."""
    for node in model.graph.node:
        if node.op_type == "LeakyRelu":
            node.op_type = "Relu"
            del node.attribute[:]


def main() -> None:
    architecture = sys.argv[1]
    tile = small_network.TILE
    full, half = (served_graph.small_contract("L2A", architecture, tile, p) for p in ("f32", "fp16"))
    weights = small_network.random_weights(full).tensors
    layers = list(deeplab_layers() if architecture == "DeepLabv3Plus" else unet_layers())
    names = [name for name, *_ in layers]
    session = served_graph.session(served_graph.build(full, weights), [(n, onnx.TensorProto.FLOAT) for n in names])
    feeds = served_graph.tiles(full, seed=3, batch=3)
    truth, *activations = session.run(["LABELS", *names], feeds)
    engine = HalfPrecisionEngine()

    def answers(changed: Mapping[str, NDArray[np.float32]], magnitudes: NDArray[np.float32]) -> list[dict[str, object]]:
        model = served_graph.build(half, changed)
        if sys.argv[2:] == ["forgetful"]:
            forget(model)
        found = engine.run(model, feeds, ["LABELS", "PROBABILITIES"])
        return [
            {
                "magnitude": float(magnitude / LIMIT),
                "fault": bool((labels == 255).all()),
                "any_fault": bool((labels == 255).any()),
                "probability": int(probabilities.max()),
                "agreement": float((labels == expected).mean()),
            }
            for magnitude, labels, probabilities, expected in zip(
                magnitudes, found["LABELS"], found["PROBABILITIES"], truth, strict=True
            )
        ]

    report = {"": answers(weights, np.zeros(3, np.float32))}
    for (name, tensors, readers), values in zip(layers, activations, strict=True):
        largest = np.abs(values).reshape(3, -1).max(axis=1)
        factor = 1.02 * LIMIT / largest.max()
        report[name] = answers(scaled(weights, tensors, readers, factor), largest * factor)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
