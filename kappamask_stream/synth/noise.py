"""Seeded noise as a pure function of absolute pixel coordinates: any window can be made by itself. Numpy only.

Everything is element-wise on hashed lattices: no state, no order, no summation whose grouping depends on the window.
Two windows that overlap therefore agree bit by bit, which is what lets a scene be made in strips and threads.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kappamask_stream.grid import Window

_ROW_PRIME = np.uint32(0x9E3779B1)
_COL_PRIME = np.uint32(0x85EBCA77)
_MIX_1 = np.uint32(0x7FEB352D)
_MIX_2 = np.uint32(0x846CA68B)

_DIRECTIONS = 256
_ANGLES = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
# Looked up, not computed per window: a vectorised sine may round differently in the tail of an array.
_GRADIENT_ROW = np.sin(_ANGLES).astype(np.float32)
_GRADIENT_COL = np.cos(_ANGLES).astype(np.float32)

#: Brings gradient noise, whose extreme is 1/sqrt(2), to about -1 .. 1.
_GRADIENT_SCALE = np.float32(np.sqrt(2.0))


def key_of(seed: int, name: str) -> int:
    """Return the 32-bit key of one named field of a scene: fields of one seed are independent of each other."""
    return zlib.crc32(f"{seed}/{name}".encode())


def hash_2d(key: int, rows: NDArray[Any], cols: NDArray[Any]) -> NDArray[np.uint32]:
    """Hash integer coordinates that broadcast against each other to uint32.

    The finaliser is "lowbias32" (C. Wellons, Prospecting for hash functions): two multiplications, low bias.
    """
    mixed = (rows.astype(np.int64).astype(np.uint32) * _ROW_PRIME) ^ np.uint32(key)
    mixed = mixed ^ (mixed >> np.uint32(15))
    value: NDArray[np.uint32] = (mixed * _MIX_1) ^ (cols.astype(np.int64).astype(np.uint32) * _COL_PRIME)
    value ^= value >> np.uint32(16)
    value *= _MIX_1
    value ^= value >> np.uint32(15)
    value *= _MIX_2
    value ^= value >> np.uint32(16)
    return value


def unit(hashed: NDArray[np.uint32], *, salt: int = 0) -> NDArray[np.float32]:
    """Turn hashes into float32 uniform in [0, 1); another `salt` gives independent values of the same hashes."""
    if salt:
        hashed = hash_2d(salt, hashed, np.zeros(1, np.uint32))
    return (hashed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def white(key: int, window: Window) -> NDArray[np.float32]:
    """Return per-pixel noise of mean 0 and standard deviation 1 (triangular), float32 ``[height, width]``."""
    hashed = hash_2d(key, *_coordinates(window))
    total = (hashed & np.uint32(0xFFFF)) + (hashed >> np.uint32(16))
    noise = total.astype(np.float32)
    noise -= np.float32(65535.0)
    noise *= np.float32(np.sqrt(6.0) / 65536.0)
    return noise


def gradient(key: int, window: Window, wavelength: float) -> NDArray[np.float32]:
    """Return gradient noise (Perlin 2002) in about -1 .. 1 with lattice spacing `wavelength` pixels, float32.

    Interpolated along the columns once per lattice row, then between two lattice rows: a few operations a pixel.
    """
    row_nodes, row_runs, row_fraction = _axis(window.row, window.height, wavelength)
    col_nodes, col_runs, col_fraction = _axis(window.col, window.width, wavelength)
    direction = hash_2d(key, row_nodes[:, None], col_nodes[None, :]) & np.uint32(_DIRECTIONS - 1)
    left = np.repeat(np.arange(len(col_runs)), col_runs)
    blend = _fade(col_fraction)
    along = _lerp(
        _GRADIENT_COL[direction][:, left] * col_fraction,
        _GRADIENT_COL[direction][:, left + 1] * (col_fraction - np.float32(1)),
        blend,
    )
    slope = _lerp(_GRADIENT_ROW[direction][:, left], _GRADIENT_ROW[direction][:, left + 1], blend)
    out = np.empty((window.height, window.width), np.float32)
    start = 0
    for node, run in enumerate(row_runs):
        rows = slice(start, start + run)
        fraction = row_fraction[rows, None]
        upper = slope[node] * fraction
        upper += along[node]
        lower = slope[node + 1] * (fraction - np.float32(1))
        lower += along[node + 1]
        lower -= upper
        lower *= _fade(fraction)
        np.add(upper, lower, out=out[rows])
        start += run
    out *= _GRADIENT_SCALE
    return out


def fractal(key: int, window: Window, wavelength: float, octaves: int, *, gain: float = 0.5) -> NDArray[np.float32]:
    """Sum `octaves` of gradient noise from `wavelength` pixels downwards, float32, in about -1 .. 1."""
    total = np.zeros((window.height, window.width), np.float32)
    norm = sum(gain ** (2 * octave) for octave in range(octaves)) ** 0.5
    for octave in range(octaves):
        layer = gradient(key + 7919 * octave & 0xFFFFFFFF, window, wavelength / 2**octave)
        layer *= np.float32(gain**octave / norm)
        total += layer
    return total


def interpolated(
    window: Window, step: int, field: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Evaluate a smooth `field(rows, cols)` on a lattice of `step` pixels and interpolate it linearly, float32.

    For fields that are not separable (rotated, warped) and vary slowly. The lattice is anchored at pixel 0.
    """
    row_nodes, row_runs, row_fraction = _axis(window.row, window.height, step)
    col_nodes, col_runs, col_fraction = _axis(window.col, window.width, step)
    rows, cols = np.meshgrid(row_nodes * float(step), col_nodes * float(step), indexing="ij")
    nodes = field(rows, cols).astype(np.float32)
    left = np.repeat(np.arange(len(col_runs)), col_runs)
    across = _lerp(nodes[:, left], nodes[:, left + 1], col_fraction)
    upper = np.repeat(np.arange(len(row_runs)), row_runs)
    return _lerp(across[upper], across[upper + 1], row_fraction[:, None])


