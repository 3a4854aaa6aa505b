"""The panels of the picture: each draws one thing into its axes, and tells whether a report has it.

Colours are Okabe and Ito's, which people tell apart whatever colours they see; markers and hatches differ, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kappamask_stream.bench.wording import number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes

    from kappamask_stream.bench.facts import Facts
    from kappamask_stream.bench.types import ServerPoint

_BLUE, _ORANGE, _GREEN = "#0072B2", "#E69F00", "#009E73"
_RED, _SKY, _PURPLE, _GREY = "#D55E00", "#56B4E9", "#CC79A7", "#999999"
#: Width of all bars of one place.
_GROUP = 0.8


def _points(facts: Facts) -> list[ServerPoint]:
    level = facts.report.server
    return [] if level is None else [point for point in level.points if point.tiles]


def _throughput(axes: Axes, facts: Facts) -> None:
    points = _points(facts)
    places = [point.concurrency for point in points]
    axes.plot(places, [point.tiles_per_s for point in points], "o-", color=_BLUE, label="server alone")
    if facts.tiles_per_s:
        axes.axhline(facts.tiles_per_s, color=_RED, linestyle="--", label="end to end")
    axes.set(title="Throughput", ylabel="tiles/s", ylim=(0, None))
    _over_concurrency(axes, places)
    axes.legend(loc="best")


def _latency(axes: Axes, facts: Facts) -> None:
    points = _points(facts)
    places = [point.concurrency for point in points]
    curves = (("p99_s", "^", _RED, "p99"), ("p95_s", "s", _ORANGE, "p95"), ("p50_s", "o", _BLUE, "median"))
    for name, marker, colour, label in curves:
        values = [1000 * getattr(point.latency, name) for point in points]
        axes.plot(places, values, f"{marker}-", color=colour, label=label)
    axes.set(title="Latency of a request", ylabel="ms", ylim=(0, None))
    _over_concurrency(axes, places)
    axes.legend(loc="upper left")


def _request(axes: Axes, facts: Facts) -> None:
    points = [point for point in _points(facts) if _parts(point)]
    places = range(len(points))
    below = [0.0] * len(points)
    styles = ((_GREY, "//"), (_ORANGE, ""), (_SKY, ".."), (_BLUE, ""), (_PURPLE, "\\\\"))
    for name, (colour, hatch) in zip(("queue", "in", "compute", "out", "way and client"), styles, strict=True):
        values = [1000 * _parts(point)[name] for point in points]
        axes.bar(places, values, bottom=below, color=colour, hatch=hatch, edgecolor="white", label=name, width=0.7)
        below = [low + value for low, value in zip(below, values, strict=True)]
    axes.set_xticks(list(places), [str(point.concurrency) for point in points])
    axes.set(title="Where a request's time goes", xlabel="requests in flight", ylabel="ms, mean")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper left")


def _parts(point: ServerPoint) -> dict[str, float]:
    """Take a request's mean time apart; empty where the server did not tell, or the mean was not noted."""
    told = {"queue": point.queue_s, "in": point.input_s, "compute": point.compute_s, "out": point.output_s}
    parts = {name: seconds for name, seconds in told.items() if seconds is not None}
    if len(parts) < len(told) or point.latency.mean_s is None:
        return {}
    return parts | {"way and client": max(0.0, point.latency.mean_s - sum(parts.values()))}


def _batches(axes: Axes, facts: Facts) -> None:
    series: dict[str, Mapping[int, int]] = {}
    if facts.best is not None and facts.best.batch_sizes:
        series[f"server alone, {facts.best.concurrency} in flight"] = facts.best.batch_sizes
    if facts.report.end_to_end is not None and facts.report.end_to_end.batch_sizes:
        series["end to end"] = facts.report.end_to_end.batch_sizes
    sizes = sorted({size for counts in series.values() for size in counts})
    shares = {
        label: [100 * size * counts.get(size, 0) / sum(s * n for s, n in counts.items()) for size in sizes]
        for label, counts in series.items()
    }
    _side_by_side(axes, [str(size) for size in sizes], shares)
    axes.set(title="Batches that the server forms", xlabel="tiles in a batch", ylabel="% of the tiles")
    axes.set_ylim(0, 130)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper left")


def _has_batches(facts: Facts) -> bool:
    levels = (facts.best, facts.report.end_to_end)
    return any(level is not None and level.batch_sizes for level in levels)


