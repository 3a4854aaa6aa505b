"""The ground: relief, water, woods, farmland, towns and roads, for any window of 10 m pixels. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.grid import Window
from kappamask_stream.synth.noise import fractal, gradient, hash_2d, key_of, smoothstep, unit, white
from kappamask_stream.synth.parcels import Parcels, parcels
from kappamask_stream.synth.spectra import Material

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RELIEF_WAVELENGTH, _RELIEF_OCTAVES, _RELIEF_M = 2000.0, 8, 420.0
_LAKE_LEVEL = -0.62
_TOWN_CELL = 420
_PIXEL_M = 10.0


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the surface of a window is made of, all arrays ``[height, width]``.

    Attributes
    ----------
    cover, background : uint8 values of `Material`.
    share : float32, 0 .. 1: share of `cover` in the pixel, the rest is `background`.
    brightness : float32 factor on the reflectance: texture and hill shading.
    water : bool.
    elevation : float32, metres.
    """

    cover: NDArray[np.uint8]
    background: NDArray[np.uint8]
    share: NDArray[np.float32]
    brightness: NDArray[np.float32]
    water: NDArray[np.bool_]
    elevation: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Site:
    """What decides the ground of a scene: its seed, its size in 10 m pixels and where the sun stands, degrees."""

    seed: int
    size: int
    sun_zenith_deg: float
    sun_azimuth_deg: float


def ground(site: Site, window: Window) -> Ground:
    """Make the ground of a window of 10 m pixels."""
    elevation, shading = _relief(site, window)
    farm = parcels(site.seed, window)
    layers = _Layers(farm, _ground_texture(site.seed, window, farm))
    _plant_woods(site.seed, window, elevation, layers)
    _build_towns(site.seed, window, elevation, layers)
    # Minor roads are mostly hidden below their trees.
    layers.put(farm.road, Material.ASPHALT, Material.GRASS, 0.35)
    water = _flood(site, window, elevation, layers)
    return Ground(
        cover=layers.cover,
        background=layers.background,
        share=layers.share,
        brightness=np.where(water, layers.texture, layers.texture * shading),
        water=water,
        elevation=elevation,
    )


class _Layers:
    """The ground being painted: later layers cover earlier ones."""

    def __init__(self, farm: Parcels, texture: NDArray[np.float32]) -> None:
        self.cover, self.background, self.share = farm.cover, farm.background, farm.share
        self.texture = texture

    def put(self, where: NDArray[np.bool_], cover: Material, background: Material, share: float) -> None:
        self.cover[where] = cover
        self.background[where] = background
        self.share[where] = share


