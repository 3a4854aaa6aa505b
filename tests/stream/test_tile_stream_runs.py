"""Units fetched in runs: the same pixels with few requests, each decoded as its bytes come, within the limit."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kappamask_stream.contract import BandGroup
from kappamask_stream.errors import CodestreamError, ProductError
from kappamask_stream.grid import TileGrid, Window
from kappamask_stream.jp2 import BandInput, CodestreamIndex, CodestreamTile, DecodePlan, TileDecoder, TileStream
from kappamask_stream.jp2.reading import ReadStats, RunReader
from tests.stream.test_tile_stream import (
    GROUP,
    MemorySource,
    SpyDecoder,
    check_tile,
    consume,
    folder,
    is_unit,
    loop_faults,
    nothing_is_left,
    small_plan,
    threads,
    two_bands,
    until,
)
from tests.unit.jp2_files import scene
from tests.unit.test_runs import laid_out

__all__ = ["folder", "loop_faults", "threads", "two_bands"]

#: A grid as large as the codestream tiles: they are needed in the order in which they lie in the file.
ALIGNED = BandGroup(gsd_m=20, bands=("B02", "B03"), tile=64, stride=64)
IMAGES = {20: {"B02": scene(250, 310, seed=2), "B03": scene(250, 310, seed=3)}}


class DistantSource(MemorySource):
    """Files in memory that come in pieces; says how many streams are open, and can stop at a byte of a file."""

    def __init__(self, files: dict[str, bytes], *, coalesce_bytes: int, seed: int = 0) -> None:
        super().__init__(files)
        self.coalesce_bytes = coalesce_bytes
        self.streams: list[tuple[str, int, int]] = []
        self.gates: dict[str, tuple[int, asyncio.Event]] = {}
        self._rng = random.Random(seed)

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        self.streams.append((path, start, length))
        self.reading += 1
        try:
            position = start
            while position < start + length:
                for _ in range(self._rng.randrange(3)):
                    await asyncio.sleep(0)
                stop, gate = self.gates.get(path, (0, None))
                if gate is not None and position >= stop:
                    await gate.wait()
                if self.fail and self.fail[0] == path and position >= self.fail[1]:
                    raise self.fail[2]
                size = min(self._rng.randrange(1, 3000), start + length - position)
                if gate is not None and position < stop:
                    size = min(size, stop - position)
                self.bytes += size
                yield self._files[path][position : position + size]
                position += size
        finally:
            self.reading -= 1


@pytest.mark.parametrize("coalesce_bytes", [1, 5_000, 20_000, 10**9])
@pytest.mark.parametrize("compressed_bytes", [None, 1, 30_000])
async def test_tiles_are_the_same_whatever_is_fetched_together(
    two_bands: dict[str, bytes],
    threads: ThreadPoolExecutor,
    loop_faults: list[dict[str, Any]],
    coalesce_bytes: int,
    compressed_bytes: int | None,
) -> None:
    plan, decoder = small_plan(two_bands), SpyDecoder()
    source = DistantSource(two_bands, coalesce_bytes=coalesce_bytes)
    async with TileStream(
        source, plan, executor=threads, workers=2, compressed_bytes=compressed_bytes, decoder=decoder
    ) as stream:
        async for pixels in stream:
            check_tile(pixels, (GROUP,), IMAGES)
    stats = stream.stats
    assert len(decoder.names) == len(set(decoder.names)) == len(plan.units)
    assert stats.bytes_read == source.bytes == sum(n for unit in plan.units for _, n in unit.tile.parts)
    assert stats.requests == len(source.streams) <= len(plan.units)
    assert source.reads.total() == 0
    largest = max(sum(n for _, n in unit.tile.parts) for unit in plan.units)
    limit = compressed_bytes or 2 * coalesce_bytes
    assert 0 < stats.peak_compressed_bytes <= max(limit, 2 * largest)


async def test_a_whole_file_may_be_one_request(two_bands: dict[str, bytes], threads: ThreadPoolExecutor) -> None:
    plan, source = small_plan(two_bands, ALIGNED), DistantSource(two_bands, coalesce_bytes=10**9)
    stream = TileStream(source, plan, executor=threads, workers=2)
    await consume(stream, [])
    assert [path for path, _, _ in source.streams] == ["B02", "B03"]
    for (path, start, length), index in zip(source.streams, (plan.bands[0].index, plan.bands[1].index), strict=True):
        assert start == index.tiles[0].parts[0][0]
        assert start + length == len(two_bands[path]) - 2  # up to EOC


async def test_a_unit_is_decoded_while_the_rest_of_its_run_is_coming(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor
) -> None:
    plan, decoder = small_plan(two_bands, ALIGNED), SpyDecoder()
    source = DistantSource(two_bands, coalesce_bytes=10**9)
    gate = asyncio.Event()
    for band in plan.bands:
        source.gates[band.path] = (sum(band.index.tiles[2].parts[-1]), gate)  # three tiles of each, then nothing
    async with TileStream(
        source, plan, executor=threads, workers=2, reservation_bytes=10**9, decoder=decoder
    ) as stream:
        await until(lambda: len(decoder.names) == 6 and not decoder.running)
        tiles = [await anext(stream) for _ in range(3)]
        assert source.reading == 2
        gate.set()
        tiles += [pixels async for pixels in stream]
    assert len(tiles) == len(plan.tiles)
    assert len(source.streams) == 2
    for pixels in tiles:
        check_tile(pixels, (ALIGNED,), IMAGES)


async def test_no_bytes_come_in_beyond_the_limit_while_nobody_takes_tiles(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor
) -> None:
    plan, decoder = small_plan(two_bands), SpyDecoder()
    source = DistantSource(two_bands, coalesce_bytes=8_000)
    async with TileStream(source, plan, executor=threads, workers=2, decoder=decoder) as stream:
        await until(lambda: not decoder.running and not source.reading and len(source.streams) > 2)
        for _ in range(300):
            await asyncio.sleep(0)
        decoded = sum(sum(n for _, n in plan.units[number].tile.parts) for number in range(len(decoder.names)))
        assert source.bytes - decoded <= 16_000
        assert source.bytes < sum(map(len, two_bands.values())) / 2
        assert len([pixels async for pixels in stream]) == len(plan.tiles)
    assert stream.stats.peak_compressed_bytes <= 16_000


class Checker:
    """A decoder that knows which bytes each codestream tile has."""

    takes_thinned = False

    def __init__(self, plan: DecodePlan, files: dict[str, bytes]) -> None:
        self.expected = {
            f"{band.index.name} {tile.index}": b"".join(files[band.path][o : o + n] for o, n in tile.parts)
            for band in plan.bands
            for tile in band.index.tiles
        }
        self.seen: list[bytes] = []

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        self.seen.append(codestream)
        return np.ones((height, width), np.uint16)


class AsTheyAre(CodestreamIndex):
    """Hands tile-parts to the decoder unlooked at: they are random bytes."""

    def decode_tile(
        self, tile: CodestreamTile, parts: list[bytes], decoder: TileDecoder, needed: Window | None = None, /
    ) -> NDArray[np.uint16]:
        return decoder.decode(b"".join(parts), height=tile.window.height, width=tile.window.width, name=self.name)


def undecodable(plan: DecodePlan) -> DecodePlan:
    """Name the bands' files apart and let their tiles be handed to the decoder as they are."""
    bands = []
    for number, band in enumerate(plan.bands):
        fields: dict[str, Any] = {**vars(band.index), "name": f"{number}", "plain_reason": "made for a test"}
        index = AsTheyAre(**fields)
        bands.append(BandInput(path=band.path, index=index, group=band.group, channel=band.channel))
    return DecodePlan.of(bands, plan.tiles)


