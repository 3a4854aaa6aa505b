"""A synthetic Sentinel-2 scene as a pure function of its seed and the pixel coordinates. Numpy only.

``render`` makes any window by itself: the same pixels come out however the scene is cut, in whatever order.
Reflectance is made at 10 m for every band and averaged to 20 m and 60 m, as a sensor would see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from kappamask_stream.grid import Window
from kappamask_stream.synth import spectra
from kappamask_stream.synth.clouds import Clouds, Sky, clouds
from kappamask_stream.synth.landscape import Ground, Site, ground
from kappamask_stream.synth.noise import gradient, hash_2d, key_of, unit, white

if TYPE_CHECKING:
    from numpy.typing import NDArray

Level = Literal["L1C", "L2A"]

#: Windows and sizes are multiples of this many 10 m pixels, so that 20 m and 60 m pixels stay whole.
ALIGNMENT = 6

#: DN of a reflectance of 1, and what is added to every DN since processing baseline 04.00.
QUANTIFICATION, DN_SHIFT = 10000, 1000
#: DN per unit of aerosol optical thickness and per cm of water vapour.
ATMOSPHERE_QUANTIFICATION = 1000
_MAX_DN = 2**15 - 1

#: Where truth changes class: opacity of cumulus and of cirrus, and share of the sunlight left in a shadow.
CLOUD_OPACITY, THIN_OPACITY, CIRRUS_OPACITY, SHADOW_LIGHT = 0.55, 0.15, 0.06, 0.60

#: KappaMask's classes.
CLEAR, SHADOW, SEMI_TRANSPARENT, CLOUD, MISSING = 1, 2, 3, 4, 5

#: Resolutions, metres, at which each band is in a product.
BANDS_OF: dict[str, dict[str, tuple[int, ...]]] = {
    "L1C": {
        **dict.fromkeys(("B02", "B03", "B04", "B08"), (10,)),
        **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), (20,)),
        **dict.fromkeys(("B01", "B09", "B10"), (60,)),
    },
    "L2A": {
        **dict.fromkeys(("B02", "B03", "B04"), (10, 20, 60)),
        "B08": (10,),
        **dict.fromkeys(("B01", "B05", "B06", "B07", "B8A", "B11", "B12"), (20, 60)),
        "B09": (60,),
    },
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What decides every pixel of a scene.

    Attributes
    ----------
    seed : any integer of at least 0.
    size : height and width in 10 m pixels, a multiple of 6.
    level : ``L1C`` (top of atmosphere) or ``L2A`` (surface).
    sun_zenith_deg, sun_azimuth_deg : of the sun, degrees; the azimuth counts clockwise from north.
    """

    seed: int
    size: int
    level: Level
    sun_zenith_deg: float
    sun_azimuth_deg: float

    @property
    def cumulus_base_m(self) -> float:
        """Height of the base of all cumulus, 850 .. 1350 m."""
        return 850.0 + 500.0 * self._draw("cumulus base")

    @property
    def sky(self) -> Sky:
        """The part of the scene above the ground."""
        return Sky(
            seed=self.seed,
            base_m=self.cumulus_base_m,
            sun_zenith_deg=self.sun_zenith_deg,
            sun_azimuth_deg=self.sun_azimuth_deg,
        )

    @property
    def site(self) -> Site:
        """The part of the scene on the ground."""
        return Site(
            seed=self.seed,
            size=self.size,
            sun_zenith_deg=self.sun_zenith_deg,
            sun_azimuth_deg=self.sun_azimuth_deg,
        )

    def nodata(self, window: Window, factor: int) -> NDArray[np.bool_]:
        """Return where the swath ends, for a window of pixels of `factor` x 10 m: decided by pixel centres.

        The edge is a straight line that leans like a descending orbit's. A coarse pixel whose fine pixels are all
        without data is without data too, and the same with data, because a half-plane is convex.
        """
        lean = 0.14 + 0.08 * self._draw("swath lean")
        edge = (0.88 + 0.05 * self._draw("swath edge")) * self.size
        rows = (np.arange(window.row, window.row_end) + 0.5) * factor - self.size / 2
        cols = (np.arange(window.col, window.col_end) + 0.5) * factor
        return cols[None, :] > edge - lean * rows[:, None]

    def _draw(self, name: str) -> float:
        return float(unit(hash_2d(key_of(self.seed, name), np.zeros(1), np.zeros(1)))[0])


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The pixels of one window.

    Attributes
    ----------
    bands : (name, metres) -> DN, uint16 ``[height, width]`` at that resolution; includes AOT and WVP for L2A.
    scl : metres -> Sen2Cor's scene classification, uint8; empty for L1C.
    tci : metres -> true colour, uint8 ``[3, height, width]``.
    truth : KappaMask's classes at 10 m, uint8 ``[height, width]``.
    """

    bands: dict[tuple[str, int], NDArray[np.uint16]]
    scl: dict[int, NDArray[np.uint8]]
    tci: dict[int, NDArray[np.uint8]]
    truth: NDArray[np.uint8]


def render(scene: Scene, window: Window) -> Rendered:
    """Make all pixels of a window, given in 10 m pixels and aligned to `ALIGNMENT`.

    Raises
    ------
    ValueError
        If the window is not aligned.
    """
    if any(value % ALIGNMENT for value in (window.row, window.col, window.height, window.width)):
        raise ValueError(f"{window} is not aligned to {ALIGNMENT} pixels")
    land, sky = ground(scene.site, window), clouds(scene.sky, window)
    nodata = {gsd: scene.nodata(_coarser(window, gsd), gsd // 10) for gsd in (10, 20, 60)}
    bands: dict[tuple[str, int], NDArray[np.uint16]] = {}
    for band, resolutions in BANDS_OF[scene.level].items():
        signal = _reflectance(scene.level, spectra.BANDS.index(band), land, sky)
        for gsd, coarse in _pyramid(signal, resolutions):
            bands[band, gsd] = _quantise(scene, band, gsd, coarse, window, nodata[gsd])
    truth = _truth(sky, nodata[10])
    scl: dict[int, NDArray[np.uint8]] = {}
    if scene.level == "L2A":
        bands.update(_atmosphere(scene, window, land, nodata))
        scl = {gsd: _scene_classification(gsd, land, sky, bands, nodata[gsd]) for gsd in (20, 60)}
    resolutions = (10, 20, 60) if scene.level == "L2A" else (10,)
    return Rendered(bands=bands, scl=scl, tci={gsd: _true_colour(bands, gsd) for gsd in resolutions}, truth=truth)


def _coarser(window: Window, gsd_m: int) -> Window:
    factor = gsd_m // 10
    return Window(window.row // factor, window.col // factor, window.height // factor, window.width // factor)


def _pyramid(signal: NDArray[np.float32], resolutions: tuple[int, ...]) -> list[tuple[int, NDArray[np.float32]]]:
    """Return (metres, averaged signal) for the resolutions asked for; 60 m is made of 20 m."""
    levels = [(10, signal)]
    if resolutions[-1] >= 20:  # noqa: PLR2004
        levels.append((20, _mean_of_blocks(signal, 2)))
    if resolutions[-1] >= 60:  # noqa: PLR2004
        levels.append((60, _mean_of_blocks(levels[1][1], 3)))
    return [level for level in levels if level[0] in resolutions]


def _mean_of_blocks(signal: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    # Added one by one: a reduction may group its terms differently for another width.
    total = signal[::factor, ::factor].copy()
    for row in range(factor):
        for col in range(factor):
            if row or col:
                total += signal[row::factor, col::factor]
    total *= np.float32(1 / factor**2)
    return total


def _reflectance(level: Level, band: int, land: Ground, sky: Clouds) -> NDArray[np.float32]:
    """Return the reflectance of one band at 10 m: ground, shadow, cumulus, then cirrus on top; float32."""
    spectrum = np.ascontiguousarray(spectra.REFLECTANCE[:, band])
    signal = spectrum[land.background]
    signal += land.share * (spectrum[land.cover] - signal)
    signal *= land.brightness
    skylight = spectra.SKYLIGHT[band]
    signal *= skylight + (np.float32(1) - skylight) * sky.light
    cloud = sky.brightness * spectra.WATER_CLOUD[band]
    if level == "L1C":
        signal *= spectra.TRANSMITTANCE[band]
        signal += spectra.PATH_REFLECTANCE[band]
        cloud = cloud * spectra.TRANSMITTANCE_ABOVE_CLOUD[band] + np.float32(0.4) * spectra.PATH_REFLECTANCE[band]
    cloud -= signal
    cloud *= sky.opacity
    signal += cloud
    veil = spectra.CIRRUS[band] * np.float32(0.75) - signal
    veil *= sky.cirrus
    signal += veil
    return signal


def _quantise(
    scene: Scene, band: str, gsd_m: int, signal: NDArray[np.float32], window: Window, nodata: NDArray[np.bool_]
) -> NDArray[np.uint16]:
    """Add the sensor's noise and return DN; pixels with data are never 0."""
    # Averaging the 10 m bands to 20 m and 60 m leaves less noise; so does the larger pixel of a 60 m band.
    noise = white(key_of(scene.seed, f"{band} {gsd_m}"), _coarser(window, gsd_m))
    noise *= np.float32(spectra.NOISE_FLOOR) + np.float32(spectra.NOISE_PER_SIGNAL) * signal
    noise *= np.float32((10 / gsd_m) ** 0.5)
    noise += signal
    noise *= np.float32(QUANTIFICATION)
    noise += np.float32(DN_SHIFT)
    counts = np.clip(np.rint(noise), 1, _MAX_DN).astype(np.uint16)
    counts[nodata] = 0
    return counts


