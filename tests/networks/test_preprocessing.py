"""The served pre-processing against plain numpy, and the contracts' bands against what the networks were trained on."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.networks.in_server_env import run_script
from tests.networks.numpy_preprocess import contributions, enlarge, quantum

if TYPE_CHECKING:
    from pathlib import Path

NETWORKS = [("L1C", "DeepLabv3Plus"), ("L2A", "DeepLabv3Plus"), ("L1C", "Unet"), ("L2A", "Unet")]

#: Which file of a product a band is in, as km_predict's sub-tiling reads it.
FILES = {
    10: {"AOT", "WVP", "B02", "B03", "B04", "B08"},
    20: {"B05", "B06", "B07", "B8A", "B11", "B12"},
    60: {"B01", "B09", "B10"},
}
#: Height of a tile and its distance to the next, in pixels of the file.
WINDOWS = {10: [512, 480], 20: [256, 240], 60: [85, 80]}

REPORTS = pytest.mark.parametrize(("level", "architecture"), NETWORKS)


@cache
def compared(server_env: Path, level: str, architecture: str) -> dict[str, Any]:
    report: dict[str, Any] = run_script(server_env, "compare_preprocessing.py", level, architecture)
    return report


def test_every_digital_number_has_the_quantum_of_cm_vsm(server_env: Path) -> None:
    report = compared(server_env, "L2A", "DeepLabv3Plus")
    assert report["quantum_differs"] == 0
    assert 0.4 < report["quantum_loses"] < 0.6  # about half of all numbers lose 1
    assert report["quantum_most"] == 1


@REPORTS
def test_bands_are_enlarged_as_graphicsmagick_does(server_env: Path, level: str, architecture: str) -> None:
    report = compared(server_env, level, architecture)
    assert report["native_most"] == 0
    # What is left is float32 that rounds the other way, the more often the larger the numbers.
    assert report["most"] <= 2
    assert report["share"] <= 5e-4
    assert report["harsh_most"] <= 2
    assert report["harsh_share"] <= 5e-3
    assert report["extremes"] == [0, 65535]


@REPORTS
def test_offset_clamp_and_scale_are_exact(server_env: Path, level: str, architecture: str) -> None:
    report = compared(server_env, level, architecture)
    assert report["exact"]
    assert 0.05 < report["clamped"] < 0.95
    assert report["float64_most"] <= 2.01  # digital numbers: as the enlargement itself


@REPORTS
def test_bands_are_read_from_the_files_and_windows_of_cm_vsm(server_env: Path, level: str, architecture: str) -> None:
    report = compared(server_env, level, architecture)
    for gsd_m, tile, stride, bands in report["inputs"]:
        assert [tile, stride] == WINDOWS[gsd_m]
        assert set(bands) == FILES[gsd_m] & set(report["channels"])
    assert [gsd_m for gsd_m, *_ in report["inputs"]] == [10, 20, 60]


@pytest.mark.shared
@REPORTS
def test_channels_and_divisors_are_those_of_the_training(
    server_env: Path, shared_dir: Path, level: str, architecture: str
) -> None:
    document = json.loads((shared_dir / "data" / "kappamask" / "normalisation.json").read_text())
    published = document[f"{level}_{architecture}"]
    report = compared(server_env, level, architecture)
    assert report["channels"] == published["bands"]
    assert report["divisors"] == published["max_v"]


def test_second_implementation_keeps_what_a_filter_must_keep() -> None:
    """The yardstick itself: constants stay, weights sum to 1, a ramp stays a ramp away from the border."""
    for size_to, size_from in ((512, 256), (512, 85)):
        for pixel in (0, 1, size_to // 2, size_to - 1):
            found = contributions(pixel, size_to, size_from)
            assert sum(weight for _, weight in found) == pytest.approx(1)
            assert len(found) <= 9
    assert np.array_equal(enlarge(np.full((85, 85), 1234.0), 512), np.full((512, 512), 1234.0))
    ramp = np.add.outer(np.arange(64) * 100.0, np.zeros(64))
    inner = enlarge(ramp, 128)[16:-16, 64]
    assert np.abs(np.diff(inner) - 50).max() <= 5
    assert quantum(np.array([0, 65535], np.uint16)).tolist() == [0, 65535]
