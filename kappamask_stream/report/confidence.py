"""How sure the network was: the largest probability of each pixel. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.extras import TileAnswer
    from kappamask_stream.frame import MaskFrame

_LEVELS = 256


class Confidence:
    """Counts pixels by class and by their largest probability.

    State: `counts`, int64 ``[256 classes, 256 levels]``; one `add` at a time.
    """

    def __init__(self, contract: ModelContract, frame: MaskFrame) -> None:
        self._nodata, self._frame = contract.nodata_class, frame
        self.counts = np.zeros((_LEVELS, _LEVELS), np.int64)

    def add(self, answer: TileAnswer) -> None:
        """Count the pixels of a tile's core that lie in the frame and hold data."""
        core = answer.tile.core.intersection(self._frame.window)
        if answer.labels is None or answer.probabilities is None or core.is_empty:
            return
        rows, cols = core.relative_to(answer.tile.window)
        labels = answer.labels[rows, cols]
        largest = answer.probabilities[:, rows, cols].max(axis=0)
        pairs = labels.astype(np.uint16) * np.uint16(_LEVELS) + largest
        self.counts += np.bincount(pairs.ravel(), minlength=_LEVELS * _LEVELS).reshape(_LEVELS, _LEVELS)

    @property
    def pixels(self) -> int:
        """Pixels counted, without those that hold no data."""
        return int(self._counted().sum())

    def mean(self, value: int | None = None) -> float | None:
        """Return the mean largest probability of a class, or of all; None where it has no pixel."""
        counted = self._counted()
        levels = counted.sum(axis=0) if value is None else counted[value]
        total = int(levels.sum())
        return float(levels @ np.arange(_LEVELS)) / (255.0 * total) if total else None

    def histogram(self, bins: int) -> NDArray[np.float64]:
        """Return the share of pixels in each of `bins` equal steps of probability from 0 to 1, float64 ``[bins]``."""
        levels = self._counted().sum(axis=0)
        at = np.minimum(np.arange(_LEVELS) * bins // 255, bins - 1)
        counts = np.bincount(at, weights=levels, minlength=bins)
        shares: NDArray[np.float64] = counts / max(1.0, counts.sum())
        return shares

    def _counted(self) -> NDArray[np.int64]:
        counted = self.counts.copy()
        counted[self._nodata] = 0
        return counted
