"""Batches, and tiles with values that are not finite: only their own labels say so."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.networks.in_server_env import run_script

if TYPE_CHECKING:
    from pathlib import Path

NETWORKS = [("L1C", "DeepLabv3Plus"), ("L2A", "Unet")]
ENGINES = ["onnxruntime f32", "onnxruntime fp16", "openvino f32", "openvino bf16"]
EVERYWHERE = [(level, architecture, engine) for level, architecture in NETWORKS for engine in ENGINES]
ARCHITECTURES = pytest.mark.parametrize("architecture", ["DeepLabv3Plus", "Unet"])


@cache
def reports(server_env: Path, level: str, architecture: str) -> dict[str, Any]:
    found: dict[str, Any] = run_script(server_env, "served_answers.py", level, architecture)
    return found


def answers(server_env: Path, level: str, architecture: str, engine: str) -> dict[str, Any]:
    found = reports(server_env, level, architecture)
    if engine == "openvino bf16" and engine not in found:
        pytest.skip("this CPU has no bfloat16")
    report: dict[str, Any] = found[engine]
    return report


@cache
def overflows(server_env: Path, architecture: str, *how: str) -> dict[str, list[dict[str, Any]]]:
    report: dict[str, list[dict[str, Any]]] = run_script(server_env, "overflow.py", architecture, *how)
    return report


@pytest.mark.parametrize(("level", "architecture", "engine"), EVERYWHERE)
def test_batch_of_three_is_three_times_a_batch_of_one(
    server_env: Path, level: str, architecture: str, engine: str
) -> None:
    found = answers(server_env, level, architecture, engine)
    assert found["batch_is_single"] == [True] * 3
    assert found["tiles_differ"]
    assert len(found["classes"]) > 1


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("tensor", ["OFFSET", "SCALE"])
@pytest.mark.parametrize(("level", "architecture", "engine"), EVERYWHERE)
def test_tile_with_a_broken_radiometry_is_a_fault_and_its_neighbours_are_not(
    server_env: Path, level: str, architecture: str, engine: str, tensor: str, value: str
) -> None:
    found = answers(server_env, level, architecture, engine)[f"{tensor} {value}"]
    assert found["fault"]
    assert found["neighbours"]


def test_probabilities_of_deeplab_sum_to_one_and_those_of_unet_need_not(server_env: Path) -> None:
    low, high = answers(server_env, "L1C", "DeepLabv3Plus", "onnxruntime f32")["probability_sums"]
    assert 252 <= low <= high <= 258
    low, high = answers(server_env, "L2A", "Unet", "onnxruntime f32")["probability_sums"]
    assert high > 300 or low < 200


@ARCHITECTURES
def test_overflow_in_half_precision_is_a_fault_of_that_tile_alone(server_env: Path, architecture: str) -> None:
    report = overflows(server_env, architecture)
    healthy = [tile for layer, tiles in report.items() for tile in tiles if tile["magnitude"] < 0.999]
    burst = [tile for layer, tiles in report.items() for tile in tiles if tile["magnitude"] > 1.001]
    assert len(burst) >= len(report) - 1  # one tile a layer at least
    assert len(healthy) > len(report)
    assert [tile for tile in burst if not tile["fault"] or tile["probability"]] == []
    assert [tile for tile in healthy if tile["any_fault"]] == []
    # What was scaled up and down again is still the network.
    assert min(tile["agreement"] for tile in healthy) > 0.95


@ARCHITECTURES
def test_ordinary_relus_would_hide_an_overflow(server_env: Path, architecture: str) -> None:
    report = overflows(server_env, architecture, "forgetful")
    hidden = [
        tile for tiles in report.values() for tile in tiles if tile["magnitude"] > 1.001 and not tile["any_fault"]
    ]
    assert hidden
    assert min(tile["agreement"] for tile in hidden) < 0.98  # and the labels are wrong