def gradient_at(key: int, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return gradient noise of lattice spacing 1 at arbitrary points, float64: slow, for lattices of `interpolated`."""
    row, col = np.floor(rows), np.floor(cols)
    down, right = rows - row, cols - col
    corners = []
    for row_step in (0, 1):
        for col_step in (0, 1):
            direction = hash_2d(key, row + row_step, col + col_step) & np.uint32(_DIRECTIONS - 1)
            corners.append(_GRADIENT_ROW[direction] * (down - row_step) + _GRADIENT_COL[direction] * (right - col_step))
    fade_down, fade_right = _fade(down), _fade(right)
    upper = corners[0] + fade_right * (corners[1] - corners[0])
    lower = corners[2] + fade_right * (corners[3] - corners[2])
    value: NDArray[np.float64] = (upper + fade_down * (lower - upper)) * float(_GRADIENT_SCALE)
    return value


def smoothstep(low: float, high: float, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 0 below `low`, 1 above `high` and a smooth ramp between, float32."""
    ramp = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), np.float32(0), np.float32(1))
    smooth: NDArray[np.float32] = ramp * ramp * (np.float32(3) - np.float32(2) * ramp)
    return smooth


def _coordinates(window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = np.arange(window.row, window.row_end, dtype=np.int64)[:, None]
    cols = np.arange(window.col, window.col_end, dtype=np.int64)[None, :]
    return rows, cols


def _axis(start: int, length: int, wavelength: float) -> tuple[NDArray[np.int64], list[int], NDArray[np.float32]]:
    """Return the lattice nodes an axis needs (one more than intervals), the pixels per interval, and fractions."""
    position = (start + np.arange(length, dtype=np.float64)) / wavelength
    node = np.floor(position).astype(np.int64)
    runs = np.bincount(node - node[0])
    nodes = np.arange(node[0], node[-1] + 2, dtype=np.int64)
    return nodes, [int(run) for run in runs], (position - node).astype(np.float32)


def _fade(fraction: NDArray[Any]) -> NDArray[Any]:
    faded: NDArray[Any] = fraction * fraction * fraction * (fraction * (fraction * 6 - 15) + 10)
    return faded


def _lerp(first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    mixed: NDArray[np.float32] = first + share * (second - first)
    return mixed
