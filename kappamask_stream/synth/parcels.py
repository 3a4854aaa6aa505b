"""Farmland: districts with fields of their own orientation and size, crops, field boundaries and roads. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.grid import Window
from kappamask_stream.synth.noise import gradient, hash_2d, key_of, unit
from kappamask_stream.synth.spectra import Material

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Lattice of the districts (communities with fields laid out alike), 10 m pixels.
_DISTRICT = 190
_WARP_PX, _WARP_WAVELENGTH = 26.0, 240.0
#: Distance beyond which a district's centre owns no pixel.
_REACH = 250

_DIRECTIONS = 180
_COSINE = np.cos(np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS).astype(np.float32)
_SINE = np.sin(np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS).astype(np.float32)

#: What grows on a parcel: cover, background, lowest and highest share of the cover, brightness; as common as listed.
_CROPS = (
    (Material.CROP, Material.SOIL_DARK, 0.80, 1.00, 1.00),
    (Material.CROP, Material.SOIL_DARK, 0.65, 0.95, 0.85),
    (Material.GRASS, Material.SOIL_DARK, 0.80, 1.00, 1.05),
    (Material.GRASS, Material.STUBBLE, 0.50, 0.90, 0.95),
    (Material.GRASS, Material.CROP, 0.30, 0.90, 0.95),
    (Material.STUBBLE, Material.SOIL_DARK, 0.60, 1.00, 0.95),
    (Material.STUBBLE, Material.GRASS, 0.60, 0.90, 0.90),
    (Material.SOIL_DARK, Material.STUBBLE, 0.60, 1.00, 0.90),
    (Material.SOIL_DARK, Material.CROP, 0.55, 0.90, 1.00),
    (Material.SOIL_BRIGHT, Material.SOIL_DARK, 0.30, 0.75, 0.95),
)


@dataclass(frozen=True, kw_only=True)
class Parcels:
    """Farmland of a window, all arrays ``[height, width]``.

    Attributes
    ----------
    cover, background : uint8 values of `Material`.
    share : float32 share of `cover`.
    brightness : float32 factor, the same within a parcel apart from rows of machinery.
    road : bool, on the border of two districts.
    """

    cover: NDArray[np.uint8]
    background: NDArray[np.uint8]
    share: NDArray[np.float32]
    brightness: NDArray[np.float32]
    road: NDArray[np.bool_]


def parcels(seed: int, window: Window) -> Parcels:
    """Lay out the farmland of a window."""
    district = _districts(seed, window)
    along, across = district.along, district.across
    strip = np.floor(across)
    # Parcels of one strip are shifted against those of the next, as bricks are.
    shift = unit(hash_2d(key_of(seed, "strips"), district.identity, strip))
    along = along + shift * np.float32(5)
    plot = np.floor(along)
    parcel = hash_2d(key_of(seed, "parcels"), district.identity + strip.astype(np.int64) * 1009, plot)
    crop = (unit(parcel) * np.float32(len(_CROPS))).astype(np.uint8)
    low, high, brightness = (np.array([entry[k] for entry in _CROPS], np.float32)[crop] for k in (2, 3, 4))
    share = low + (high - low) * unit(parcel, salt=1)
    brightness *= np.float32(0.88) + np.float32(0.24) * unit(parcel, salt=2)
    edge = np.minimum(_edge(across, strip) * district.strip_px, _edge(along, plot) * district.plot_px)
    hedge = edge < np.float32(0.7)
    cover = np.array([entry[0] for entry in _CROPS], np.uint8)[crop]
    background = np.array([entry[1] for entry in _CROPS], np.uint8)[crop]
    hedge_kind = unit(hash_2d(key_of(seed, "hedges"), district.identity, strip)) < np.float32(0.45)
    cover[hedge] = np.where(hedge_kind, Material.BROADLEAF, Material.GRASS)[hedge]
    background[hedge] = Material.STUBBLE
    share[hedge] = 0.75
    return Parcels(cover=cover, background=background, share=share, brightness=brightness, road=district.road)


@dataclass(frozen=True, kw_only=True)
class _Districts:
    """Per pixel: identity (int64), field coordinates in units of a field (float32), field size in pixels, roads."""

    identity: NDArray[np.int64]
    along: NDArray[np.float32]
    across: NDArray[np.float32]
    plot_px: NDArray[np.float32]
    strip_px: NDArray[np.float32]
    road: NDArray[np.bool_]


def _districts(seed: int, window: Window) -> _Districts:
    """Find each pixel's nearest district centre (a Voronoi diagram of a jittered lattice, slightly warped)."""
    key = key_of(seed, "districts")
    rows = gradient(key_of(seed, "warp rows"), window, _WARP_WAVELENGTH) * np.float32(_WARP_PX)
    rows += np.arange(window.row, window.row_end, dtype=np.float32)[:, None]
    cols = gradient(key_of(seed, "warp cols"), window, _WARP_WAVELENGTH) * np.float32(_WARP_PX)
    cols += np.arange(window.col, window.col_end, dtype=np.float32)[None, :]
    centres = _centres(key, window)
    nearest = np.full(rows.shape, np.float32(1e12))
    second = nearest.copy()
    index = np.zeros(rows.shape, np.int32)
    for number, (row, col) in enumerate(zip(centres.row, centres.col, strict=True)):
        part = _reach(row, col).intersection(window).relative_to(window)
        distance = (rows[part] - row) ** 2 + (cols[part] - col) ** 2
        closer = distance < nearest[part]
        second[part] = np.minimum(second[part], np.maximum(distance, nearest[part]))
        nearest[part] = np.minimum(nearest[part], distance)
        index[part][closer] = number
    cosine, sine = centres.cosine[index], centres.sine[index]
    plot, strip = centres.plot_px[index], centres.strip_px[index]
    return _Districts(
        identity=centres.identity[index],
        along=((rows * cosine + cols * sine) / plot).astype(np.float32, copy=False),
        across=((cols * cosine - rows * sine) / strip).astype(np.float32, copy=False),
        plot_px=plot,
        strip_px=strip,
        road=np.sqrt(second) - np.sqrt(nearest) < np.float32(1.4),
    )


