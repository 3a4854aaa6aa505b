"""One inference before a model is handed out: silent faults of the server's environment show here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import ServerSetupError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

_TIMEOUT_S = 300.0


def check(client: triton.InferenceServerClient, contract: ModelContract, log: Path) -> None:
    """Send one tile twice; labels must have the contract's shape and classes, and be the same both times.

    Raises
    ------
    ServerSetupError
        Saying what is wrong. With numpy 2 in the server's environment, for one, answers are empty.
    """
    first, second = (_labels(client, contract, log) for _ in range(2))
    expected = (1, contract.tile_size, contract.tile_size)
    if first.shape != expected or first.dtype != np.uint8:
        raise ServerSetupError(
            f"the self-check of {contract.name} got labels {first.dtype} {list(first.shape)}, "
            f"not uint8 {list(expected)}; Triton's log: {log}"
        )
    strange = set(np.unique(first).tolist()) - {c.value for c in contract.classes}
    if strange or not np.array_equal(first, second):
        what = f"classes {sorted(strange)}" if strange else "two different answers for one tile"
        raise ServerSetupError(
            f"the self-check of {contract.name} got {what}: the model or its engine is broken; Triton's log: {log}"
        )


def _labels(client: triton.InferenceServerClient, contract: ModelContract, log: Path) -> NDArray[Any]:
    inputs = []
    for group in contract.inputs:
        ramp = np.arange(len(group.bands) * group.tile * group.tile, dtype=np.uint32) % 7919 + 1000
        pixels = ramp.astype(np.uint16).reshape(1, len(group.bands), group.tile, group.tile)
        tensor = triton.InferInput(group.tensor, list(pixels.shape), "UINT16")
        inputs.append(tensor.set_data_from_numpy(pixels))
    for name, value in (("OFFSET", 0.0), ("SCALE", 1e-4)):
        vector = np.full((1, len(contract.channels)), value, np.float32)
        inputs.append(triton.InferInput(name, list(vector.shape), "FP32").set_data_from_numpy(vector))
    try:
        answer = client.infer(
            contract.name, inputs, outputs=[triton.InferRequestedOutput("LABELS")], client_timeout=_TIMEOUT_S
        )
        labels = answer.as_numpy("LABELS")
    except InferenceServerException as error:
        raise ServerSetupError(f"the self-check of {contract.name} failed: {error}; Triton's log: {log}") from error
    except ValueError:  # fewer bytes than the shape says
        labels = None
    if labels is None:
        raise ServerSetupError(
            f"the self-check of {contract.name} got an empty answer: the server's environment needs numpy < 2, run "
            f"`kappamask-stream server install` again; Triton's log: {log}"
        )
    found: NDArray[Any] = labels
    return found
