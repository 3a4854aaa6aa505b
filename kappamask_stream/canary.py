"""The canary: one tile whose answer is known, so that a server that answers wrongly is found out.

The tile is drawn by client and server alike (`canary_scene`). What the network answers is computed where the model is
built, by float32 on another engine than the one that serves, and travels in the contract (`KnownAnswer`). Pure.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.canary_scene import full_scale_of, offset_of, pixels_of
from kappamask_stream.contract import FAULT_LABEL, KnownAnswer
from kappamask_stream.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

    Field = NDArray[np.int64]

#: Of the pixels. Another number is another tile, whose answers are others; answers to a number that is not known here
#: are compared with nothing.
RECIPE = 1

#: Pixels that the reference itself is not sure of are not compared: another precision may take them for another class.
#: Per precision, by how much the likeliest class must lead the next one; 255 is 1.
_LEAD = {"f32": 3, "fp16": 13, "bf16": 39}
#: Longest side of a tile that is drawn: a contract may come from anybody.
_LARGEST_SIDE = 1024
#: Share of the tile that must be left to compare.
_LEAST_KNOWN = 0.2
#: The tile is looked at in so many parts along each side, too: a mean would hide that one part is wrong altogether.
_PARTS = 8
#: How many times the share of pixels that the contract lets differ from float32 may be wrong: of the tile, which is
#: harder than land is; and of each part, though never more than half. Mixed-up bands are wrong on a tenth and more.
_FACTOR, _PART_FACTOR = 2.0, 8.0
_MOST_OF_PART = 0.5


@dataclass(frozen=True, kw_only=True)
class CanaryTile:
    """What is sent.

    Attributes
    ----------
    tensors : per input tensor of the contract, uint16 ``[bands, height, width]``, DN.
    offset, scale : float32 ``[channels]``.
    """

    tensors: Mapping[str, NDArray[np.uint16]]
    offset: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An answer beside the known one.

    Attributes
    ----------
    agreement : share of the compared pixels whose class is the known one.
    needed : what is wanted of it.
    worst : the same in the part of the tile where it is lowest.
    worst_needed : what is wanted of each part.
    """

    agreement: float
    needed: float
    worst: float
    worst_needed: float

    @property
    def is_right(self) -> bool:
        """True where the answer is the known one, as far as the model's precision can be held to it."""
        return self.agreement >= self.needed and self.worst >= self.worst_needed

    def __str__(self) -> str:
        if self.agreement < self.needed:
            return f"{self.agreement:.4f} of the pixels have the known class, {self.needed:g} are needed"
        return (
            f"{self.worst:.4f} of the pixels of one part of the tile have the known class, {self.worst_needed:g} are "
            f"needed ({self.agreement:.4f} in all)"
        )


def canary_tile(contract: ModelContract) -> CanaryTile:
    """Draw the tile for a contract: the same pixels every time and everywhere."""
    return CanaryTile(
        tensors={group.tensor: pixels_of(contract, group) for group in contract.inputs},
        offset=np.array([offset_of(contract, band) for band in contract.channels], np.float32),
        scale=np.array(
            [
                1.0 / (full_scale_of(contract, band) * divisor)
                for band, divisor in zip(contract.channels, contract.divisors, strict=True)
            ],
            np.float32,
        ),
    )


def needed_lead(contract: ModelContract) -> tuple[int, float]:
    """Return by how much of 255 a pixel's likeliest class must lead to be compared, and on which share of the tile."""
    return _LEAD.get(contract.precision, max(_LEAD.values())), _LEAST_KNOWN


def known_answer(
    contract: ModelContract, labels: NDArray[np.uint8], probabilities: NDArray[np.uint8]
) -> KnownAnswer | None:
    """Return what a contract says of the canary, None where the network is sure of so little that nothing would show.

    Parameters
    ----------
    labels : uint8 ``[H, W]``, of the float32 network.
    probabilities : uint8 ``[classes, H, W]``, its too.
    """
    lead = np.full(labels.shape, FAULT_LABEL, np.int64)
    if len(probabilities) > 1:
        ordered = np.sort(probabilities.astype(np.int64), axis=0)
        lead = ordered[-1] - ordered[-2]
    needed, share = needed_lead(contract)
    sure = (lead >= needed) & (labels != FAULT_LABEL)
    if sure.mean() < share or not _is_drawn(contract):
        return None
    packed = zlib.compress(np.where(sure, labels, np.uint8(FAULT_LABEL)).tobytes(), 9)
    return KnownAnswer(recipe=RECIPE, labels=base64.b64encode(packed).decode())


