"""How well a mask agrees with labels: confusion matrix and per-class scores. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Value of pixels that take no part.
IGNORED = 255

#: Names of the classes that a mask holds, by pixel value.
CLASS_NAMES = ("UNDEFINED", "CLEAR", "CLOUD_SHADOW", "SEMI_TRANSPARENT_CLOUD", "CLOUD", "MISSING")

#: Label value -> class value; labels that are not named take no part.
#: Sen2Cor's scene classification: Level-2A Algorithm Theoretical Basis Document, table of SCL classes.
#: CloudSEN12: Aybar et al. 2022, doi:10.1038/s41597-022-01878-2.
CROSSWALKS: Mapping[str, Mapping[int, int]] = {
    "kappamask": {1: 1, 2: 2, 3: 3, 4: 4},
    "scl": {2: 1, 3: 2, 4: 1, 5: 1, 6: 1, 7: 1, 8: 4, 9: 4, 10: 3, 11: 1},
    "cloudsen12": {0: 1, 1: 4, 2: 3, 3: 2},
}


def crosswalk_table(name: str) -> NDArray[np.uint8]:
    """Return a uint8 table of 256 entries that turns label values into class values (255: ignored)."""
    table = np.full(256, IGNORED, np.uint8)
    for label, value in CROSSWALKS[name].items():
        table[label] = value
    return table


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class; a ratio without a denominator is None."""

    precision: float | None
    recall: float | None
    f1: float | None
    iou: float | None


class Confusion:
    """Counts of pixels by labelled class (rows) and masked class (columns), int64 ``[256, 256]``."""

    def __init__(self) -> None:
        self.counts = np.zeros((256, 256), np.int64)

    def add(self, labels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Count pixels; those whose label or mask is `IGNORED` take no part."""
        used = (labels != IGNORED) & (mask != IGNORED)
        pairs = labels[used].astype(np.int64) * 256 + mask[used]
        self.counts += np.bincount(pairs, minlength=256 * 256).reshape(256, 256)

    @property
    def pixels(self) -> int:
        """Number of pixels that took part."""
        return int(self.counts.sum())

    @property
    def agreement(self) -> float | None:
        """Share of pixels whose classes are equal."""
        return _ratio(int(np.trace(self.counts)), self.pixels)

    def classes(self) -> list[int]:
        """Class values that appear on either side."""
        return [int(v) for v in np.flatnonzero(self.counts.sum(axis=0) + self.counts.sum(axis=1))]

    def scores(self, *values: int) -> ClassScores:
        """Return the scores of a class, or of several classes taken as one."""
        positive = np.zeros(256, np.bool_)
        positive[list(values)] = True
        hit = int(self.counts[np.ix_(positive, positive)].sum())
        labelled, masked = int(self.counts[positive].sum()), int(self.counts[:, positive].sum())
        return ClassScores(
            precision=_ratio(hit, masked),
            recall=_ratio(hit, labelled),
            f1=_ratio(2 * hit, labelled + masked),
            iou=_ratio(hit, labelled + masked - hit),
        )

    def to_json(self) -> dict[str, Any]:
        """Return all figures as one JSON object; `any_cloud` joins cloud and semi-transparent cloud."""
        values = self.classes()
        return {
            "pixels": self.pixels,
            "agreement": self.agreement,
            "classes": {class_name(v): vars(self.scores(v)) for v in values},
            "any_cloud": vars(self.scores(3, 4)),
            "confusion": {
                "classes": [class_name(v) for v in values],
                "rows_labels_columns_mask": self.counts[np.ix_(values, values)].tolist(),
            },
        }


def class_name(value: int) -> str:
    """Name a class value."""
    return CLASS_NAMES[value] if value < len(CLASS_NAMES) else f"class {value}"


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
