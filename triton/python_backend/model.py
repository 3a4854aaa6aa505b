"""Triton Python backend: serves a contract's ONNX graph with OpenVINO on the CPU.

Runs inside Triton's stub, in the server's environment, which holds `server_models`. A batch is taken apart: its tiles
go to `engine_streams` streams of `engine_threads` threads each, which makes a tile's answer independent of the batch it
came in. By default the model's instances share the cores, and each has as many streams as a full batch has tiles, or
as it has cores.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_NUMPY_2 = 2


class TritonPythonModel:
    """What Triton's stub calls: `initialize` once, `execute` for every batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph; with numpy 2 the stub would return empty tensors without a word."""
        if int(np.__version__.split(".")[0]) >= _NUMPY_2:
            raise pb_utils.TritonModelException(
                f"numpy {np.__version__} in the server's environment: Triton's Python backend needs numpy < 2; "
                "run `kappamask-stream server install` again"
            )
        from server_models.openvino_engine import OpenVinoEngine

        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        instances = sum(int(group["count"]) for group in config["instance_group"])
        cores = -(-len(os.sched_getaffinity(0)) // instances)
        streams = int(parameters.get("engine_streams") or min(cores, int(config["max_batch_size"])))
        self._engine = OpenVinoEngine(
            Path(args["model_repository"]) / args["model_version"] / "model.onnx",
            precision=json.loads(parameters["contract"])["precision"],
            streams=streams,
            threads=int(parameters.get("engine_threads") or max(1, cores // streams)),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each of one or more tiles."""
        tiles: list[dict[str, Any]] = []
        counts: list[int] = []
        wanted: set[str] = set()
        for request in requests:
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            count = len(arrays[self._inputs[0]])
            tiles += [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]
            counts.append(count)
            wanted |= set(request.requested_output_names())
        answers = iter(self._engine.run(tiles, [name for name in self._outputs if name in wanted]))
        return [
            self._response(request, [next(answers) for _ in range(count)])
            for request, count in zip(requests, counts, strict=True)
        ]

    def finalize(self) -> None:
        """End the engine's threads when the model is unloaded."""
        self._engine.close()

    def _response(self, request: Any, answers: list[dict[str, Any]]) -> Any:
        tensors = [
            pb_utils.Tensor(name, np.concatenate([answer[name] for answer in answers]))
            for name in self._outputs
            if name in request.requested_output_names()
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)
