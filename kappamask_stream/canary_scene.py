"""What the canary's tile shows: land, water, clouds, their shadows, a corner without data. Pure.

Drawn from integers only: the pixels do not depend on numpy's version or the machine. Every class has its share; squares
in which one band is far from what the others say make each band count, so that channels in another order are found out.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kappamask_stream.contract import BandGroup, ModelContract

    Field = NDArray[np.int64]

#: Rows that are drawn at once: what is computed on the way takes 20 times the memory of the pixels.
_ROWS = 64
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


def pixels_of(contract: ModelContract, group: BandGroup) -> NDArray[np.uint16]:
    """Return uint16 ``[bands, tile, tile]`` of one resolution."""
    at = ((2 * np.arange(group.tile, dtype=np.int64) + 1) << _SIDE_BITS) // (2 * group.tile)
    pixels = np.empty((len(group.bands), group.tile, group.tile), np.uint16)
    for first in range(0, group.tile, _ROWS):
        _draw(pixels[:, first : first + _ROWS], contract, group, at[first : first + _ROWS], at)
    pixels[:, : group.tile // 8, : group.tile // 5] = 0
    return pixels


def offset_of(contract: ModelContract, band: str) -> int:
    """Return what is added to a band's digital numbers, as in a product of processing baseline 04.00 or later."""
    return _OFFSET if contract.offset_rule == "reflectance" and band.startswith("B") else 0


def full_scale_of(contract: ModelContract, band: str) -> int:
    """Return the digital number that a divisor of 1 stands for."""
    if contract.dn_unit == "full_scale":
        return _FULL_SCALE
    return _QUANTIFICATION if band.startswith("B") else _ATMOSPHERE_QUANTIFICATION


def _draw(pixels: NDArray[np.uint16], contract: ModelContract, group: BandGroup, rows: Field, cols: Field) -> None:
    """Draw some rows ``[bands, rows, cols]``."""
    drawn = _hash((rows * _SQUARES >> _SIDE_BITS)[:, None], (cols * _SQUARES >> _SIDE_BITS)[None, :], 99)
    light = _light(rows, cols)
    for plane, band in zip(pixels, group.bands, strict=True):
        if band.startswith("B"):
            value, base = _reflectance(light, _number(band)), -offset_of(contract, band)
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
