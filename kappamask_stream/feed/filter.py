"""Which products of a feed are wanted. Pure but for the clock, and for files of tiles when it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError
from kappamask_stream.feed.filter_texts import Moment, parse_baseline, parse_moment, parse_satellite, parse_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.feed.types import ProductRef
    from kappamask_stream.feed.within import WithinArea

_ORBITS = range(1, 144)
_WILD = frozenset("*?")
_WHOLE = 100.0


@dataclass(frozen=True, kw_only=True)
class FeedFilter:
    """What products must be; None and empty ask for nothing.

    Attributes
    ----------
    level : ``L1C`` or ``L2A``.
    tiles : tiles without T, ``29UNU``; ``*`` and ``?`` stand for anything and any one character.
    within : an area that they meet.
    masked : another one, of which masks are made: what does not meet it could never be masked.
    max_cloud_cover : percent; a product whose cloud cover the message does not say passes.
    since, until : sensing time, both included; a relative one moves on with the clock.
    satellites : ``S2A``.
    orbits : relative ones.
    min_baseline : (5, 0) for ``05.00``; a product without one in its name passes.
    """

    level: str | None = None
    tiles: frozenset[str] = frozenset()
    within: WithinArea | None = None
    masked: WithinArea | None = None
    max_cloud_cover: float | None = None
    since: Moment | None = None
    until: Moment | None = None
    satellites: frozenset[str] = frozenset()
    orbits: frozenset[int] = frozenset()
    min_baseline: tuple[int, int] | None = field(default=None)

    @classmethod
    def parse(
        cls,
        *,
        level: str | None = None,
        tile: Sequence[str] | None = None,
        tiles_file: str | None = None,
        within: str | None = None,
        cloud_below: float | None = None,
        since: str | None = None,
        until: str | None = None,
        satellite: Sequence[str] | None = None,
        orbit: Sequence[int] | None = None,
        baseline_from: str | None = None,
    ) -> FeedFilter:
        """Read the options of `cli.feed_options`.

        Raises
        ------
        UsageError
            If one of them is not understood, or nothing could pass them.
        """
        if cloud_below is not None and not 0 <= cloud_below <= _WHOLE:
            raise UsageError(f"--cloud-below is {cloud_below:g}: percent from 0 to 100 are expected")
        for number in orbit or ():
            if number not in _ORBITS:
                raise UsageError(f"--orbit is {number}: relative orbits are 1 to 143")
        begin = None if since is None else parse_moment(since, flag="--since", is_end=False)
        end = None if until is None else parse_moment(until, flag="--until", is_end=True)
        now = datetime.now(UTC)
        if begin is not None and end is not None and begin.at(now) > end.at(now):
            raise UsageError(f"--since {since} is later than --until {until}: nothing was sensed between them")
        area = None
        if within is not None:
            from kappamask_stream.feed.within import WithinArea

            area = WithinArea.parse(within)
        return cls(
            level=level, tiles=parse_tiles(tile or (), tiles_file), within=area, max_cloud_cover=cloud_below,
            since=begin, until=end, satellites=frozenset(map(parse_satellite, satellite or ())),
            orbits=frozenset(orbit or ()),
            min_baseline=None if baseline_from is None else parse_baseline(baseline_from),
        )  # fmt: skip

    def reason(self, ref: ProductRef, now: datetime | None = None) -> str | None:
        """Return in words why a product is not wanted; None where it is.

        Parameters
        ----------
        now : what relative times count from; None: the clock.
        """
        return self._of_name(ref) or self._of_time(ref, now) or self._of_scene(ref)

    @cached_property
    def exact_tiles(self) -> frozenset[str]:
        """The tiles that are named without wildcards."""
        return frozenset(tile for tile in self.tiles if not _WILD & set(tile))

    @cached_property
    def _patterns(self) -> frozenset[str]:
        return self.tiles - self.exact_tiles

    def _of_name(self, ref: ProductRef) -> str | None:
        name, tile = ref.name, ref.name.tile_id.removeprefix("T")
        if self.level is not None and name.level != self.level:
            return f"its level is {name.level}, {self.level} is wanted (--level)"
        is_listed = tile in self.exact_tiles or any(fnmatchcase(tile, pattern) for pattern in self._patterns)
        if self.tiles and not is_listed:
            return f"its tile {tile} is none of those that are wanted (--tile)"
        if self.satellites and name.satellite not in self.satellites:
            return f"its satellite is {name.satellite}, wanted: {', '.join(sorted(self.satellites))} (--satellite)"
        if self.orbits and name.relative_orbit not in self.orbits:
            wanted = ", ".join(map(str, sorted(self.orbits)))
            return f"its relative orbit is {name.relative_orbit}, wanted: {wanted} (--orbit)"
        if self.min_baseline is not None and name.baseline is not None:
            major, _, minor = name.baseline.partition(".")
            if (int(major), int(minor)) < self.min_baseline:
                wanted = "{:02d}.{:02d}".format(*self.min_baseline)
                return f"its baseline is {name.baseline}, {wanted} or later is wanted (--baseline-from)"
        return None

    def _of_time(self, ref: ProductRef, now: datetime | None) -> str | None:
        if self.since is None and self.until is None:
            return None
        now = now or datetime.now(UTC)
        sensed = datetime.strptime(ref.name.sensing_time, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        if self.since is not None and sensed < (first := self.since.at(now)):
            return f"it was sensed at {_clock(sensed)}, before {_clock(first)} (--since)"
        if self.until is not None and sensed > (last := self.until.at(now)):
            return f"it was sensed at {_clock(sensed)}, after {_clock(last)} (--until)"
        return None

    def _of_scene(self, ref: ProductRef) -> str | None:
        most, cover = self.max_cloud_cover, ref.cloud_cover
        if most is not None and cover is not None and cover > most:
            return f"its cloud cover is {cover:g} %, at most {most:g} % are wanted (--cloud-below)"
        if self.within is not None and not self.within.is_met_by(ref):
            return "it lies outside the area (--within)"
        if self.masked is not None and not self.masked.is_met_by(ref):
            return "it lies outside the area that is masked (--aoi)"
        return None


def _clock(moment: datetime) -> str:
    return f"{moment.replace(microsecond=0, tzinfo=None).isoformat()}Z"
