"""Packages like csmask's with a network of one convolution, sound; and a list of cases to fill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Case = Callable[[Path], None]

#: What is written into a package's folder; the sound files are there before.
CASES: dict[str, Case] = {}
GRAPH, STATISTICS = "model_6b_l2a.onnx", "model_6b_l2a.json"


def case(function: Case) -> Case:
    """Note a function that changes a package's folder."""
    CASES[function.__name__] = function
    return function


def network(bands: int = 6, classes: int = 3, *, batch: Any = "N", kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return a convolution of 1 x 1 pixels and a bias that a Constant operator gives."""
    weight = np.random.default_rng(3).normal(size=(classes, bands, 1, 1)).astype(helper.tensor_dtype_to_np_dtype(kind))
    bias = numpy_helper.from_array(np.zeros((classes, 1, 1), weight.dtype), "zeros")
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["sum"]),
        helper.make_node("Constant", [], ["bias"], value=bias),
        helper.make_node("Add", ["sum", "bias"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", kind, [batch, bands, 256, 256])],
        [helper.make_tensor_value_info("output", kind, [batch, classes, 256, 256])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_package(folder: Path) -> Path:
    """Write a sound package and return its folder."""
    package = folder / "ukis_csmask"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    save(package, network())
    write_statistics(package, [[0.25] * 6, [0.125] * 6])
    return package


def write_statistics(package: Path, image: Any) -> None:
    (package / STATISTICS).write_text(json.dumps({"data": {"dataset_statistics": {"img": image}}}))


def save(package: Path, model: onnx.ModelProto) -> None:
    (package / GRAPH).write_bytes(model.SerializeToString())
