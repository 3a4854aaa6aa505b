"""Two reports side by side: which figures changed beyond the noise, and whether they may be compared at all. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from kappamask_stream.bench.differences import new_failures, surroundings, told, work
from kappamask_stream.bench.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kappamask_stream.bench.types import BenchReport

Better = Literal["higher", "lower"]
Change = Literal["better", "worse", "same", "new", "gone", "floor moved"]
#: Share of a figure that is taken for noise where nobody says otherwise.
NOISE = 0.05
#: The ends of a distribution rest on few samples: so many times that.
_TAIL = 2.0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a report.

    Attributes
    ----------
    level, name, unit : what it is.
    value : as measured.
    better : which way it should go.
    noise : times the usual share that are taken for noise.
    is_gated : True for what ``--fail-above`` looks at: throughput, CPU time, latency and memory.
    floor : what `value` is a ratio to; None where it is none.
    """

    level: str
    name: str
    unit: str
    value: float
    better: Better = "lower"
    noise: float = 1.0
    is_gated: bool = True
    floor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure in both reports.

    Attributes
    ----------
    figure : of the second report; of the first, where it is gone.
    before, after : values; None where a report has none.
    change : share of `before` by which it is more; None where there is nothing to compare with.
    verdict : in words: better or worse only beyond the noise; of a ratio neither where its floor moved on the same
        machine, since a lower floor makes a ratio higher that cost no more.
    """

    figure: Figure
    before: float | None
    after: float | None
    change: float | None
    verdict: Change

    @property
    def worse_by(self) -> float:
        """Share of `before` by which it got worse; 0 where it did not, infinite where it was 0 before."""
        if self.verdict == "floor moved":
            return 0.0
        if self.change is None:
            return math.inf if self.verdict == "worse" else 0.0
        return max(0.0, self.change if self.figure.better == "lower" else -self.change)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two reports.

    Attributes
    ----------
    figures : all that either has, in the order of the levels.
    differences : in words, what of machine, versions and work is not the same.
    unlike : those of them with which no figure of one report can be held against the other's: model, product,
        transport, settings.
    new_failures : what failed in the second report and did not in the first.
    noise : share that was taken for noise.
    """

    figures: Sequence[Compared]
    differences: Sequence[str]
    unlike: Sequence[str]
    new_failures: Sequence[str]
    noise: float

    def worse_than(self, share: float) -> list[Compared]:
        """Return gated figures that got worse by more than a share."""
        return [found for found in self.figures if found.figure.is_gated and found.worse_by > share]

    @property
    def gone(self) -> list[str]:
        """Levels that are not measured any more."""
        measured = {found.figure.level for found in self.figures if found.after is not None}
        return [level for level in dict.fromkeys(found.figure.level for found in self.figures) if level not in measured]

    @property
    def gone_figures(self) -> list[Compared]:
        """Gated figures that are not measured any more, of levels that are: points of the server's that are missing."""
        gone = [found for found in self.figures if found.verdict == "gone" and found.figure.is_gated]
        return [found for found in gone if found.figure.level not in self.gone]


def compare(before: BenchReport, after: BenchReport, *, noise: float = NOISE) -> Comparison:
    """Compare two reports.

    Parameters
    ----------
    noise : share of a figure below which a change is taken for noise; twice that for percentiles above the median.
    """
    old = {(figure.level, figure.name): figure for figure in figures_of(before)}
    new = {(figure.level, figure.name): figure for figure in figures_of(after)}
    keys = [*new, *(key for key in old if key not in new)]
    order = {level: place for place, level in enumerate(("server", "client", "end-to-end"))}
    keys.sort(key=lambda key: order[key[0]])  # stable: within a level as they were
    one, other = before.environment, after.environment
    is_one_machine = (one.cpu, one.cores) == (other.cpu, other.cores)
    unlike = tuple(told(work(before, after)))
    return Comparison(
        figures=tuple(_compared(old.get(key), new.get(key), noise, is_one_machine=is_one_machine) for key in keys),
        differences=(*unlike, *told(surroundings(before, after))),
        unlike=unlike,
        new_failures=tuple(new_failures(before, after)),
        noise=noise,
    )


