"""Networks that cost nothing: bright pixels are cloud. For tests and benchmarks of everything around a network."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from server_models import csmask, kappamask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

#: What the network sees of blue (B02), of 1, above which a pixel is called cloud.
THRESHOLD = 0.3
#: Models with the tiles of csmask and, for the size of its tiles, of KappaMask.
_LIKE: dict[str, Callable[[], ModelContract]] = {
    "null_l2a": lambda: csmask.contract("L2A", ""),
    "null_kappamask_l2a": lambda: kappamask.contract("L2A", "DeepLabv3Plus", "f32", ""),
}
NAMES = tuple(_LIKE)


def contract(name: str) -> ModelContract:
    """Return the contract of csmask's or KappaMask's network for L2A under another name."""
    digest = hashlib.sha256(f"null model, threshold {THRESHOLD}".encode()).hexdigest()
    return replace(
        _LIKE[name](),
        name=name,
        family="null",
        architecture="Threshold",
        suffix="NULL",
        weights_sha256=digest,
        weights_source="none: a threshold",
        measured_agreement=None,
        instances=1,
    )


def build(name: str, destination: Path) -> ModelContract:
    """Write the graph to `destination` (ONNX) and return its contract."""
    made = contract(name)
    size, classes = made.tile_size, made.probability_classes
    constants: dict[str, Any] = {
        "axes_hw": np.array([2, 3], np.int64),
        "axes_chw": np.array([1, 2, 3], np.int64),
        "axes_12": np.array([1, 2], np.int64),
        "axis_1": np.array([1], np.int64),
        "threshold": np.array(THRESHOLD, np.float32),
        "largest": np.array(np.finfo(np.float32).max, np.float32),
        "clear": np.array(1, np.uint8),
        "cloud": np.array(4, np.uint8),
        "zero": np.array(0, np.uint8),
        "fault": np.array(255, np.uint8),
        "values": np.array(classes, np.uint8).reshape(1, -1, 1, 1),
    }
    nodes, totals = _reflectance(made, constants)
    nodes += [
        helper.make_node("Greater", ["blue", "threshold"], ["is_cloud"]),
        helper.make_node("Where", ["is_cloud", "cloud", "clear"], ["classes"]),
        helper.make_node("Abs", ["OFFSET"], ["offset_magnitude"]),
        helper.make_node("ReduceSum", ["offset_magnitude", "axis_1"], ["offset_total"], keepdims=0),
        helper.make_node("Sum", ["offset_total", *totals], ["total"]),
        helper.make_node("LessOrEqual", ["total", "largest"], ["is_finite"]),
        helper.make_node("Unsqueeze", ["is_finite", "axes_12"], ["is_finite_hw"]),
        helper.make_node("Where", ["is_finite_hw", "classes", "fault"], ["LABELS"]),
        helper.make_node("Unsqueeze", ["classes", "axis_1"], ["classes_chw"]),
        helper.make_node("Equal", ["classes_chw", "values"], ["one_hot"]),
        helper.make_node("Where", ["one_hot", "fault", "zero"], ["PROBABILITIES"]),
    ]
    tensor = helper.make_tensor_value_info
    inputs = [tensor(g.tensor, TensorProto.UINT16, ["N", len(g.bands), g.tile, g.tile]) for g in made.inputs]
    inputs += [tensor(each, TensorProto.FLOAT, ["N", len(made.channels)]) for each in ("OFFSET", "SCALE")]
    outputs = [
        tensor("LABELS", TensorProto.UINT8, ["N", size, size]),
        tensor("PROBABILITIES", TensorProto.UINT8, ["N", len(classes), size, size]),
    ]
    initializers = [numpy_helper.from_array(value, each) for each, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, name, inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", csmask.OPSET)],
        ir_version=csmask.IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, destination)
    return made


def _reflectance(made: ModelContract, constants: dict[str, Any]) -> tuple[list[onnx.NodeProto], list[str]]:
    """Make what the network sees of each input: the tensor ``blue`` of B02, and a sum per input that is returned."""
    nodes, totals = [], []
    for group in made.inputs:
        at = group.tensor
        constants[f"{at}_channels"] = np.array([made.channels.index(band) for band in group.bands], np.int64)
        nodes.append(helper.make_node("Cast", [at], [f"{at}_dn"], to=TensorProto.FLOAT))
        for each in ("OFFSET", "SCALE"):
            nodes += [
                helper.make_node("Gather", [each, f"{at}_channels"], [f"{at}_{each}"], axis=1),
                helper.make_node("Unsqueeze", [f"{at}_{each}", "axes_hw"], [f"{at}_{each}_hw"]),
            ]
        nodes += [
            helper.make_node("Add", [f"{at}_dn", f"{at}_OFFSET_hw"], [f"{at}_shifted"]),
            helper.make_node("Relu", [f"{at}_shifted"], [f"{at}_clamped"]),
            helper.make_node("Mul", [f"{at}_clamped", f"{at}_SCALE_hw"], [f"{at}_seen"]),
            helper.make_node("ReduceSum", [f"{at}_seen", "axes_chw"], [f"{at}_total"], keepdims=0),
        ]
        if "B02" in group.bands:
            constants["blue_channel"] = np.array(group.bands.index("B02"), np.int64)
            nodes.append(helper.make_node("Gather", [f"{at}_seen", "blue_channel"], ["blue"], axis=1))
        totals.append(f"{at}_total")
    return nodes, totals
