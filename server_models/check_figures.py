"""What a check measures and when a model has passed. Pure numpy: no server, no files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.contract import FAULT_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

#: Share of the pixels on which the answers in a batch may differ from those of the same tiles alone.
MAX_DIFFERING = 1e-4
#: A pixel differs where its class does, or a probability (255 is 1) by more than this: 5 %.
_PROBABILITY_STEPS = 13


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a server said to a batch.

    Attributes
    ----------
    labels : LABELS ``[n, H, W]``.
    probabilities : PROBABILITIES ``[n, classes, H, W]``.
    """

    labels: NDArray[Any]
    probabilities: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class BatchFigures:
    """One batch size.

    Attributes
    ----------
    batch : its size.
    agreement : share of the pixels whose class is the reference's, in the worst tile; None without a reference.
    agreement_all : the same over all tiles together.
    differing : share of the pixels that are not answered as in the same tiles alone; None for a batch of 1.
    faulty : tiles with a value that is not finite.
    seconds : from sending to the answer, all requests of this size.
    """

    batch: int
    agreement: float | None
    agreement_all: float | None
    differing: float | None
    faulty: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """A finished check.

    Attributes
    ----------
    model : Triton model name.
    tiles : how many.
    source : where the tiles come from, for people.
    reference : what the classes were compared with, for people; None where there was nothing.
    min_agreement : the contract's.
    max_differing : share of the pixels that may depend on the batch.
    batches : figures by batch size; those after a failed request are missing.
    canary : share of the canary's compared pixels that have the known class; None where it was not asked.
    has_canary : False where the contract knows no answer to it.
    faults : why it has not passed, a clause each; none where it has.
    seconds : all of it.
    """

    model: str
    tiles: int
    source: str
    reference: str | None
    min_agreement: float
    max_differing: float
    batches: tuple[BatchFigures, ...]
    faults: tuple[str, ...]
    seconds: float
    canary: float | None = None
    has_canary: bool = True

    @property
    def passed(self) -> bool:
        """True where nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return everything, and the verdict, as JSON has it."""
        return {**asdict(self), "passed": self.passed}


def measure(
    answers: Answers, *, batch: int, alone: Answers | None, reference: NDArray[np.uint8] | None, seconds: float
) -> BatchFigures:
    """Compare the answers to a batch's tiles with those to the same tiles alone, and with the reference.

    Parameters
    ----------
    answers : as many tiles as were sent, of the contract's shape (see `misfits`).
    alone : of the same tiles, one in each request; None where these are they.
    reference : classes ``[n, H, W]``, `FAULT_LABEL` where nothing is known; None where there is none.
    """
    shares = [] if reference is None else [_equal(*pair) for pair in zip(answers.labels, reference, strict=True)]
    known = [(equal, pixels) for equal, pixels in shares if pixels]
    total = sum(pixels for _, pixels in known)
    return BatchFigures(
        batch=batch,
        agreement=min(equal / pixels for equal, pixels in known) if known else None,
        agreement_all=sum(equal for equal, _ in known) / total if known else None,
        differing=None if alone is None else _differing(answers, alone),
        faulty=_faulty(answers),
        seconds=seconds,
    )


def _equal(labels: NDArray[Any], reference: NDArray[np.uint8]) -> tuple[int, int]:
    """Count a tile's pixels whose class is the reference's, and those that have one."""
    known = reference != FAULT_LABEL
    return int(((labels == reference) & known).sum()), int(known.sum())


def _differing(answers: Answers, alone: Answers) -> float:
    apart = np.abs(answers.probabilities.astype(np.int16) - alone.probabilities.astype(np.int16)).max(axis=1)
    return float(((answers.labels != alone.labels) | (apart > _PROBABILITY_STEPS)).mean())


def _faulty(answers: Answers) -> int:
    """Count tiles that the graph marked: LABELS 255, or PROBABILITIES all 0, which never add up to 1."""
    marked = (answers.labels == FAULT_LABEL).any(axis=(1, 2)) | ~answers.probabilities.any(axis=(1, 2, 3))
    return int(marked.sum())


def misfits(contract: ModelContract, batch: int, labels: NDArray[Any] | None, p: NDArray[Any] | None) -> str | None:
    """Say what in an answer is not what the contract promises; None where all is.

    Parameters
    ----------
    labels, p : LABELS and PROBABILITIES as they came; None where one is missing or its bytes do not fill its shape.
    """
    size = contract.tile_size
    promised = {
        "LABELS": (labels, (batch, size, size)),
        "PROBABILITIES": (p, (batch, len(contract.probability_classes), size, size)),
    }
    for name, (tensor, shape) in promised.items():
        if tensor is None or tensor.shape != shape or tensor.dtype != np.uint8:
            found = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            return f"a batch of {batch} gave {name} {found}, the contract says uint8 {list(shape)}"
    strange = set(np.unique(labels).tolist()) - {c.value for c in contract.classes} - {FAULT_LABEL}  # type: ignore[arg-type]
    return f"a batch of {batch} gave classes {sorted(strange)}, which the contract does not know" if strange else None


def faults_of(batches: Sequence[BatchFigures], min_agreement: float, compared_with: str | None) -> tuple[str, ...]:
    """Name what is wrong, a clause for each kind of fault with its worst figure.

    The worst tile decides, at every batch size: an agreement over all tiles together would let a flavour pass that is
    wrong on one kind of landscape.
    """
    faults = []
    faulty = max(batches, key=lambda b: b.faulty, default=None)
    if faulty is not None and faulty.faulty:
        faults.append(f"a batch of {faulty.batch} has {faulty.faulty} tiles with values that are not finite")
    agreeing: Mapping[int, float] = {b.batch: b.agreement for b in batches if b.agreement is not None}
    worst = min(agreeing, key=lambda size: agreeing[size], default=None)
    if batches and worst is None and compared_with is not None:
        faults.append(f"no pixel could be compared with {compared_with}")
    if worst is not None and agreeing[worst] < min_agreement:
        faults.append(
            f"its classes equal those of {compared_with} on {agreeing[worst]:.5f} of the pixels of the worst tile "
            f"(batch {worst}), its contract wants {min_agreement:g}"
        )
    differing: Mapping[int, float] = {b.batch: b.differing for b in batches if b.differing is not None}
    furthest = max(differing, key=lambda size: differing[size], default=None)
    if furthest is not None and differing[furthest] > MAX_DIFFERING:
        faults.append(
            f"a batch of {furthest} is answered otherwise than its tiles alone on {differing[furthest]:.3%} of the "
            f"pixels, {MAX_DIFFERING:.2%} are allowed"
        )
    return tuple(faults)
