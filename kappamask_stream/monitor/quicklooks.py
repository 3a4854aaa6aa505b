"""Pictures of the last masks, as many as fit in a few megabytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from kappamask_stream.quicklook import encode_quicklook

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

#: Pixels a side at most, of about 1100 that quicklooks have: they are shown small.
_LARGEST = 560
_MOST_BYTES = 8 * 1024 * 1024


def draw(pixels: NDArray[np.uint8], contract: ModelContract) -> bytes:
    """Return class values ``[height, width]`` as a small PNG in the contract's colours."""
    step = max(1, -(-max(pixels.shape) // _LARGEST))
    return encode_quicklook(pixels[::step, ::step], {c.value: c.colour for c in contract.classes})


class Quicklooks:
    """PNG files by number; the oldest give way.

    State: the pictures, oldest first, and their bytes together.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most_bytes
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self.held_bytes = 0

    def __contains__(self, number: int) -> bool:
        return number in self._held

    def get(self, number: int) -> bytes | None:
        """Return a picture; None where there is none (any more)."""
        return self._held.get(number)

    def put(self, number: int, png: bytes) -> None:
        """Keep a picture, and let go of old ones that do not fit any more."""
        self._held[number] = png
        self.held_bytes += len(png)
        while self.held_bytes > self._most:
            _, oldest = self._held.popitem(last=False)
            self.held_bytes -= len(oldest)
