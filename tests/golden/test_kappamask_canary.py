"""What KappaMask's DeepLabv3+ with golden weights answers to the canary: right in every engine and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kappamask_stream.canary import canary_tile, compare, compare_likeliest, known_labels
from kappamask_stream.inference.tensors import checked_answer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from tests.golden.conftest import Answers, GoldenModels

pytestmark = [pytest.mark.shared, pytest.mark.integration]

MODEL = "kappamask_l2a_deeplabv3plus"
#: Bands that change places: of one resolution, and alike.
SWAPPED = (
    ("AOT", "WVP"),
    ("B02", "B03"),
    ("B03", "B04"),
    ("B05", "B06"),
    ("B07", "B8A"),
    ("B11", "B12"),
    ("B01", "B09"),
)


def inputs_of(contract: ModelContract) -> dict[str, NDArray[Any]]:
    tile = canary_tile(contract)
    return {**tile.tensors, "OFFSET": tile.offset, "SCALE": tile.scale}


def swapped(contract: ModelContract, one: str, other: str) -> dict[str, NDArray[Any]]:
    inputs = inputs_of(contract)
    (group,) = (group for group in contract.inputs if {one, other} <= set(group.bands))
    i, j = group.bands.index(one), group.bands.index(other)
    pixels = inputs[group.tensor].copy()
    pixels[[i, j]] = pixels[[j, i]]
    return {**inputs, group.tensor: pixels}


@pytest.mark.parametrize("flavour", ["openvino-f32", "openvino-bf16", "half-fp16"])
def test_the_canary_is_answered_rightly(flavour: str, golden_models: GoldenModels, results_dir: Path) -> None:
    engine, _, precision = flavour.partition("-")
    name = MODEL if precision == "f32" else f"{MODEL}_{precision}"
    contract = golden_models.built(name)
    known = known_labels(contract)
    assert known is not None
    answers: Answers = golden_models.run(
        engine, name, {"canary": inputs_of(contract)}, ("LABELS", "PROBABILITIES"), results_dir / f"canary-{flavour}"
    )
    labels = answers("canary", "LABELS").reshape(1, *known.shape)
    chances = answers("canary", "PROBABILITIES").reshape(1, -1, *known.shape)
    checked_answer({"LABELS": labels, "PROBABILITIES": chances}, contract, "an engine")
    found = compare(contract, labels[0], known)
    print(
        f"{flavour}: {found.agreement:.5f} of the compared pixels, {found.worst:.4f} in the worst part; {found.needed}, "
        f"{found.worst_needed:.3f} needed; {(known != 255).mean():.3f} are compared"
    )
    assert found.is_right
    by_chances = compare_likeliest(contract, chances[0], known)
    assert by_chances is not None
    assert by_chances.is_right, by_chances


def test_mixed_up_bands_and_offsets_are_found_out(golden_models: GoldenModels, results_dir: Path) -> None:
    """By what the loosest precision, bfloat16, wants."""
    contract = golden_models.built(MODEL)
    known = known_labels(contract)
    assert known is not None
    tiles = {f"{one}-{other}": swapped(contract, one, other) for one, other in SWAPPED}
    inputs = inputs_of(contract)
    tiles["no-offset"] = {**inputs, "OFFSET": np.zeros_like(inputs["OFFSET"])}
    answers = golden_models.run("openvino", MODEL, tiles, ("LABELS",), results_dir / "canary-spoilt")
    for spoilt in tiles:
        found = compare(contract, answers(spoilt, "LABELS").reshape(known.shape), known)
        print(f"{spoilt}: {found.agreement:.4f}")
        assert found.agreement < 0.96, spoilt
