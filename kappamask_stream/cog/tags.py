"""What a finished mask says about its origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

if TYPE_CHECKING:
    from pathlib import Path


def read_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of a mask of ours; None where the file is no such mask or is damaged.

    The last block is read: it is the file's end, so a truncated file does not pass.
    """
    try:
        with rasterio.open(path) as mask:
            fingerprint: str | None = mask.tags().get("FINGERPRINT")
            if fingerprint is not None:
                mask.read(1, window=Window(mask.width - 1, mask.height - 1, 1, 1))
    except RasterioError:
        return None
    return fingerprint
