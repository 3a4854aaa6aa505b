"""The float32 graph on onnxruntime's CPU: the reference of a check, by another engine than the one that serves.

A process of its own (``python -m server_models reference``): it needs a graph's memory for a moment, and can be ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.errors import ServerSetupError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from server_models.check_tiles import CheckTiles

#: Beside a model's configuration where its own graph is not float32; Triton looks at numbered folders only.
REFERENCE = "reference.onnx"
_REMEDY = "remove the model (`kappamask-stream models remove`) and build it again"
#: Precisions whose graph is float32's: bfloat16 is something that an engine does with it.
_SAME_GRAPH = ("f32", "bf16")


def reference_graph(model: Path, contract: ModelContract) -> Path | None:
    """Return the float32 graph of a model's folder, None where it holds none."""
    apart, served = model / REFERENCE, model / "1" / "model.onnx"
    if apart.is_file():
        return apart
    return served if contract.precision in _SAME_GRAPH and served.is_file() else None


def labels_of(graph: Path, tiles: CheckTiles) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Run a graph tile by tile.

    Returns
    -------
    uint8 ``[n, H, W]``.

    Raises
    ------
    ServerSetupError
        If onnxruntime cannot run it.
    """
    batches = [{name: array[i : i + 1] for name, array in tiles.tensors.items()} for i in range(len(tiles))]
    return np.concatenate([labels for (labels,) in run_graph(graph, ("LABELS",), *batches)])


def run_graph(
    graph: Path, outputs: tuple[str, ...], *batches: Mapping[str, NDArray[Any]]
) -> list[list[NDArray[np.uint8]]]:
    """Run a graph on batches, one after the other, and return the outputs that are asked for of each.

    Raises
    ------
    InputError
        If it is no graph that lies in one file, see `onnx_reading.read_onnx`.
    ServerSetupError
        If onnxruntime cannot run it.
    """
    import onnxruntime

    from server_models.onnx_reading import read_onnx

    # What was looked at, not the file again: onnxruntime would look for a tensor's values in other files.
    content = read_onnx(graph, remedy=_REMEDY).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return [session.run(list(outputs), dict(batch)) for batch in batches]
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise ServerSetupError(f"onnxruntime cannot run {graph}, the reference: {error}") from error
