"""The canary: one tile whose answer is known, so that a server that answers wrongly is found out.

The tile is drawn here, by client and server alike, from integers only: its pixels do not depend on numpy's version or
the machine. Land, water, clouds, their shadows and a corner without data give every class its share; squares in which
one band is far from what the others say make each band count, so that channels in another order are found out, too.
What the network answers is computed where the model is built, by float32 on another engine than the one that serves,
and travels in the contract (`KnownAnswer`). Pure.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.contract import FAULT_LABEL, KnownAnswer
from kappamask_stream.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import BandGroup, ModelContract

    Field = NDArray[np.int64]

#: Of the pixels. Another number is another tile, whose answers are others; answers to a number that is not known here
#: are compared with nothing.
RECIPE = 1

#: Pixels that the reference itself is not sure of are not compared: another precision may take them for another class.
#: Per precision, by how much the likeliest class must lead the next one; 255 is 1.
_LEAD = {"f32": 3, "fp16": 13, "bf16": 39}
#: Longest side of a tile that is drawn: a contract may come from anybody.
_LARGEST_SIDE = 1024
#: Rows that are drawn at once: what is computed on the way takes 20 times the memory of the pixels.
_ROWS = 64
#: Share of the tile that must be left to compare.
_LEAST_KNOWN = 0.2
#: The tile is looked at in so many parts along each side, too: a mean would hide that one part is wrong altogether.
_PARTS = 8
#: How many times the share of pixels that the contract lets differ from float32 may be wrong: of the tile, which is
#: harder than land is; and of each part, though never more than half. Mixed-up bands are wrong on a tenth and more.
_FACTOR, _PART_FACTOR = 2.0, 8.0
_MOST_OF_PART = 0.5

_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
#: Reflectance of vegetation, soil, water and sand, of clouds and cirrus, in 1/10000 by band.
_SURFACES = (
    (200, 300, 600, 350, 1000, 2800, 3500, 3700, 3900, 3900, 10, 2000, 950),
    (600, 750, 1000, 1350, 1600, 1750, 1900, 2050, 2200, 2250, 10, 2800, 2400),
    (400, 420, 450, 250, 200, 140, 130, 110, 90, 80, 10, 50, 30),
    (1800, 2200, 2900, 3600, 3900, 4050, 4200, 4300, 4400, 4400, 20, 5200, 4700),
)
_CLOUD = (7200, 7200, 7100, 7100, 7100, 7100, 7100, 7100, 7000, 6800, 50, 4800, 3400)
_CIRRUS = (5100, 5000, 4900, 4800, 4800, 4800, 4800, 4800, 4700, 4700, 3000, 2900, 2200)
#: Share of the light that reaches a cloud's shadow, in 1/128.
_SKYLIGHT = (51, 44, 36, 31, 28, 27, 26, 24, 24, 23, 19, 18, 15)
#: A product of processing baseline 04.00 or later.
_OFFSET, _QUANTIFICATION, _ATMOSPHERE_QUANTIFICATION, _FULL_SCALE = -1000, 10_000, 1_000, 65_535

#: Fields are numbers of 0 to 1024; positions are in 1/65536 of a tile's side. Both are shifted by, not divided by.
_ONE_BITS, _SIDE_BITS = 10, 16
_ONE, _SIDE = 1 << _ONE_BITS, 1 << _SIDE_BITS
#: Squares along each side in which a band may stand out, and what its reflectance becomes there, in 1/4.
_SQUARES, _STANDING_OUT = 16, (1, 10)


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
        tensors={group.tensor: _digital_numbers(contract, group) for group in contract.inputs},
        offset=np.array([_offset(contract, band) for band in contract.channels], np.float32),
        scale=np.array(
            [
                1.0 / (_full_scale(contract, band) * divisor)
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


def _is_drawn(contract: ModelContract) -> bool:
    return max(contract.tile_size, *(group.tile for group in contract.inputs)) <= _LARGEST_SIDE


def _parts(size: int) -> list[tuple[slice, slice]]:
    edges = [size * i // _PARTS for i in range(_PARTS + 1)]
    slices = [slice(begin, end) for begin, end in pairwise(edges) if end > begin]
    return [(rows, cols) for rows in slices for cols in slices]


def _digital_numbers(contract: ModelContract, group: BandGroup) -> NDArray[np.uint16]:
    """Return uint16 ``[bands, tile, tile]`` of one resolution."""
    at = ((2 * np.arange(group.tile, dtype=np.int64) + 1) << _SIDE_BITS) // (2 * group.tile)
    pixels = np.empty((len(group.bands), group.tile, group.tile), np.uint16)
    for first in range(0, group.tile, _ROWS):
        _draw(pixels[:, first : first + _ROWS], contract, group, at[first : first + _ROWS], at)
    pixels[:, : group.tile // 8, : group.tile // 5] = 0
    return pixels


def _draw(pixels: NDArray[np.uint16], contract: ModelContract, group: BandGroup, rows: Field, cols: Field) -> None:
    """Draw some rows ``[bands, rows, cols]``."""
    drawn = _hash((rows * _SQUARES >> _SIDE_BITS)[:, None], (cols * _SQUARES >> _SIDE_BITS)[None, :], 99)
    light = _light(rows, cols)
    for plane, band in zip(pixels, group.bands, strict=True):
        if band.startswith("B"):
            value, base = _reflectance(light, _number(band)), -_offset(contract, band)
        else:  # aerosol optical thickness, water vapour in g/cm2, in 1/1000
            low, high = (50, 400) if band == "AOT" else (500, 3000)
            value, base = low + ((high - low) * _noise(rows, cols, 3, 7) >> _ONE_BITS), 0
        value = _standing_out(value, drawn, contract.channels.index(band), len(contract.channels))
        plane[:] = np.clip(value + base, 1, _FULL_SCALE)


@dataclass(frozen=True, kw_only=True)
class _Light:
    """What decides a pixel's reflectance: `surfaces` are shares of 1024, the rest is of 0 to 1024."""

    surfaces: list[Field]
    texture: Field
    shade: Field
    cirrus: Field
    cloud: Field


