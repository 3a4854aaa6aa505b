"""Run in the server's environment: what a served graph consists of.

python graph_structure.py

Builds each network in each precision, small and narrow, and prints JSON per graph.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from typing import Any

import onnx
import served_graph
import small_network
from onnx import TensorProto, shape_inference

from kappamask_stream.contract import ModelContract

PRECISIONS = ("f32", "bf16", "fp16")


def name_of(kind: int) -> str:
    return TensorProto.DataType.Name(kind)


def shapes(values: Any) -> dict[str, list[Any]]:
    return {
        v.name: [name_of(v.type.tensor_type.elem_type)]
        + [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in values
    }


def upstream(graph: onnx.GraphProto, targets: set[str], stop: set[str] = frozenset()) -> set[str]:
    """Return all tensors on which `targets` depend, not looking past `stop`."""
    maker = {output: node for node in graph.node for output in node.output}
    found, waiting = set(), list(targets)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in maker and name not in stop:
            waiting.extend(i for i in maker[name].input if i)
    return found


def described(contract: ModelContract, model: onnx.ModelProto) -> dict[str, Any]:
    graph = model.graph
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    types |= {t.name: t.data_type for t in graph.initializer}
    metadata = {p.key: p.value for p in model.metadata_props}
    cut = set(metadata["float32_until"].split(","))
    inputs, outputs = {i.name for i in graph.input}, {o.name for o in graph.output}
    alive = upstream(graph, outputs)
    maker = {output: node for node in graph.node for output in node.output}
    before = upstream(graph, {"normalised", "input_magnitude"})

    resizes = [node for node in graph.node if node.op_type == "Resize"]
    head = next((n for n in graph.node if n.op_type == "Conv" and n.output[0] == "conv2d_15"), None)
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    return {
        "sha256": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        "operators": Counter(node.op_type for node in graph.node),
        "dead_nodes": [n.name for n in graph.node if not set(n.output) & alive],
        "dead_initialisers": [t.name for t in graph.initializer if t.name not in alive],
        "dead_inputs": sorted(inputs - alive),
        "untyped": [o for n in graph.node for o in n.output if o not in types],
        "types": dict(Counter(name_of(kind) for kind in types.values())),
        "inputs": shapes(graph.input),
        "outputs": shapes(graph.output),
        "types_before_network": sorted({name_of(types[name]) for name in before}),
        "weight_types": sorted({name_of(types[i]) for n in convolutions for i in n.input[1:]}),
        "activation_types": sorted({name_of(types[n.output[0]]) for n in convolutions}),
        "probability_type": name_of(types["probabilities"]),
        "head_channels": head and next(t.dims[0] for t in graph.initializer if t.name == head.input[1]),
        "head_before_last_resize": bool(head)
        and head.output[0] in upstream(graph, {resizes[-1].input[0]}, {head.output[0]})
        and not [n for n in convolutions if resizes[-1].output[0] in upstream(graph, {n.output[0]})],
        "metadata": sorted(metadata),
        "contract_is_its_own": ModelContract.from_json(metadata["contract"]) == contract,
        "precision": metadata["precision"],
        "cut": sorted(cut),
        "cut_exists": cut <= set(maker),
        "cut_separates": not upstream(graph, outputs, cut) & inputs,
        "external": [t.name for t in graph.initializer if t.data_location == TensorProto.EXTERNAL],
    }


def main() -> None:
    report = {}
    for level, architecture in served_graph.NETWORKS:
        for precision in PRECISIONS:
            contract, model = small_network.small_network(level, architecture, precision)
            report[f"{level} {architecture} {precision}"] = described(contract, model)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
