"""Scores equal their definitions, counted independently."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.evaluation import CROSSWALKS, IGNORED, Confusion, crosswalk_table

pixels = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4, IGNORED]), st.sampled_from([1, 2, 3, 4, IGNORED])), min_size=1, max_size=200
)


@given(pixels)
def test_scores_equal_their_definitions(pairs: list[tuple[int, int]]) -> None:
    labels, mask = (np.array(side, np.uint8) for side in zip(*pairs, strict=True))
    confusion = Confusion()
    confusion.add(labels, mask)
    used = [(a, b) for a, b in pairs if IGNORED not in (a, b)]
    assert confusion.pixels == len(used)
    if used:
        assert confusion.agreement == pytest.approx(sum(a == b for a, b in used) / len(used))
    cloud = {3, 4}
    hit = sum(a in cloud and b in cloud for a, b in used)
    masked, labelled = sum(b in cloud for _, b in used), sum(a in cloud for a, _ in used)
    scores = confusion.scores(3, 4)
    assert scores.precision == (hit / masked if masked else None)
    assert scores.recall == (hit / labelled if labelled else None)
    union = sum(a in cloud or b in cloud for a, b in used)
    assert scores.iou == (hit / union if union else None)


def test_sen2cor_classes_that_say_nothing_take_no_part() -> None:
    table = crosswalk_table("scl")
    assert table[0] == table[1] == IGNORED
    assert [int(table[v]) for v in (3, 4, 8, 9, 10)] == [2, 1, 4, 4, 3]
    assert set(CROSSWALKS) == {"kappamask", "scl", "cloudsen12"}


def test_cloudsen12_classes_are_clear_thick_cloud_thin_cloud_and_cloud_shadow() -> None:
    table = crosswalk_table("cloudsen12")
    assert [int(table[v]) for v in range(4)] == [1, 4, 3, 2]
    assert (table[4:] == IGNORED).all()