def _light(rows: Field, cols: Field) -> _Light:
    cloud = _cloud(rows, cols)
    return _Light(
        surfaces=_shares(rows, cols),
        texture=960 + (_texture(rows, cols) >> 3),
        shade=_cloud(rows - _SIDE // 16, cols + _SIDE // 12) * (_ONE - cloud) >> _ONE_BITS,
        cirrus=_cirrus(rows, cols),
        cloud=cloud,
    )


def _reflectance(light: _Light, i: int) -> Field:
    """Return reflectance in 1/10000 of the band of this number."""
    ground = _sum([share * surface[i] for share, surface in zip(light.surfaces, _SURFACES, strict=True)])
    ground = (ground >> _ONE_BITS) * (128 * _ONE - light.shade * (128 - _SKYLIGHT[i])) >> 7 + _ONE_BITS
    veiled = ground * (_ONE - light.cirrus) + _CIRRUS[i] * light.cirrus >> _ONE_BITS
    value = veiled * (_ONE - light.cloud) + _CLOUD[i] * light.cloud >> _ONE_BITS
    return value * light.texture >> _ONE_BITS


def _standing_out(value: Field, drawn: Field, channel: int, channels: int) -> Field:
    """Have one channel stand out in some squares, another one in each: darker in one, brighter in the next."""
    chosen = drawn % (2 * channels)
    for which, quarters in enumerate(_STANDING_OUT):
        value = np.where((chosen >> 1 == channel) & (chosen & 1 == which), value * quarters >> 2, value)
    return value


def _shares(rows: Field, cols: Field) -> list[Field]:
    """Shares of each surface, of 1024 in all."""
    pulls = [4 * _noise(rows, cols, 6, i) + _noise(rows, cols, 24, i) for i in range(len(_SURFACES))]
    squares = [(pull * pull >> 15) + 1 for pull in pulls]
    weights = [(square**4 >> 10) + 1 for square in squares]
    total = _sum(weights)
    shares = [(weight << _ONE_BITS) // total for weight in weights[1:]]
    return [_ONE - _sum(shares), *shares]


def _sum(fields: list[Field]) -> Field:
    total: Field = np.sum(fields, axis=0)
    return total


def _cloud(rows: Field, cols: Field) -> Field:
    """Opacity of clouds, which do not end at the tile's edge: a shadow may be of one beyond it."""
    bumps = 6 * _noise(rows, cols, 6, 4) + 3 * _noise(rows, cols, 24, 4) + _noise(rows, cols, 96, 4)
    opacity: Field = np.clip(bumps - 6000, 0, _ONE)
    return opacity


def _cirrus(rows: Field, cols: Field) -> Field:
    return np.clip(2 * _noise(rows, cols, 3, 5) - _ONE, 0, 900)


def _texture(rows: Field, cols: Field) -> Field:
    return 2 * _noise(rows, cols, 24, 6) + _noise(rows, cols, 96, 6) >> 2


def _noise(rows: Field, cols: Field, cells: int, layer: int) -> Field:
    """Return smooth noise ``[rows, cols]`` of 0 to 1024 whose blobs are 1/cells of a tile wide."""
    corners = np.arange(-cells, 2 * cells + 1, dtype=np.int64)  # a shadow's cloud may lie beyond the tile's edge
    grid = _hash(corners[:, None], corners[None, :], 1000 * cells + layer) % (_ONE + 1)
    row, row_part = rows * cells >> _SIDE_BITS, rows * cells & _SIDE - 1
    col, col_part = cols * cells >> _SIDE_BITS, cols * cells & _SIDE - 1
    across = _blend(grid[:, col + cells], grid[:, col + cells + 1], col_part)
    return _blend(across[row + cells], across[row + cells + 1], row_part[:, None])


def _blend(first: Field, second: Field, part: Field) -> Field:
    between: Field = first * (_SIDE - part) + second * part >> _SIDE_BITS
    return between


def _hash(row: Field, col: Field, layer: int) -> Field:
    """Return 28 bits that look random for each place; nothing overflows 64 bits."""
    mixed = ((row + 256) * 73_856_093 ^ (col + 256) * 19_349_663 ^ (layer + 1) * 83_492_791) & 0xFFFF_FFFF
    for factor in (0x45D9F3B, 0x119DE1F3):
        mixed = ((mixed ^ mixed >> 16) * factor) & 0xFFFF_FFFF
    return (mixed ^ mixed >> 16) >> 4


def _number(band: str) -> int:
    """Return a band's number; one that no Sentinel-2 has takes the values of another, the same everywhere."""
    return _BANDS.index(band) if band in _BANDS else zlib.crc32(band.encode()) % len(_BANDS)


def _offset(contract: ModelContract, band: str) -> int:
    return _OFFSET if contract.offset_rule == "reflectance" and band.startswith("B") else 0


def _full_scale(contract: ModelContract, band: str) -> int:
    """Return the digital number that a divisor of 1 stands for."""
    if contract.dn_unit == "full_scale":
        return _FULL_SCALE
    return _QUANTIFICATION if band.startswith("B") else _ATMOSPHERE_QUANTIFICATION
