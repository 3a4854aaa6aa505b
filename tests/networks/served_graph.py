"""The product's graphs, for scripts that run in the server's environment: built small, run by onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from server_models import kappamask
from server_models.hdf5_weights import KerasWeights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

NETWORKS = tuple((level, architecture) for level in ("L1C", "L2A") for architecture in ("DeepLabv3Plus", "Unet"))


def small_contract(level: str, architecture: str, tile: int, precision: str = "f32") -> ModelContract:
    """Return the network's contract for a smaller tile; 60 m windows are cut to whole pixels, as 85 of 85.33 are."""
    made = kappamask.contract(level, architecture, precision, "ab" * 32)
    groups = [
        replace(group, tile=tile * group.tile // made.tile_size, stride=120 // group.gsd_m) for group in made.inputs
    ]
    return replace(made, tile_size=tile, margin=(tile - 12) // 2, inputs=tuple(groups))


def build(contract: ModelContract, tensors: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """Build the served graph; all of `tensors` must be used."""
    return kappamask.build_graph(contract, KerasWeights(tensors, origin="random weights"))


def session(model: onnx.ModelProto, inner: Sequence[tuple[str, int]] = ()) -> onnxruntime.InferenceSession:
    """Load a graph on the CPU; `inner` names more tensors to see, with their ONNX types."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(seen.SerializeToString(), options, providers=["CPUExecutionProvider"])


def tiles(contract: ModelContract, seed: int, batch: int = 1) -> dict[str, NDArray[Any]]:
    """Digital numbers of `batch` tiles, blobs and noise from 0 to about 3 when normalised, with OFFSET and SCALE."""
    rng = np.random.default_rng(seed)
    divisors = dict(zip(contract.channels, contract.divisors, strict=True))
    feeds: dict[str, NDArray[Any]] = {}
    for group in contract.inputs:
        shape = (batch, group.tile, group.tile)
        bands = [(blobs(rng, *shape) * 3 * divisors[band] * 65535).clip(0, 65535) for band in group.bands]
        feeds[group.tensor] = np.stack(bands, axis=1).astype(np.uint16)
    ones = np.ones((batch, len(divisors)), np.float32)
    offsets = np.array([-1000.0 if band.startswith("B") else 0.0 for band in divisors], np.float32)
    feeds["OFFSET"] = ones * offsets
    feeds["SCALE"] = ones * (1 / (65535 * np.array(list(divisors.values())))).astype(np.float32)
    return feeds


def blobs(rng: np.random.Generator, images: int, height: int, width: int) -> NDArray[np.float32]:
    """Values from 0 to 1 ``[images, height, width]``, alike over a quarter, a sixteenth and one pixel of the tile."""
    total = np.zeros((images, height, width), np.float32)
    for cells, weight in ((4, 0.6), (16, 0.3), (width, 0.1)):
        rows, columns = (np.arange(n) * cells // n for n in (height, width))
        total += weight * rng.random((images, cells, cells), np.float32)[:, rows][:, :, columns]
    return total
