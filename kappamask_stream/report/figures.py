"""Numbers as people read them. Pure."""

from __future__ import annotations

_THOUSAND = 1000.0
_MINUTE = 60.0
_TENTH = 0.1
_TEN = 10.0
#: Between a number and its unit, and between groups of digits: a space that does not break.
_THIN = "\u202f"


def size_text(size: int) -> str:
    """Write a number of bytes in decimal units: ``548 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < _THOUSAND:
            return f"{value:.3g}{_THIN}{unit}" if unit != "B" else f"{size}{_THIN}B"
        value /= _THOUSAND
    return f"{value:.3g}{_THIN}GB" if value < _THOUSAND else f"{count_text(round(value))}{_THIN}GB"


def seconds_text(seconds: float) -> str:
    """Write a duration: ``0.43 s``, ``12.3 s``, ``3 min 05 s``."""
    if seconds < _MINUTE:
        return f"{seconds:.{2 if seconds < _TEN else 1}f}{_THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{count_text(minutes)}{_THIN}min {rest:02d}{_THIN}s"


def percent_text(share: float) -> str:
    """Write a share of 1: ``12.3 %``; what is there but would be rounded away is ``< 0.1 %``."""
    value = 100.0 * share
    if 0.0 < value < _TENTH:
        return f"<{_THIN}0.1{_THIN}%"
    return f"{value:.1f}{_THIN}%"


def count_text(count: int) -> str:
    """Write a number with its digits in groups of three: ``120 560 400``."""
    return f"{count:,}".replace(",", _THIN)


def class_text(name: str) -> str:
    """Write a class's name: ``SEMI_TRANSPARENT_CLOUD`` becomes ``Semi-transparent cloud``."""
    return name.replace("SEMI_", "SEMI-").replace("_", " ").strip().capitalize() or name


def time_text(sensing_time: str) -> str:
    """Write a time of file names, ``20221005T115411``: ``5 October 2022, 11:54:11 UTC``."""
    months = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
              "November", "December")  # fmt: skip
    day, _, clock = sensing_time.partition("T")
    return f"{int(day[6:])} {months[int(day[4:6]) - 1]} {day[:4]}, {clock[:2]}:{clock[2:4]}:{clock[4:]} UTC"
