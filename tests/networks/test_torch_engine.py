"""The GPU engine without a GPU: its plan in plain numpy, its kernels in Triton's interpreter."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.networks.in_server_env import run_script

NETWORKS = [f"{level} {architecture}" for level in ("L1C", "L2A") for architecture in ("DeepLabv3Plus", "Unet")]


@cache
def planned(server_env: Path) -> dict[str, Any]:
    report: dict[str, Any] = run_script(server_env, "torch_plan_values.py")
    return report


@pytest.mark.parametrize("precision", ["f32", "fp16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_plan_computes_what_the_graph_computes(server_env: Path, network: str, precision: str) -> None:
    """In float64, of the same normalised image; float16 stores the weights with three digits."""
    found = planned(server_env)[f"{network} {precision}"]
    assert found["largest_difference"] <= (1e-4 if precision == "f32" else 0.05)


@pytest.mark.parametrize("network", NETWORKS)
def test_float16_graph_has_the_same_steps(server_env: Path, network: str) -> None:
    assert planned(server_env)[f"{network} f32"]["steps"] == planned(server_env)[f"{network} fp16"]["steps"]


@pytest.mark.parametrize("network", NETWORKS)
def test_padding_relu_and_type_conversions_are_no_steps(server_env: Path, network: str) -> None:
    steps = planned(server_env)[f"{network} f32"]["steps"]
    if "Unet" in network:
        assert steps == {"Conv": 24, "MaxPool": 4, "Concat": 4}
    else:
        assert steps == {
            "Conv": 15 + 32,
            "Depthwise": 32,
            "MaxPool": 3,
            "Add": 8,
            "Upsample": 1,
            "Mean": 1,
            "Concat": 2,
        }


@pytest.mark.parametrize("architecture", ["DeepLabv3Plus", "Unet"])
def test_kernels_answer_as_onnxruntime(architecture: str) -> None:
    check_answers(run_script(torch_environment(), "torch_engine_answers.py", architecture))


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["DeepLabv3Plus", "Unet"])
def test_gpu_answers_as_onnxruntime(architecture: str) -> None:
    environment = torch_environment()
    if shutil.which("nvidia-smi") is None:
        pytest.skip("there is no NVIDIA GPU here (no nvidia-smi)")
    check_answers(run_script(environment, "torch_engine_answers.py", architecture, "cuda"))


def torch_environment() -> Path:
    python = os.environ.get("KAPPAMASK_TORCH_PYTHON")
    if not python:
        pytest.skip("KAPPAMASK_TORCH_PYTHON names no Python with torch, triton, onnx, onnxruntime and numpy < 2")
    return Path(python).parents[1]


def check_answers(report: dict[str, Any]) -> None:
    assert report["f32"]["same"] >= 0.999
    assert report["f32"]["probabilities_differ"] <= 1
    assert report["fp16"]["same"] >= 0.98
    assert report["f32"]["batch_is_single"]
    assert report["fp16"]["batch_is_single"]
    assert report["faults"] == [False, True, True]
    assert report["shares_of_faults"] == 0
    assert report["neighbour_is_itself"]
