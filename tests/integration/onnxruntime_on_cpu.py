"""Stands in for Triton's onnxruntime backend where there is none: Python backend, onnxruntime's CPU provider."""

import json
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        config = json.loads(args["model_config"])
        self._inputs, self._outputs = ([entry["name"] for entry in config[side]] for side in ("input", "output"))

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        found = zip(self._outputs, self._session.run(self._outputs, feeds), strict=True)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, values) for name, values in found])
