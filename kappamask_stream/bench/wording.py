"""Numbers as people read them, on the page, in the verdict and in the plot."""

from __future__ import annotations

_DIGITS = 100
#: From here on three digits are a thousand.
_THOUSAND = 999.5
_LEAST_SHARE = 0.0005


def number(value: float) -> str:
    """Three digits, or all before the point, in groups of three."""
    if abs(value) >= _DIGITS or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share of 1 as ``71 %``; one that is small but not 0 keeps a digit, or is ``< 0.1 %``."""
    if 0 < share < _LEAST_SHARE:
        return "< 0.1 %"
    return f"{share:.0%}".replace("%", " %") if share == 0 or abs(share) >= 0.01 else f"{share:.1%}".replace("%", " %")  # noqa: PLR2004 - a percent


def data(size: float) -> str:
    """Return bytes with a unit, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < _THOUSAND:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{number(size)} PB"


def bits_per_s(bytes_per_s: float) -> str:
    """Return a rate in bits, as networks are named."""
    rate = 8 * bytes_per_s
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if rate < _THOUSAND:
            return f"{rate:.3g} {unit}"
        rate /= 1000
    return f"{number(rate)} Tbit/s"


def duration(seconds: float) -> str:
    """Return seconds, milliseconds where there is less than one."""
    return f"{number(1000 * seconds)} ms" if 1000 * seconds < _THOUSAND else f"{number(seconds)} s"


def counted(count: float, one: str, many: str | None = None) -> str:
    """Return ``1 core``, ``2 cores``."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"
