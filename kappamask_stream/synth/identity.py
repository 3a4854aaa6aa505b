"""What a synthetic product is called, where it lies and when it was sensed: all decided by level, size and seed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform

from kappamask_stream.synth.scene import Level, Scene
from kappamask_stream.synth.sun import sun_angles

SATELLITE, BASELINE, RELATIVE_ORBIT = "S2A", "05.11", 22
#: Resolutions of the products, metres.
RESOLUTIONS = (10, 20, 60)

_FIRST_SENSING = datetime(2024, 8, 20, 10, 10, 31, tzinfo=UTC)
_DAYS = 45
_PROCESSING = timedelta(hours=3, minutes=49, seconds=29)
_FIRST_ABSOLUTE_ORBIT, _ORBITS_PER_DAY = 47868, 14.3


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a product lies.

    Attributes
    ----------
    tile_id : Latitude band Z is not used by the military grid: no real product is ever called so.
    epsg : 32601 to 32660 (north) and 32701 to 32760 (south): UTM zones.
    ulx, uly : upper-left corner, metres. By default in south-west Germany, so that the sun's angles are those of a
        real place.
    """

    tile_id: str = "T32ZZZ"
    epsg: int = 32632
    ulx: int = 399960
    uly: int = 5300040

    @property
    def zone(self) -> int:
        """Number of the UTM zone, 1 to 60."""
        return self.epsg % 100

    @property
    def is_north(self) -> bool:
        """True north of the equator."""
        return self.epsg < 32700  # noqa: PLR2004 - EPSG's own numbers


SYNTHETIC = Place()


@dataclass(frozen=True)
class Identity:
    """Names, place and time of one synthetic product.

    Attributes
    ----------
    level : ``L1C`` or ``L2A``.
    size : height and width in 10 m pixels.
    seed : of the scene; also decides the day (20 August to 3 October 2024) and so where the sun stands.
    place : where it lies.
    """

    level: Level
    size: int
    seed: int
    place: Place = SYNTHETIC

    @property
    def sensing(self) -> datetime:
        """Start of the data take, UTC: about 10:30 by the sun."""
        earlier = timedelta(minutes=24 * (self.place.zone - SYNTHETIC.zone))
        return _FIRST_SENSING + timedelta(days=self.seed % _DAYS) - earlier

    @property
    def created(self) -> datetime:
        """Time in the product's discriminator, UTC: another one for each seed of a day."""
        return self.sensing + _PROCESSING + timedelta(seconds=self.seed // _DAYS % 36000)

    @property
    def product(self) -> str:
        """Name of the product without ``.SAFE``."""
        baseline, sensing, created = BASELINE.replace(".", ""), compact(self.sensing), compact(self.created)
        return f"{SATELLITE}_MSI{self.level}_{sensing}_N{baseline}_R{RELATIVE_ORBIT:03d}_{self.place.tile_id}_{created}"

    @property
    def absolute_orbit(self) -> int:
        """Number of the orbit since launch."""
        return _FIRST_ABSOLUTE_ORBIT + round((self.sensing - _FIRST_SENSING).days * _ORBITS_PER_DAY)

    @property
    def granule(self) -> str:
        """Name of the folder under GRANULE."""
        return f"{self.level}_{self.place.tile_id}_A{self.absolute_orbit:06d}_{compact(self.sensing)}"

    @property
    def prefix(self) -> str:
        """Beginning of every image file's name."""
        return f"{self.place.tile_id}_{compact(self.sensing)}"

    def image_path(self, band: str, gsd_m: int) -> str:
        """Return the path of an image file inside the product, without ``.jp2``."""
        folder = f"GRANULE/{self.granule}/IMG_DATA"
        if self.level == "L1C":
            return f"{folder}/{self.prefix}_{band}"
        return f"{folder}/R{gsd_m}m/{self.prefix}_{band}_{gsd_m}m"

    @property
    def preview_path(self) -> str:
        """Path of the preview image inside the product, without ``.jp2``."""
        return f"GRANULE/{self.granule}/QI_DATA/{self.prefix}_PVI"

    def transform(self, gsd_m: float) -> Affine:
        """Return the affine transform of a resolution, metres."""
        return Affine(gsd_m, 0, self.place.ulx, 0, -gsd_m, self.place.uly)

    @cached_property
    def footprint(self) -> tuple[tuple[float, float], ...]:
        """Latitude and longitude of the corners: upper left, upper right, lower right, lower left, degrees."""
        left, top = self.place.ulx, self.place.uly
        right, bottom = left + 10 * self.size, top - 10 * self.size
        return self._geographic([left, right, right, left], [top, top, bottom, bottom])

    @cached_property
    def sun(self) -> tuple[float, float]:
        """Zenith and azimuth of the sun at the centre, degrees: in the metadata, and what casts the shadows."""
        ((latitude, longitude),) = self._geographic([self.place.ulx + 5 * self.size], [self.place.uly - 5 * self.size])
        zenith, azimuth = sun_angles(self.sensing, latitude, longitude)
        return round(zenith, 6), round(azimuth, 6)

    def scene(self) -> Scene:
        """Return the scene that the product shows."""
        zenith, azimuth = self.sun
        return Scene(seed=self.seed, size=self.size, level=self.level, sun_zenith_deg=zenith, sun_azimuth_deg=azimuth)

    def _geographic(self, eastings: list[float], northings: list[float]) -> tuple[tuple[float, float], ...]:
        longitudes, latitudes = transform(CRS.from_epsg(self.place.epsg), CRS.from_epsg(4326), eastings, northings)[:2]
        return tuple(zip(latitudes, longitudes, strict=True))


def compact(when: datetime) -> str:
    """Return a time as in names of files, ``20240820T101031``."""
    return when.strftime("%Y%m%dT%H%M%S")


def utc(when: datetime) -> str:
    """Return a time as in the XML, ``2024-08-20T10:10:31.000Z``."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.000Z")