def _truth(sky: Clouds, nodata: NDArray[np.bool_]) -> NDArray[np.uint8]:
    truth = np.full(nodata.shape, CLEAR, np.uint8)
    truth[sky.light < SHADOW_LIGHT] = SHADOW
    truth[(sky.opacity > THIN_OPACITY) | (sky.cirrus > CIRRUS_OPACITY)] = SEMI_TRANSPARENT
    truth[sky.opacity > CLOUD_OPACITY] = CLOUD
    truth[nodata] = MISSING
    return truth


def _atmosphere(
    scene: Scene, window: Window, land: Ground, nodata: dict[int, NDArray[np.bool_]]
) -> dict[tuple[str, int], NDArray[np.uint16]]:
    """Return AOT and WVP: smooth fields; water vapour is less above high ground."""
    haze = np.float32(0.14) + np.float32(0.05) * gradient(key_of(scene.seed, "aerosol"), window, 2200.0)
    vapour = np.float32(1.8) + np.float32(0.35) * gradient(key_of(scene.seed, "vapour"), window, 1700.0)
    vapour -= np.float32(0.0006) * land.elevation
    fields: dict[tuple[str, int], NDArray[np.uint16]] = {}
    for name, values in (("AOT", haze), ("WVP", vapour)):
        for gsd, coarse in _pyramid(values, (10, 20, 60)):
            counts = np.rint(coarse * np.float32(ATMOSPHERE_QUANTIFICATION)).astype(np.uint16)
            counts[nodata[gsd]] = 0
            fields[name, gsd] = counts
    return fields


