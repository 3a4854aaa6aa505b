"""The floor of decoding decodes what the client decodes, each codestream tile once, wherever the product lies."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream.bench.floor import compressed_units, decode_floor
from kappamask_stream.contract import BandGroup
from kappamask_stream.errors import CodestreamError, ProductError
from kappamask_stream.grid import TileGrid
from kappamask_stream.jp2 import BandInput, DecodePlan, ImagecodecsDecoder, TileStream, index_bands
from tests.stream.test_tile_stream import MemorySource, folder, loop_faults
from tests.stream.test_tile_stream_runs import DistantSource
from tests.unit.jp2_files import scene, write_jp2

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["folder", "loop_faults"]

GROUP = BandGroup(gsd_m=20, bands=("B05", "B8A"), tile=256, stride=240)
SIZE = 768


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, bytes]:
    """Two bands of 3 x 3 codestream tiles; of one the right two thirds are empty."""
    made = {}
    for seed, band in enumerate(GROUP.bands):
        pixels = scene(SIZE, SIZE, seed=seed) * ((np.arange(SIZE) < 240) | (band == "B05"))
        made[band] = write_jp2(
            folder / f"floor-{band}.jp2", pixels.astype(np.uint16), BLOCKXSIZE="256", BLOCKYSIZE="256", PRECINCTS=""
        ).read_bytes()
    return made


async def planned(source: MemorySource) -> DecodePlan:
    indexes = await index_bands(source, GROUP.bands)
    grid = TileGrid(height=SIZE, width=SIZE, tile_size=256, margin=8)
    inputs = [BandInput(path=b, index=indexes[b], group=GROUP, channel=c) for c, b in enumerate(GROUP.bands)]
    return DecodePlan.of(inputs, list(grid))


async def test_as_much_is_decoded_as_by_the_client(files: dict[str, bytes]) -> None:
    source = MemorySource(files)
    plan = await planned(source)
    with ThreadPoolExecutor(2) as threads:
        async with TileStream(source, plan, executor=threads, workers=2) as stream:
            async for _ in stream:
                pass
    floor = await decode_floor(plan, await compressed_units(source, plan), threads=1)
    # One at a time, the first of six empty ones is decoded; several at a time, some of the others, too.
    assert len(plan.units) == 18
    assert floor.codestream_tiles == 9 + 3 + 1
    assert floor.codestream_tiles <= stream.stats.codestream_tiles_decoded
    assert floor.megapixels == floor.codestream_tiles * 256**2 / 1e6
    assert floor.threads == 1
    assert floor.cpu_s > 0


async def test_what_is_far_away_is_read_whole_before(files: dict[str, bytes]) -> None:
    near, far = MemorySource(files), DistantSource(files, coalesce_bytes=2**16)
    plan = await planned(near)
    assert await compressed_units(far, plan) == await compressed_units(near, plan)
    assert far.streams


async def test_a_source_that_fails_is_told_of_and_leaves_no_task(files: dict[str, bytes]) -> None:
    plan = await planned(MemorySource(files))
    with pytest.raises((ProductError, KeyError)):
        await compressed_units(DistantSource({"B05": files["B05"]}, coalesce_bytes=2**16), plan)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_damaged_bytes_end_it_with_their_error(files: dict[str, bytes]) -> None:
    source = MemorySource(files)
    plan = await planned(source)
    parts = await compressed_units(source, plan)
    parts[3] = [b"\xff\x90" + bytes(len(part) - 2) for part in parts[3]]
    with pytest.raises(CodestreamError, match=r"of B(05|8A)|^B(05|8A)"):
        await decode_floor(plan, parts, threads=2)


class Slow(ImagecodecsDecoder):
    """Waits before each tile until it may go on."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.decoded = 0

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        self.begun.set()
        self.may_go_on.wait()
        self.decoded += 1
        return super().decode(codestream, height=height, width=width, name=name)


async def test_cancelling_ends_its_threads(files: dict[str, bytes]) -> None:
    source, decoder = MemorySource(files), Slow()
    plan = await planned(source)
    parts = await compressed_units(source, plan)
    before = threading.active_count()
    work = asyncio.create_task(decode_floor(plan, parts, threads=2, decoder=decoder))
    await asyncio.to_thread(decoder.begun.wait)
    threading.Timer(0.05, decoder.may_go_on.set).start()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert decoder.decoded <= 2
    assert threading.active_count() <= before + 2  # the timer's, and one of the loop's own that waited for the event
