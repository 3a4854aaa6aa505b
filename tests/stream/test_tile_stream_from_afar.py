"""An area of interest of files that are far away: indexed and decoded with few requests and few bytes in vain."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kappamask_stream.contract import BandGroup
from kappamask_stream.errors import InternalError
from kappamask_stream.grid import Tile, TileGrid
from kappamask_stream.jp2 import BandInput, DecodePlan, IndexCost, TileStream, index_bands, wanted_tiles
from kappamask_stream.sources.archive import ZipSource
from tests.stream.test_tile_stream import MemorySource, check_tile, folder, loop_faults, threads
from tests.stream.test_tile_stream_runs import DistantSource
from tests.unit.jp2_files import Codestream, esa_options, interleaved, plain_read, scene, write_jp2
from tests.unit.zip_files import DEFLATED, STORED, MemoryBlob, pack

__all__ = ["folder", "loop_faults", "threads"]

GROUP = BandGroup(gsd_m=20, bands=("B05", "B8A"), tile=256, stride=240)
SIZE = 2240
FORMS = ("no TLM", "TLM", "tile-parts", "tile-parts, TLM")


class Far(DistantSource):
    """Counts all that is read."""

    async def read(self, path: str, start: int, length: int) -> bytes:
        self.streams.append((path, start, length))
        return await super().read(path, start, length)


@pytest.fixture(scope="module")
def bands(folder: Path) -> tuple[dict[str, dict[str, bytes]], dict[int, dict[str, Any]]]:
    """Two bands of 4 x 4 codestream tiles in ESA's layout, data in the left half; in each form of `FORMS`."""
    cols = np.arange(SIZE)
    forms: dict[str, dict[str, bytes]] = {form: {} for form in FORMS}
    images: dict[str, Any] = {}
    for seed, band in enumerate(GROUP.bands):
        pixels = scene(SIZE, SIZE, seed=seed) * (cols < 1200)
        path = write_jp2(folder / f"{band}.jp2", pixels.astype(np.uint16), **esa_options(20))
        images[band] = plain_read(path)
        whole = Codestream.of(path.read_bytes())
        parts = write_jp2(folder / f"{band}p.jp2", pixels.astype(np.uint16), BLOCKXSIZE="640", BLOCKYSIZE="640",
                          PRECINCTS="", TILEPARTS="RESOLUTIONS")  # fmt: skip
        several = Codestream.of(parts.read_bytes())
        forms["no TLM"][band] = whole.encode()
        forms["TLM"][band] = whole.with_tlm().encode()
        forms["tile-parts"][band] = several.encode()
        forms["tile-parts, TLM"][band] = interleaved(several).with_tlm().encode()
    return forms, {20: images}


def inputs_of(indexes: Mapping[str, Any]) -> list[BandInput]:
    return [BandInput(path=b, index=indexes[b], group=GROUP, channel=c) for c, b in enumerate(GROUP.bands)]


def area(*rows_and_cols: tuple[int, int]) -> list[Tile]:
    return [tile for tile in TileGrid(SIZE, SIZE, 256, 8) if (tile.row, tile.col) in rows_and_cols]


AREAS = {
    "in one codestream tile": [(3, 3)],
    "a corner of four": [(2, 2), (2, 3), (3, 2), (3, 3)],
    "at the swath's edge": [(5, 4), (5, 5), (5, 6)],
    "without data": [(1, 7), (1, 8), (8, 8)],
    "all": [(row, col) for row in range(10) for col in range(10)],
}


