"""What a model answers to the canary: computed once, where it is built, by float32 on onnxruntime's CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.canary import canary_tile, known_answer, needed_lead
from server_models.reference import run_graph

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.canary import CanaryTile
    from kappamask_stream.contract import KnownAnswer, ModelContract


def answer_to_canary(contract: ModelContract, graph: Path) -> KnownAnswer | None:
    """Have a model's float32 graph answer the canary; None where it is sure of almost no pixel.

    Raises
    ------
    ServerSetupError
        If onnxruntime cannot run it.
    """
    ((labels, probabilities),) = run_graph(graph, ("LABELS", "PROBABILITIES"), batch_of(canary_tile(contract)))
    return known_answer(contract, labels[0], probabilities[0])


def why_none(contract: ModelContract, *, has_graph: bool) -> str:
    """Say why a model has no canary, and what that means.

    Parameters
    ----------
    has_graph : False where it has no float32 graph that could answer.
    """
    why = "it has no float32 graph here that could answer it"
    if has_graph:
        lead, share = needed_lead(contract)
        why = f"on less than {share:.0%} of it the network's likeliest class leads the next one by {lead} of 255"
    return f"{contract.name} has no canary: {why}; clients cannot see whether a server answers rightly"


def batch_of(tile: CanaryTile) -> dict[str, NDArray[Any]]:
    """Return what is sent for a tile: every input of the model, with a first axis of 1."""
    arrays: dict[str, NDArray[Any]] = {**tile.tensors, "OFFSET": tile.offset, "SCALE": tile.scale}
    return {name: np.ascontiguousarray(array[np.newaxis]) for name, array in arrays.items()}