def _scene_classification(
    gsd_m: int,
    land: Ground,
    sky: Clouds,
    bands: dict[tuple[str, int], NDArray[np.uint16]],
    nodata: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Return Sen2Cor's classes from the truth: 3 shadow, 4 vegetation, 5 bare, 6 water, 8/9 cloud, 10 cirrus."""
    fields = (sky.opacity, sky.cirrus, sky.light, land.water.astype(np.float32))
    opacity, cirrus, light, water = (_pyramid(field, (gsd_m,))[0][1] for field in fields)
    red, infrared = (bands[band, gsd_m].astype(np.float32) - np.float32(DN_SHIFT) for band in ("B04", "B8A"))
    classes = np.where(infrared - red > np.float32(0.4) * (infrared + red), np.uint8(4), np.uint8(5))
    classes[water > 0.5] = 6  # noqa: PLR2004
    classes[light < SHADOW_LIGHT] = 3
    classes[cirrus > CIRRUS_OPACITY] = 10
    classes[opacity > THIN_OPACITY] = 8
    classes[opacity > 0.8] = 9  # noqa: PLR2004
    classes[nodata] = 0
    return classes


def _true_colour(bands: dict[tuple[str, int], NDArray[np.uint16]], gsd_m: int) -> NDArray[np.uint8]:
    """Return ESA's true colour image: reflectance 0 .. 0.3558 to 1 .. 255, 0 without data; uint8 ``[3, h, w]``."""
    image = np.empty((3, *bands["B04", gsd_m].shape), np.uint8)
    for channel, band in enumerate(("B04", "B03", "B02")):
        counts = bands[band, gsd_m]
        scaled = (counts.astype(np.float32) - np.float32(DN_SHIFT)) * np.float32(255 / 3558)
        image[channel] = np.clip(np.rint(scaled), 1, 255).astype(np.uint8)
        image[channel][counts == 0] = 0
    return image
