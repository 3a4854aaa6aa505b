"""A tile's tensors on their way to a server, and an answer's on their way back: both as the contract says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.utils import np_to_triton_dtype

from kappamask_stream.contract import FAULT_LABEL
from kappamask_stream.errors import ContractError, InferenceError
from kappamask_stream.inference.types import InferResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.types import TileRequest


def inputs_of(request: TileRequest, contract: ModelContract, endpoint: str) -> list[InferInput]:
    """Return what is sent for one tile.

    Raises
    ------
    ContractError
        If the request is not what the contract says; `endpoint` is for the message.
    """
    inputs = []
    for name, dtype, shape, array in _parts(request, contract):
        if array is None or array.dtype != dtype or array.shape != shape:
            found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ContractError(
                f"{request.name}: {name} is {found}, the contract of {contract.name} at {endpoint} "
                f"says {dtype.__name__} {list(shape)}"
            )
        tensor = InferInput(name, [1, *shape], np_to_triton_dtype(dtype))
        tensor.set_data_from_numpy(array[np.newaxis])
        inputs.append(tensor)
    return inputs


def _parts(
    request: TileRequest, contract: ModelContract
) -> list[tuple[str, type, tuple[int, ...], NDArray[Any] | None]]:
    """List a request's tensors: name, type and shape by the contract, and what the request holds."""
    parts: list[tuple[str, type, tuple[int, ...], NDArray[Any] | None]] = [
        (g.tensor, np.uint16, (len(g.bands), g.tile, g.tile), request.tensors.get(g.tensor)) for g in contract.inputs
    ]
    channels = (len(contract.channels),)
    parts += [("OFFSET", np.float32, channels, request.offset), ("SCALE", np.float32, channels, request.scale)]
    return parts


def checked_answer(tensors: Mapping[str, NDArray[Any] | None], contract: ModelContract, endpoint: str) -> InferResult:
    """Return the answer for one tile.

    Parameters
    ----------
    tensors : LABELS and maybe PROBABILITIES, with a first axis of 1.

    Raises
    ------
    InferenceError
        If a tensor has not the contract's shape, or holds the fault value or classes that nobody knows.
    """
    size = contract.tile_size
    shapes = {"LABELS": (1, size, size), "PROBABILITIES": (1, len(contract.probability_classes), size, size)}
    for name, tensor in tensors.items():
        if tensor is None or tensor.shape != shapes[name] or tensor.dtype != np.uint8:
            given = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise InferenceError(
                f"{name} from {endpoint} is {given}, the contract of {contract.name} says uint8 {list(shapes[name])}"
            )
    labels = tensors["LABELS"]
    assert labels is not None  # noqa: S101 - checked above, for the type checker
    # Counting is cheaper than sorting, and this runs on the event loop for every tile.
    found = set(np.flatnonzero(np.bincount(labels.ravel(), minlength=FAULT_LABEL + 1)).tolist())
    if FAULT_LABEL in found:
        raise InferenceError(f"the network of {contract.name} gave values that are not finite (LABELS {FAULT_LABEL})")
    allowed = {c.value for c in contract.classes}
    if not found <= allowed:
        raise InferenceError(
            f"LABELS from {endpoint} hold classes {sorted(found - allowed)}, "
            f"the contract of {contract.name} knows {sorted(allowed)}"
        )
    probabilities = tensors.get("PROBABILITIES")
    return InferResult(labels=labels[0], probabilities=None if probabilities is None else probabilities[0])
