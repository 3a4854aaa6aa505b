"""Packages whose graphs are no network of csmask's, keep values elsewhere, or lie about sizes."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_writing import CASES, GRAPH, STATISTICS, case, network, save, write_statistics

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes of the convolution's weights.
WEIGHT_BYTES = 6 * 3 * 4


@case
def sound(_: Path) -> None:
    pass


# --- files of something else ------------------------------------------------------------------------------------------


@case
def no_file(package: Path) -> None:
    (package / GRAPH).unlink()


@case
def no_onnx(package: Path) -> None:
    (package / GRAPH).write_bytes(pickle.dumps(print) + bytes(4096))


@case
def empty_file(package: Path) -> None:
    (package / GRAPH).write_bytes(b"")


@case
def truncated(package: Path) -> None:
    path = package / GRAPH
    os.truncate(path, path.stat().st_size // 2)


@case
def beyond_the_bound(package: Path) -> None:
    os.truncate(package / GRAPH, (128 << 20) + 1)


# --- values elsewhere -------------------------------------------------------------------------------------------------


def _external(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(WEIGHT_BYTES))):
        tensor.external_data.add(key=key, value=value)


def _weights_at(package: Path, location: str) -> None:
    model = network()
    _external(model.graph.initializer[0], location)
    save(package, model)


@case
def values_beside_the_file(package: Path) -> None:
    (package / "weights.bin").write_bytes(np.ones(18, np.float32).tobytes())
    _weights_at(package, "weights.bin")


@case
def values_upwards(package: Path) -> None:
    (package.parent / "secret.bin").write_bytes(np.ones(18, np.float32).tobytes())
    _weights_at(package, "../secret.bin")


@case
def values_by_an_absolute_path(package: Path) -> None:
    _weights_at(package, "/dev/zero")


@case
def values_through_a_link(package: Path) -> None:
    (package.parent / "secret.bin").write_bytes(np.ones(18, np.float32).tobytes())
    (package / "weights.bin").symlink_to(package.parent / "secret.bin")
    _weights_at(package, "weights.bin")


@case
def values_of_an_operator_elsewhere(package: Path) -> None:
    model = network()
    _external(model.graph.node[1].attribute[0].t, "../secret.bin")
    save(package, model)


def _inner(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    graph = helper.make_graph(list(nodes), "inner", [], [helper.make_empty_tensor_value_info("inner")])
    graph.initializer.extend(initializers)
    return graph


@case
def values_of_an_inner_graph_elsewhere(package: Path) -> None:
    model = network()
    tensor = numpy_helper.from_array(np.ones(18, np.float32), "inner")
    _external(tensor, "../secret.bin")
    branch = _inner(initializers=(tensor,))
    model.graph.node.append(helper.make_node("If", ["weight"], ["more"], then_branch=branch, else_branch=branch))
    save(package, model)


@case
def values_of_sparse_tensors_elsewhere(package: Path) -> None:
    model = network()
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(18, np.float32), "sparse"))
    _external(sparse.values, "../secret.bin")
    save(package, model)


# --- sizes ------------------------------------------------------------------------------------------------------------


def _with_shape(package: Path, *dims: int) -> None:
    model = network()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    save(package, model)


@case
def huge_shape(package: Path) -> None:
    _with_shape(package, 1_000_000, 1_000_000, 1, 1)


@case
def shape_that_overflows(package: Path) -> None:
    _with_shape(package, 1 << 62, 4, 1, 18)


@case
def more_values_than_the_shape(package: Path) -> None:
    _with_shape(package, 1, 6, 1, 1)


@case
def sizes_below_zero(package: Path) -> None:
    _with_shape(package, -3, -6, 1, 1)


@case
def values_that_are_computed_huge(package: Path) -> None:
    model = network()
    sizes = numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "sizes")
    model.graph.initializer.append(sizes)
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["summed"], keepdims=0),
        helper.make_node("Add", ["weight", "summed"], ["weights"]),
    ]
    model.graph.node[0].input[1] = "weights"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    save(package, model)


@case
def many_operators(package: Path) -> None:
    model = network()
    for number in range((1 << 14) + 1):
        model.graph.node.append(helper.make_node("Relu", ["sum"], [f"r{number}"]))
    save(package, model)


@case
def graphs_within_graphs(package: Path) -> None:
    model = network()
    graph = _inner(helper.make_node("Relu", ["sum"], ["inner"]))
    for _ in range(12):
        graph = _inner(helper.make_node("If", ["weight"], ["inner"], then_branch=graph, else_branch=graph))
    model.graph.node.append(graph.node[0])
    save(package, model)


# --- kinds and networks -----------------------------------------------------------------------------------------------


@case
def four_bands(package: Path) -> None:
    save(package, network(bands=4))


@case
def five_classes(package: Path) -> None:
    save(package, network(classes=5))


@case
def fixed_batch(package: Path) -> None:
    save(package, network(batch=5))


@case
def double_values(package: Path) -> None:
    save(package, network(kind=TensorProto.DOUBLE))


@case
def two_inputs(package: Path) -> None:
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    save(package, model)


@case
def no_outputs(package: Path) -> None:
    model = network()
    del model.graph.output[:]
    save(package, model)


@case
def terminal_commands_in_a_name(package: Path) -> None:
    model = network()
    model.graph.initializer[0].name = "\x1b[2Jweight"
    model.graph.initializer[0].dims[0] = 4
    save(package, model)


@case
def text_values(package: Path) -> None:
    model = network()
    model.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"text"]))
    save(package, model)


@case
def not_a_number(package: Path) -> None:
    model = network()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight.flat[:2] = np.nan, np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    save(package, model)


@case
def foreign_operator(package: Path) -> None:
    model = network()
    model.graph.node[2].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)
    save(package, model)


@case
def unknown_operator(package: Path) -> None:
    model = network()
    model.graph.node[2].op_type = "Explode"
    save(package, model)


@case
def functions_of_its_own(package: Path) -> None:
    model = network()
    model.functions.append(
        helper.make_function("", "Add", ["a", "b"], ["c"], [helper.make_node("Mul", ["a", "b"], ["c"])], [])
    )
    save(package, model)


def _of_opset(name: str, version: int) -> None:
    def make(package: Path) -> None:
        model = network()
        model.opset_import[0].version = version
        save(package, model)

    CASES[name] = make


_of_opset("opset_of_long_ago", 1)
_of_opset("opset_of_the_future", 9999)


@case
def tensor_that_nobody_makes(package: Path) -> None:
    model = network()
    model.graph.node[0].input[1] = "nowhere"
    save(package, model)


# --- statistics -------------------------------------------------------------------------------------------------------


@case
def statistics_missing(package: Path) -> None:
    (package / STATISTICS).unlink()


@case
def statistics_no_json(package: Path) -> None:
    (package / STATISTICS).write_bytes(b"\xff\xfe{")


@case
def statistics_nested(package: Path) -> None:
    (package / STATISTICS).write_text("[" * 50_000)


@case
def statistics_huge(package: Path) -> None:
    os.truncate(package / STATISTICS, 1 << 30)


def _of_statistics(name: str, image: Any) -> None:
    CASES[name] = lambda package: write_statistics(package, image)


_of_statistics("statistics_of_four_bands", [[0.25] * 4, [0.125] * 4])
_of_statistics("statistics_of_words", [["a"] * 6, ["b"] * 6])
_of_statistics("statistics_not_a_number", [[float("nan")] * 6, [0.125] * 6])
_of_statistics("statistics_of_no_deviation", [[0.25] * 6, [0.0] * 6])
