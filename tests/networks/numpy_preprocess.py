"""What km_predict and cm_vsm make of digital numbers, in plain numpy and float64, pixel by pixel where it matters.

Written from the description of GraphicsMagick's ResizeImage, independently of `server_models`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def quantum(dn: NDArray[np.uint16]) -> NDArray[np.float64]:
    """What cm_vsm reads: a share of full scale in float32, back to whole numbers in double, cut off."""
    share = dn.astype(np.float32) * np.float32(1 / 65535)
    return np.trunc(np.float32(share).astype(np.float64) * 65535.0)


def contributions(pixel: int, size_to: int, size_from: int) -> list[tuple[int, float]]:
    """Return source pixels and their weights for one pixel of an enlarged line (Blackman-windowed sinc, support 4)."""
    factor = size_to / size_from
    centre = (pixel + 0.5) / factor
    found = []
    for source in range(int(max(centre - 4 + 0.5, 0)), int(min(centre + 4 + 0.5, size_from))):
        x = source - centre + 0.5
        window = 0.42 + 0.5 * math.cos(math.pi * x / 4) + 0.08 * math.cos(2 * math.pi * x / 4)
        sinc = math.sin(math.pi * x) / (math.pi * x) if x else 1.0
        found.append((source, window * sinc))
    total = sum(weight for _, weight in found)
    return [(source, weight / total) for source, weight in found]


def enlarge(band: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Enlarge ``[n, n]`` to ``[size, size]``: rows first, then columns, each rounded to whole numbers."""
    if len(band) == size:
        return band
    for _ in range(2):  # the second time round, the transposed image's rows are the columns
        lines = np.empty((size, band.shape[1]))
        for pixel in range(size):
            lines[pixel] = sum(weight * band[source] for source, weight in contributions(pixel, size, len(band)))
        band = np.floor(np.clip(lines, 0, 65535) + 0.5).T
    return band


def quanta(
    tensors: Mapping[str, NDArray[np.uint16]], bands: Mapping[str, Sequence[str]], channels: Sequence[str], size: int
) -> NDArray[np.float64]:
    """Return the whole numbers ``[channels, size, size]`` of one tile's inputs ``[bands, n, n]``."""
    by_band = {
        band: enlarge(quantum(pixels), size)
        for tensor, names in bands.items()
        for band, pixels in zip(names, tensors[tensor], strict=True)
    }
    return np.stack([by_band[band] for band in channels])


def normalised(q: NDArray[np.float64], offset: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """x = max(q + OFFSET, 0) * SCALE, per channel."""
    return np.maximum(q + offset[:, None, None], 0) * scale[:, None, None].astype(np.float64)