def _relief(site: Site, window: Window) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return elevation in metres and the brightness of slopes relative to flat land, both float32."""
    padded = Window(window.row, window.col, window.height + 1, window.width + 1)
    key = key_of(site.seed, "relief")
    height = fractal(key, padded, _RELIEF_WAVELENGTH, _RELIEF_OCTAVES, gain=0.5)
    height *= np.float32(_RELIEF_M)
    down = (height[1:, :-1] - height[:-1, :-1]) * np.float32(1 / _PIXEL_M)
    right = (height[:-1, 1:] - height[:-1, :-1]) * np.float32(1 / _PIXEL_M)
    zenith, azimuth = np.deg2rad(site.sun_zenith_deg), np.deg2rad(site.sun_azimuth_deg)
    # Lambert's cosine relative to flat ground, for small slopes: 1 - tan(zenith) * slope towards the sun.
    towards_sun = right * np.float32(np.sin(azimuth)) - down * np.float32(np.cos(azimuth))
    shading = np.float32(1) - np.float32(0.9 * np.tan(zenith)) * towards_sun
    return np.ascontiguousarray(height[:-1, :-1]), np.clip(shading, np.float32(0.45), np.float32(1.6))


def _ground_texture(seed: int, window: Window, farm: Parcels) -> NDArray[np.float32]:
    texture = fractal(key_of(seed, "soil"), window, 96.0, 4, gain=0.6)
    texture *= np.float32(0.10)
    texture += np.float32(0.025) * white(key_of(seed, "grain"), window)
    texture += farm.brightness
    return texture


def _plant_woods(seed: int, window: Window, elevation: NDArray[np.float32], layers: _Layers) -> None:
    woods = fractal(key_of(seed, "woods"), window, 480.0, 7, gain=0.72)
    woods += elevation * np.float32(0.0016)
    inside = woods > np.float32(0.34)
    conifers = gradient(key_of(seed, "conifers"), window, 210.0)
    conifers += elevation * np.float32(0.002)
    layers.put(inside & (conifers <= np.float32(0.15)), Material.BROADLEAF, Material.GRASS, 0.95)
    layers.put(inside & (conifers > np.float32(0.15)), Material.CONIFER, Material.BROADLEAF, 0.85)
    crowns = np.float32(1) + np.float32(0.13) * white(key_of(seed, "crowns"), window)
    crowns += np.float32(0.10) * gradient(key_of(seed, "stands"), window, 14.0)
    np.copyto(layers.texture, crowns, where=inside)


def _build_towns(seed: int, window: Window, elevation: NDArray[np.float32], layers: _Layers) -> None:
    density = _town_density(seed, window)
    if not density.any():
        return
    density += np.float32(0.3) * gradient(key_of(seed, "suburbs"), window, 22.0) * (density > 0)
    density -= np.maximum(elevation - np.float32(150), np.float32(0)) * np.float32(0.006)
    rows = np.arange(window.row, window.row_end)[:, None]
    cols = np.arange(window.col, window.col_end)[None, :]
    lot = hash_2d(key_of(seed, "lots"), rows // 2, cols // 2)
    kind = unit(lot)
    town = (density > np.float32(0.28)) & (unit(lot, salt=1) < density * np.float32(1.5))
    streets = (density > np.float32(0.3)) & ((rows % 11 == 0) | (cols % 9 == 0))
    layers.put(town, Material.ROOF_TILE, Material.GRASS, 0.65)
    layers.put(town & (kind < np.float32(0.30)), Material.ASPHALT, Material.GRASS, 0.7)
    layers.put(town & (kind > np.float32(0.58)), Material.BROADLEAF, Material.GRASS, 0.6)
    layers.put(town & (kind > np.float32(0.985)), Material.ROOF_BRIGHT, Material.ASPHALT, 0.8)
    layers.put(streets, Material.ASPHALT, Material.GRASS, 0.75)
    built = town | streets
    layers.texture[built] = np.float32(0.85) + np.float32(0.3) * unit(lot, salt=2)[built]


def _town_density(seed: int, window: Window) -> NDArray[np.float32]:
    """Return 0 outside towns rising to 1 in their centres; one town at most per cell of a jittered lattice."""
    density = np.zeros((window.height, window.width), np.float32)
    key = key_of(seed, "towns")
    reach = 60
    for cell_row in range((window.row - reach) // _TOWN_CELL, (window.row_end + reach) // _TOWN_CELL + 1):
        for cell_col in range((window.col - reach) // _TOWN_CELL, (window.col_end + reach) // _TOWN_CELL + 1):
            hashed = hash_2d(key, np.array([cell_row]), np.array([cell_col]))
            chance, down, right, extent = (float(unit(hashed, salt=salt)[0]) for salt in range(4))
            radius = 12 + 44 * extent**3
            if chance < 0.55:  # noqa: PLR2004
                _add_bump(density, window, (cell_row + down) * _TOWN_CELL, (cell_col + right) * _TOWN_CELL, radius)
    return density


def _add_bump(field: NDArray[np.float32], window: Window, row: float, col: float, radius: float) -> None:
    """Raise `field` to 1 - (distance / radius)^2 around a point, where that is more."""
    box = Window(int(row - radius), int(col - radius), int(2 * radius) + 2, int(2 * radius) + 2).intersection(window)
    if box.is_empty:
        return
    down = (np.arange(box.row, box.row_end) - row) / radius
    right = (np.arange(box.col, box.col_end) - col) / radius
    bump = (1 - down[:, None] ** 2 - right[None, :] ** 2).astype(np.float32)
    part = field[box.relative_to(window)]
    np.maximum(part, bump, out=part)


def _flood(site: Site, window: Window, elevation: NDArray[np.float32], layers: _Layers) -> NDArray[np.bool_]:
    """Fill basins, put in the scene's own lake and let its river run; return where the water is."""
    seed = site.seed
    ripple = gradient(key_of(seed, "shore"), window, 40.0)
    basins = elevation * np.float32(1 / _RELIEF_M) + np.float32(0.03) * ripple < np.float32(_LAKE_LEVEL)
    lake = np.zeros((window.height, window.width), np.float32)
    place = hash_2d(key_of(seed, "lake"), np.arange(2), np.zeros(1))
    down, right = (0.2 + 0.6 * float(u) for u in unit(place))
    radius = min(110.0, site.size / 9)
    _add_bump(lake, window, down * site.size, right * site.size, radius)
    lake += np.float32(0.55) * fractal(key_of(seed, "bays"), window, radius, 5) * (lake > 0)
    clear = basins | (lake > np.float32(0.25))
    river = _river(site, window)
    layers.put(smoothstep(2.0, 1.0, river) > 0, Material.BROADLEAF, Material.GRASS, 0.7)
    turbid = (river < np.float32(1)) & ~clear
    layers.put(clear, Material.WATER_CLEAR, Material.WATER_TURBID, 0.8)
    layers.put(turbid, Material.WATER_TURBID, Material.WATER_CLEAR, 0.75)
    water = clear | turbid
    wind = np.float32(1) + np.float32(0.12) * gradient(key_of(seed, "wind"), window, 180.0)
    np.copyto(layers.texture, wind, where=water)
    return water


def _river(site: Site, window: Window) -> NDArray[np.float32]:
    """Return the distance to the middle of the river in units of half its width, float32.

    The river is the zero line of a plane through the scene's centre, bent by noise: it crosses every scene once.
    """
    key = key_of(site.seed, "river")
    turn = float(unit(hash_2d(key, np.zeros(1), np.zeros(1)))[0]) * np.pi
    rows = np.arange(window.row, window.row_end) - site.size / 2
    cols = np.arange(window.col, window.col_end) - site.size / 2
    across = (rows[:, None] * np.sin(turn) + cols[None, :] * np.cos(turn)).astype(np.float32)
    across += np.float32(150) * gradient(key, window, 640.0)
    across += np.float32(34) * gradient(key + 1, window, 150.0)
    across += np.float32(2) * gradient(key + 2, window, 17.0)
    width = np.float32(5.5) + np.float32(2.5) * gradient(key + 3, window, 300.0)
    distance: NDArray[np.float32] = np.abs(across) / width
    return distance
