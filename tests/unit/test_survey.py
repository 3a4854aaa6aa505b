"""What `info` says of a product: bands, layouts, tiles that hold data, and the memory that masking takes."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio

from kappamask_stream import cli
from kappamask_stream.errors import InputError, UsageError
from kappamask_stream.survey import survey
from tests.stream.scene import Scene, band_file, l1c_scene, l2a_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["l1c_scene", "l2a_scene"]

PRODUCT_60M = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE"


@pytest.fixture
def info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["kappamask-stream", "info", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def tiles_with_data(file: Path) -> tuple[int, int]:
    """Count KappaMask's tiles, and those in which a 60 m band is not 0 everywhere."""
    with rasterio.open(file) as band:
        pixels = band.read(1)
    size = pixels.shape[0] * 6
    starts = range(max(1, -(-size // 480)))
    windows = [pixels[80 * row : 80 * row + 85, 80 * col : 80 * col + 85] for row in starts for col in starts]
    return len(windows), sum(bool(window.any()) for window in windows)


async def test_l2a(l2a_scene: Scene) -> None:
    found = await survey(l2a_scene.path, memory_bytes=2**28)
    files = sorted(l2a_scene.path.glob("GRANULE/*/IMG_DATA/*/*.jp2"))
    bands = [file for file in files if "_TCI_" not in file.name]
    assert len(found.bands) == len(bands)
    for band in found.bands:
        file = l2a_scene.band_file(band.band, band.gsd_m)
        assert band.file_bytes == file.stat().st_size
        assert (band.index.height, band.index.width) == l2a_scene.pixels(band.band, band.gsd_m).shape
    assert found.data_seen_in == "B01 at 60 m"
    assert (found.tiles, found.tiles_with_data) == tiles_with_data(l2a_scene.band_file("B01", 60))
    # All tiles of this small product meet the one codestream tile of each band: all is held at once.
    finest = {b.band: b for b in sorted(found.bands, key=lambda b: -b.gsd_m) if b.band != "SCL"}
    assert {b.gsd_m for b in finest.values()} == {10, 20, 60}
    assert found.ring_bytes == sum(2 * b.index.height * b.index.width for b in finest.values())


async def test_l1c(l1c_scene: Scene) -> None:
    found = await survey(l1c_scene.path, memory_bytes=2**28)
    assert {b.band: b.gsd_m for b in found.bands} == {
        **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
        **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
        **dict.fromkeys(("B01", "B09", "B10"), 60),
    }
    assert (found.tiles, found.tiles_with_data) == tiles_with_data(l1c_scene.band_file("B01", 60))


@pytest.mark.shared
async def test_real_product(shared_dir: Path) -> None:
    product = shared_dir / "data" / "product_60m" / PRODUCT_60M
    found = await survey(product, memory_bytes=2**28)
    assert (found.tiles, found.tiles_with_data) == (529, 328)
    assert tiles_with_data(band_file(product, "B01", 60)) == (529, 328)
    assert 0 < found.ring_bytes < 100e6


@pytest.mark.shared
async def test_real_metadata_without_any_band(shared_dir: Path) -> None:
    product = shared_dir / "data" / "metadata" / "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE"
    found = await survey(product, memory_bytes=2**28)
    assert (found.bands, found.tiles, found.tiles_with_data, found.ring_bytes) == ((), None, 0, 0)


@pytest.mark.shared
def test_the_page_of_real_metadata_without_any_band(shared_dir: Path, info: Callable[..., str]) -> None:
    product = shared_dir / "data" / "metadata" / "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE"
    page = info(product)
    assert "no 10 m, 20 m or 60 m band is there: no tiles to count" in page
    assert "offsets -1000 DN (B01 B02" in page


async def test_a_damaged_band_is_named(l2a_scene: Scene, tmp_path: Path) -> None:
    damaged = l2a_scene.copy(tmp_path)
    file = band_file(damaged, "B11", 20)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError, match=rf"{file.name}"):
        await survey(damaged, memory_bytes=2**28)


async def test_a_band_of_another_size_is_refused_before_its_pixels_are_read(l2a_scene: Scene, tmp_path: Path) -> None:
    damaged = l2a_scene.copy(tmp_path)
    shutil.copy(band_file(damaged, "B8A", 20), band_file(damaged, "B01", 60))
    with pytest.raises(InputError, match=r"_B01_60m\.jp2 of .* has 300 x 300 pixels, the metadata says 100 x 100"):
        await survey(damaged, memory_bytes=2**28)


async def test_no_more_memory_is_taken_than_is_given(l2a_scene: Scene) -> None:
    with pytest.raises(UsageError, match=r"needs 1 MB for decoded pixels, the budget is 0 MB"):
        await survey(l2a_scene.path, memory_bytes=1000)


def test_the_page_says_what_the_issue_asks_for(l2a_scene: Scene, info: Callable[..., str]) -> None:
    page = info(l2a_scene.path)
    total, with_data = tiles_with_data(l2a_scene.band_file("B01", 60))
    for text in (
        l2a_scene.name,
        "Sentinel-2A, L2A, processing baseline 05.11",
        "tile T32ZZZ, sensed 20240823T101031",
        "EPSG:32632, upper left 399960, 5300040 m",
        "600 x 600 pixels of 10 m",
        "offsets -1000 DN (B01 B02",
        "quantification 10000 DN (B01",
        "1000 DN (AOT WVP)",
        f"{total} tiles of 512 x 512 pixels of 10 m, {with_data} hold data (seen in B01 at 60 m); decoded pixels take ",
        "MB of memory",
    ):
        assert text in page, text
    lines = {tuple(line.split()[:2]): line for line in page.splitlines() if line.startswith("  B") or "  AOT" in line}
    assert "1: tiles 600x600, 15 bit, code-blocks 64x64, LRCP, 5 resolutions, 5/3 reversible" in lines["B02", "10"]
    assert "precincts 128x128" in lines["B02", "20"]


def test_the_document_says_the_same(l2a_scene: Scene, info: Callable[..., str]) -> None:
    document: dict[str, Any] = json.loads(info(l2a_scene.path, "--json"))
    assert (document["product"], document["level"], document["baseline"]) == (l2a_scene.name, "L2A", "05.11")
    assert document["offsets"]["B8A"] == -1000
    assert document["sizes"] == {"10": [600, 600], "20": [300, 300], "60": [100, 100]}
    assert (document["tiles"], document["tiles_with_data"]) == tiles_with_data(l2a_scene.band_file("B01", 60))
    bands = {(b["band"], b["gsd_m"]): b for b in document["bands"]}
    assert bands["B02", 10]["codestream_tiles"] == 1
    assert bands["B02", 10]["bytes"] == l2a_scene.band_file("B02", 10).stat().st_size
    assert bands["SCL", 20]["layout"].startswith("tiles 300x300, 8 bit")


async def test_tiles_without_data_are_told_apart(l2a_scene: Scene, tmp_path: Path) -> None:
    """A product of which the lower right is empty: re-encoded, for the generator leaves no tile empty at this size."""
    product = l2a_scene.copy(tmp_path)
    file = band_file(product, "B01", 60)
    with rasterio.open(file) as band:
        pixels, profile = band.read(1), band.profile
    pixels[80:] = 0
    file.unlink()
    staged = tmp_path / "staged.tif"
    with rasterio.open(staged, "w", **{**profile, "driver": "GTiff"}) as target:
        target.write(pixels.astype(np.uint16), 1)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        rasterio.shutil.copy(str(staged), str(file), driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES", NBITS=15)
    found = await survey(product, memory_bytes=2**28)
    assert (found.tiles, found.tiles_with_data) == (4, 2) == tiles_with_data(file)
