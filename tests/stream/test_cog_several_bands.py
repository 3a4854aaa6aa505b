"""A COG of several bands, its blocks spilled to a scratch file: valid, read back equal, little in memory."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from kappamask_stream.cog import CogStream, SpilledBlocks
from kappamask_stream.errors import OutputError
from kappamask_stream.mosaic import Block
from kappamask_stream.overviews import average
from tests.unit.places import files_in, small_disk
from tests.unit.test_cog_tiff import TAGS, spec_of

BANDS = ("CLEAR", "CLOUD <thick & thin>", "größer")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def image_of(height: int, width: int, seed: int = 1) -> NDArray[np.uint8]:
    """Smooth bands, a corner without data."""
    rows, cols = np.ogrid[:height, :width]
    bands = [127 + 120 * np.sin(rows / (7 + n) + seed) * np.cos(cols / (11 + n)) for n in range(len(BANDS))]
    image = np.stack(bands).astype(np.uint8)
    image[:, (rows + cols) < min(height, width) // 2] = 0
    return image


def blocks_of(image: NDArray[np.uint8], size: int, seed: int) -> list[Block]:
    _, height, width = image.shape
    rows, cols = -(-height // size), -(-width // size)
    padded = np.zeros((len(image), rows * size, cols * size), np.uint8)
    padded[:, :height, :width] = image
    cut = [
        Block(row=r, col=c, pixels=padded[:, r * size : (r + 1) * size, c * size : (c + 1) * size])
        for r in range(rows) for c in range(cols)
    ]  # fmt: skip
    np.random.default_rng(seed).shuffle(cut)  # type: ignore[arg-type]
    return cut


def naive_average(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    bands, height, width = image.shape
    halved = np.zeros((bands, -(-height // 2), -(-width // 2)), np.uint8)
    for row in range(halved.shape[1]):
        for col in range(halved.shape[2]):
            four = image[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].reshape(bands, -1).astype(int)
            known = four[:, four.any(axis=0)]
            if known.size:
                halved[:, row, col] = np.floor(known.mean(axis=1) + 0.5)
    return halved


def spec(image: NDArray[np.uint8], compression: str, size: int):
    plain = spec_of(*image.shape[1:], compression, block_size=size)
    return replace(plain, nodata=None, classes=(), bands=BANDS)


async def write(
    path: Path, image: NDArray[np.uint8], threads: ThreadPoolExecutor, compression: str, size: int, seed: int
) -> None:
    with closing(SpilledBlocks(path.parent)) as store:
        store.open()
        async with CogStream(spec(image, compression, size), threads, store=store, halve=average) as cog:
            for block in blocks_of(image, size, seed):
                await cog.add(block)
            await cog.finish_into(path)


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
@pytest.mark.parametrize(("height", "width", "size"), [(20, 30, 512), (300, 500, 64), (1100, 700, 512)])
async def test_several_bands_make_a_valid_cog_that_reads_back_equal(
    height: int, width: int, size: int, compression: str, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    image, path = image_of(height, width), tmp_path / "p.tif"
    await write(path, image, threads, compression, size, 1)
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(), image)
        assert (found.count, found.nodata, found.descriptions) == (3, None, BANDS)
        assert found.colorinterp[0] == ColorInterp.gray
        assert found.interleaving == rasterio.enums.Interleaving.band
        assert {name: found.tags()[name] for name in TAGS} == TAGS
        assert found.crs.to_epsg() == 32729
        levels = len(found.overviews(1))
    for number in range(levels):
        image = naive_average(image)
        with rasterio.open(path, overview_level=number) as found:
            np.testing.assert_array_equal(found.read(), image)
    assert set(files_in(tmp_path)) == {"p.tif"}


async def test_any_order_of_arrival_gives_the_same_bytes(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    image = image_of(300, 200)
    for seed in (1, 2, 3):
        await write(tmp_path / f"{seed}.tif", image, threads, "deflate", 64, seed)
    assert len(set(files_in(tmp_path).values())) == 1


async def test_no_room_for_the_scratch_file_is_told_with_the_remedy(
    threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (3, 512, 512), np.uint8)
    with small_disk(tmp_path / "small") as disk:
        with pytest.raises(
            OutputError, match=rf"cannot write {disk}: No space left on device: make room or name .*TMPDIR"
        ):
            await write(disk / "p.tif", noise, threads, "deflate", 64, 1)
        assert files_in(disk) == {}


async def test_no_room_for_the_file_is_told_with_the_remedy(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 512, 512), np.uint8)
    with small_disk(tmp_path / "small") as disk:
        store = SpilledBlocks(tmp_path)
        store.open()
        async with CogStream(spec(image, "deflate", 64), threads, store=store, halve=average) as cog:
            for block in blocks_of(image, 64, 1):
                await cog.add(block)
            with pytest.raises(OutputError, match="No space left on device: make room or name another folder"):
                await cog.finish_into(disk / "p.tif")
        store.close()


def test_a_scratch_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=rf"cannot write {tmp_path}/gone: No such file"):
        SpilledBlocks(tmp_path / "gone").open()
    with pytest.raises(RuntimeError, match="before open"):
        SpilledBlocks(tmp_path).put((0, 0, 0), [b"x"])


def test_what_the_system_writes_in_two_goes_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_some = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: write_some(file, data[:3], at))
    store = SpilledBlocks(tmp_path)
    store.open()
    store.put((0, 0, 1), [b"second", b"2nd"])
    store.put((0, 0, 0), [b"first", b"1st"])
    store.put((1, 0, 0), [b"overview", b"o"])
    blocks = store.in_order(0)
    assert list(blocks) == [b"first", b"second", b"1st", b"2nd"]
    assert (len(blocks), list(blocks[1:3]), blocks[-1]) == (4, [b"second", b"1st"], b"2nd")
    assert (store.count(0), store.count(1), store.count(2), list(store.in_order(2))) == (2, 1, 0, [])
    store.close()


def test_a_failing_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", broken)
    store = SpilledBlocks(tmp_path)
    store.open()
    with pytest.raises(OutputError, match="Input/output error: name another folder for temporary files with TMPDIR"):
        store.put((0, 0, 0), [b"x"])
    store.close()
