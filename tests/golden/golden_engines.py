"""Run in the server's environment: tiles through a served graph, with tensors to look at that it does not give out.

python golden_engines.py ENGINE PRECISION GRAPH.onnx IN OUT TENSOR...

ENGINE is ``openvino`` (the engine as Triton's Python backend has it), ``onnxruntime``, or ``half`` (node by node, so that
every float16 tensor really is one; onnxruntime's CPU provider would keep them in float32). IN holds an ``.npz`` of inputs
per tile, without the batch axis; OUT gets ``<tile>_<tensor>.npy`` for each. Where the inputs begin with `normalised`, the
network runs alone. `normalised` is looked at in what the engine compiles first, all others in what it compiles last.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from server_models.kappamask_preprocess import INPUT_MAGNITUDE, NORMALISED
from server_models.openvino_engine import OpenVinoEngine
from tests.networks.half_precision_engine import HalfPrecisionEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import openvino
    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]


class OpenEngine(OpenVinoEngine):
    """The served engine with one stream, whose inner tensors can be read after a tile."""

    def __init__(self, graph: Path, precision: str, tensors: list[str]) -> None:
        self._first = [name for name in tensors if name == NORMALISED]
        self._last = [name for name in tensors if name != NORMALISED]
        super().__init__(graph, precision=precision, streams=1, threads=2)

    def __call__(self, tile: Tensors) -> Tensors:
        (answer,) = self.run([tile], self._last)
        stages = self._free.get()
        looked_at = {name: stages[0].get_tensor(name).data.copy() for name in self._first}
        self._free.put(stages)
        return answer | looked_at

    def _read(self, core: openvino.Core, graph: Path) -> list[openvino.Model]:
        models = super()._read(core, graph)
        for model, names in ((models[0], self._first), (models[-1], self._last)):
            given = {name for output in model.outputs for name in output.get_names()}
            for name in names:
                if name not in given:
                    model.add_outputs(name)
        return models


def onnxruntime_engine(graph: Path, tensors: list[str]) -> Callable[[Tensors], Tensors]:
    model = onnx.load(graph)
    given = {output.name for output in model.graph.output}
    for name in tensors:
        if name not in given:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda tile: dict(zip(tensors, session.run(tensors, tile), strict=True))


def half_engine(graph: Path, tensors: list[str]) -> Callable[[Tensors], Tensors]:
    model, engine = onnx.load(graph), HalfPrecisionEngine()
    return lambda tile: engine.run(model, tile, tensors)


def tiles(folder: Path) -> Iterator[tuple[str, Tensors]]:
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            yield path.stem, {name: arrays[name][np.newaxis] for name in arrays.files}


def main() -> None:
    engine, precision, graph, given, wanted, *tensors = sys.argv[1:]
    inputs = [list(tile) for _, tile in tiles(Path(given))]
    with tempfile.TemporaryDirectory(dir=wanted) as folder:
        path = Path(graph)
        if NORMALISED in inputs[0]:
            path = Path(folder) / "network.onnx"
            onnx.utils.extract_model(graph, str(path), [NORMALISED, INPUT_MAGNITUDE], tensors)
        if engine == "openvino":
            run: Callable[[Tensors], Tensors] = OpenEngine(path, precision, tensors)
        else:
            run = {"half": half_engine, "onnxruntime": onnxruntime_engine}[engine](path, tensors)
    for name, tile in tiles(Path(given)):
        for tensor, values in run(tile).items():
            np.save(Path(wanted) / f"{name}_{tensor}.npy", values[0])
    if isinstance(run, OpenVinoEngine):
        run.close()


if __name__ == "__main__":
    main()
