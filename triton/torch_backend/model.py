"""Triton Python backend: serves a contract's ONNX graph with PyTorch on a GPU.

Runs inside Triton's stub, in an environment that holds `server_models`, `torch`, `onnx` and numpy < 2. Requests of a
batch are copied to the GPU straight from Triton's shared memory, which is pinned for that; while one instance's batch
computes, another instance's is copied: two instances or more keep the GPU busy.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_NUMPY_2 = 2


class TritonPythonModel:
    """What Triton's stub calls: `initialize` once, `execute` for every batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and record the graph; with numpy 2 the stub would return empty tensors without a word."""
        if int(np.__version__.split(".")[0]) >= _NUMPY_2:
            raise pb_utils.TritonModelException(
                f"numpy {np.__version__} in the server's environment: Triton's Python backend needs numpy < 2"
            )
        # Requests are read only, and only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        from server_models.pinned import PinnedRegions
        from server_models.torch_engine import TorchEngine, sizes_up_to

        config = json.loads(args["model_config"])
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._engine = TorchEngine(
            Path(args["model_repository"]) / args["model_version"] / "model.onnx",
            batches=sizes_up_to(int(config["max_batch_size"])),
            device=f"cuda:{args['model_instance_device_id']}",
        )
        self._pinned = PinnedRegions()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each of one or more tiles."""
        tiles = [
            {name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in self._inputs}
            for request in requests
        ]
        pinned = min([self._pinned.cover(tile[name]) for tile in tiles for name in self._inputs])
        wanted = [set(request.requested_output_names()) for request in requests]
        answers = self._engine.run(
            tiles, [name for name in self._outputs if name in set().union(*wanted)], pinned=pinned
        )
        return [
            pb_utils.InferenceResponse(
                output_tensors=[pb_utils.Tensor(name, answer[name]) for name in self._outputs if name in names]
            )
            for answer, names in zip(answers, wanted, strict=True)
        ]

    def finalize(self) -> None:
        """Let the memory go when the model is unloaded."""
        self._pinned.close()
