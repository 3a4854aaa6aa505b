"""When each stage was busy, as rows of a chart. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kappamask_stream.result import Timeline

#: Columns of a row: more would not be seen on a screen.
_BINS = 240
#: Heights in the chart's own units, the row's highest value at the top.
HEIGHT = 100
_STEPS = (1, 2, 5)

_MEANING = {
    "index": "finding codestream tiles",
    "read": "reading compressed bytes",
    "decode": "decoding JPEG 2000",
    "cut": "cutting tiles",
    "infer": "waiting for answers",
    "mosaic": "putting answers together",
    "close": "finishing the mask, up to this page",
}


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage of the chart.

    Attributes
    ----------
    name, meaning : for people.
    seconds : busy, summed over threads and requests.
    most : threads or requests that were busy at the same moment, at most.
    first, last : seconds between which it was busy.
    path : outline of the filled shape, SVG path data; x from 0 to 240 over the whole time, y from 100 (none) to 0
        (the row's highest average over a column).
    """

    name: str
    meaning: str
    seconds: float
    most: int
    first: float
    last: float
    path: str


def stage_rows(timeline: Timeline) -> list[StageRow]:
    """Return a row per stage that was busy, in the order in which they began."""
    length = max([timeline.seconds, 1e-6, *(end for spans in timeline.spans.values() for _, end in spans)])
    rows = [_row(name, spans, length) for name, spans in timeline.spans.items() if spans]
    return sorted(rows, key=lambda row: (row.first, row.last))


def ticks(seconds: float, most: int = 6) -> list[float]:
    """Return round numbers of seconds from 0 on, at most `most` of them, none beyond `seconds`."""
    step = 0.001
    while True:
        for factor in _STEPS:
            if seconds / (step * factor) < most:
                return [round(step * factor * i, 6) for i in range(int(seconds / (step * factor)) + 1)]
        step *= 10


def busy(spans: Sequence[tuple[float, float]], length: float, bins: int = _BINS) -> NDArray[np.float64]:
    """Return how many were busy at once in each of `bins` equal parts of the time, on average; float64 ``[bins]``."""
    # Of each part: the seconds of all spans up to its end, less those up to its beginning.
    starts, ends = np.sort(np.array(spans, np.float64).reshape(-1, 2), axis=0).T
    edges = np.linspace(0.0, length, bins + 1)
    until = _passed(edges, starts) - _passed(edges, ends)
    return np.maximum(np.diff(until) * bins / length, 0.0)


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """Return how many spans share a moment, at most; one that ends when another begins does not."""
    moments = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate((change for _, change in moments), initial=0))


def _passed(edges: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, per edge, the sum over sorted times of what lies between them and the edge."""
    before = np.searchsorted(times, edges)
    sums = np.concatenate([[0.0], np.cumsum(times)])
    passed: NDArray[np.float64] = before * edges - sums[before]
    return passed


def _row(name: str, spans: Sequence[tuple[float, float]], length: float) -> StageRow:
    levels = busy(spans, length)
    peak = float(levels.max())
    heights = np.round(HEIGHT * (1.0 - levels / peak), 1) if peak else np.full(len(levels), float(HEIGHT))
    steps = "".join(f"V{height:g}H{column + 1}" for column, height in enumerate(heights))
    return StageRow(
        name=name,
        meaning=_MEANING.get(name, name),
        seconds=sum(end - start for start, end in spans),
        most=most_at_once(spans),
        first=min(start for start, _ in spans),
        last=max(end for _, end in spans),
        path=f"M0 {HEIGHT}{steps}V{HEIGHT}Z",
    )
