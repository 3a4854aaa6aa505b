"""Triton Python backend: serves a contract's ONNX graph with OpenVINO or ONNX Runtime on the CPU.

Runs inside Triton's stub, in the server's environment. A batch is taken apart: its tiles go to `streams` streams of
`threads` threads each, which on a CPU beats one inference of the whole batch, and makes a tile's answer independent of
the batch it came in.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


def _parameter(config: dict[str, Any], name: str, default: str) -> str:
    value = config.get("parameters", {}).get(name, {}).get("string_value", "")
    return value or default


class _OpenVino:
    """The graph on OpenVINO: one stream for each of `streams` requests at a time."""

    def __init__(self, graph: Path, *, streams: int, threads: int, precision: str) -> None:
        import openvino

        properties = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "THROUGHPUT",
        }
        self._compiled = openvino.Core().compile_model(str(graph), "CPU", properties)
        self._queue = openvino.AsyncInferQueue(self._compiled, streams)
        self._names = {output.get_any_name(): i for i, output in enumerate(self._compiled.outputs)}

    def run(self, tiles: list[dict[str, Any]], outputs: list[str]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{} for _ in tiles]

        def keep(request: Any, number: int) -> None:
            for name in outputs:
                answers[number][name] = request.get_output_tensor(self._names[name]).data.copy()

        self._queue.set_callback(keep)
        for number, tile in enumerate(tiles):
            self._queue.start_async(tile, number)
        self._queue.wait_all()
        return answers


class _OnnxRuntime:
    """The graph on ONNX Runtime, one tile after the other with all threads."""

    def __init__(self, graph: Path, *, streams: int, threads: int, precision: str) -> None:
        import onnxruntime

        if precision != "f32":
            raise pb_utils.TritonModelException(f"onnxruntime on a CPU runs f32, not {precision}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = streams * threads
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, tiles: list[dict[str, Any]], outputs: list[str]) -> list[dict[str, Any]]:
        return [dict(zip(outputs, self._session.run(outputs, tile), strict=True)) for tile in tiles]


_ENGINES = {"openvino": _OpenVino, "onnxruntime": _OnnxRuntime}


class TritonPythonModel:
    """What Triton's stub calls: `initialize` once, `execute` for every batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph; with numpy 2 the stub would return empty tensors without a word."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(
                f"numpy {np.__version__} in the server's environment: Triton's Python backend needs numpy < 2; "
                "run `kappamask-stream server install` again"
            )
        config = json.loads(args["model_config"])
        cores = len(os.sched_getaffinity(0))
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        engine = _ENGINES[_parameter(config, "engine", "openvino")]
        self._engine = engine(
            Path(args["model_repository"]) / args["model_version"] / "model.onnx",
            streams=int(_parameter(config, "engine_streams", str(cores))),
            threads=int(_parameter(config, "engine_threads", "1")),
            precision=_parameter(config, "engine_precision", "f32"),
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
        outputs = [name for name in self._outputs if name in wanted]
        answers = iter(self._engine.run(tiles, outputs))
        return [self._response(request, [next(answers) for _ in range(n)]) for request, n in zip(requests, counts, strict=True)]

    def _response(self, request: Any, answers: list[dict[str, Any]]) -> Any:
        tensors = [
            pb_utils.Tensor(name, np.concatenate([answer[name] for answer in answers]))
            for name in self._outputs
            if name in request.requested_output_names()
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)