def _compared(old: Figure | None, new: Figure | None, noise: float, *, is_one_machine: bool) -> Compared:
    figure = new or old
    assert figure is not None  # noqa: S101 - for the type checker: a key is of one of them
    if old is None or new is None:
        verdict: Change = "new" if old is None else "gone"
        return Compared(
            figure=figure,
            before=None if old is None else old.value,
            after=None if new is None else new.value,
            change=None,
            verdict=verdict,
        )
    change = None if old.value == 0 else (new.value - old.value) / old.value
    verdict = "same"
    if (new.value != 0) if change is None else abs(change) > noise * figure.noise:
        verdict = "better" if (new.value > old.value) == (figure.better == "higher") else "worse"
    if is_one_machine and old.floor and new.floor and abs(new.floor - old.floor) > noise * old.floor:
        verdict = "floor moved"
    return Compared(figure=figure, before=old.value, after=new.value, change=change, verdict=verdict)


def figures_of(report: BenchReport) -> Iterator[Figure]:
    """Return what of a report can be compared."""
    yield from _server(report)
    yield from _client(report)
    yield from _end_to_end(report)


def _server(report: BenchReport) -> Iterator[Figure]:
    facts = Facts(report=report)
    if report.server is None:
        return
    figure = partial(Figure, level="server")
    if facts.reached_tiles_per_s is not None:
        yield figure(name="most tiles/s", unit="tiles/s", value=facts.reached_tiles_per_s, better="higher")
    for point in report.server.points:
        if not point.tiles:
            continue
        at = f"at {point.concurrency} in flight"
        yield figure(name=f"tiles/s {at}", unit="tiles/s", value=point.tiles_per_s, better="higher")
        yield figure(name=f"latency p50 {at}", unit="ms", value=1000 * point.latency.p50_s)
        yield figure(name=f"latency p99 {at}", unit="ms", value=1000 * point.latency.p99_s, noise=_TAIL)
        yield figure(name=f"client's CPU for a tile {at}", unit="ms", value=1000 * point.client_cpu_s / point.tiles)
        if point.gpu is not None and point.gpu.energy_j is not None:
            energy = point.gpu.energy_j / point.tiles
            yield figure(name=f"energy for a tile {at}", unit="J", value=energy, is_gated=False)


def _client(report: BenchReport) -> Iterator[Figure]:
    level = report.client
    if level is None:
        return
    figure = partial(Figure, level="client")
    yield figure(name="CPU of a product", unit="s", value=level.cpu_s)
    if (ratio := Facts(report=report).cpu_to_floor) is not None:
        yield figure(name="CPU / decode floor", unit="", value=ratio, floor=level.floor.cpu_s)
    yield figure(name="decode floor, CPU", unit="s", value=level.floor.cpu_s, is_gated=False)
    yield figure(name="wall time of a product", unit="s", value=level.wall_s)
    yield figure(name="decoded", unit="Mpx/s", value=level.megapixels_per_s, better="higher")
    yield figure(name="event loop late, p99", unit="ms", value=1000 * level.lag_p99_s, noise=_TAIL, is_gated=False)
    if level.peak_rss_bytes is not None:
        yield figure(name="peak memory", unit="MB", value=level.peak_rss_bytes / 1e6)


def _end_to_end(report: BenchReport) -> Iterator[Figure]:
    level, facts = report.end_to_end, Facts(report=report)
    if level is None:
        return
    figure = partial(Figure, level="end-to-end")
    yield figure(name="products an hour", unit="", value=level.products_per_hour, better="higher")
    if facts.floor_s is not None and facts.wall_s is not None:
        ratio = facts.wall_s / facts.floor_s
        yield figure(name="wall time / floor", unit="", value=ratio, is_gated=False, floor=facts.floor_s)
    yield figure(name="CPU of a product, client", unit="s", value=level.client_cpu_s / level.products)
    if facts.server_cpu_s is not None:
        yield figure(name="CPU of a product, server", unit="s", value=facts.server_cpu_s)
    write_ms = 1000 * level.write_s / level.products
    yield figure(name="last answer to closed files", unit="ms", value=write_ms, noise=_TAIL, is_gated=False)
    yield figure(name="event loop late, p99", unit="ms", value=1000 * level.lag_p99_s, noise=_TAIL, is_gated=False)
    if level.peak_rss_bytes is not None:
        yield figure(name="peak memory", unit="MB", value=level.peak_rss_bytes / 1e6)
    if level.gpu is not None and level.gpu.energy_j is not None:
        yield figure(name="GPU energy a product", unit="J", value=level.gpu.energy_j / level.products, is_gated=False)