def _gpu(axes: Axes, facts: Facts) -> None:
    points = [point for point in _points(facts) if point.gpu is not None and point.gpu.utilisation is not None]
    places = [point.concurrency for point in points]
    axes.plot(
        places, [100 * (p.gpu.utilisation or 0) for p in points if p.gpu], "o-", color=_GREEN, label="server alone"
    )
    real = facts.report.end_to_end
    if real is not None and real.gpu is not None and real.gpu.utilisation is not None:
        axes.axhline(100 * real.gpu.utilisation, color=_RED, linestyle="--", label="end to end")
    axes.set(title="GPU busy", ylabel="% of the time", ylim=(0, 104))
    _over_concurrency(axes, places)
    axes.legend(loc="lower right")


def _has_gpu(facts: Facts) -> bool:
    return any(point.gpu is not None and point.gpu.utilisation is not None for point in _points(facts))


def _stages(axes: Axes, facts: Facts) -> None:
    client, real = facts.report.client, facts.report.end_to_end
    series: dict[str, Mapping[str, float]] = {}
    if client is not None:
        series["client alone"] = client.stages
    if real is not None:
        series["end to end"] = {stage: seconds / real.products for stage, seconds in real.stages.items()}
    names = list(dict.fromkeys(name for stages in series.values() for name in stages))
    values = {label: [stages.get(name, 0.0) for name in names] for label, stages in series.items()}
    _side_by_side(axes, names, values, is_horizontal=True)
    axes.set(title="Stages of a product", xlabel="s busy, summed over threads and requests")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")


def _ratios(axes: Axes, facts: Facts) -> None:
    bars = _measured_ratios(facts)
    places = range(len(bars))
    axes.barh(places, [ratio for _, ratio in bars], color=[_BLUE, _SKY, _RED][: len(bars)], height=0.6)
    axes.axvline(1, color="black", linewidth=1.2)
    for place, (_, ratio) in zip(places, bars, strict=True):
        axes.text(ratio, place, f" {ratio:.2f}", va="center")
    axes.set_yticks(list(places), [name for name, _ in bars])
    axes.set(title="Against the floors", xlabel="measured / floor; 1 is the floor")
    axes.set_xlim(0, 1.2 * max(1.0, *(ratio for _, ratio in bars)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _measured_ratios(facts: Facts) -> list[tuple[str, float]]:
    bars = []
    client = facts.report.client
    if client is not None:
        if facts.cpu_to_floor is not None:
            bars.append(("client,\nCPU", facts.cpu_to_floor))
        bars.append(("client,\nwall time", client.wall_s / client.floor.wall_s))
    if facts.wall_s is not None and facts.floor_s is not None:
        bars.append(("end to end,\nwall time", facts.wall_s / facts.floor_s))
    return bars


#: In their order: what draws, and whether the report has it.
PANELS: Sequence[tuple[Callable[[Axes, Facts], None], Callable[[Facts], bool]]] = (
    (_throughput, lambda facts: bool(_points(facts))),
    (_latency, lambda facts: bool(_points(facts))),
    (_request, lambda facts: any(_parts(point) for point in _points(facts))),
    (_batches, _has_batches),
    (_gpu, _has_gpu),
    (_stages, lambda facts: facts.report.client is not None or facts.report.end_to_end is not None),
    (_ratios, lambda facts: bool(_measured_ratios(facts))),
)


def _over_concurrency(axes: Axes, places: Sequence[int]) -> None:
    """Label the points' own places: numbers of requests double from one to the next."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value))))
    axes.set_xlabel("requests in flight")


def _side_by_side(
    axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[float]], *, is_horizontal: bool = False
) -> None:
    """Draw a bar per name and series, those of a name side by side."""
    width = _GROUP / max(1, len(series))
    draw = axes.barh if is_horizontal else axes.bar
    styles = ((_BLUE, ""), (_ORANGE, "//"))
    for index, ((label, values), (colour, hatch)) in enumerate(zip(series.items(), styles, strict=False)):
        places = [place + (index - (len(series) - 1) / 2) * width for place in range(len(names))]
        draw(places, values, width, color=colour, hatch=hatch, edgecolor="white", label=label)
    (axes.set_yticks if is_horizontal else axes.set_xticks)(range(len(names)), list(names))
