"""A network that costs nothing: bright pixels are cloud. For tests and benchmarks of everything around a network."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from server_models import csmask

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

NAME = "null_l2a"
#: Reflectance of the first channel (blue) above which a pixel is called cloud.
THRESHOLD = 0.3


def contract() -> ModelContract:
    """Return csmask's contract for L2A under another name."""
    digest = hashlib.sha256(f"null model, threshold {THRESHOLD}".encode()).hexdigest()
    return replace(
        csmask.contract("L2A", digest),
        name=NAME,
        family="null",
        architecture="Threshold",
        suffix="NULL",
        weights_source="none: a threshold",
    )


def build(destination: Path) -> ModelContract:
    """Write the graph to `destination` (ONNX) and return its contract."""
    made = contract()
    (group,) = made.inputs
    size, node = made.tile_size, helper.make_node
    nodes = [
        node("Cast", [group.tensor], ["dn"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["OFFSET", "axes_hw"], ["offset_hw"]),
        node("Unsqueeze", ["SCALE", "axes_hw"], ["scale_hw"]),
        node("Add", ["dn", "offset_hw"], ["shifted"]),
        node("Relu", ["shifted"], ["clamped"]),
        node("Mul", ["clamped", "scale_hw"], ["reflectance"]),
        node("Gather", ["reflectance", "first"], ["blue"], axis=1),
        node("Greater", ["blue", "threshold"], ["is_cloud"]),
        node("Where", ["is_cloud", "cloud", "clear"], ["classes"]),
        node("ReduceSum", ["reflectance", "axes_chw"], ["pixels_total"], keepdims=0),
        node("Abs", ["OFFSET"], ["offset_magnitude"]),
        node("ReduceSum", ["offset_magnitude", "axis_1"], ["offset_total"], keepdims=0),
        node("Add", ["pixels_total", "offset_total"], ["total"]),
        node("LessOrEqual", ["total", "largest"], ["is_finite"]),
        node("Unsqueeze", ["is_finite", "axes_12"], ["is_finite_hw"]),
        node("Where", ["is_finite_hw", "classes", "fault"], ["LABELS"]),
        node("Unsqueeze", ["classes", "axis_1"], ["classes_chw"]),
        node("Equal", ["classes_chw", "values"], ["one_hot"]),
        node("Where", ["one_hot", "fault", "zero"], ["PROBABILITIES"]),
    ]
    constants = {
        "axes_hw": np.array([2, 3], np.int64),
        "axes_chw": np.array([1, 2, 3], np.int64),
        "axes_12": np.array([1, 2], np.int64),
        "axis_1": np.array([1], np.int64),
        "first": np.array(0, np.int64),
        "threshold": np.array(THRESHOLD, np.float32),
        "largest": np.array(np.finfo(np.float32).max, np.float32),
        "clear": np.array(1, np.uint8),
        "cloud": np.array(4, np.uint8),
        "zero": np.array(0, np.uint8),
        "fault": np.array(255, np.uint8),
        "values": np.array(made.probability_classes, np.uint8).reshape(1, -1, 1, 1),
    }
    inputs = [helper.make_tensor_value_info(group.tensor, TensorProto.UINT16, ["N", len(group.bands), size, size])]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(made.channels)])
        for name in ("OFFSET", "SCALE")
    ]
    outputs = [
        helper.make_tensor_value_info("LABELS", TensorProto.UINT8, ["N", size, size]),
        helper.make_tensor_value_info(
            "PROBABILITIES", TensorProto.UINT8, ["N", len(made.probability_classes), size, size]
        ),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, NAME, inputs, outputs, initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", csmask.OPSET)], ir_version=csmask.IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, destination)
    return made
