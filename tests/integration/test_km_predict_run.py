"""`km-predict` from end to end: a folder as km_predict's users have it, a real Triton, a small U-Net in its format."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio

from kappamask_stream.synth import write_product
from tests.integration.local_state import CLI, PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.local_state import LocalState

pytestmark = [pytest.mark.integration, pytest.mark.shared]

GREYS = np.array([3, 66, 129, 192, 255, 20], np.uint8)


def test_a_configuration_of_km_predict_runs_as_it_is(state: LocalState, shared_dir: Path, tmp_path: Path) -> None:
    product = write_product(tmp_path / "data", size=720, seed=5).product
    name = product.name.removesuffix(".SAFE")
    (tmp_path / "weights").mkdir()
    weights = shared_dir / "data" / "kappamask" / "l2a_unet_8filters.hdf5"
    shutil.copy(weights, tmp_path / "weights" / "l2a_unet.hdf5")
    document = {
        "cm_vsm_executable": "cm_vsm",
        "folder_name": "data",
        "product_name": name,
        "level_product": "L2A",
        "overlapping": 0.0625,
        "tile_size": 512,
        "resampling_method": "sinc",
        "architecture": "Unet",
        "batch_size": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    ended = subprocess.run(
        [str(CLI), "km-predict", "-c", "config.json", "-l", "km_predict.log", "-cpu"],
        cwd=tmp_path, env=state.variables, capture_output=True, text=True, check=False, timeout=PATIENCE_S * 5,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    sensed = name.split("_")[2]
    stem = tmp_path / "prediction" / name / f"L2A_T32ZZZ_{sensed}_KZ_10m"
    assert ended.stdout.startswith(f"{stem.relative_to(tmp_path)}.tif (")
    with rasterio.open(f"{stem}.tif") as mask, rasterio.open(f"{stem}.png") as picture:
        tags, classes, grey = mask.tags(), mask.read(1), picture.read(1)
    assert (tags["RADIOMETRY"], tags["MODEL"]) == ("km_predict", "kappamask_l2a_unet")
    assert len(np.unique(classes)) > 1
    np.testing.assert_array_equal(grey, GREYS[classes])
    tile = tmp_path / "prediction" / name / "tile_0_0" / "prediction.png"
    with rasterio.open(tile) as picture:
        np.testing.assert_array_equal(picture.read(1)[:496, :496], grey[:496, :496])
    for said in ("cm_vsm_executable cm_vsm: ", "batch_size 1: ", "-cpu: "):
        assert f"km_predict's {said}" in ended.stderr
    assert f"km_predict's {said}" in (tmp_path / "km_predict.log").read_text()
