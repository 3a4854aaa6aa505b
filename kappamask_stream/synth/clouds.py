"""The sky: cumulus with the shadows that the sun gives them, and cirrus, for any window of 10 m pixels. Numpy only.

All cumulus of a scene have their base at one height, the lifting condensation level, as on a real summer day. So the
shadow of the whole field is the field itself, displaced by height x tan(zenith) away from the sun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.grid import Window
from kappamask_stream.synth.noise import (
    fractal,
    gradient,
    gradient_at,
    hash_2d,
    interpolated,
    key_of,
    smoothstep,
    unit,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_PIXEL_M = 10.0

#: Height of the tops of thick cumulus above their base, metres: their shadows reach that much farther.
CUMULUS_DEPTH_M = 450.0
CIRRUS_HEIGHT_M = 9000.0

#: Lattices of clouds, coarse to fine: spacing, smallest and largest radius in 10 m pixels, chance of a cloud.
_LATTICES = ((430, 45.0, 150.0, 0.75), (200, 20.0, 62.0, 0.62), (90, 6.0, 17.0, 0.22))
_PUFFS = 7
_COVER_WAVELENGTH = 1500.0

#: Optical depth per unit of the cloud field, and the largest: beyond it nothing changes.
_DEPTH_PER_UNIT, _MAX_DEPTH = 7.0, 9.0


@dataclass(frozen=True, kw_only=True)
class Sky:
    """What decides the clouds of a scene: its seed, the height of the cumulus' base and where the sun stands."""

    seed: int
    base_m: float
    sun_zenith_deg: float
    sun_azimuth_deg: float

    def displacement(self, height_m: float) -> tuple[int, int]:
        """Return rows and columns from a cloud at `height_m` to its shadow, in whole 10 m pixels.

        The azimuth counts clockwise from north; rows count southwards, columns eastwards.
        """
        length = height_m * np.tan(np.deg2rad(self.sun_zenith_deg)) / _PIXEL_M
        azimuth = np.deg2rad(self.sun_azimuth_deg)
        return round(float(length * np.cos(azimuth))), round(float(-length * np.sin(azimuth)))


@dataclass(frozen=True, kw_only=True)
class Clouds:
    """The sky above a window, all arrays float32 ``[height, width]``.

    Attributes
    ----------
    opacity : of cumulus, 0 .. 1.
    brightness : reflectance of cumulus in the visible where it is opaque.
    cirrus : opacity of cirrus, 0 .. 1.
    light : share of the direct sunlight that reaches the ground.
    """

    opacity: NDArray[np.float32]
    brightness: NDArray[np.float32]
    cirrus: NDArray[np.float32]
    light: NDArray[np.float32]


def clouds(sky: Sky, window: Window) -> Clouds:
    """Make the clouds above a window and their shadows in it."""
    base, top = sky.displacement(sky.base_m), sky.displacement(sky.base_m + CUMULUS_DEPTH_M)
    lit_from = 5  # pixels towards the sun, where the depth is compared for the shading of the clouds
    sun = tuple(int(np.sign(step)) * lit_from for step in base)
    casting = [(0, 0), (-base[0], -base[1]), (-top[0], -top[1]), (-sun[0], -sun[1])]
    around = _surrounding(window, casting)
    depth = _optical_depth(sky.seed, around)
    own, at_base, at_top, sunward = (_shifted(depth, around, window, offset) for offset in casting)
    veil = _cirrus(sky.seed, window)
    shade_row, shade_col = sky.displacement(CIRRUS_HEIGHT_M)
    casting_veil = _cirrus(
        sky.seed, Window(window.row - shade_row, window.col - shade_col, window.height, window.width)
    )
    # Only the thick parts of a cloud reach up to its top.
    blocked = np.maximum(_opacity(at_base), _opacity(at_top - np.float32(3.0)))
    light = (np.float32(1) - blocked) * (np.float32(1) - np.float32(0.6) * casting_veil)
    return Clouds(
        opacity=_opacity(own), brightness=_brightness(sky.seed, window, own, sunward), cirrus=veil, light=light
    )


