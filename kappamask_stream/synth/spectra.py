"""Reflectance of what a scene is made of, and what the atmosphere does to it, per Sentinel-2 band. Numpy only.

Values are typical ones for Central Europe in late summer, of the size found in the USGS and ECOSTRESS spectral
libraries; transmittances and path reflectances are of the size that 6S gives for a mid-latitude summer atmosphere
with an aerosol optical thickness of 0.15.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

#: Bands in the order of every table here; the position is ESA's ``band_id``, except that B8A (8) follows B08 (7).
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


class Material(IntEnum):
    """What a pixel's surface is made of; the value is a row of `REFLECTANCE`."""

    SOIL_BRIGHT = 0
    SOIL_DARK = 1
    CROP = 2
    GRASS = 3
    STUBBLE = 4
    BROADLEAF = 5
    CONIFER = 6
    WATER_CLEAR = 7
    WATER_TURBID = 8
    ASPHALT = 9
    ROOF_TILE = 10
    ROOF_BRIGHT = 11


#: Surface reflectance, float32 ``[material, band]``; B10 sees no ground and is 0.
REFLECTANCE = np.array(
    [
        [0.075, 0.095, 0.130, 0.175, 0.200, 0.220, 0.235, 0.250, 0.265, 0.275, 0, 0.330, 0.290],
        [0.045, 0.055, 0.073, 0.092, 0.108, 0.120, 0.130, 0.143, 0.152, 0.158, 0, 0.200, 0.175],
        [0.018, 0.028, 0.058, 0.032, 0.095, 0.300, 0.385, 0.410, 0.430, 0.430, 0, 0.195, 0.088],
        [0.028, 0.042, 0.075, 0.055, 0.115, 0.255, 0.305, 0.330, 0.350, 0.350, 0, 0.215, 0.115],
        [0.055, 0.073, 0.108, 0.138, 0.175, 0.210, 0.230, 0.255, 0.275, 0.285, 0, 0.320, 0.230],
        [0.014, 0.021, 0.040, 0.021, 0.065, 0.205, 0.260, 0.280, 0.295, 0.295, 0, 0.130, 0.055],
        [0.011, 0.017, 0.028, 0.017, 0.040, 0.115, 0.145, 0.155, 0.165, 0.165, 0, 0.078, 0.035],
        [0.032, 0.029, 0.025, 0.013, 0.010, 0.008, 0.008, 0.006, 0.005, 0.005, 0, 0.003, 0.002],
        [0.045, 0.055, 0.074, 0.048, 0.037, 0.023, 0.021, 0.017, 0.014, 0.012, 0, 0.006, 0.004],
        [0.080, 0.090, 0.102, 0.112, 0.118, 0.125, 0.130, 0.135, 0.142, 0.147, 0, 0.165, 0.150],
        [0.062, 0.072, 0.090, 0.140, 0.160, 0.172, 0.182, 0.200, 0.212, 0.220, 0, 0.260, 0.235],
        [0.230, 0.260, 0.285, 0.300, 0.308, 0.312, 0.315, 0.320, 0.325, 0.325, 0, 0.310, 0.280],
    ],
    np.float32,
)

#: Share of the light that still arrives in the shadow of a cloud: scattered skylight, mostly blue.
SKYLIGHT = np.array([0.40, 0.34, 0.28, 0.24, 0.22, 0.21, 0.20, 0.19, 0.19, 0.18, 0.15, 0.14, 0.12], np.float32)

#: Reflectance of a thick water cloud relative to its reflectance in the visible.
WATER_CLOUD = np.array([1.00, 1.00, 0.99, 0.99, 0.99, 0.99, 0.99, 0.98, 0.97, 0.95, 0.004, 0.66, 0.47], np.float32)

#: Reflectance of cirrus relative to its reflectance in the visible; ice absorbs in B11 and B12.
CIRRUS = np.array([1.02, 1.00, 0.98, 0.97, 0.97, 0.96, 0.96, 0.95, 0.95, 0.95, 0.60, 0.58, 0.44], np.float32)

#: Top of atmosphere: reflectance of the clear air below and around the clouds.
PATH_REFLECTANCE = np.array(
    [0.098, 0.068, 0.041, 0.026, 0.022, 0.018, 0.016, 0.013, 0.012, 0.009, 0.0008, 0.0035, 0.0012], np.float32
)

#: Top of atmosphere: transmittance from the sun to the ground to the sensor, scattering and gases, clear air.
TRANSMITTANCE = np.array([0.72, 0.79, 0.84, 0.87, 0.88, 0.90, 0.92, 0.91, 0.94, 0.42, 0.001, 0.95, 0.93], np.float32)

#: Top of atmosphere: transmittance above a cumulus cloud; most water vapour and aerosol are below it.
TRANSMITTANCE_ABOVE_CLOUD = np.array(
    [0.84, 0.89, 0.91, 0.95, 0.96, 0.97, 0.97, 0.97, 0.98, 0.66, 0.25, 0.98, 0.97], np.float32
)

#: Standard deviation of the sensor's noise as reflectance, at zero signal and per unit of signal.
NOISE_FLOOR, NOISE_PER_SIGNAL = 0.0006, 0.004
