"""Cut a float16 graph where its numbers change type: what TensorRT may be given, and what it must never see.

TensorRT computes float32 in TF32 unless an environment variable forbids it (its execution provider has no option for
that), and may compute it in float16; of a digital number either leaves a third of the digits. So it gets a file that
holds nothing but float16, and all that is float32 or whole numbers goes into two others:

    preprocessing: DN_10M, DN_20M, DN_60M, OFFSET, SCALE -> float16 image, input_magnitude
    network:       float16 image -> float16 logits (and what the finite check watches)
    classes:       logits, input_magnitude, ... -> LABELS, PROBABILITIES
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from server_models.graph_builder import BATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

PART_NAMES = PREPROCESSING, NETWORK, CLASSES = "preprocessing", "network", "classes"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The three graphs; a tensor that goes from one to another has the same name in both."""

    preprocessing: onnx.ModelProto
    network: onnx.ModelProto
    classes: onnx.ModelProto

    def items(self) -> list[tuple[str, onnx.ModelProto]]:
        """Return names and graphs in the order in which they are run."""
        return [(PREPROCESSING, self.preprocessing), (NETWORK, self.network), (CLASSES, self.classes)]


def cut(model: onnx.ModelProto) -> Parts:
    """Cut a served graph into what comes before its float16 nodes, these, and what follows.

    Raises
    ------
    ValueError
        If there are no float16 nodes, they are not in one piece, or a tensor between the parts has no fixed shape.
    """
    values = _values(model)
    places = _places(model.graph, values)
    nodes: dict[str, list[onnx.NodeProto]] = {PREPROCESSING: [], NETWORK: [], CLASSES: []}
    for node in model.graph.node:
        nodes[places[node.output[0]]].append(node)
    if not nodes[NETWORK]:
        raise ValueError(f"graph {model.graph.name} has no float16 nodes: there is nothing for TensorRT in it")
    made = {part: _part(model, part, of_part, values) for part, of_part in nodes.items()}
    return Parts(preprocessing=made[PREPROCESSING], network=made[NETWORK], classes=made[CLASSES])


def _values(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return type and shape of every tensor that nodes compute or clients send."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


def _places(graph: onnx.GraphProto, values: dict[str, onnx.ValueInfoProto]) -> dict[str, str]:
    """Return for each tensor the part that computes it."""
    places: dict[str, str] = {}
    for node in graph.node:
        computed = [name for name in node.input if name in values]  # the others are constants
        is_float16 = all(_kind(values[name]) == TensorProto.FLOAT16 for name in (*computed, *node.output))
        before = {places.get(name, PREPROCESSING) for name in computed}
        if is_float16 and CLASSES in before:
            raise ValueError(f"graph {graph.name}: {node.name} is float16 again behind float32: it cannot be cut")
        behind = CLASSES if before & {NETWORK, CLASSES} else PREPROCESSING
        places |= dict.fromkeys(node.output, NETWORK if is_float16 else behind)
    return places


def _part(
    model: onnx.ModelProto, part: str, nodes: Sequence[onnx.NodeProto], values: dict[str, onnx.ValueInfoProto]
) -> onnx.ModelProto:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {name for node in nodes for name in node.output}
    used = dict.fromkeys(name for node in nodes for name in node.input if name)
    here = {id(node) for node in nodes}
    elsewhere = {name for node in model.graph.node if id(node) not in here for name in node.input}
    elsewhere |= {value.name for value in model.graph.output}
    graph = helper.make_graph(
        nodes,
        f"{model.graph.name}-{part}",
        [_fixed(values[name]) for name in used if name not in made and name not in constants],
        [_fixed(values[name]) for node in nodes for name in node.output if name in elsewhere],
        initializer=[constants[name] for name in used if name in constants],
    )
    cut_off = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name=model.producer_name
    )
    onnx.checker.check_model(cut_off, full_check=True)
    return cut_off


def _kind(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _fixed(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return a tensor's type with the batch as its only open dimension."""
    _, *shape = value.type.tensor_type.shape.dim
    if not all(dim.dim_value for dim in shape):
        raise ValueError(f"the shape of {value.name} is not known beyond its batch: the graph cannot be cut there")
    return helper.make_tensor_value_info(value.name, _kind(value), [BATCH, *(dim.dim_value for dim in shape)])
