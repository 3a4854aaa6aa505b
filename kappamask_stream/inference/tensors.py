"""A tile's tensors on their way to a server, and an answer's on their way back: both as the contract says."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tritonclient.utils import np_to_triton_dtype

from kappamask_stream.contract import FAULT_LABEL
from kappamask_stream.errors import AnswerError, ContractError, InferenceError
from kappamask_stream.inference.shared_memory import address_of
from kappamask_stream.inference.types import InferResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.shared_memory import Region
    from kappamask_stream.inference.types import TileRequest

#: Tensors begin at multiples of this many bytes: whole cache lines.
_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """One tensor of a request or an answer, and where it is where all are in one piece of memory.

    Attributes
    ----------
    name : in the model's configuration.
    dtype : of numpy.
    shape : with a first axis of 1, the batch.
    offset : bytes from the beginning of the memory.
    """

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class TileLayout:
    """All tensors of one tile.

    Attributes
    ----------
    inputs, outputs : in the order in which they are sent.
    nbytes : bytes that all of them take.
    """

    inputs: tuple[TensorPlace, ...]
    outputs: tuple[TensorPlace, ...]
    nbytes: int

    @classmethod
    def of(cls, contract: ModelContract, *, probabilities: bool) -> Self:
        """Lay out what a contract says; outputs come last, so that more of them move nothing."""
        size, channels = contract.tile_size, (1, len(contract.channels))
        inputs: list[tuple[str, type[np.generic], tuple[int, ...]]] = [
            (g.tensor, np.uint16, (1, len(g.bands), g.tile, g.tile)) for g in contract.inputs
        ]
        inputs += [("OFFSET", np.float32, channels), ("SCALE", np.float32, channels)]
        outputs: list[tuple[str, type[np.generic], tuple[int, ...]]] = [("LABELS", np.uint8, (1, size, size))]
        if probabilities:
            outputs.append(("PROBABILITIES", np.uint8, (1, len(contract.probability_classes), size, size)))
        places, offset = [], 0
        for name, dtype, shape in (*inputs, *outputs):
            places.append(TensorPlace(name=name, dtype=dtype, shape=shape, offset=offset))
            offset += -(-places[-1].nbytes // _ALIGNMENT) * _ALIGNMENT
        return cls(inputs=tuple(places[: len(inputs)]), outputs=tuple(places[len(inputs) :]), nbytes=offset)


def empty_tensors(
    contract: ModelContract, layout: TileLayout, memory: NDArray[np.uint8] | None
) -> dict[str, NDArray[np.uint16]]:
    """Return arrays for a tile's pixels, with anything in them.

    Parameters
    ----------
    memory : of a region, where they shall be; None for memory of their own.
    """
    tensors = {}
    for place in layout.inputs[: len(contract.inputs)]:
        shape = place.shape[1:]
        if memory is None:
            tensors[place.name] = np.empty(shape, np.uint16)
        else:
            tensors[place.name] = memory[place.offset : place.offset + place.nbytes].view(np.uint16).reshape(shape)
    return tensors


def arrays_of(request: TileRequest, layout: TileLayout, contract: ModelContract, endpoint: str) -> list[NDArray[Any]]:
    """Return what is sent for one tile, in the order of the layout's inputs.

    Raises
    ------
    ContractError
        If the request is not what the contract says; `endpoint` is for the message.
    """
    given: dict[str, NDArray[Any]] = {**request.tensors, "OFFSET": request.offset, "SCALE": request.scale}
    arrays = []
    for place in layout.inputs:
        array, shape = given.get(place.name), place.shape[1:]
        if array is None or array.dtype != place.dtype or array.shape != shape:
            found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ContractError(
                f"{request.name}: {place.name} is {found}, the contract of {contract.name} at {endpoint} "
                f"says {place.dtype.__name__} {list(shape)}"
            )
        arrays.append(array)
    return arrays


def write_tensors(region: Region, layout: TileLayout, arrays: Sequence[NDArray[Any]]) -> None:
    """Put a tile's tensors into shared memory where they are not there yet, and the fault value in place of its labels.

    Whatever is there of an earlier tile can then not be taken for an answer.
    """
    for place, array in zip(layout.inputs, arrays, strict=True):
        if address_of(array) != region.address + place.offset:
            region.array(place.offset, place.shape, place.dtype)[0] = array
    labels = layout.outputs[0]
    region.array(labels.offset, labels.shape, labels.dtype).fill(FAULT_LABEL)


def tensors_in(answer: Any, layout: TileLayout, region: Region | None) -> dict[str, NDArray[Any] | None]:
    """Return an answer's tensors by name, None for those that are missing.

    Parameters
    ----------
    answer : ModelInferResponse of the protocol.
    region : shared memory that they are in, from which they are copied; None where they are in the answer.

    Raises
    ------
    ValueError
        If a tensor is of another type or shape, bytes do not fill its shape, it is not where it was asked for, or was
        not asked for at all.
    """
    if region is not None and any(answer.raw_output_contents):
        raise ValueError("tensors are in the answer, and not in shared memory as asked")  # what is there is older
    said = {output.name: (output.datatype, tuple(output.shape)) for output in answer.outputs}
    names, asked = sorted(output.name for output in answer.outputs), sorted(place.name for place in layout.outputs)
    if len(names) > len(said) or not set(names) <= set(asked):
        raise ValueError(f"it holds {', '.join(names)}, asked for was {', '.join(asked)}")
    contents = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=False))
    tensors: dict[str, NDArray[Any] | None] = {}
    for place in layout.outputs:
        expected = np_to_triton_dtype(place.dtype), place.shape
        if place.name not in said:
            tensors[place.name] = None
        elif said[place.name] != expected:
            kind, shape = said[place.name]
            raise ValueError(f"{place.name} is {kind} {list(shape)}, not {expected[0]} {list(expected[1])}")
        elif region is None:
            content = contents.get(place.name, b"")
            if len(content) != place.nbytes:
                raise ValueError(f"{place.name} has {len(content)} bytes, {list(place.shape)} takes {place.nbytes}")
            tensors[place.name] = np.frombuffer(content, place.dtype).reshape(place.shape)
        else:
            tensors[place.name] = region.array(place.offset, place.shape, place.dtype).copy()
    return tensors


def checked_answer(tensors: Mapping[str, NDArray[Any] | None], contract: ModelContract, endpoint: str) -> InferResult:
    """Return the answer for one tile.

    Parameters
    ----------
    tensors : LABELS and maybe PROBABILITIES, with a first axis of 1.

    Raises
    ------
    AnswerError
        If a tensor has not the contract's shape, holds classes that nobody knows, or, of a model with a canary, LABELS
        are not the likeliest classes of PROBABILITIES. Others may choose classes in another way, by a threshold say.
    InferenceError
        If it holds the fault value.
    """
    size = contract.tile_size
    shapes = {"LABELS": (1, size, size), "PROBABILITIES": (1, len(contract.probability_classes), size, size)}
    for name, tensor in tensors.items():
        if tensor is None or tensor.shape != shapes[name] or tensor.dtype != np.uint8:
            given = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise AnswerError(
                f"{name} from {endpoint} is {given}, the contract of {contract.name} says uint8 {list(shapes[name])}"
            )
    labels = tensors["LABELS"]
    assert labels is not None  # noqa: S101 - checked above, for the type checker
    _require_known(labels, contract, endpoint)
    probabilities = tensors.get("PROBABILITIES")
    if probabilities is not None and contract.canary is not None:
        _require_likeliest(labels[0], probabilities[0], contract, endpoint)
    return InferResult(labels=labels[0], probabilities=None if probabilities is None else probabilities[0])


def _require_known(labels: NDArray[np.uint8], contract: ModelContract, endpoint: str) -> None:
    """Refuse labels that no class has. This runs on the event loop for every tile."""
    allowed = {c.value for c in contract.classes}
    # Classes are mostly numbered from 0 without a gap: then the largest label tells, and costs next to nothing.
    if labels.max() < min(set(range(FAULT_LABEL + 1)) - allowed):
        return
    found = set(np.flatnonzero(np.bincount(labels.ravel(), minlength=FAULT_LABEL + 1)).tolist())
    if FAULT_LABEL in found:
        raise InferenceError(f"the network of {contract.name} gave values that are not finite (LABELS {FAULT_LABEL})")
    if not found <= allowed:
        raise AnswerError(
            f"LABELS from {endpoint} hold classes {sorted(found - allowed)}, "
            f"the contract of {contract.name} knows {sorted(allowed)}"
        )


def _require_likeliest(
    labels: NDArray[np.uint8], probabilities: NDArray[np.uint8], contract: ModelContract, endpoint: str
) -> None:
    """Refuse PROBABILITIES that are not those of LABELS at every pixel. This runs on the event loop for every tile.

    Nothing is said of their sum: KappaMask's U-Net gives each class a probability of its own, by a sigmoid.
    """
    highest = probabilities.max(axis=0)
    first, *others = probabilities
    is_same = len(others) > 0 and all(np.array_equal(first, other) for other in others)
    if is_same or not highest.any():
        same = "the same" if highest.any() else "0"
        raise AnswerError(f"PROBABILITIES from {endpoint} are {same} for all classes of {contract.name} at all pixels")
    least = highest - (highest > 0)  # both are rounded: the likeliest class may lead LABELS' by 1 of 255
    wrong = np.zeros(labels.shape, np.bool_)
    for value, chance in zip(contract.probability_classes, probabilities, strict=True):
        named = labels == value
        if named.any():
            wrong |= named & (chance < least)
    if count := np.count_nonzero(wrong):
        raise AnswerError(
            f"PROBABILITIES from {endpoint} contradict LABELS at {count} of {wrong.size} pixels: another class of "
            f"{contract.name} is likelier there"
        )