def has_known_answer(contract: ModelContract) -> bool:
    """Tell whether a contract says that it knows the answer to this tile; what it says may yet be none."""
    return contract.canary is not None and contract.canary.recipe == RECIPE


def known_labels(contract: ModelContract) -> NDArray[np.uint8] | None:
    """Return the known answer of a contract, None where it has none, or one to a tile that is not known here.

    Returns
    -------
    uint8 ``[H, W]``, `FAULT_LABEL` where it is not compared.

    Raises
    ------
    ContractError
        If it is no answer of this model. No more is unpacked than a tile has pixels.
    """
    if contract.canary is None or not has_known_answer(contract):
        return None
    size = contract.tile_size
    if not _is_drawn(contract):
        raise ContractError(f"the contract of {contract.name} has a canary for tiles beyond {_LARGEST_SIDE} pixels")
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(base64.b64decode(contract.canary.labels, validate=True), size * size + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ContractError(f"the canary in the contract of {contract.name} cannot be unpacked: {error}") from error
    if len(data) != size * size or not unpacking.eof:
        raise ContractError(
            f"the canary in the contract of {contract.name} has {len(data)} pixels or more, a tile has {size * size}"
        )
    labels = np.frombuffer(data, np.uint8).reshape(size, size)
    strange = set(np.unique(labels).tolist()) - {c.value for c in contract.classes} - {FAULT_LABEL}
    if strange or (labels != FAULT_LABEL).mean() < _LEAST_KNOWN:
        what = f"classes {sorted(strange)}" if strange else "almost no pixel that could be compared"
        raise ContractError(f"the canary in the contract of {contract.name} has {what}: build the model again")
    return labels


def compare(contract: ModelContract, labels: NDArray[np.uint8], known: NDArray[np.uint8]) -> Comparison:
    """Compare an answer with the known one.

    Parameters
    ----------
    labels : uint8 ``[H, W]``, as the server gave them.
    known : of `known_labels`.
    """
    counted = known != FAULT_LABEL
    right = counted & (labels == known)
    shares = [
        float(right[part].sum()) / int(counted[part].sum())
        for part in _parts(contract.tile_size)
        if 4 * counted[part].sum() >= counted[part].size
    ]
    agreement = float(right.sum()) / int(counted.sum())
    differing = 1.0 - contract.min_agreement
    return Comparison(
        agreement=agreement,
        needed=1.0 - min(_MOST_OF_PART, _FACTOR * differing),
        worst=min(shares, default=agreement),
        worst_needed=1.0 - min(_MOST_OF_PART, _PART_FACTOR * differing),
    )


def compare_likeliest(
    contract: ModelContract, probabilities: NDArray[np.uint8], known: NDArray[np.uint8]
) -> Comparison | None:
    """Compare an answer's likeliest classes with the known ones: of them a blended mask is made, not of its labels.

    Parameters
    ----------
    probabilities : uint8 ``[classes, H, W]``, as the server gave them.
    known : of `known_labels`; no pixel is compared whose known class has no probability.

    Returns
    -------
    None where no known class has one.
    """
    values = np.array(contract.probability_classes, np.uint8)
    probable = np.where(np.isin(known, values), known, np.uint8(FAULT_LABEL))
    if (probable == FAULT_LABEL).all():
        return None
    return compare(contract, values[probabilities.argmax(axis=0)], probable)


def _is_drawn(contract: ModelContract) -> bool:
    return max(contract.tile_size, *(group.tile for group in contract.inputs)) <= _LARGEST_SIDE


def _parts(size: int) -> list[tuple[slice, slice]]:
    edges = [size * i // _PARTS for i in range(_PARTS + 1)]
    slices = [slice(begin, end) for begin, end in pairwise(edges) if end > begin]
    return [(rows, cols) for rows in slices for cols in slices]
