"""What the served graphs consist of, for the four networks in three precisions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.networks.in_server_env import run_script

if TYPE_CHECKING:
    from pathlib import Path

GRAPHS = [
    f"{level} {architecture} {precision}"
    for level in ("L1C", "L2A")
    for architecture in ("DeepLabv3Plus", "Unet")
    for precision in ("f32", "bf16", "fp16")
]
EVERY_GRAPH = pytest.mark.parametrize("graph", GRAPHS)

#: Bands per resolution at the small tile of 64 pixels.
BANDS = {
    "L1C DeepLabv3Plus": (4, 6, 3),
    "L1C Unet": (4, 6, 3),
    "L2A DeepLabv3Plus": (6, 6, 2),
    "L2A Unet": (6, 5, 2),
}


@cache
def described(server_env: Path, hash_seed: int = 1) -> dict[str, Any]:
    report: dict[str, Any] = run_script(server_env, "graph_structure.py", PYTHONHASHSEED=str(hash_seed))
    return report


def test_there_is_a_graph_for_every_network_and_precision(server_env: Path) -> None:
    assert sorted(described(server_env)) == sorted(GRAPHS)


@EVERY_GRAPH
def test_batch_normalisation_is_folded_away(server_env: Path, graph: str) -> None:
    operators = described(server_env)[graph]["operators"]
    assert not {"BatchNormalization", "Identity", "Dropout", "Transpose", "Constant"} & set(operators)
    # One for every kernel of the listing; a separable convolution has two.
    assert operators["Conv"] == (24 if "Unet" in graph else 15 + 2 * 32)


@EVERY_GRAPH
def test_nothing_is_left_that_no_output_needs(server_env: Path, graph: str) -> None:
    found = described(server_env)[graph]
    assert found["dead_nodes"] == found["dead_initialisers"] == found["dead_inputs"] == []
    assert found["external"] == []  # one self-contained file


@EVERY_GRAPH
def test_head_of_deeplab_stands_before_the_last_upsampling(server_env: Path, graph: str) -> None:
    found = described(server_env)[graph]
    if "DeepLab" in graph:
        assert found["head_before_last_resize"]
        assert found["head_channels"] == 6


@EVERY_GRAPH
def test_inputs_and_outputs_are_the_documented_ones(server_env: Path, graph: str) -> None:
    found, (ten, twenty, sixty) = described(server_env)[graph], BANDS[graph.rsplit(" ", 1)[0]]
    channels = ten + twenty + sixty
    assert found["inputs"] == {
        "DN_10M": ["UINT16", "N", ten, 64, 64],
        "DN_20M": ["UINT16", "N", twenty, 32, 32],
        "DN_60M": ["UINT16", "N", sixty, 10, 10],
        "OFFSET": ["FLOAT", "N", channels],
        "SCALE": ["FLOAT", "N", channels],
    }
    assert found["outputs"] == {"LABELS": ["UINT8", "N", 64, 64], "PROBABILITIES": ["UINT8", "N", 6, 64, 64]}


@EVERY_GRAPH
def test_preprocessing_is_float32_and_nothing_is_float64(server_env: Path, graph: str) -> None:
    found = described(server_env)[graph]
    assert found["untyped"] == []
    assert found["types_before_network"] == ["FLOAT", "INT32", "INT64", "UINT16"]
    assert found["probability_type"] == "FLOAT"
    assert not {"DOUBLE", "BFLOAT16", "COMPLEX64"} & set(found["types"])
    half = graph.endswith("fp16")
    assert ("FLOAT16" in found["types"]) == half
    assert found["weight_types"] == found["activation_types"] == (["FLOAT16"] if half else ["FLOAT"])


@EVERY_GRAPH
def test_metadata_say_what_the_file_is(server_env: Path, graph: str) -> None:
    found = described(server_env)[graph]
    assert found["metadata"] == ["contract", "float32_until", "precision"]
    assert found["contract_is_its_own"]
    assert found["precision"] == graph.rsplit(" ", 1)[1]


@EVERY_GRAPH
def test_graph_can_be_cut_where_reduced_precision_may_begin(server_env: Path, graph: str) -> None:
    found = described(server_env)[graph]
    assert found["cut_exists"]
    assert found["cut_separates"], "an output depends on an input past the tensors named"
    assert "input_magnitude" in found["cut"]
    if not graph.endswith("bf16"):
        assert found["cut"] == ["input_magnitude", "normalised"]


def test_same_weights_make_the_same_bytes(server_env: Path) -> None:
    first, second = described(server_env, 1), described(server_env, 2)
    assert {graph: found["sha256"] for graph, found in first.items()} == {
        graph: found["sha256"] for graph, found in second.items()
    }
    assert len({found["sha256"] for found in first.values()}) == len(GRAPHS)
