"""Names of products, files and masks. Names come from strangers: they are checked before they become paths. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kappamask_stream.errors import ContractError, ProductError

#: Product naming convention of the Sentinel-2 Products Specification Document; Planetary Computer leaves the
#: baseline out. Satellites are not listed: there will be more.
_PRODUCT = re.compile(
    r"(?P<satellite>S2[A-Z])_MSI(?P<level>L1C|L2A)_(?P<sensing>\d{8}T\d{6})"
    r"(?:_N(?P<baseline>\d{4}))?_R(?P<orbit>\d{3})_T(?P<tile>\d{2}[A-Z]{3})_(?P<discriminator>[0-9A-Z]{1,32})",
    re.ASCII,
)
#: ``T29UNU_20221005T115411_B02_10m`` (L2A), ``T46RER_20210908T042701_B02`` (L1C); L2A of 2017 puts ``L2A_`` before.
_BAND_STEM = re.compile(r"(?:.*_)?(?P<band>B\d[\dA]|AOT|WVP|SCL)(?:_(?P<gsd>10|20|60)m)?", re.ASCII)
_GSD_FOLDER = re.compile(r"R(10|20|60)m", re.ASCII)
#: Each band's own resolution, which L1C file names leave out.
_OWN_GSD_M = {
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}
#: Baseline in the names of products that were made with Sen2Cor outside ESA's processing.
_OWN_MAKING = 9999
_SUFFIX = re.compile(r"[A-Za-z0-9]{1,16}", re.ASCII)
_TIME_LENGTH = 15
#: Image files of the format since December 2016 begin with the product's tile and time.
_SCENE_OF_FILE = re.compile(r"(?:L2A_)?(?P<tile>T\d{2}[A-Z]{3})_(?P<sensing>\d{8}T\d{6})_.*", re.ASCII)
#: A product's longest path has 150 characters, a path of most systems at most 4096 bytes.
_LONGEST_PATH = 1024
#: Enough for every message with two paths in it.
_LONGEST_SHOWN = 12_000


class NamesMask(Protocol):
    """What a mask is named after: a `Product` or a `ProductName`."""

    @property
    def level(self) -> str:
        """``L1C`` or ``L2A``."""

    @property
    def tile_id(self) -> str:
        """``T29UNU``."""

    @property
    def sensing_time(self) -> str:
        """``20221005T115411``."""


@dataclass(frozen=True, kw_only=True)
class ProductName:
    """The fields of a product's name.

    Attributes
    ----------
    text : the name in capitals, without ``.SAFE``.
    satellite : ``S2A``.
    level : ``L1C`` or ``L2A``.
    sensing_time : start of the datatake, ``20221005T115411``.
    baseline : ``04.00``; None where the name leaves it out.
    relative_orbit : 1 to 143.
    tile_id : ``T29UNU``.
    discriminator : tells apart products of one tile and time, ``20221005T164454``.
    """

    text: str
    satellite: str
    level: str
    sensing_time: str
    baseline: str | None
    relative_orbit: int
    tile_id: str
    discriminator: str


def parse_product_name(text: str) -> ProductName:
    """Read a product name, with or without ``.SAFE``, in any case.

    Raises
    ------
    ProductError
        If it is none; so a name that passes may become part of a path.
    """
    bare = text.strip().upper().removesuffix(".SAFE")
    # Some letters of other alphabets become Latin ones when they are capitalised.
    found = _PRODUCT.fullmatch(bare) if text.isascii() else None
    if found is None or not is_time(found["sensing"]):
        raise ProductError(
            f"{text[:200]!r} is no Sentinel-2 product name "
            "(S2A_MSIL2A_<sensing time>_N<baseline>_R<orbit>_T<tile>_<discriminator>)"
        )
    baseline = found["baseline"]
    return ProductName(
        text=bare,
        satellite=found["satellite"],
        level=found["level"],
        sensing_time=found["sensing"],
        baseline=f"{baseline[:2]}.{baseline[2:]}" if baseline else None,
        relative_orbit=int(found["orbit"]),
        tile_id="T" + found["tile"],
        discriminator=found["discriminator"],
    )


def same_scene(one: ProductName, other: ProductName) -> bool:
    """Tell whether two products are of one scene: they differ, if at all, in how and when it was processed."""
    return _scene(one) == _scene(other)


def version_order(name: ProductName) -> tuple[int, str, str]:
    """Return what orders the products of one scene: of two that differ, the one with more supersedes the other.

    The higher processing baseline comes first, then the later discriminator, which tells when the product was made;
    of those that tell none, the name. A product whose name has no baseline comes before all that have one, and so does
    ``N9999``: it marks what users made themselves with Sen2Cor, and says nothing of age.
    """
    baseline = -1 if name.baseline is None else int(name.baseline.replace(".", ""))
    return -1 if baseline == _OWN_MAKING else baseline, name.discriminator, name.text


def mask_name(product: NamesMask, suffix: str, gsd_m: int) -> str:
    """Name a mask as km_predict does, without extension: ``L2A_T29UNU_20221005T115411_KZ_10m``.

    Raises
    ------
    ContractError
        If the model's suffix or ground sampling distance cannot be part of a file name.
    """
    if _SUFFIX.fullmatch(suffix) is None or gsd_m <= 0:
        raise ContractError(
            f"the model's contract names masks _{suffix[:40]}_{gsd_m}m: the suffix must be 1 to 16 letters or digits, "
            "the ground sampling distance positive"
        )
    return f"{product.level}_{product.tile_id}_{product.sensing_time}_{suffix}_{gsd_m}m"


def checked_path(path: str, *, said_by: str) -> str:
    """Return a relative POSIX path in its shortest form (no leading ``./``), if it stays inside its product.

    Parameters
    ----------
    said_by : who gives the path, for the message: a file and field, or a place.

    Raises
    ------
    ProductError
        If it is empty, absolute, holds ``..``, a backslash or a character that cannot be printed, or has more than 1024
        characters.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    is_inside = not path.startswith("/") and parts and ".." not in parts
    if not is_inside or "\\" in path or not path.isprintable() or len(path) > _LONGEST_PATH:
        raise ProductError(f"{said_by}: {path[:200]!r} is no path inside a product")
    return "/".join(parts)