def _opacity(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of light that a cloud of optical depth 0 .. 9 takes: 1 - 1 / (1 + depth + depth^2)."""
    positive = np.maximum(depth, np.float32(0))
    opacity: NDArray[np.float32] = np.float32(1) - np.float32(1) / (np.float32(1) + positive * (1 + positive))
    return opacity


def _brightness(
    seed: int, window: Window, depth: NDArray[np.float32], sunward: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the reflectance of the cloud tops: thicker is brighter, and so are flanks that face the sun."""
    thick = depth * np.float32(1 / _MAX_DEPTH)
    brightness = np.float32(0.42) + np.float32(0.36) * thick * (np.float32(2) - thick)
    brightness += np.float32(0.035) * (depth - sunward)
    brightness += np.float32(0.05) * fractal(key_of(seed, "tops"), window, 26.0, 3, gain=0.6)
    return np.clip(brightness, np.float32(0.22), np.float32(1.05))


def _optical_depth(seed: int, window: Window) -> NDArray[np.float32]:
    """Return the optical depth of cumulus, 0 .. 9, float32 ``[height, width]``."""
    field = np.zeros((window.height, window.width), np.float32)
    for row, col, radius in _puffs(seed, window):
        _add_puff(field, window, row, col, radius)
    np.minimum(field, np.float32(1.3), out=field)
    billows = fractal(key_of(seed, "billows"), window, 100.0, 7, gain=0.70)
    # Billows shape the clouds and fray their edges but make none where there are no puffs.
    field += np.float32(0.62) * billows * np.minimum(field * np.float32(2.6), np.float32(1))
    field -= np.float32(0.30)
    field *= np.float32(_DEPTH_PER_UNIT)
    return np.clip(field, np.float32(0), np.float32(_MAX_DEPTH), out=field)


def _puffs(seed: int, window: Window) -> Iterator[tuple[float, float, float]]:
    """Yield row, column and radius of all puffs that can touch a window, in an order that does not depend on it."""
    for level, (spacing, smallest, largest, chance) in enumerate(_LATTICES):
        reach = int(2.2 * largest) + 1
        cell_rows, cell_cols = (
            np.arange((start - reach) // spacing, (end + reach) // spacing + 1)
            for start, end in ((window.row, window.row_end), (window.col, window.col_end))
        )
        cell_row, cell_col = (cell.ravel() for cell in np.meshgrid(cell_rows, cell_cols, indexing="ij"))
        hashed = hash_2d(key_of(seed, f"cumulus {level}"), cell_row, cell_col)
        draws = np.stack([unit(hashed, salt=salt) for salt in range(1, 5 + 3 * _PUFFS)], -1).astype(np.float64)
        rows, cols = (cell_row + draws[:, 1]) * spacing, (cell_col + draws[:, 2]) * spacing
        radii = smallest + (largest - smallest) * draws[:, 3] ** 2
        for cell in np.flatnonzero(draws[:, 0] < chance * _cover(seed, rows, cols)):
            yield from _cloud(rows[cell], cols[cell], radii[cell], draws[cell, 4:])


def _cover(seed: int, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 0 .. 1.6: clouds come in groups with clear sky between."""
    value = gradient_at(key_of(seed, "cover"), rows / _COVER_WAVELENGTH, cols / _COVER_WAVELENGTH)
    return np.clip(0.75 + 1.7 * value, 0.0, 1.6)


def _cloud(row: float, col: float, radius: float, draws: NDArray[np.float64]) -> Iterator[tuple[float, float, float]]:
    """Yield the puffs of one cloud: a body with smaller ones on its flanks."""
    yield row, col, radius
    for puff in range(_PUFFS):
        down, right, extent = draws[3 * puff : 3 * puff + 3]
        yield row + (down - 0.5) * 1.5 * radius, col + (right - 0.5) * 2.1 * radius, radius * (0.3 + 0.45 * extent)


def _add_puff(field: NDArray[np.float32], window: Window, row: float, col: float, radius: float) -> None:
    """Add (1 - (distance / radius)^2)^2 inside the radius."""
    box = Window(int(row - radius), int(col - radius), int(2 * radius) + 2, int(2 * radius) + 2).intersection(window)
    if box.is_empty:
        return
    down = ((np.arange(box.row, box.row_end) - row) / radius).astype(np.float32)
    right = ((np.arange(box.col, box.col_end) - col) / radius).astype(np.float32)
    bump = np.maximum(np.float32(1) - down[:, None] ** 2 - right[None, :] ** 2, np.float32(0))
    field[box.relative_to(window)] += bump * bump


def _cirrus(seed: int, window: Window) -> NDArray[np.float32]:
    """Return the opacity of cirrus: bands of fibres drawn out by the wind, float32 ``[height, width]``."""
    turn = 0.35 + 0.5 * float(unit(hash_2d(key_of(seed, "wind aloft"), np.zeros(1), np.zeros(1)))[0])
    cosine, sine = np.cos(turn), np.sin(turn)
    keys = [key_of(seed, f"cirrus {part}") for part in range(5)]

    def fibres(rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
        along, across = cols * cosine + rows * sine, rows * cosine - cols * sine
        across = across + 60 * gradient_at(keys[0], rows / 500, cols / 500)
        streaks = gradient_at(keys[1], across / 90, along / 700) + 0.6 * gradient_at(keys[2], across / 36, along / 320)
        sheet = gradient_at(keys[3], rows / 1300, cols / 1300) + 0.3 * gradient_at(keys[4], rows / 420, cols / 420)
        return sheet - 0.22 + 0.35 * streaks * np.clip(sheet + 0.3, 0, 1)

    veil = interpolated(window, 8, fibres)
    veil += np.float32(0.05) * gradient(keys[0] ^ 1, window, 60.0)
    return np.float32(0.38) * smoothstep(0.0, 0.75, veil)


def _surrounding(window: Window, offsets: list[tuple[int, int]]) -> Window:
    rows, cols = [row for row, _ in offsets], [col for _, col in offsets]
    return Window(
        window.row + min(rows),
        window.col + min(cols),
        window.height + max(rows) - min(rows),
        window.width + max(cols) - min(cols),
    )


def _shifted(
    field: NDArray[np.float32], around: Window, window: Window, offset: tuple[int, int]
) -> NDArray[np.float32]:
    part = Window(window.row + offset[0], window.col + offset[1], window.height, window.width)
    return field[part.relative_to(around)]
