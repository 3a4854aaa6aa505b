"""A picture of a mask for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from kappamask_stream.cog import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


def write_quicklook(path: Path, pixels: NDArray[np.uint8], colours: Mapping[int, tuple[int, int, int]]) -> int:
    """Write class values, uint8 ``[height, width]``, as a PNG in the classes' colours; returns its size in bytes.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    palette = np.zeros((256, 3), np.uint8)
    for value, colour in colours.items():
        palette[value] = colour
    return write_atomically(path, [bytes(imagecodecs.png_encode(palette[pixels]))])
