"""What `run.py` has seen, as figures and tables. Reads and writes nothing."""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from figures import IN_WORK, Trend, faults, lead, rate, unfairness

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watch import Sample

#: Share of the time that pools fill and allocators settle in (a server's need some minutes); at least so many seconds.
_WARM_UP, WARM_UP_S = 0.25, 20.0
#: What a trend needs.
_FEWEST_LOOKS = 3
_REFUSED = "ServerOverloadedError"


def judged(seen: dict[str, Any], leftovers: list[str]) -> dict[str, Any]:
    """Turn samples into figures, and say what is not as it should be."""
    begin = seen["began"] + max(WARM_UP_S, _WARM_UP * (seen["ended"] - seen["began"]))
    said = seen["said"]
    last = {name: (lines[-1] if lines else {}) for name, lines in said.items()}
    failures = [f"{name}: {text}" for name, line in last.items() for text in line.get("failures", ["it was killed"])]
    failures += [*seen["failures"], *leftovers]
    minutes, retries = round((seen["ended"] - seen["began"]) / 60, 2), _retries(last)
    looks: list[tuple[float, Sample]] = [look for look in seen["looks"] if look[0] >= begin]
    if len(looks) < _FEWEST_LOOKS:
        few = [f"{len(looks)} looks after the warm-up, {_FEWEST_LOOKS} are needed: give it more --minutes"]
        return {"minutes": minutes, "retries": retries, "faults": failures or few}
    series = {key: [(at, values[key]) for at, values in looks] for key in looks[0][1]}
    paces = rates(said, begin, seen["ended"])
    failures += [f"{name}: no tile was answered" for name, pace in paces.items() if pace == 0]
    latencies = {
        name.rpartition(" ")[2]: [line["latency_s"] for line in lines if "latency_s" in line and line["at"] >= begin]
        for name, lines in said.items()
        if name.startswith("probe")
    }
    memory = {f"{what} of {who}": Trend.of(found) for (what, who), found in series.items() if what.endswith("_mb")}
    counted = {f"{what} of {who}": found for (what, who), found in series.items() if what in {"files", "threads"}}
    waiting = [value for _, value in series["pending", "server"]]
    wrong = faults(
        failures=failures, memory_mb=memory, counted=counted, rates=_equal(paces), pending=waiting,
        least_pending=IN_WORK, latencies_s=latencies,
        refused=sum(causes.get(_REFUSED, 0) for causes in retries.values()),
    )  # fmt: skip
    return {
        "minutes": minutes,
        "cores": os.cpu_count(),
        "tiles_per_s": sum(paces.values()),
        "rates": paces,
        "unfairness": unfairness(_equal(paces)),
        "pending": {"least": min(waiting), "median": statistics.median(waiting), "most": max(waiting)},
        "latency_s": {lane: _quantiles(found) for lane, found in latencies.items()},
        "lead": lead(latencies) if all(latencies.values()) else None,
        "growth": {name: asdict(trend) for name, trend in memory.items()},
        "by_minute": _by_minute(seen["looks"], seen["began"]),
        "counted": {name: [found[0][1], found[-1][1]] for name, found in counted.items()},
        "retries": retries,
        "faults": wrong,
    }


def rates(said: Mapping[str, Sequence[dict[str, Any]]], begin: float, end: float) -> dict[str, float]:
    """Return tiles per second of each client that fills the queue, between two moments."""
    return {
        name: rate([(line["at"], line["answered"]) for line in lines if "answered" in line], begin, end)
        for name, lines in said.items()
        if not name.startswith("probe")
    }


def _equal(paces: Mapping[str, float]) -> list[float]:
    """Return the rates of those that do the same, and should get the same: who sends tiles only."""
    return [pace for name, pace in paces.items() if name.startswith("tiles")]


def _by_minute(looks: Sequence[tuple[float, Sample]], began: float) -> dict[str, list[float]]:
    """Return the memory of each process, the median of each minute from the first: a slope does not show its bends."""
    minutes: dict[int, list[Sample]] = {}
    for at, sample in looks:
        minutes.setdefault(int((at - began) // 60), []).append(sample)
    return {
        f"{what} of {who}": [
            round(statistics.median(sample[what, who] for sample in some), 1) for some in minutes.values()
        ]
        for what, who in looks[0][1]
        if what.endswith("_mb")
    }


def _retries(last: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    return {name: line.get("retries", {}) for name, line in last.items()}


def _change(ends: Sequence[float]) -> str:
    return f"{ends[0]:.0f} - {ends[1]:.0f}"


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    picked = {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in _PICKED} if ordered else {}
    return {"count": len(ordered), **picked}


_PICKED = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))


def show(figures: dict[str, Any]) -> None:
    """Print the tables, where there are any, and the faults."""
    if "growth" in figures:
        _show_tables(figures)
    for fault in figures["faults"]:
        print(f"fault: {fault}")


def _show_tables(figures: dict[str, Any]) -> None:
    heads = (("tiles/s", 9), ("RSS MB", 9), ("MB/h", 9), ("+-", 7), ("rise", 7), ("shared", 9), ("rise", 7))
    print(f"\n{'':<20}{''.join(f'{name:>{width}}' for name, width in heads)}  {'files':<10}{'threads':<10}retries")
    for who in [*figures["retries"], "server"]:
        rss, shared = figures["growth"][f"rss_mb of {who}"], figures["growth"][f"shared_mb of {who}"]
        files, threads = figures["counted"][f"files of {who}"], figures["counted"][f"threads of {who}"]
        pace = f"{figures['rates'][who]:9.3f}" if who in figures["rates"] else " " * 9
        retries = ", ".join(f"{n} {cause}" for cause, n in figures["retries"].get(who, {}).items())
        print(
            f"{who:<20}{pace}{rss['mean']:9.1f}{rss['per_hour']:9.2f}{rss['error']:7.2f}{rss['rise']:7.1f}"
            f"{shared['mean']:9.1f}{shared['rise']:7.1f}  {_change(files):<10}{_change(threads):<10}{retries}"
        )
    print(f"\n{'lane':<20}{'tiles':>9}{'p50 s':>9}{'p95 s':>9}{'max s':>9}")
    for lane, found in figures["latency_s"].items():
        numbers = "".join(f"{found[name]:9.3f}" for name, _ in _PICKED if name in found)
        print(f"{lane:<20}{found['count']:9d}{numbers}")
    least, median, most = (figures["pending"][name] for name in ("least", "median", "most"))
    print(
        f"\n{figures['minutes']} min, {figures['tiles_per_s']:.2f} tiles/s; quickest / slowest of the equal clients "
        f"{figures['unfairness']:.3f}; {least:.0f} to {most:.0f} requests waited, {median:.0f} in the middle"
    )
