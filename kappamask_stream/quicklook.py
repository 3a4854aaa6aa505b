"""A picture of a mask for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.png import encode_png

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def encode_quicklook(pixels: NDArray[np.uint8], colours: Mapping[int, tuple[int, ...]]) -> bytes:
    """Draw class values as a PNG.

    Parameters
    ----------
    pixels : uint8 ``[height, width]``, class values.
    colours : 8-bit red, green, blue (what follows is ignored) per class value; others are black.
    """
    palette = np.zeros((256, 3), np.uint8)
    for value, colour in colours.items():
        palette[value] = colour[:3]
    return encode_png(palette[pixels])
