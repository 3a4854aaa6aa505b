"""Run in the server's environment: what the three graphs of flavour `tensorrt` are and compute.

python tensorrt_parts.py zeros ARCHITECTURE: structure of the published network; FOLDER NAME: and values of a built one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from half_precision_engine import HalfPrecisionEngine

from server_models import kappamask
from server_models.float16_cut import NETWORK, PART_NAMES, cut
from server_models.published_widths import ZeroWeights
from server_models.tensorrt import MAX_BATCH, part_name

_TYPES = onnx.TensorProto.DataType


def structure(graphs: dict[str, onnx.ModelProto]) -> dict[str, Any]:
    """Operators and types of each part; the open shapes that are left at each batch size."""
    found: dict[str, Any] = {}
    for part, model in graphs.items():
        values = types_in(model)
        found[part] = {
            "operators": sorted({node.op_type for node in model.graph.node}),
            "types": sorted({_TYPES.Name(v.type.tensor_type.elem_type) for v in values}),
            "nodes": len(model.graph.node),
            "inputs": {v.name: dims(v) for v in model.graph.input},
            "outputs": {v.name: dims(v) for v in model.graph.output},
            "open_shapes": [name for batch in range(1, MAX_BATCH + 1) for name in open_shapes(model, batch)],
        }
    return found


def types_in(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    assert {name for node in model.graph.node for name in node.output} <= {value.name for value in values}
    return values


def dims(value: onnx.ValueInfoProto) -> list[Any]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def open_shapes(model: onnx.ModelProto, batch: int) -> list[str]:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return [f"{value.name} at batch {batch}" for value in types_in(fixed) if not all(map(is_known, dims(value)))]


def is_known(dim: Any) -> bool:
    return isinstance(dim, int) and dim > 0


def values(folder: Path, name: str) -> dict[str, Any]:
    """Compare the parts, one after another, with the whole graph: one tile, and one with an offset that is not finite."""
    contract = kappamask.layout(name)
    random = np.random.default_rng(5)
    tensors: dict[str, Any] = {
        g.tensor: random.integers(0, 8000, (2, len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs
    }
    channels = len(contract.channels)
    tensors["OFFSET"] = np.zeros((2, channels), np.float32)
    tensors["OFFSET"][1, 0] = np.nan
    tensors["SCALE"] = np.tile((1 / (65535 * np.array(contract.divisors))).astype(np.float32), (2, 1))
    engine = HalfPrecisionEngine()
    whole = engine.run(onnx.load(folder / name / "1" / "model.onnx"), tensors, ["LABELS", "PROBABILITIES"])
    flow = dict(tensors)
    for part in PART_NAMES:
        model = onnx.load(folder / part_name(name, part) / "1" / "model.onnx")
        feeds = {value.name: flow[value.name] for value in model.graph.input}
        flow |= engine.run(model, feeds, [value.name for value in model.graph.output])
    labels, probabilities = flow["LABELS"], flow["PROBABILITIES"]
    return {
        "labels_equal": bool(np.array_equal(labels, whole["LABELS"])),
        "probabilities_equal": bool(np.array_equal(probabilities, whole["PROBABILITIES"])),
        "classes": len(np.unique(labels[0])),
        "faults": [bool((tile == 255).all()) for tile in labels],
    }


def main() -> None:
    first, second = sys.argv[1:]
    if first == "zeros":
        contract = kappamask.contract("L2A", second, "fp16", "0" * 64)
        graphs = dict(cut(kappamask.build_graph(contract, ZeroWeights(second))).items())
        print(json.dumps(structure(graphs)))
    else:
        folder = Path(first)
        graphs = {part: onnx.load(folder / part_name(second, part) / "1" / "model.onnx") for part in PART_NAMES}
        assert NETWORK in graphs
        print(json.dumps({"structure": structure(graphs), "values": values(folder, second)}))


if __name__ == "__main__":
    main()
