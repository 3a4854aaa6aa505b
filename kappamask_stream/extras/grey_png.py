"""The mask as km_predict's PNG: grey codes, full resolution, with a world file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.io import MemoryFile
from rasterio.windows import Window

from kappamask_stream.disk import FILE_BYTES, DiskUse
from kappamask_stream.errors import UsageError
from kappamask_stream.extras.files import file_of
from kappamask_stream.extras.types import Extra
from kappamask_stream.output import PNG_TYPE, TEXT_TYPE
from kappamask_stream.png import encode_png, most_png_bytes
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import OutputFile
    from kappamask_stream.extras.types import FinishedMask, MaskJob

#: Class values that km_predict has, and the grey of its last one, MISSING.
_CLASSES, _MISSING_GREY = 6, 20
#: Level 3 of zlib: 15 % more bytes than level 6 in half its time.
_LEVEL = 3
#: MB of decoded blocks that GDAL keeps: a row of 512-blocks of a full mask takes 6.
_GDAL_CACHE_MB = 16
_ROWS = 512


def grey_codes() -> NDArray[np.uint8]:
    """Return km_predict's grey of each class value, uint8 ``[6]``: 3, 66, 129, 192, 255, 20.

    Source: km_predict's ``util/save_prediction_masks.py``: value * 63 + 3, and 20 where that passes 255.
    """
    codes = np.arange(_CLASSES) * 63 + 3
    return np.where(codes > 255, _MISSING_GREY, codes).astype(np.uint8)  # noqa: PLR2004


def require_known_classes(contract: ModelContract, flag: str) -> None:
    """Refuse a model with classes that km_predict has no grey for.

    Raises
    ------
    UsageError
        Naming them.
    """
    unknown = [f"{c.name} ({c.value})" for c in contract.classes if c.value >= _CLASSES]
    if unknown:
        raise UsageError(
            f"{flag} writes km_predict's grey codes, which it has for class values 0 to {_CLASSES - 1}; "
            f"{contract.name} has {', '.join(unknown)}: leave {flag} out"
        )


def world_file(ulx: float, uly: float, gsd_m: float) -> bytes:
    """Return a world file: pixel size and rotation, then the centre of the upper-left pixel.

    Parameters
    ----------
    ulx, uly : upper-left corner of the upper-left pixel, metres in the projection, which a world file cannot name.
    gsd_m : size of a pixel, metres.
    """
    values = (gsd_m, 0.0, 0.0, -gsd_m, ulx + gsd_m / 2, uly - gsd_m / 2)
    return "".join(f"{value:.10f}\n" for value in values).encode()


def encode_grey(labels: NDArray[np.uint8]) -> bytes:
    """Write class values 0 to 5, uint8 ``[height, width]``, as a grey PNG of km_predict's codes."""
    return encode_png(grey_codes()[labels], _LEVEL)


class GreyPngExtra(Extra):
    """Writes ``<stem>.png`` and ``<stem>.pgw`` from the finished GeoTIFF: the two agree pixel by pixel.

    A full mask takes 180 MB of memory meanwhile, for two or three seconds.
    """

    def __init__(self) -> None:
        self._job: MaskJob | None = None

    def file_names(self, job: MaskJob) -> Sequence[str]:
        """Return the names of the picture and its world file."""
        return f"{job.stem}.png", f"{job.stem}.pgw"

    def disk_use(self, job: MaskJob) -> DiskUse:
        """See `Extra.disk_use`."""
        return DiskUse(output=most_png_bytes(job.frame.height, job.frame.width) + 2 * FILE_BYTES)

    async def begin(self, job: MaskJob) -> None:
        """See `require_known_classes`."""
        require_known_classes(job.contract, "--png")
        self._job = job

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:
        """Return the files."""
        job = self._job
        if job is None:
            raise RuntimeError("finish before begin")
        picture = await in_thread(job.workers, grey_png, b"".join(mask.cog))
        frame = job.frame
        return [
            file_of(job, f"{job.stem}.pgw", [world_file(frame.ulx, frame.uly, frame.gsd_m)], TEXT_TYPE),
            file_of(job, f"{job.stem}.png", [picture], PNG_TYPE),
        ]


def grey_png(cog: bytes) -> bytes:
    """Turn a GeoTIFF of class values 0 to 5 into a PNG, 512 rows at a time."""
    codes = grey_codes()
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE_MB), MemoryFile(cog) as memory, memory.open() as mask:
        picture = np.empty((mask.height, mask.width), np.uint8)
        for row in range(0, mask.height, _ROWS):
            rows = picture[row : row + _ROWS]
            mask.read(1, window=Window(0, row, mask.width, len(rows)), out=rows)
            np.take(codes, rows, out=rows)
    return encode_png(picture, _LEVEL)
