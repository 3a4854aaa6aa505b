"""`models check` on km_predict's golden tiles: the user's way to the proof of `test_kappamask_tiles`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.golden.golden_tiles import TILES, GoldenTile

if TYPE_CHECKING:
    from pathlib import Path

    from tests.golden.conftest import GoldenModels

pytestmark = [pytest.mark.shared, pytest.mark.integration]

MODEL = "kappamask_l2a_deeplabv3plus"


@pytest.fixture(scope="module")
def tiles(golden_models: GoldenModels, golden_dir: Path, results_dir: Path) -> Path:
    """The native pixels of all tiles with km_predict's classes, as ``--tiles`` takes them."""
    contract = golden_models.built(MODEL)
    golden = [GoldenTile(golden_dir, name) for name in TILES]
    inputs = [tile.inputs(contract) for tile in golden]
    arrays: dict[str, Any] = {name: np.stack([tile[name] for tile in inputs]) for name in inputs[0]}
    arrays["LABELS"] = np.stack([tile.output().labels for tile in golden]).astype(np.uint8)
    path = results_dir / "golden.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_check_passes_on_golden_tiles_at_every_batch_size(
    golden_models: GoldenModels, tiles: Path, golden_dir: Path, precision: str
) -> None:
    name = MODEL if precision == "f32" else f"{MODEL}_{precision}"
    contract = golden_models.built(name)
    weights = golden_dir / "l2a_deeplabv3plus.hdf5"
    ended = golden_models.state.cli("models", "check", name, "--weights", str(weights), "--tiles", str(tiles), "--json")
    report = json.loads(ended.stdout)
    print(f"{name}: {report['batches']}")
    assert report["passed"]
    assert report["reference"] == "the file's LABELS"
    assert [batch["batch"] for batch in report["batches"]] == list(range(1, contract.max_batch + 1))
    assert all(batch["agreement"] >= contract.min_agreement for batch in report["batches"])
    assert not any(batch["differing"] for batch in report["batches"][1:]), "single tiles on a CPU: nothing may differ"
