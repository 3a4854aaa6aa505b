"""A Triton with KappaMask's networks from the golden weights, and engines that run the very files that it serves."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kappamask_stream.contract import ModelContract
from tests.golden.golden_tiles import TILES, GoldenTile
from tests.integration.conftest import overlay_environment
from tests.integration.local_state import LocalState
from tests.integration.session import short_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

ENGINES = Path(__file__).with_name("golden_engines.py")


@dataclass(frozen=True)
class GoldenModels:
    """Models built from golden weights, in an environment of their own: a user's weights stay where they are.

    Attributes
    ----------
    state : the environment and its Triton.
    weights : folder of golden data.
    """

    state: LocalState
    weights: Path
    _addresses: dict[str, str] = field(default_factory=dict)

    def served(self, name: str) -> str:
        """Have Triton serve a model as a run with ``--weights`` does, and return the address."""
        if name not in self._addresses:
            holder = self.state.holder(name, "--weights", str(self._file(name)))
            self._addresses[name] = str(holder.until("ready")["address"])
        return self._addresses[name]

    def built(self, name: str) -> ModelContract:
        """Build a model with the command, unless it is there, and return its contract; skip what this CPU has not."""
        if name.endswith("_bf16") and "_bf16" not in Path("/proc/cpuinfo").read_text():
            pytest.skip("this CPU has no bfloat16")
        if not self._folder(name).exists():
            flavour = ["--flavour", "onnxruntime"] if name.endswith("_fp16") else []  # float16 is for GPUs
            self.state.cli("models", "build", name, "--weights", str(self._file(name)), *flavour)
        return ModelContract.from_json((self._folder(name) / "contract.json").read_text())

    def graph(self, name: str) -> Path:
        self.built(name)
        return self._folder(name) / "1" / "model.onnx"

    def _folder(self, name: str) -> Path:
        return self.state.environment / "models" / name

    def _file(self, name: str) -> Path:
        """Weights of an architecture; L1C's U-Net has as many channels as L2A's."""
        return self.weights / ("l2a_unet_8filters.hdf5" if "unet" in name else "l2a_deeplabv3plus.hdf5")

    def run(
        self, engine: str, name: str, tiles: Mapping[str, Mapping[str, NDArray[Any]]], tensors: Sequence[str],
        results: Path,
    ) -> Answers:  # fmt: skip
        """Run tiles (inputs by name, without the batch axis) in an engine of the server's environment."""
        contract, graph = self.built(name), self.graph(name)
        given, wanted = results / "in", results / "out"
        for folder in (given, wanted):
            folder.mkdir(parents=True)
        for tile, inputs in tiles.items():
            np.savez(given / f"{tile}.npz", allow_pickle=False, **inputs)
        command = [str(self.state.environment / "bin" / "python"), str(ENGINES), engine, contract.precision]
        subprocess.run(
            [*command, str(graph), str(given), str(wanted), *tensors],
            env=os.environ | {"PYTHONPATH": str(ENGINES.parents[2])},
            check=True,
        )
        return Answers(wanted)


@dataclass(frozen=True)
class Answers:
    """Tensors that a run has left in a folder."""

    folder: Path

    def __call__(self, tile: str, tensor: str) -> NDArray[Any]:
        found: NDArray[Any] = np.load(self.folder / f"{tile}_{tensor}.npy")
        return found


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    return shared_dir / "data" / "kappamask"


@pytest.fixture(scope="session")
def golden_models(server_env: Path, golden_dir: Path) -> Iterator[GoldenModels]:
    with short_folder() as runtime:
        state = LocalState(runtime, overlay_environment(runtime / "env", server_env))
        try:
            yield GoldenModels(state, golden_dir)
        finally:
            left = state.close()
        assert not left


@pytest.fixture(scope="session")
def results_dir() -> Iterator[Path]:
    """Where engines leave hundreds of megabytes, which do not stay as pytest's own folders do."""
    with tempfile.TemporaryDirectory(prefix="ks-golden-") as folder:
        yield Path(folder)


@pytest.fixture(params=TILES)
def tile(request: pytest.FixtureRequest, golden_dir: Path) -> GoldenTile:
    return GoldenTile(golden_dir, request.param)


@pytest.fixture(scope="session")
def divisors(golden_dir: Path) -> dict[str, dict[str, float]]:
    """km_predict's max_v by band, per network (``L2A_DeepLabv3Plus``)."""
    networks = json.loads((golden_dir / "normalisation.json").read_text())
    return {name: dict(zip(entry["bands"], entry["max_v"], strict=True)) for name, entry in networks.items()}