def printable(text: str) -> str:
    """Return a text that people may be shown: one line, which steers no terminal; the middle of a long one left out.

    What cannot be printed - control characters, line breaks, bytes that are no text - is escaped, as in Python.
    """
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[: _LONGEST_SHOWN // 2]} … {text[-_LONGEST_SHOWN // 4 :]}"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def band_of_file(path: str) -> tuple[str, int] | None:
    """Return band and ground sampling distance in metres that an image file's path stands for.

    None for other files, also for the true colour image (TCI): it is a preview in three 8-bit components, no band.
    """
    folder, _, file = path.rpartition("/")
    found = _BAND_STEM.fullmatch(file.rpartition(".")[0])
    if found is None:
        return None
    in_folder = _GSD_FOLDER.fullmatch(folder.rpartition("/")[2])
    said = found["gsd"] or (in_folder[1] if in_folder else None)
    gsd_m = int(said) if said else _OWN_GSD_M.get(found["band"])
    return None if gsd_m is None else (found["band"], gsd_m)


def scene_of_file(path: str) -> tuple[str, str] | None:
    """Return tile and sensing time that an image file's name begins with; None where it begins with none."""
    found = _SCENE_OF_FILE.fullmatch(path.rpartition("/")[2])
    return None if found is None else (found["tile"], found["sensing"])


def _scene(name: ProductName) -> tuple[object, ...]:
    return name.satellite, name.level, name.sensing_time, name.relative_orbit, name.tile_id


def is_time(text: str) -> bool:
    """Tell whether a text is a time as names have it, ``20221005T115411``, which a calendar knows."""
    if len(text) != _TIME_LENGTH:
        return False
    try:
        datetime.strptime(text, "%Y%m%dT%H%M%S")  # noqa: DTZ007 - only tried
    except ValueError:
        return False
    return True
