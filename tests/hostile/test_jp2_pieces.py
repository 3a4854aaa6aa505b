"""Bands in more pieces than any product's: what is kept of each is counted before it is made, and is what it takes."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import rasterio

from kappamask_stream.bands.resampled import ReplicatedIndex
from kappamask_stream.contract import BandGroup
from kappamask_stream.errors import ProductError
from kappamask_stream.grid import TileGrid, Window
from kappamask_stream.jp2 import BandInput, DecodePlan, TileStream, index_bands
from kappamask_stream.planning import bookkeeping_bytes
from kappamask_stream.settings import Settings
from tests.hostile.jp2_corpus import written
from tests.stream.test_tile_stream import MemorySource
from tests.stream.test_tile_stream_runs import DistantSource
from tests.unit.jp2_files import Codestream, Part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.bands import BandIndex

BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
SIDE = 5490
MB = 2**20
#: The share of the budget that the hostile products have through the command.
SHARE = bookkeeping_bytes(Settings(memory_budget_mb=64))


def in_pieces(folder: Path, side: int, tile: int, *, parts: int = 1) -> Codestream:
    """Return an image of empty codestream tiles, each of so many tile-parts of 15 bytes."""
    small = Codestream.of(written(folder).read_bytes())
    numbers = range((-(-side // tile)) ** 2)
    empty = tuple(Part(number, part % 256, 0, b"", b"\0") for number in numbers for part in range(parts))
    return replace(small.with_siz(x1=side, y1=side, tile_w=tile, tile_h=tile), parts=empty)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("make", [MemorySource, lambda files: DistantSource(files, coalesce_bytes=MB)])
async def test_what_is_kept_of_pieces_is_what_they_take(
    tmp_path: Path, make: Callable[[dict[str, bytes]], MemorySource], factor: int
) -> None:
    names = tuple(f"{band}.jp2" for band in BANDS)
    files = dict.fromkeys(names, in_pieces(tmp_path, 1500 // factor, 31 // factor).encode())
    source, group = make(files), BandGroup(gsd_m=20, bands=names, tile=256, stride=240)
    with ThreadPoolExecutor(1) as threads:
        gc.collect()
        tracemalloc.start()
        try:
            indexes: dict[str, BandIndex] = dict(await index_bands(source, names))
            if factor > 1:
                indexes = {name: ReplicatedIndex(index, factor) for name, index in indexes.items()}
            bands = [BandInput(path=n, index=indexes[n], group=group, channel=c) for c, n in enumerate(names)]
            plan = DecodePlan.of(bands, TileGrid(1500, 1500, 256, 8))
            async with TileStream(source, plan, executor=threads, workers=1, read_ahead=0):
                gc.collect()
                _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(plan.units) >= 6 * 49**2 * 0.9
    assert plan.kept_bytes / 4 < peak < plan.kept_bytes * 1.02, f"{peak / len(plan.units):.0f} bytes a unit"


def test_six_bands_in_as_many_pieces_as_a_band_may_have_are_refused_by_their_headers(tmp_path: Path) -> None:
    files = dict.fromkeys((f"{band}.jp2" for band in BANDS), in_pieces(tmp_path, SIDE, 31).encode())
    source = MemorySource(files)
    with pytest.raises(
        ProductError, match=r"^B02\.jp2: with it .* in 31684 pieces or more, of which 49 MB .* memory budget is 32 MB"
    ):
        asyncio.run(index_bands(source, files, most_bytes=SHARE))
    assert source.bytes < 30_000 < len(files["B02.jp2"]) / 10, "main headers were read, no codestream tile"
    one = asyncio.run(index_bands(source, ["B02.jp2"], most_bytes=bookkeeping_bytes(Settings())))
    assert len(one["B02.jp2"].tiles) == 31684
    few = asyncio.run(index_bands(source, ["B02.jp2"], wanted=lambda *_: [0, 1], most_bytes=SHARE))
    assert [len(tile.parts) for tile in few["B02.jp2"].tiles[:2]] == [1, 1]


def test_bands_that_each_have_a_share_are_too_many_together(tmp_path: Path) -> None:
    files = dict.fromkeys((f"{band}.jp2" for band in BANDS), in_pieces(tmp_path, SIDE, 62).encode())
    with pytest.raises(ProductError, match=r"^B04\.jp2: with it .* in 23763 pieces or more, of which 37 MB"):
        asyncio.run(index_bands(MemorySource(files), files, most_bytes=SHARE))


@pytest.mark.parametrize("listed", [False, True])
def test_tile_parts_count_as_well(tmp_path: Path, *, listed: bool) -> None:
    stream = in_pieces(tmp_path, 512, 32, parts=250)
    files = dict.fromkeys(
        (f"{band}.jp2" for band in BANDS), (stream.with_tlm(tile_bytes=2) if listed else stream).encode()
    )
    with pytest.raises(ProductError, match=r"^B\w+\.jp2: with it .*, of which 33 MB|of which 39 MB"):
        asyncio.run(index_bands(MemorySource(files), files, most_bytes=SHARE))


def test_blocks_of_tiffs_count_as_well(tmp_path: Path) -> None:
    path = tmp_path / "B02.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=2048, width=2048, count=1, dtype="uint16", tiled=True, blockxsize=16,
        blockysize=16, SPARSE_OK=True,
    ):  # fmt: skip
        pass
    files = dict.fromkeys((f"{band}.tif" for band in BANDS), path.read_bytes())
    with pytest.raises(ProductError, match=r"^B03\.tif: with it .* in 32768 pieces or more, of which 35 MB"):
        asyncio.run(index_bands(MemorySource(files), files, most_bytes=SHARE))
    few = asyncio.run(
        index_bands(
            MemorySource(files), list(files)[:3], wanted=lambda _, g: g.covering(Window(0, 0, 99, 99)), most_bytes=SHARE
        )
    )
    assert [len(index.tiles) for index in few.values()] == [128 * 128] * 3
