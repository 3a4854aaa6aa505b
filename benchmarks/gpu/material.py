"""What the GPU benchmarks run on: graphs, tiles, and how a part leaves its figures."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from server_models import kappamask
from server_models.hdf5_weights import read_keras_weights
from server_models.published_widths import ZeroWeights

if TYPE_CHECKING:
    import argparse

    import onnx
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

    Tensors = dict[str, NDArray[Any]]

#: GFLOP of a tile (two a multiplication), network only.
GFLOP = {"DeepLabv3Plus": 109.0, "Unet": 441.0}

NATIVE_BANDS = {
    10: ("AOT", "B02", "B03", "B04", "B08", "WVP"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09"),
}


class SeededWeights(ZeroWeights):
    """Random weights of the published widths, scaled so that activations stay near 1."""

    origin = "seeded weights"

    def __init__(self, architecture: str, seed: int = 7) -> None:
        super().__init__(architecture)
        self._random = np.random.default_rng(seed)

    def take(self, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
        tensor, full = name.partition("/")[2], self.full_shape(name, shape)
        if tensor in {"beta", "moving_mean", "bias"}:
            return self._random.normal(0, 0.1, full).astype(np.float32)
        if tensor in {"gamma", "moving_variance"}:
            return self._random.uniform(0.7, 1.3, full).astype(np.float32)
        fan_in = 9 if tensor == "depthwise_kernel" else int(np.prod(full[:-1]))
        gain = 1.0 if tensor == "depthwise_kernel" else 2.0
        return (self._random.standard_normal(full, np.float32) * np.sqrt(gain / fan_in)).astype(np.float32)


def graph(architecture: str, precision: str, weights: Path | None) -> onnx.ModelProto:
    """Build the served L2A graph, from a weights file or from seeded weights."""
    made = kappamask.contract("L2A", architecture, precision, "0" * 64)
    tensors: Any = SeededWeights(architecture) if weights is None else read_keras_weights(weights)
    return kappamask.build_graph(made, tensors)


def tiles(contract: ModelContract, folder: Path | None, count: int) -> Tensors:
    """Return `count` tiles ``[count, ...]`` per input: real ones of a folder of ``native_*.npz``, or made ones."""
    files = sorted(folder.glob("native_*.npz")) if folder else []
    random = np.random.default_rng(3)
    made: Tensors = {}
    for group in contract.inputs:
        if files:
            rows = [NATIVE_BANDS[group.gsd_m].index(band) for band in group.bands]
            distinct = np.stack([np.load(file)[f"x{group.gsd_m}"][rows] for file in files])
        else:
            shape = (6, len(group.bands), -(-group.tile // 16), -(-group.tile // 16))
            coarse = random.integers(0, 6000, shape).repeat(16, 2).repeat(16, 3)[..., : group.tile, : group.tile]
            distinct = (coarse + random.integers(0, 200, coarse.shape)).astype(np.uint16)
        made[group.tensor] = np.ascontiguousarray(distinct[np.arange(count) % len(distinct)])
    channels = len(contract.channels)
    made["OFFSET"] = np.zeros((count, channels), np.float32)
    made["SCALE"] = np.tile((1 / (65535 * np.array(contract.divisors))).astype(np.float32), (count, 1))
    return made


def resized(contract: ModelContract, **changes: Any) -> ModelContract:
    return replace(contract, **changes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, help="Keras HDF5 of DeepLabv3+ L2A (default: seeded weights)")
    parser.add_argument("--tiles", type=Path, help="folder of native_*.npz (default: made tiles)")
    parser.add_argument("--json", type=Path, required=True, help="where this part's figures go")


def write(path: Path, part: str, figures: dict[str, Any]) -> None:
    """Leave a part's figures, with when and on what they were measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"part": part, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                                "machine": machine(), **figures}, indent=1))  # fmt: skip


def machine() -> dict[str, Any]:
    """Describe the machine: GPU, driver, cores, versions."""
    found: dict[str, Any] = {"kernel": platform.release(), "python": platform.python_version()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        found["gpu"] = f"none: {error}"
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    found["cpu"] = f"{len(models)} x {models[0].partition(':')[2].strip()}" if models else ""
    for package in ("torch", "triton", "onnxruntime", "numpy"):
        try:
            found[package] = __import__(package).__version__
        except (ImportError, AttributeError):
            found[package] = None
    return found
