"""Run a served graph on OpenVINO's CPU streams, with what must stay float32 compiled apart.

OpenVINO's precision hint holds for a whole compiled model, and bfloat16 would round the digital numbers
themselves (errors up to 284 DN). So a reduced-precision flavour is cut at the tensors that its file's metadata
names: the head runs in float32, the tail as hinted. Needs `openvino` and the standard library only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import openvino
from openvino import opset13

from kappamask_stream.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]

#: Metadata entry (comma separated) with the tensors to cut at; the same as `server_models.kappamask.FLOAT32_UNTIL`.
FLOAT32_UNTIL = "float32_until"


def cut(model: openvino.Model, tensors: Sequence[str]) -> tuple[openvino.Model, openvino.Model]:
    """Take a model apart at tensors that together separate its inputs from its outputs.

    Parameters
    ----------
    model : its nodes go into the first part.
    tensors : names of the tensors; the outputs of the first part and the inputs of the second, in this order.

    Raises
    ------
    InputError
        If the model has no such tensor, or the outputs depend on the inputs past them.
    """
    tail = model.clone()  # constants are shared, nodes are not: a cut tensor may lie above another one
    starts = []
    for name, source in zip(tensors, _find(tail, tensors), strict=True):
        start = opset13.parameter(source.get_partial_shape(), source.get_element_type(), name=f"{name}_cut")
        for reader in source.get_target_inputs():
            reader.replace_source_output(start.output(0))
        starts.append(start)
    try:
        return (
            openvino.Model(_find(model, tensors), model.get_parameters(), "head"),
            openvino.Model(tail.get_results(), starts, "tail"),
        )
    except RuntimeError as error:
        raise InputError(f"the tensors {', '.join(tensors)} do not cut the model in two: {error}") from error


def _find(model: openvino.Model, tensors: Sequence[str]) -> list[openvino.Output]:
    named = {name: out for node in model.get_ordered_ops() for out in node.outputs() for name in out.get_names()}
    missing = [name for name in tensors if name not in named]
    if missing:
        raise InputError(f"model {model.get_friendly_name()}: there are no tensors {', '.join(missing)} to cut at")
    return [named[name] for name in tensors]


def require_precision(precision: str, capabilities: Sequence[str]) -> None:
    """Refuse a precision that this CPU, or a CPU at all, does not have.

    Parameters
    ----------
    precision : ``f32``, ``bf16`` or ``fp16``.
    capabilities : OpenVINO's OPTIMIZATION_CAPABILITIES of the CPU.

    Raises
    ------
    UsageError
        With the remedy.
    """
    if precision == "fp16":
        raise UsageError(
            "fp16 is for GPUs: build it with --flavour onnxruntime for NVIDIA's container; on this machine's CPU take "
            "--precision f32, or bf16 where the CPU has it"
        )
    if precision == "bf16" and "BF16" not in capabilities:
        raise UsageError(f"this CPU has no bfloat16 (OpenVINO finds {', '.join(capabilities)}): take --precision f32")


def _initialise_bindings() -> None:
    """Have OpenVINO's Python bindings look up numpy's types now, in one thread.

    They do it at their first array, holding a lock of their own while they wait for the interpreter's: two threads
    whose first arrays meet there wait for each other for ever.
    """
    scalar = openvino.Tensor(openvino.Type.f32, openvino.Shape([1]))
    openvino.Tensor(scalar.data)


class OpenVinoEngine:
    """A graph, ready for `streams` tiles at a time.

    Parameters
    ----------
    graph : ONNX file.
    precision : ``f32`` or ``bf16``.
    streams : inferences side by side.
    threads : threads of each.

    Notes
    -----
    On a CPU, streams of one thread each beat one inference with all threads and batches of several tiles, so
    `run` takes single tiles: their answers do not depend on the batch they came in.
    """

    def __init__(self, graph: Path, *, precision: str, streams: int, threads: int) -> None:
        self.precision, self.streams, self.threads = precision, streams, threads
        _initialise_bindings()
        core = openvino.Core()
        require_precision(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        models = self._read(core, graph)
        hints = ["f32"] * (len(models) - 1) + [precision]
        stages = [
            core.compile_model(model, "CPU", self._properties(hint)) for model, hint in zip(models, hints, strict=True)
        ]
        self._outputs = {name: i for i, output in enumerate(stages[-1].outputs) for name in output.get_names()}
        self._free: SimpleQueue[list[openvino.InferRequest]] = SimpleQueue()
        for _ in range(streams):
            self._free.put([stage.create_infer_request() for stage in stages])
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="openvino")

    def __repr__(self) -> str:
        return f"<OpenVinoEngine {self.precision}: {self.streams} streams of {self.threads} threads>"

    def run(self, tiles: Sequence[Tensors], outputs: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
        """Infer single tiles (batch axis of 1), `streams` at a time; answers in the order of the tiles."""
        return list(self._pool.map(lambda tile: self._one(tile, outputs), tiles))

    def close(self) -> None:
        """End the threads; inferences that run are finished."""
        self._pool.shutdown(cancel_futures=True)

    def _one(self, tile: Tensors, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        stages = self._free.get()
        try:
            head, *rest = stages
            head.infer(dict(tile), share_inputs=True)
            for before, stage in zip(stages, rest, strict=False):
                for i in range(len(stage.model_inputs)):
                    stage.set_input_tensor(i, before.get_output_tensor(i))
                stage.infer(share_inputs=True)
            return {name: stages[-1].get_output_tensor(self._outputs[name]).data.copy() for name in outputs}
        finally:
            self._free.put(stages)

    def _read(self, core: openvino.Core, graph: Path) -> list[openvino.Model]:
        try:
            model = core.read_model(graph)
        except RuntimeError as error:
            raise InputError(f"{graph}: OpenVINO cannot read the model: {error}") from error
        if self.precision == "f32":
            return [model]
        tensors = _metadata(model, FLOAT32_UNTIL)
        if not tensors:
            raise InputError(f"{graph}: the file does not say up to where {self.precision} must compute in float32")
        return list(cut(model, tensors.split(",")))

    def _properties(self, hint: str) -> dict[str, Any]:
        return {
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams * self.threads,
            # Without it OpenVINO takes bfloat16 by itself on a CPU that has it.
            "INFERENCE_PRECISION_HINT": hint,
            # Head and tail would be pinned to the same cores, and the machine is shared with the decoder.
            "ENABLE_CPU_PINNING": False,
        }


def _metadata(model: openvino.Model, key: str) -> str:
    """Read one entry of the ONNX file's metadata; empty where there is none."""
    path = ["framework", key]
    return str(model.get_rt_info(path).value) if model.has_rt_info(path) else ""
