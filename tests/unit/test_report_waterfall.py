"""Rows of the waterfall against a plain sum, and numbers as people read them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.report import figures
from kappamask_stream.report.waterfall import busy, most_at_once, stage_rows, ticks
from kappamask_stream.result import Timeline

SPANS = st.lists(
    st.tuples(st.floats(0, 9), st.floats(0, 1)).map(lambda pair: (pair[0], pair[0] + pair[1])), min_size=1, max_size=30
)


@given(spans=SPANS)
def test_what_was_busy_adds_up(spans: list[tuple[float, float]]) -> None:
    levels = busy(spans, 10.0, bins=40)
    expected = [sum(max(0.0, min(end, (n + 1) / 4) - max(start, n / 4)) for start, end in spans) * 4 for n in range(40)]
    assert np.allclose(levels, expected, atol=1e-6)
    assert levels.sum() / 4 == pytest.approx(sum(end - start for start, end in spans), abs=1e-6)


@given(spans=SPANS)
def test_most_at_once_is_found(spans: list[tuple[float, float]]) -> None:
    expected = max(sum(other[0] <= start < other[1] for other in spans) for start, _ in spans)
    assert most_at_once(spans) == expected


def test_rows_come_in_the_order_of_their_beginning() -> None:
    timeline = Timeline(spans={"infer": [(2, 5), (3, 4)], "read": [(0, 1)], "cut": []}, seconds=6)
    read, infer = stage_rows(timeline)
    assert (read.name, infer.name) == ("read", "infer")
    assert (infer.first, infer.last, infer.seconds, infer.most) == (2, 5, 4, 2)
    assert infer.path.startswith("M0 100V100H1")
    assert "V0H" in infer.path


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.02, 1.0, 13.4, 59.9, 767.0, 1e5])
def test_ticks_are_few_and_within(seconds: float) -> None:
    found = ticks(seconds)
    assert found[0] == 0
    assert len(found) <= 6
    assert found[-1] <= seconds + 1e-9


def test_nothing_was_busy() -> None:
    assert stage_rows(Timeline(spans={}, seconds=0.0)) == []
    (row,) = stage_rows(Timeline(spans={"read": [(0.0, 0.0)]}, seconds=0.0))
    assert row.seconds == 0


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (figures.size_text(0), "0 B"),
        (figures.size_text(999), "999 B"),
        (figures.size_text(548_123_456), "548 MB"),
        (figures.size_text(2_500_000_000), "2.5 GB"),
        (figures.size_text(5_000_000_000_000), "5 000 GB"),
        (figures.seconds_text(0.434), "0.43 s"),
        (figures.seconds_text(12.34), "12.3 s"),
        (figures.seconds_text(185), "3 min 05 s"),
        (figures.percent_text(0.1234), "12.3 %"),
        (figures.percent_text(0.0001), "< 0.1 %"),
        (figures.percent_text(0), "0.0 %"),
        (figures.count_text(120560400), "120 560 400"),
        (figures.class_text("SEMI_TRANSPARENT_CLOUD"), "Semi-transparent cloud"),
        (figures.time_text("20221005T115411"), "5 October 2022, 11:54:11 UTC"),
    ],
)
def test_numbers_are_readable(said: str, read: str) -> None:
    assert said.replace("\u202f", " ") == read
