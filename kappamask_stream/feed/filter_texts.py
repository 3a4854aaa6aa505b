"""The texts that a filter is written in: moments, tiles, satellites, baselines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError
from kappamask_stream.sources.tile_ids import with_zone_padded

if TYPE_CHECKING:
    from collections.abc import Sequence

_AGO = re.compile(r"(?P<count>\d{1,5})\s*(?P<unit>[hdw])", re.IGNORECASE | re.ASCII)
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_TILE = re.compile(r"T?(?P<tile>[0-9A-Z*?]{1,5})", re.ASCII)
#: Python would read it as the week's Monday.
_WEEK = re.compile(r"\d{4}-?W", re.IGNORECASE | re.ASCII)
_SATELLITE = re.compile(r"S2[A-Z]", re.ASCII)
_BASELINE = re.compile(r"N?(?P<major>\d{2})\.?(?P<minor>\d{2})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A point in time: fixed, or so long before now; one of the two is given."""

    fixed: datetime | None = None
    ago: timedelta | None = None

    def at(self, now: datetime) -> datetime:
        """Return the point in time, as it is counted from `now`."""
        return self.fixed or now - (self.ago or timedelta())


def parse_moment(text: str, *, flag: str, is_end: bool) -> Moment:
    """Read ``2026-07-01``, ``2026-07-01T10:30``, ``2026-07-01T10:30:00+02:00`` (UTC without an offset), or ``30d``.

    Parameters
    ----------
    is_end : True: a day means its last moment, else its first.

    Raises
    ------
    UsageError
        If it is nothing of these; names `flag`.
    """
    bare = text.strip()
    ago = _AGO.fullmatch(bare)
    if ago is not None:
        return Moment(ago=int(ago["count"]) * _UNITS[ago["unit"].lower()])
    try:
        found = datetime.fromisoformat("" if _WEEK.match(bare) else bare)
        if is_end and _is_day(bare):
            found = datetime.combine(found, time.max)
        return Moment(fixed=(found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{flag} is {text[:80]!r}: a day (2026-07-01), a time (2026-07-01T10:30, UTC) or how long ago (30d, 12h, "
            "4w) is expected"
        ) from error


def parse_tiles(tiles: Sequence[str], file: str | None) -> frozenset[str]:
    """Read tiles and patterns of them, those of a file too.

    Raises
    ------
    UsageError
        If one is no tile, or the file cannot be read or names none.
    """
    found = {_tile(text, "--tile") for text in tiles}
    if file is not None:
        listed = {_tile(line, f"--tiles-file {file}") for line in _lines(file)}
        if not listed:
            raise UsageError(f"--tiles-file {file} names no tile: give one a line, 29UNU or 29U*")
        found |= listed
    return frozenset(found)


def parse_satellite(text: str) -> str:
    """Read ``S2A``.

    Raises
    ------
    UsageError
        If it is no satellite of Sentinel-2.
    """
    name = text.strip().upper()
    if _SATELLITE.fullmatch(name) is None:
        raise UsageError(f"--satellite is {text[:80]!r}: S2A, S2B, S2C or a later one is expected")
    return name


def parse_baseline(text: str) -> tuple[int, int]:
    """Read ``05.00``, ``0500`` or ``N0500``.

    Raises
    ------
    UsageError
        If it is no processing baseline.
    """
    found = _BASELINE.fullmatch(text.strip().upper())
    if found is None:
        raise UsageError(f"--baseline-from is {text[:80]!r}: a processing baseline such as 05.00 is expected")
    return int(found["major"]), int(found["minor"])


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _tile(text: str, said_by: str) -> str:
    upper = text.strip().upper()
    found = _TILE.fullmatch(upper)
    tile = with_zone_padded(found["tile"]) if found else ""
    if len(tile) != len("29UNU") and "*" not in tile:
        raise UsageError(f"{said_by}: {text[:80]!r} is no tile: 29UNU, or 29U* for all that begin so, is expected")
    return tile


def _lines(file: str) -> list[str]:
    try:
        content = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:  # no text, a null byte, an unknown user's home
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--tiles-file {file[:200]} cannot be read: {reason}") from error
    return [line.strip() for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
