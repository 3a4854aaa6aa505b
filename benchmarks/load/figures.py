"""What the samples of a load say: growth with its error, fairness, lanes; and whether that is as it should be. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Of csmask: tiles that its instances work on at once, and as many are their next batches.
IN_WORK = 16
#: Of a model as `models build` configures it: what a lane's queue holds.
QUEUE = 256
#: Memory may have grown by this, of what there is and in MB, whichever is more, before it counts: allocators keep some.
MOST_GROWTH, MOST_GROWTH_MB = 0.02, 3.0
#: Files and threads come and go with pools; so many more at the end than at the beginning are growth.
MOST_MORE = 4
#: Throughput of the quickest client by that of the slowest.
MOST_UNFAIR = 1.5
#: A tile of the backlog waits at least so many times as long as an interactive one.
LEAST_AHEAD = 3.0
#: Standard errors that a slope must be above nothing to count.
_SURE = 2.0


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A line through samples, by least squares.

    Attributes
    ----------
    per_hour : its slope.
    error : standard error of it, were the samples independent; memory stays where it is, so the true one is larger.
    mean : of the samples.
    rise : of the high-water mark: the most of the second half over the most of the first. Heaps are trimmed now and
        then and fill again, which is a slope of any kind, but no growth.
    """

    per_hour: float
    error: float
    mean: float
    rise: float

    @classmethod
    def of(cls, samples: Sequence[tuple[float, float]]) -> Trend:
        """Fit to (seconds, value); three samples or more at different times."""
        times, values = (np.array(column, dtype=np.float64) for column in zip(*samples, strict=True))
        hours = (times - times[0]) / 3600
        spread = float(((hours - hours.mean()) ** 2).sum())
        slope = float(((hours - hours.mean()) * (values - values.mean())).sum()) / spread
        left = values - values.mean() - slope * (hours - hours.mean())
        variance = float((left**2).sum()) / (len(values) - 2)
        half = len(values) // 2
        return cls(
            per_hour=slope, error=(variance / spread) ** 0.5, mean=float(values.mean()),
            rise=float(values[half:].max() - values[:half].max()),
        )  # fmt: skip

    def grows(self, share: float, least: float) -> bool:
        """Tell whether it surely slopes up and rose by more than a share of its mean; at least by `least`."""
        return self.per_hour > _SURE * self.error and self.rise > max(share * self.mean, least)


def more_at_the_end(samples: Sequence[tuple[float, float]]) -> float:
    """Return by how much the smallest value of the last quarter is above the smallest of the first.

    What is never closed raises the floor; files of shared memory come and go with the requests in flight.
    """
    quarter = max(1, len(samples) // 4)
    values = [value for _, value in samples]
    return min(values[-quarter:]) - min(values[:quarter])


def rate(counts: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Return answers per second between two moments, from a running count."""
    inside = [(at, count) for at, count in counts if begin <= at <= end]
    if len(inside) < 2:
        return 0.0
    (first_at, first), (last_at, last) = inside[0], inside[-1]
    return (last - first) / (last_at - first_at)


def unfairness(rates: Sequence[float]) -> float:
    """Return the largest rate by the smallest; infinite where somebody got nothing."""
    return max(rates) / min(rates) if min(rates) > 0 else float("inf")


def faults(
    *,
    failures: Sequence[str],
    memory_mb: Mapping[str, Trend],
    counted: Mapping[str, Sequence[tuple[float, float]]],
    rates: Sequence[float],
    pending: Sequence[float],
    least_pending: int,
    refused: int,
    latencies_s: Mapping[str, Sequence[float]],
) -> list[str]:
    """Say what is not as it should be; nothing where all is well.

    Parameters
    ----------
    failures : what clients said.
    memory_mb : of each process, after the warm-up.
    counted : files and threads of each, after the warm-up.
    rates : tiles per second of each client that should get as much as the others.
    pending : requests that waited in the server, at each look.
    least_pending : fewer than these waiting, and the server's next batches are not full.
    refused : requests that the server has turned away: none, and the queue was never full.
    latencies_s : of single tiles in the lanes ``interactive`` and ``backlog``.
    """
    found = list(failures)
    for name, trend in memory_mb.items():
        if trend.grows(MOST_GROWTH, MOST_GROWTH_MB):
            found.append(f"{name} grows: {trend.rise:.1f} MB more at the most, {trend.per_hour:.1f} MB/h")
    for name, samples in counted.items():
        if (more := more_at_the_end(samples)) > MOST_MORE:
            found.append(f"{name}: {more:.0f} more at the end")
    if (worst := unfairness(rates)) > MOST_UNFAIR:
        found.append(f"the quickest client got {worst:.2f} times what the slowest got: at most {MOST_UNFAIR}")
    if refused == 0:
        found.append(f"the queue was never full: no request was refused, at most {max(pending):.0f} waited")
    if (least := min(pending)) < least_pending:
        found.append(f"the queue ran low: {least:.0f} requests waited, {least_pending} are the next batches")
    if not all(latencies_s.get(lane) for lane in ("interactive", "backlog")):
        found.append("no tile was answered in one of the lanes: a longer run is needed")
    elif (ahead := lead(latencies_s)) < LEAST_AHEAD:
        found.append(f"a tile of the backlog waited {ahead:.1f} times as long as an interactive one: {LEAST_AHEAD}")
    return found


def too_slow(tiles_per_s: float, waiting: int, patience_s: float) -> str | None:
    """Say that a full queue takes longer than clients wait for an answer; None where it does not.

    Parameters
    ----------
    waiting : requests in the server while its queue is full.
    patience_s : of a client: `infer_timeout_s`.
    """
    if tiles_per_s * patience_s >= waiting:
        return None
    return (
        f"this machine answers {tiles_per_s:.2f} tiles/s: with {waiting} tiles in the server each would time out after "
        f"infer_timeout_s ({patience_s:g} s); at least {waiting / patience_s:.2f} tiles/s are needed: end what else "
        "runs on it, or set KAPPAMASK_INFER_TIMEOUT_S"
    )


def lead(latencies_s: Mapping[str, Sequence[float]]) -> float:
    """Return how many times as long as an interactive tile one of the backlog takes, in the middle."""
    return statistics.median(latencies_s["backlog"]) / statistics.median(latencies_s["interactive"])
