"""Where the sun stands: declination and hour angle after Spencer (1971), good to about 0.1 degrees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def sun_angles(when: datetime, latitude: float, longitude: float) -> tuple[float, float]:
    """Return zenith and azimuth of the sun in degrees; the azimuth counts clockwise from north.

    Parameters
    ----------
    when : time in UTC.
    latitude, longitude : degrees, north and east positive.
    """
    hours = when.hour + when.minute / 60 + when.second / 3600
    year_angle = 2 * math.pi / 365 * (when.timetuple().tm_yday - 1 + (hours - 12) / 24)
    declination = _series(year_angle, (0.006918, -0.399912, 0.070257, -0.006758, 0.000907, -0.002697, 0.00148))
    equation_of_time_min = 229.18 * _series(year_angle, (0.000075, 0.001868, -0.032077, -0.014615, -0.040849, 0, 0))
    hour_angle = math.radians(15 * (hours - 12 + equation_of_time_min / 60) + longitude)
    phi = math.radians(latitude)
    up = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(hour_angle)
    east = -math.cos(declination) * math.sin(hour_angle)
    north = math.cos(phi) * math.sin(declination) - math.sin(phi) * math.cos(declination) * math.cos(hour_angle)
    return math.degrees(math.acos(up)), math.degrees(math.atan2(east, north)) % 360


def _series(angle: float, coefficients: tuple[float, ...]) -> float:
    constant, *pairs = coefficients
    return constant + sum(
        pairs[2 * k] * math.cos((k + 1) * angle) + pairs[2 * k + 1] * math.sin((k + 1) * angle) for k in range(3)
    )
