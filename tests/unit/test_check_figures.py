"""What a check measures, and when a model has passed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from server_models.check_figures import Answers, BatchFigures, CheckReport, faults_of, measure, misfits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

GOOD = BatchFigures(batch=1, agreement=1.0, agreement_all=1.0, differing=None, faulty=0, seconds=0.1)


def answers(labels: NDArray[np.uint8]) -> Answers:
    """Labels of two classes, 1 and 4, and the probabilities that fit them."""
    p = np.stack([np.where(labels == value, 200, 55) for value in (1, 4)], axis=1).astype(np.uint8)
    return Answers(labels=labels, probabilities=p)


def tiles(count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).choice(np.array([1, 4], np.uint8), (count, 20, 20))


def test_the_worst_tile_and_all_tiles_are_told_apart() -> None:
    labels = tiles()
    reference = labels.copy()
    reference[1, :2] = 5 - reference[1, :2]  # 40 of 400 pixels the other way round
    found = measure(answers(labels), batch=1, alone=None, reference=reference, seconds=0.0)
    assert found.agreement == pytest.approx(0.9)
    assert found.agreement_all == pytest.approx(1 - 40 / 1200)
    assert (found.differing, found.faulty) == (None, 0)


def test_pixels_of_which_nothing_is_known_take_no_part() -> None:
    labels = tiles()
    reference = labels.copy()
    reference[0] = 255
    reference[1, 5:] = 255
    reference[1, 0, :10] = 5 - reference[1, 0, :10]  # 10 of the 100 that are known
    found = measure(answers(labels), batch=1, alone=None, reference=reference, seconds=0.0)
    assert found.agreement == pytest.approx(0.9)
    assert found.agreement_all == pytest.approx(1 - 10 / 500)
    nothing = measure(answers(labels), batch=1, alone=None, reference=np.full_like(reference, 255), seconds=0.0)
    assert (nothing.agreement, nothing.agreement_all) == (None, None)


@pytest.mark.parametrize(("step", "differs"), [(13, 0), (14, 1)])
def test_a_pixel_differs_by_its_class_or_a_probability(step: int, differs: int) -> None:
    alone = answers(tiles())
    other = answers(tiles())
    other.labels[2, 0, 0] = 5 - other.labels[2, 0, 0]
    other.probabilities[1, 0, 7, 7] += step
    found = measure(other, batch=3, alone=alone, reference=None, seconds=0.0)
    assert found.differing == pytest.approx((1 + differs) / 1200)
    assert measure(alone, batch=3, alone=alone, reference=None, seconds=0.0).differing == 0.0


def test_probabilities_that_fall_are_differences_too() -> None:
    alone, other = answers(tiles()), answers(tiles())
    other.probabilities[0, 1, 0, 0] -= 50
    assert measure(other, batch=3, alone=alone, reference=None, seconds=0.0).differing == pytest.approx(1 / 1200)


def test_faulty_tiles_are_counted_by_label_and_by_probabilities() -> None:
    marked, silent = answers(tiles(4)), answers(tiles(4))
    marked.labels[1] = 255
    marked.labels[2, 3, 3] = 255
    silent.probabilities[0] = 0
    assert measure(marked, batch=4, alone=None, reference=None, seconds=0.0).faulty == 2
    assert measure(silent, batch=4, alone=None, reference=None, seconds=0.0).faulty == 1


def test_figures_on_the_limit_pass_and_a_little_beyond_fail() -> None:
    at = [replace(GOOD, agreement=0.98), replace(GOOD, batch=2, agreement=0.98, differing=1e-4)]
    assert faults_of(at, 0.98, "float32") == ()
    (low,) = faults_of([*at, replace(GOOD, batch=3, agreement=0.97999, differing=0.0)], 0.98, "float32")
    assert low == (
        "its classes equal those of float32 on 0.97999 of the pixels of the worst tile (batch 3), its contract wants 0.98"
    )
    (far,) = faults_of([*at, replace(GOOD, batch=7, differing=1.1e-4)], 0.98, "float32")
    assert far == "a batch of 7 is answered otherwise than its tiles alone on 0.011% of the pixels, 0.01% are allowed"


def test_a_comparison_with_nothing_is_not_passed() -> None:
    nothing = replace(GOOD, agreement=None, agreement_all=None)
    assert faults_of([nothing], 0.98, None) == ()
    assert faults_of([nothing], 0.98, "the file's LABELS") == ("no pixel could be compared with the file's LABELS",)


def test_every_kind_of_fault_is_named_once_with_its_worst_batch() -> None:
    batches = [
        replace(GOOD, agreement=0.9),
        replace(GOOD, batch=2, agreement=0.5, differing=0.2, faulty=1),
        replace(GOOD, batch=3, agreement=0.7, differing=0.3, faulty=2),
    ]
    faults = faults_of(batches, 0.98, "the file's LABELS")
    assert len(faults) == 3
    for fault, said in zip(faults, ("batch of 3 has 2 tiles", "(batch 2)", "batch of 3 is answered"), strict=True):
        assert said in fault


def test_without_a_reference_agreement_decides_nothing() -> None:
    assert faults_of([replace(GOOD, agreement=None, agreement_all=None)], 0.98, None) == ()
    assert faults_of([], 0.98, None) == ()


def test_answers_that_are_not_what_the_contract_promises(csmask_contract: ModelContract) -> None:
    labels, p = np.ones((2, 256, 256), np.uint8), np.ones((2, 3, 256, 256), np.uint8)
    assert misfits(csmask_contract, 2, labels, p) is None
    assert misfits(csmask_contract, 2, np.full_like(labels, 255), p) is None  # counted as faulty
    cases = {
        "gave LABELS nothing, the contract says uint8 [2, 256, 256]": (None, p),
        "gave LABELS uint8 [1, 256, 256]": (labels[:1], p),
        "gave LABELS int64 [2, 256, 256]": (labels.astype(np.int64), p),
        "gave PROBABILITIES uint8 [2, 2, 256, 256], the contract says uint8 [2, 3, 256, 256]": (labels, p[:, :2]),
        "gave PROBABILITIES nothing": (labels, None),
        "a batch of 2 gave classes [77, 78], which the contract does not know": (
            np.where(np.arange(256) < 128, labels * 77, labels * 78).astype(np.uint8),
            p,
        ),
    }
    for said, given in cases.items():
        assert said in str(misfits(csmask_contract, 2, *given))


def test_a_report_passes_without_faults_only() -> None:
    report = CheckReport(
        model="m", tiles=1, source="tiles", reference=None, min_agreement=1.0, max_differing=1e-4, batches=(GOOD,),
        faults=(), seconds=1.0,
    )  # fmt: skip
    assert report.passed
    assert report.to_json()["passed"] is True
    failed = replace(report, faults=("something",))
    assert failed.to_json() | {"passed": False, "faults": ("something",)} == failed.to_json()
