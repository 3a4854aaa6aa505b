"""From rows of pixels to JPEG 2000 files laid out as ESA's.

GDAL's JPEG 2000 writer only copies whole datasets, so the rows of each image wait in an uncompressed GeoTIFF until
the image is complete. Memory holds a few rows of codestream tiles at a time, whatever the size of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy as copy_dataset
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

#: ESA's layout per resolution in metres: codestream tile, code-block and precinct, pixels.
LAYOUT = {10: (1024, 64, 256), 20: (640, 8, 128), 60: (192, 4, 64)}
#: Of the preview, which has no resolution of its own in the specification.
_PREVIEW_GSD_M, PREVIEW_PIXEL_M = 60, 320
_NBITS = {"uint16": 15, "uint8": 8}
_RESOLUTIONS = 5


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """One image of a product.

    Attributes
    ----------
    path : of the JPEG 2000 file.
    size : height and width, pixels.
    gsd_m : resolution, metres: decides the layout.
    count : number of components, 1, or 3 for true colour.
    dtype : ``uint16`` (15 bits are used) or ``uint8``.
    epsg, transform : where it lies.
    """

    path: Path
    size: int
    gsd_m: int
    count: int
    dtype: str
    epsg: int
    transform: Affine

    @property
    def staged_bytes(self) -> int:
        """Size of the uncompressed image."""
        return self.size * self.size * self.count * (2 if self.dtype == "uint16" else 1)


class StagedImage:
    """An image that is being filled row by row. Not for use by several threads at once."""

    def __init__(self, spec: ImageSpec, staging: Path) -> None:
        self.spec = spec
        self._staged = staging / f"{spec.path.stem}_{spec.gsd_m}.tif"
        self._writer: Any = rasterio.open(
            self._staged,
            "w",
            driver="GTiff",
            width=spec.size,
            height=spec.size,
            count=spec.count,
            dtype=spec.dtype,
            crs=f"EPSG:{spec.epsg}",
            transform=spec.transform,
            interleave="band",
        )

    def write_rows(self, row: int, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """Write full rows, ``[rows, width]`` or ``[count, rows, width]``, beginning at `row`."""
        cube = pixels[None] if pixels.ndim == 2 else pixels  # noqa: PLR2004
        self._writer.write(cube, window=RasterWindow(0, row, cube.shape[2], cube.shape[1]))

    def close(self) -> None:
        """End the writing of rows."""
        self._writer.close()

    def encode(self) -> None:
        """Write the JPEG 2000 file and drop the uncompressed image. The GIL is free meanwhile: use threads."""
        self.spec.path.parent.mkdir(parents=True, exist_ok=True)
        # One thread each: files are encoded side by side, and memory stays that of one tile a thread.
        with rasterio.Env(GDAL_NUM_THREADS="1", GDAL_PAM_ENABLED="NO"):
            copy_dataset(str(self._staged), str(self.spec.path), **creation_options(self.spec))
        self._staged.unlink()

    def preview(self, path: Path) -> None:
        """Write a JPEG 2000 preview of 320 m pixels, as QI_DATA has one; before `encode`."""
        size = max(1, self.spec.size * self.spec.gsd_m // PREVIEW_PIXEL_M)
        with rasterio.open(self._staged) as staged:
            pixels = staged.read(out_shape=(self.spec.count, size, size), resampling=Resampling.average)
        corner, pixel_m = self.spec.transform, self.spec.gsd_m * self.spec.size / size
        spec = ImageSpec(
            path=path,
            size=size,
            gsd_m=_PREVIEW_GSD_M,
            count=self.spec.count,
            dtype=self.spec.dtype,
            epsg=self.spec.epsg,
            transform=Affine(pixel_m, 0, corner.c, 0, -pixel_m, corner.f),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        image = StagedImage(spec, self._staged.parent)
        image.write_rows(0, pixels)
        image.close()
        image.encode()


def creation_options(spec: ImageSpec) -> dict[str, str]:
    """Return GDAL's JP2OpenJPEG options for ESA's layout: 5/3 reversible, LRCP, one layer, one tile-part a tile."""
    tile, code_block, precinct = LAYOUT[spec.gsd_m]
    return {
        "driver": "JP2OpenJPEG",
        "BLOCKXSIZE": str(tile),
        "BLOCKYSIZE": str(tile),
        "CODEBLOCK_WIDTH": str(code_block),
        "CODEBLOCK_HEIGHT": str(code_block),
        "PRECINCTS": ",".join([f"{{{precinct},{precinct}}}"] * _RESOLUTIONS),
        "QUALITY": "100",
        "REVERSIBLE": "YES",
        "YCC": "YES" if spec.count > 1 else "NO",
        "NBITS": str(_NBITS[spec.dtype]),
        "RESOLUTIONS": str(_RESOLUTIONS),
        "PROGRESSION": "LRCP",
        "PLT": "YES",
        "GeoJP2": "YES",
        "GMLJP2": "YES",
    }
