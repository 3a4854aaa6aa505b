"""The served graphs against second implementations of the networks in plain numpy, with random weights."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.networks.in_server_env import run_script

if TYPE_CHECKING:
    from pathlib import Path

#: Largest difference of a probability.
TOLERANCE = 1e-4
#: By how much at least a probability differs when something is wrong: not by rounding.
NOTICED = 0.05

NETWORKS = [("L1C", "DeepLabv3Plus"), ("L2A", "DeepLabv3Plus"), ("L1C", "Unet"), ("L2A", "Unet")]
#: 16 times the ASPP's widest padding of 18 is 288: TensorFlow mirrors no more than there is.
TILES = {"DeepLabv3Plus": 320, "Unet": 64}
SHARE = 0.25

DEEPLAB_TWISTS = (
    "ASPP pads with the edge",
    "ASPP mirrors without the edge pixel",
    "ASPP pads with zeros",
    "zeros around every convolution",
    "another rate in ASPP",
    "the image's mean comes last",
    "shortcut starts at the sum",
    "no ReLU before the middle flow's sum",
    "decoder taps behind a ReLU",
    "epsilon 1e-5",
    "upsampling with corners aligned to pixels",
)
UNET_TWISTS = (
    "the skip comes second",
    "an even kernel's odd zero comes first",
    "bilinear enlargement",
    "no ReLU behind the two channels",
)


@cache
def twisted(server_env: Path, level: str, architecture: str) -> dict[str, Any]:
    """Compare with the hand-written network: L2A's with all its twists, L1C's has the same wiring."""
    how = ("twists", level, architecture, TILES[architecture], SHARE, *([""] if level == "L1C" else []))
    report: dict[str, Any] = run_script(server_env, "compare_networks.py", *how)
    return report


def assert_telling(report: dict[str, Any]) -> None:
    """Random weights prove something only if the answers vary from pixel to pixel and from class to class."""
    assert max(report["spread"]) > 0.05, report
    assert len(report["classes"]) > 1, report
    assert 0.3 < report["input_spread"] < 2, report


@pytest.mark.shared
@pytest.mark.parametrize(("level", "architecture"), NETWORKS)
def test_graph_of_full_width_is_its_layer_listing(
    server_env: Path, shared_dir: Path, level: str, architecture: str
) -> None:
    listing = shared_dir / "data" / "kappamask" / f"{level}_{architecture}.layers.txt".lower()
    report = run_script(server_env, "compare_networks.py", "listing", level, architecture, TILES[architecture], listing)
    assert report["differences"][""] <= TOLERANCE
    # As the listings have them: "params total" in their heads.
    total = 31_038_612 if architecture == "Unet" else {"L1C": 24_601_390, "L2A": 24_601_678}[level]
    assert report["parameters"] == total
    assert_telling(report)


@pytest.mark.parametrize(("level", "architecture"), NETWORKS)
def test_graph_is_the_network_written_once_more_in_numpy(server_env: Path, level: str, architecture: str) -> None:
    report = twisted(server_env, level, architecture)
    assert report["differences"][""] <= TOLERANCE
    assert report["tensors"] == {"DeepLabv3Plus": 265, "Unet": 48}[architecture]
    assert_telling(report)


def test_graph_mirrors_as_tensorflow_at_the_published_tile_size(server_env: Path) -> None:
    names = ("", "ASPP pads with the edge")
    report = run_script(server_env, "compare_networks.py", "twists", "L2A", "DeepLabv3Plus", 512, 0.125, *names)
    assert report["differences"][""] <= TOLERANCE
    assert report["differences"]["ASPP pads with the edge"] > NOTICED
    assert_telling(report)


@pytest.mark.parametrize(
    ("architecture", "twist"),
    [("DeepLabv3Plus", twist) for twist in DEEPLAB_TWISTS] + [("Unet", twist) for twist in UNET_TWISTS],
)
def test_comparison_notices(server_env: Path, architecture: str, twist: str) -> None:
    assert twisted(server_env, "L2A", architecture)["differences"][twist] > NOTICED


def test_every_twist_has_a_test(server_env: Path) -> None:
    for architecture, twists in (("DeepLabv3Plus", DEEPLAB_TWISTS), ("Unet", UNET_TWISTS)):
        assert set(twisted(server_env, "L2A", architecture)["differences"]) == {"", *twists}


@pytest.mark.parametrize(("level", "architecture"), NETWORKS)
def test_labels_are_the_largest_probability_and_probabilities_are_rounded(
    server_env: Path, level: str, architecture: str
) -> None:
    report = twisted(server_env, level, architecture)
    assert report["labels_are_argmax"]
    assert report["quantised"] <= 0.5 / 255 + 1e-6
