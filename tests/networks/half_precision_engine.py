"""Run an ONNX graph node by node, each in its own precision, with NaN treated as badly as any engine does.

onnxruntime's CPU provider computes float16 graphs in float32 and so never overflows. Here every tensor really is
what its type says: what a GPU does, slowly. CUDA's Relu makes 0 of NaN (onnxruntime issue 11010), and a maximum may
pass over NaN: ONNX does not say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]


class HalfPrecisionEngine:
    """Keeps one session a node, so that a second graph that differs in its weights only is quick."""

    def __init__(self) -> None:
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Tensors:
        """Return the named tensors."""
        tensors: Tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        tensors.update(feeds)
        for node in model.graph.node:
            (output,) = node.output
            x = tensors[node.input[0]]
            if node.op_type == "Relu":
                tensors[output] = np.where(x > 0, x, x.dtype.type(0))
            elif node.op_type == "LeakyRelu":
                (alpha,) = (a.f for a in node.attribute if a.name == "alpha")
                with np.errstate(invalid="ignore"):
                    tensors[output] = np.where(x > 0, x, x.dtype.type(alpha) * x)
            elif node.op_type == "MaxPool":
                lowered = np.where(np.isnan(x), x.dtype.type(-np.inf), x)
                tensors[output] = self._node(node, tensors | {node.input[0]: lowered})
            else:
                tensors[output] = self._node(node, tensors)
        return {name: tensors[name] for name in outputs}

    def _node(self, node: onnx.NodeProto, tensors: Tensors) -> NDArray[Any]:
        names = [name for name in dict.fromkeys(node.input) if name]
        key = node.SerializeToString()
        if key not in self._sessions:
            inputs = [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(tensors[name].dtype), [None] * tensors[name].ndim
                )
                for name in names
            ]
            graph = helper.make_graph([node], "node", inputs, [helper.make_empty_tensor_value_info(node.output[0])])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = 1
            self._sessions[key] = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[key].run(None, {name: tensors[name] for name in names})[0]