def limit_of(reader: RunReader) -> int:
    """Most bytes held, as the reader shows itself."""
    found = re.search(r"/(\d+) bytes held", repr(reader))
    assert found is not None
    return int(found[1])


@given(
    plan=laid_out().map(undecodable),
    coalesce_bytes=st.integers(1, 3000),
    compressed_bytes=st.none() | st.integers(1, 3000),
    read_ahead=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_every_layout_order_and_limit_comes_to_its_end(
    plan: DecodePlan, coalesce_bytes: int, compressed_bytes: int | None, read_ahead: int, seed: int
) -> None:
    ends = [offset + length for band in plan.bands for tile in band.index.tiles for offset, length in tile.parts]
    files = {band.path: random.Random(n).randbytes(max(ends)) for n, band in enumerate(plan.bands)}
    source, decoder = DistantSource(files, coalesce_bytes=coalesce_bytes, seed=seed), Checker(plan, files)

    async def run(threads: ThreadPoolExecutor) -> TileStream:
        async with asyncio.timeout(60):
            stream = TileStream(
                source,
                plan,
                executor=threads,
                workers=1,
                read_ahead=read_ahead,
                compressed_bytes=compressed_bytes,
                decoder=decoder,
            )
            async with stream:
                async for pixels in stream:
                    assert not pixels.is_empty or not plan.needs[pixels.tile.index]
        return stream

    with ThreadPoolExecutor(1) as threads:
        stream = asyncio.run(run(threads))
    units = [plan.units[n].tile.parts for n in range(len(plan.units))]
    wanted = [
        b"".join(files[plan.bands[unit.band].path][o : o + n] for o, n in parts)
        for unit, parts in zip(plan.units, units, strict=True)
    ]
    assert sorted(decoder.seen) == sorted(wanted)
    needed = sum(map(len, wanted))
    assert needed <= stream.stats.bytes_read <= needed * 41 / 40
    limit = limit_of(RunReader(source, plan, ReadStats(), most_bytes=compressed_bytes))
    assert stream.stats.peak_compressed_bytes <= limit
    largest = max(map(len, wanted))
    assert limit <= max(compressed_bytes or coalesce_bytes * len(plan.bands), largest * len(plan.bands))
    assert source.reading == 0


async def test_a_stream_that_fails_is_an_error_at_the_tile_that_needs_the_byte(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan, source = small_plan(two_bands), DistantSource(two_bands, coalesce_bytes=10**9)
    (part,) = next(unit for unit in plan.units if is_unit(plan, plan.units.index(unit), "B02", 10)).tile.parts
    source.fail = ("B02", part[0] + 1, ProductError("B02.jp2 ends before byte 99: fetch the product again"))
    first = next(i for i, need in enumerate(plan.needs) if any(is_unit(plan, u, "B02", 10) for u in need))
    stream, done = TileStream(source, plan, executor=threads, workers=2), []
    with pytest.raises(ProductError, match="ends before byte 99"):
        await consume(stream, done)
    assert [pixels.tile.index for pixels in done] == list(range(first))
    nothing_is_left(stream, SpyDecoder(), source)


async def test_a_stream_that_ends_early_without_a_word_is_an_error(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    class Short(DistantSource):
        async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
            async with aclosing(super().stream(path, start, length - 1)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece

    plan, source = small_plan(two_bands), Short(two_bands, coalesce_bytes=10**9)
    stream, done = TileStream(source, plan, executor=threads, workers=2), []
    with pytest.raises(ProductError, match=r"^memory: B02 gave fewer than the \d+ bytes asked for from byte \d+ on"):
        await consume(stream, done)
    assert 0 < len(done) < len(plan.tiles)


async def test_bytes_that_are_not_what_was_indexed_are_an_error_in_a_run_too(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan = small_plan(two_bands)
    replaced = DistantSource({"B02": two_bands["B02"], "B03": bytes(len(two_bands["B03"]))}, coalesce_bytes=20_000)
    with pytest.raises(CodestreamError, match=r"^B03\.jp2: at byte \d+ a tile-part .* fetch it again$"):
        await consume(TileStream(replaced, plan, executor=threads, workers=2), [])


async def test_a_cancellation_at_any_moment_closes_the_streams(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan = small_plan(two_bands)
    moments = ended = 0
    while not ended:
        decoder, source = SpyDecoder(fail_on="tile 13 of"), DistantSource(two_bands, coalesce_bytes=15_000)
        stream = TileStream(source, plan, executor=threads, workers=2, decoder=decoder)
        task = asyncio.create_task(consume(stream, []))
        for _ in range(moments):
            await asyncio.sleep(0)
        if task.done():
            ended = moments
        task.cancel()
        with pytest.raises((asyncio.CancelledError, CodestreamError)):
            await task
        nothing_is_left(stream, decoder, source)
        assert re.fullmatch(r"<RunReader \d+ runs, 0/30000 bytes held>", repr(stream._reader))
        moments += 1 if moments < 60 else 1 + moments // 4
    assert ended > 60


async def test_leaving_early_closes_the_streams(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]], folder: Path
) -> None:
    plan, decoder = small_plan(two_bands, ALIGNED), SpyDecoder()
    source = DistantSource(two_bands, coalesce_bytes=10**9)
    source.gates["B02"] = (sum(plan.bands[0].index.tiles[8].parts[0]), asyncio.Event())  # never set
    async with TileStream(source, plan, executor=threads, workers=2, decoder=decoder) as stream:
        await anext(stream)
        assert source.reading >= 1
    nothing_is_left(stream, decoder, source)


async def test_an_area_costs_its_own_bytes(two_bands: dict[str, bytes], threads: ThreadPoolExecutor) -> None:
    """Rows of codestream tiles beside each other are a run each; what lies between them is not fetched."""
    whole = small_plan(two_bands)
    tiles = [t for t in TileGrid(250, 310, GROUP.tile, 8) if t.row in {1, 2} and t.col in {1, 2}]
    plan, source = DecodePlan.of(whole.bands, tiles), DistantSource(two_bands, coalesce_bytes=10**9)
    stream = TileStream(source, plan, executor=threads, workers=2)
    async with stream:
        async for pixels in stream:
            check_tile(pixels, (GROUP,), IMAGES)
    needed = sum(n for unit in plan.units for _, n in unit.tile.parts)
    assert needed <= stream.stats.bytes_read <= needed * 1.025
    rows = {unit.tile.window.row for unit in plan.units}
    assert stream.stats.requests == 2 * len(rows) < len(plan.units) / 2
