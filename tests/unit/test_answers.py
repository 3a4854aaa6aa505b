"""Answers that no tile has: LABELS beside PROBABILITIES that say otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.contract import BandGroup, KnownAnswer
from kappamask_stream.errors import AnswerError, InferenceError
from kappamask_stream.inference.tensors import checked_answer
from tests.conftest import make_contract

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import InferResult

SIZE = 256
CONTRACT = make_contract(
    inputs=(BandGroup(gsd_m=20, bands=("B02",), tile=SIZE, stride=204),), gsd_m=20, tile_size=SIZE, margin=26,
    canary=KnownAnswer(recipe=1, labels=""),
)  # fmt: skip
CLASSES = np.array(CONTRACT.probability_classes, np.uint8)


def answer(seed: int, activation: str = "softmax") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """LABELS and PROBABILITIES as the served graphs compute them: both from the same logits, rounded."""
    logits = np.random.default_rng(seed).normal(0, 3, (3, SIZE, SIZE)).astype(np.float32)
    exponential = np.exp(logits - logits.max(axis=0))
    p = exponential / exponential.sum(axis=0) if activation == "softmax" else 1 / (1 + np.exp(-logits))
    return CLASSES[logits.argmax(axis=0)], np.floor(p * 255 + 0.5).astype(np.uint8)


def checked(
    labels: NDArray[np.uint8], probabilities: NDArray[np.uint8], contract: ModelContract = CONTRACT
) -> InferResult:
    return checked_answer({"LABELS": labels[None], "PROBABILITIES": probabilities[None]}, contract, "grpc://here:8001")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["softmax", "sigmoid"]))
def test_what_networks_answer_is_taken(seed: int, activation: str) -> None:
    labels, probabilities = answer(seed, activation)
    assert checked(labels, probabilities).probabilities is not None


def test_a_class_that_has_no_probability_is_taken() -> None:
    """Nodata, say, which a server may fill in by itself."""
    labels, probabilities = answer(0)
    checked(np.where(np.eye(SIZE, dtype=bool), np.uint8(5), labels), probabilities)


def cloud(p: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cloud everywhere: the last class."""
    certain = np.zeros_like(p)
    certain[-1] = 255
    return certain


WRONG: dict[str, Callable[[NDArray[np.uint8], NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.uint8]]]] = {
    "of another tile": lambda labels, _: (labels, answer(1)[1]),
    "labels of another tile": lambda _, p: (answer(1)[0], p),
    "classes in another order": lambda labels, p: (labels, p[::-1]),
    "transposed": lambda labels, p: (labels, p.transpose(0, 2, 1)),
    "a half missing": lambda labels, p: (labels, np.where(np.arange(SIZE)[:, None] < SIZE // 2, p, 255 - p)),
    "sixteen rows": lambda labels, p: (labels, np.where(np.arange(SIZE)[:, None] // 16 == 7, 255 - p, p)),
    "all rows but each 16th": lambda labels, p: (labels, np.where(np.arange(SIZE)[:, None] % 16 == 8, p, cloud(p))),
    "one row": lambda labels, p: (labels, np.where(np.arange(SIZE)[:, None] == 255, cloud(p), p)),
    "one pixel": lambda labels, p: (labels, np.where(np.arange(SIZE * SIZE).reshape(SIZE, SIZE) == 77, 255 - p, p)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_probabilities_that_contradict_labels_are_refused(wrong: str) -> None:
    labels, probabilities = WRONG[wrong](*answer(0))
    with pytest.raises(AnswerError, match=r"PROBABILITIES from grpc://here:8001 contradict LABELS at \d+ of 65536"):
        checked(labels, probabilities.astype(np.uint8))


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.integers(1, 6))
def test_each_pixel_is_held_against_the_rule(seed: int, low: int, high: int, classes: int) -> None:
    """The rule said once more, a pixel at a time: LABELS' class may lie 1 of 255 behind the likeliest."""
    drawn = np.random.default_rng(seed)
    values = tuple(sorted(drawn.choice(np.arange(20), classes, replace=False).tolist()))
    contract = replace(
        CONTRACT, tile_size=8, margin=1, inputs=(BandGroup(gsd_m=20, bands=("B02",), tile=8, stride=6),),
        classes=tuple(replace(CONTRACT.classes[0], value=v, name=f"C{v}") for v in range(20)), nodata_class=0,
        probability_classes=values,
    )  # fmt: skip
    probabilities = drawn.integers(min(low, high), max(low, high) + 1, (classes, 8, 8)).astype(np.uint8)
    labels = np.array(values, np.uint8)[probabilities.argmax(axis=0)]
    some = drawn.random((8, 8)) < 0.05
    labels[some] = drawn.integers(0, 20, int(some.sum()))
    wrong = 0
    for row, col in np.ndindex(8, 8):
        chances = dict(zip(values, probabilities[:, row, col].tolist(), strict=True))
        wrong += chances.get(int(labels[row, col]), 255) < max(chances.values()) - 1
    is_same = (classes > 1 and (probabilities == probabilities[0]).all()) or not probabilities.any()
    if not wrong and not is_same:
        checked(labels, probabilities, contract)
        return
    said = f"contradict LABELS at {wrong} of 64" if not is_same else "for all classes of"
    with pytest.raises(AnswerError, match=said):
        checked(labels, probabilities, contract)


@pytest.mark.parametrize(("value", "said"), [(0, "are 0"), (1, "are the same"), (255, "are the same")])
def test_probabilities_that_tell_no_class_from_another_are_refused(value: int, said: str) -> None:
    """A blend would take the first class everywhere."""
    labels, probabilities = answer(0)
    with pytest.raises(AnswerError, match=f"{said} for all classes of test_l2a at all pixels"):
        checked(labels, np.full_like(probabilities, value))


def test_a_tile_of_one_class_is_taken() -> None:
    """Two classes are alike there, 0 both."""
    labels, probabilities = answer(0)
    checked(np.full_like(labels, CLASSES[-1]), cloud(probabilities))


def test_a_model_without_a_canary_may_choose_its_classes_in_another_way() -> None:
    """One of one's own: cloud from a share of 0.3 on, say, or nothing likely at all where there is no data."""
    labels, probabilities = answer(0)
    own = replace(CONTRACT, canary=None)
    cautious = np.where(probabilities[-1] > 77, CLASSES[-1], labels)
    with pytest.raises(AnswerError, match="contradict LABELS"):
        checked(cautious, probabilities)
    for said in (probabilities, np.zeros_like(probabilities)):
        found = checked(cautious, said, own)
        assert found.probabilities is not None
        assert np.array_equal(found.labels, cautious)
        assert np.array_equal(found.probabilities, said)
    with pytest.raises(AnswerError, match=r"PROBABILITIES from .* is uint8 \[1, 2, 256, 256\]"):
        checked(cautious, probabilities[:2], own)


def test_values_that_are_not_finite_may_be_the_tiles_own_fault() -> None:
    """Only these: what a message's product can be at fault for is never an `AnswerError`."""
    labels = np.full((1, SIZE, SIZE), 255, np.uint8)
    with pytest.raises(InferenceError, match="not finite") as caught:
        checked_answer({"LABELS": labels}, CONTRACT, "grpc://here:8001")
    assert type(caught.value) is InferenceError
    with pytest.raises(AnswerError, match=r"classes \[77\]"):
        checked_answer({"LABELS": labels - np.uint8(178)}, CONTRACT, "grpc://here:8001")
    with pytest.raises(AnswerError, match="is nothing"):
        checked_answer({"LABELS": None}, CONTRACT, "grpc://here:8001")