@pytest.mark.parametrize("name", AREAS)
@pytest.mark.parametrize("form", FORMS)
async def test_an_area_costs_five_percent_more_than_its_bytes_at_most(
    bands: tuple[dict[str, dict[str, bytes]], dict[int, dict[str, Any]]],
    threads: ThreadPoolExecutor,
    loop_faults: list[dict[str, Any]],
    name: str,
    form: str,
) -> None:
    forms, images = bands
    tiles, source = area(*AREAS[name]), Far(forms[form], coalesce_bytes=8 * 2**20)
    cost = IndexCost()
    wanted = wanted_tiles([(band, GROUP) for band in GROUP.bands], tiles)
    indexes = await index_bands(source, GROUP.bands, wanted=wanted, cost=cost)
    assert (cost.requests, cost.bytes_read) == (len(source.streams), source.bytes)
    plan = DecodePlan.of(inputs_of(indexes), tiles)
    async with TileStream(source, plan, executor=threads, workers=2) as stream:
        async for pixels in stream:
            check_tile(pixels, (GROUP,), images)
    needed = sum(n for unit in plan.units for _, n in unit.tile.parts)
    assert source.bytes == cost.bytes_read + stream.stats.bytes_read
    # The files' heads, their tile-parts' headers; and what is read ahead in a series of tiles without data.
    headers = 2 * (8192 + 12 * 16 * (5 if "parts" in form else 1))
    assert source.bytes <= 1.05 * (needed + headers) + (2 * 10_000 if name == "without data" else 0)
    if "TLM" in form and "no" not in form:
        assert cost.requests == 2 * 3
    if form in {"no TLM", "TLM"}:
        rows = {unit.tile.window.row for unit in plan.units}
        assert stream.stats.requests <= 2 * len(rows)
    assert cost.requests + stream.stats.requests == len(source.streams)


async def test_a_whole_index_reads_few_bytes_and_finds_the_same_from_afar(
    bands: tuple[dict[str, dict[str, bytes]], dict[int, dict[str, Any]]],
) -> None:
    for form in FORMS:
        far, near = Far(bands[0][form], coalesce_bytes=8 * 2**20), MemorySource(bands[0][form])
        costs = IndexCost(), IndexCost()
        found = await index_bands(far, GROUP.bands, cost=costs[0])
        assert found == await index_bands(near, GROUP.bands, cost=costs[1])
        assert costs[0].requests < costs[1].requests
        assert costs[1].requests == near.reads.total()
        assert costs[0].bytes_read <= 2 * (8192 + 6 * 12 * 16 + 10_000)


async def test_an_index_cut_to_an_area_serves_no_other(
    bands: tuple[dict[str, dict[str, bytes]], dict[int, dict[str, Any]]],
) -> None:
    source = Far(bands[0]["no TLM"], coalesce_bytes=1)
    wanted = wanted_tiles([(band, GROUP) for band in GROUP.bands], area((1, 1)))
    inputs = inputs_of(await index_bands(source, GROUP.bands, wanted=wanted))
    assert len(DecodePlan.of(inputs, area((1, 1))).units) == 2
    with pytest.raises(InternalError, match=r"^B05: codestream tile \d+ is needed, it was indexed without it"):
        DecodePlan.of(inputs, area((6, 6)))


@pytest.mark.parametrize(("coalesce_bytes", "most"), [(0, 8), (1, 16)])
async def test_from_afar_more_files_are_indexed_at_once(
    bands: tuple[dict[str, dict[str, bytes]], dict[int, dict[str, Any]]], coalesce_bytes: int, most: int
) -> None:
    class Watched(Far):
        most = 0

        async def read(self, path: str, start: int, length: int) -> bytes:
            self.most = max(self.most, self.reading + 1)
            return await super().read(path, start, length)

    files = {f"{n}.jp2": bands[0]["TLM"]["B05"] for n in range(40)}
    source = Watched(files, coalesce_bytes=coalesce_bytes)
    assert len(await index_bands(source, files)) == 40
    assert source.most == most


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("coalesce_bytes", [0, 2**20])
async def test_tiles_out_of_an_archive_are_the_same(
    bands: tuple[dict[str, dict[str, bytes]], dict[int, dict[str, Any]]],
    threads: ThreadPoolExecutor,
    loop_faults: list[dict[str, Any]],
    method: int,
    coalesce_bytes: int,
) -> None:
    forms, images = bands
    blob = MemoryBlob(pack(forms["no TLM"], method=method), coalesce_bytes=coalesce_bytes)
    source = ZipSource(blob)
    indexes = await index_bands(source, GROUP.bands)
    plan = DecodePlan.of(inputs_of(indexes), TileGrid(SIZE, SIZE, 256, 8))
    async with TileStream(source, plan, executor=threads, workers=2) as stream:
        async for pixels in stream:
            check_tile(pixels, (GROUP,), images)
    await source.aclose()
    assert blob.reading == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
