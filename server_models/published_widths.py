"""Weights of the published networks' shapes, for graphs of which only the structure is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Channels of the published networks' convolutions, by number; 728 where nothing is said.
_WIDTHS = {
    "DeepLabv3Plus": {
        **dict(enumerate((32, 64, 128, 256, 728))),
        **dict.fromkeys((6, 7, 8, 9, 10, 11, 13, 14), 256),
        12: 48,
    },
    "Unet": {
        **{2 * level + i: 64 << level for level in range(5) for i in (0, 1)},
        **{10 + 3 * step + i: 512 >> step for step in range(4) for i in (0, 1, 2)},
        22: 2,
    },
}
_SEPARABLE = {0: 128, 1: 128, 2: 256, 3: 256, 31: 1024}
_WIDEST = 728


class ZeroWeights:
    """Zeros of the published shapes; takes the place of `KerasWeights`.

    Parameters
    ----------
    architecture : ``DeepLabv3Plus`` or ``Unet``.
    """

    origin = "zeros"

    def __init__(self, architecture: str) -> None:
        self._widths = _WIDTHS[architecture]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.origin}>"

    def take(self, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
        """Return a tensor; an open dimension gets the published network's width."""
        return np.zeros(self.full_shape(name, shape), np.float32)

    def finish(self) -> None:
        """All that is asked for exists."""

    def full_shape(self, name: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor, e.g. ``conv2d_3/kernel`` with ``(3, 3, 64, None)``."""
        layer = name.partition("/")[0]
        is_numbered = layer[-1].isdigit() and not layer.endswith("2d")
        kind, _, number = layer.rpartition("_") if is_numbered else (layer, "", "0")
        widths = self._widths if kind == "conv2d" else _SEPARABLE
        return tuple(n if n is not None else widths.get(int(number), _WIDEST) for n in shape)
