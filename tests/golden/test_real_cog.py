"""COGs made of ESA's own files: every pixel, and what the darkest ones show about the offset."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as copy_dataset

from kappamask_stream.sources import DirectorySource
from kappamask_stream.sources.stac_offsets import verdict
from kappamask_stream.sources.stac_pixels import dark_pixels
from tests.unit.cog_files import decode_whole, index_file, write_cog

pytestmark = pytest.mark.shared


def band_file(shared_dir: Path, band: str) -> Path:
    (found,) = shared_dir.glob(f"data/product_60m/*.SAFE/GRANULE/*/IMG_DATA/R60m/*_{band}_60m.jp2")
    return found


@pytest.mark.parametrize("band", ["B01", "B8A", "AOT", "SCL"])
def test_cogs_keep_every_pixel(shared_dir: Path, tmp_path: Path, band: str) -> None:
    """GDAL keeps the 15 bits of ESA's reflectances."""
    source = band_file(shared_dir, band)
    copy_dataset(source, tmp_path / "band.tif", driver="COG", compress="deflate")
    data = (tmp_path / "band.tif").read_bytes()
    index, _ = index_file(data)
    assert index.bits == (8 if band == "SCL" else 15)
    with rasterio.open(source) as file:
        np.testing.assert_array_equal(decode_whole(index, data), file.read(1))


@pytest.mark.parametrize(("shift", "expected"), [(0, "inside"), (-1000, "removed")])
async def test_the_darkest_pixels_show_the_offset(shared_dir: Path, tmp_path: Path, shift: int, expected: str) -> None:
    """Baseline 04.00, half of it clouds; shifted as Earth Search shifts."""
    for band in ("B01", "B12"):
        with rasterio.open(band_file(shared_dir, band)) as file:
            pixels = file.read(1).astype(np.int64)
        shifted = np.where(pixels == 0, 0, np.maximum(pixels + shift, 1)).astype(np.uint16)
        write_cog(tmp_path / f"{band}_60m.tif", shifted, gsd_m=60, blockxsize=512, blockysize=512, predictor=2)
    source = DirectorySource(tmp_path)
    files = {("B01", 60): "B01_60m.tif", ("B12", 60): "B12_60m.tif"}
    found = await dark_pixels(source, files, await source.files())
    assert [floor.band for floor, _ in found] == ["B01", "B12"]
    assert verdict([floor for floor, _ in found]) == expected