@dataclass(frozen=True, kw_only=True)
class _Centres:
    """District centres near a window, one element each: position, identity, direction and size of the fields."""

    row: NDArray[np.float32]
    col: NDArray[np.float32]
    identity: NDArray[np.int64]
    cosine: NDArray[np.float32]
    sine: NDArray[np.float32]
    plot_px: NDArray[np.float32]
    strip_px: NDArray[np.float32]


def _centres(key: int, window: Window) -> _Centres:
    cell_rows, cell_cols = (
        np.arange((start - _REACH) // _DISTRICT - 1, (end + _REACH) // _DISTRICT + 2)
        for start, end in ((window.row, window.row_end), (window.col, window.col_end))
    )
    cell_row, cell_col = (cell.ravel() for cell in np.meshgrid(cell_rows, cell_cols, indexing="ij"))
    hashed = hash_2d(key, cell_row, cell_col)
    down, right, turn, plot, strip = (unit(hashed, salt=salt) for salt in range(1, 6))
    # From a table: a vectorised cosine may round differently from one array length to another.
    direction = (turn * _DIRECTIONS).astype(np.int64)
    return _Centres(
        row=((cell_row + 0.15 + 0.7 * down) * _DISTRICT).astype(np.float32),
        col=((cell_col + 0.15 + 0.7 * right) * _DISTRICT).astype(np.float32),
        identity=hashed.astype(np.int64),
        cosine=_COSINE[direction],
        sine=_SINE[direction],
        plot_px=np.float32(14) + np.float32(34) * plot * plot,
        strip_px=np.float32(8) + np.float32(16) * strip * strip,
    )


def _reach(row: float, col: float) -> Window:
    """Return the pixels that a centre may own: a fixed box around it, so that it does not depend on the window."""
    return Window(int(row) - _REACH, int(col) - _REACH, 2 * _REACH + 1, 2 * _REACH + 1)


def _edge(position: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance to the nearer end of a unit interval, 0 .. 0.5."""
    inside = position - whole
    nearer: NDArray[np.float32] = np.minimum(inside, np.float32(1) - inside)
    return nearer
