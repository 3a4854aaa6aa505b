"""Tiles cut from codestream tiles: equal to a plain read, each decoded once, within the ring, ended cleanly."""

import asyncio
import gc
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kappamask_stream.contract import BandGroup, ModelContract
from kappamask_stream.errors import CodestreamError, ProductError
from kappamask_stream.grid import Tile, TileGrid, Window, source_window
from kappamask_stream.jp2 import (
    BandInput,
    DecodePlan,
    ImagecodecsDecoder,
    TilePixels,
    TileStream,
    bands_of,
    index_bands,
)
from kappamask_stream.sources import DirectorySource
from tests.unit.jp2_files import POC, Codestream, esa_options, index_bytes, plain_read, poc_body, scene, write_jp2
from tests.unit.test_decode_plan import make_index

GROUP = BandGroup(gsd_m=20, bands=("B02", "B03"), tile=96, stride=80)


class MemorySource:
    """Files in memory; counts what is read, waits and fails as told."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.label = "memory"
        self.coalesce_bytes = 0
        self._files = files
        self.reads: Counter[str] = Counter()
        self.bytes = 0
        self.reading = 0
        self.fail: tuple[str, int, Exception] | None = None

    async def files(self) -> Mapping[str, int]:
        return MappingProxyType({path: len(data) for path, data in self._files.items()})

    async def read(self, path: str, start: int, length: int) -> bytes:
        self.reading += 1
        try:
            await asyncio.sleep(0)
            if self.fail and self.fail[0] == path and start >= self.fail[1]:
                raise self.fail[2]
            self.reads[path] += 1
            self.bytes += length
            return self._files[path][start : start + length]
        finally:
            self.reading -= 1

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        yield await self.read(path, start, length)

    async def read_all(self, path: str, *, limit: int) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


@dataclass
class SpyDecoder:
    """Decodes for real; counts, can fail on a name, and can hold decodes back until `gate` is set."""

    fail_on: str | None = None
    gate: threading.Event | None = None
    names: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    takes_thinned: bool = True

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        with self.lock:
            self.names.append(name)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if self.gate is not None:
                assert self.gate.wait(60)
            if self.fail_on is not None and self.fail_on in name:
                codestream = codestream[: len(codestream) // 2]
            return ImagecodecsDecoder().decode(codestream, height=height, width=width, name=name)
        finally:
            with self.lock:
                self.running -= 1


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
async def loop_faults() -> AsyncIterator[list[dict[str, Any]]]:
    """What asyncio would only log: exceptions of futures and tasks that nobody took."""
    faults: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    yield faults
    gc.collect()
    await asyncio.sleep(0)
    assert faults == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def two_bands(folder: Path) -> dict[str, bytes]:
    """Two bands of 250 x 310 pixels in tiles of 64, one of them in tile-parts."""
    return {
        "B02": write_jp2(folder / "B02.jp2", scene(250, 310, seed=2)).read_bytes(),
        "B03": write_jp2(
            folder / "B03.jp2", scene(250, 310, seed=3), PRECINCTS="", TILEPARTS="RESOLUTIONS"
        ).read_bytes(),
    }


def small_plan(files: dict[str, bytes], group: BandGroup = GROUP) -> DecodePlan:
    indexes = {band: index_bytes(files[band], f"{band}.jp2") for band in group.bands}
    first = indexes[group.bands[0]]
    bands = [BandInput(path=b, index=indexes[b], group=group, channel=c) for c, b in enumerate(group.bands)]
    margin = (group.tile - group.stride) // 2
    return DecodePlan.of(bands, TileGrid(first.height, first.width, group.tile, margin))


async def consume(stream: TileStream, taken: list[TilePixels]) -> None:
    async with stream:
        async for pixels in stream:
            taken.append(pixels)  # noqa: PERF401 - those before an error count


def expected_tile(tile: Tile, group: BandGroup, images: dict[str, NDArray[np.uint16]]) -> NDArray[np.uint16]:
    """Cut a tile from whole images, with zeros beyond them."""
    window = source_window(tile, group)
    cut = np.zeros((len(group.bands), group.tile, group.tile), np.uint16)
    for channel, band in enumerate(group.bands):
        inside = images[band][window.row : window.row_end, window.col : window.col_end]
        cut[channel, : inside.shape[0], : inside.shape[1]] = inside
    return cut


def check_tile(pixels: TilePixels, groups: tuple[BandGroup, ...], images: dict[int, dict[str, Any]]) -> None:
    expected = {group.tensor: expected_tile(pixels.tile, group, images[group.gsd_m]) for group in groups}
    if not any(tensor.any() for tensor in expected.values()):
        assert pixels.is_empty
        assert pixels.tensors == {}
        return
    assert not pixels.is_empty
    assert list(pixels.tensors) == list(expected)
    for name, tensor in expected.items():
        assert pixels.tensors[name].dtype == np.uint16
        assert np.array_equal(pixels.tensors[name], tensor), f"{name} of {pixels.tile}"


def write_product(
    root: Path, contract: ModelContract, *, size_10m: tuple[int, int]
) -> tuple[dict[tuple[str, int], str], dict[int, dict[str, NDArray[np.uint16]]]]:
    """Write a contract's bands in ESA's layout, with nodata on the right; returns paths and plain reads."""
    paths, images = {}, {}
    for group in contract.inputs:
        height, width = (side * 10 // group.gsd_m for side in size_10m)
        rows, cols = np.mgrid[:height, :width]
        swath = cols / width + 0.1 * rows / height < 0.45
        for seed, band in enumerate(group.bands):
            path = root / f"R{group.gsd_m}m" / f"{band}.jp2"
            path.parent.mkdir(exist_ok=True)
            pixels = scene(height, width, seed=seed) * swath
            write_jp2(path, pixels.astype(np.uint16), **esa_options(group.gsd_m))
            paths[band, group.gsd_m] = f"R{group.gsd_m}m/{band}.jp2"
            images.setdefault(group.gsd_m, {})[band] = plain_read(path)
    return paths, images


async def plan_of(source: DirectorySource, contract: ModelContract, paths: dict[tuple[str, int], str]) -> DecodePlan:
    indexes = await index_bands(source, paths.values())
    bands = bands_of(contract, {key: indexes[path] for key, path in paths.items()}, paths)
    first = bands[0].index
    factor = contract.inputs[0].gsd_m / contract.gsd_m
    return DecodePlan.of(bands, TileGrid.of(contract, int(first.height * factor), int(first.width * factor)))


def held(stream: TileStream) -> int:
    """Bytes held now, as the stream shows itself."""
    found = re.search(r"(\d+)/\d+ bytes held", repr(stream))
    assert found is not None
    return int(found[1])


def check_accounts(stream: TileStream, plan: DecodePlan, decoder: SpyDecoder, source_bytes: int | None = None) -> None:
    """Check that every unit was decoded once or skipped, and that the ring kept to its bytes."""
    stats = stream.stats
    assert stats.codestream_tiles_decoded_twice == 0
    assert max(Counter(decoder.names).values()) == 1
    assert len(decoder.names) == stats.codestream_tiles_decoded == len(plan.units) - stats.codestream_tiles_empty
    assert stats.bytes_read == sum(length for unit in plan.units for _, length in unit.tile.parts)
    assert source_bytes in {None, stats.bytes_read}
    assert 0 < stats.peak_held_bytes <= plan.required_bytes
    assert held(stream) == 0


@pytest.mark.parametrize("name", ["csmask_contract", "l1c_csmask_contract", "kappamask_contract"])
async def test_tiles_of_a_product_equal_a_plain_read_with_zeros_beyond(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    threads: ThreadPoolExecutor,
    loop_faults: list[dict[str, Any]],
) -> None:
    contract: ModelContract = request.getfixturevalue(name)
    paths, images = write_product(tmp_path, contract, size_10m=(1080, 2100))
    source, decoder = DirectorySource(tmp_path), SpyDecoder()
    plan = await plan_of(source, contract, paths)
    seen = 0

    def new_tensors() -> dict[str, NDArray[np.uint16]]:
        """As of an earlier tile: what is there must not shine through."""
        return {g.tensor: np.full((len(g.bands), g.tile, g.tile), 77, np.uint16) for g in contract.inputs}

    async with TileStream(
        source, plan, executor=threads, workers=2, decoder=decoder, new_tensors=new_tensors
    ) as stream:
        async for pixels in stream:
            check_tile(pixels, contract.inputs, images)
            assert pixels.tile.index == seen
            seen += 1
    assert seen == len(plan.tiles) > 4
    check_accounts(stream, plan, decoder)
    assert stream.stats.codestream_tiles_empty + len(decoder.names) == len(plan.units)
    assert {pixels_are_zero(images, plan.bands[unit.band], unit.tile.window) for unit in plan.units} == {True, False}


def pixels_are_zero(images: dict[int, dict[str, Any]], band: BandInput, window: Window) -> bool:
    image = images[band.group.gsd_m][band.group.bands[band.channel]]
    return not image[window.row : window.row_end, window.col : window.col_end].any()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("read_ahead", [0, 1, 50])
@pytest.mark.parametrize("extra", [0, 50_000, 10**9])
async def test_the_ring_keeps_to_its_reservation(
    two_bands: dict[str, bytes], *, workers: int, read_ahead: int, extra: int
) -> None:
    plan, source, decoder = small_plan(two_bands), MemorySource(two_bands), SpyDecoder()
    images = {20: {"B02": scene(250, 310, seed=2), "B03": scene(250, 310, seed=3)}}
    reservation = plan.required_bytes + extra
    with ThreadPoolExecutor(workers) as threads:
        async with TileStream(
            source,
            plan,
            executor=threads,
            workers=workers,
            read_ahead=read_ahead,
            reservation_bytes=reservation,
            decoder=decoder,
        ) as stream:
            async for pixels in stream:
                check_tile(pixels, (GROUP,), images)
                assert held(stream) <= reservation
    assert stream.stats.peak_held_bytes <= reservation
    if extra == 0:
        check_accounts(stream, plan, decoder, source.bytes)
    assert decoder.most_running <= workers


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - threads make it true
            await asyncio.sleep(0.001)


async def test_a_slow_consumer_is_not_run_over(two_bands: dict[str, bytes], threads: ThreadPoolExecutor) -> None:
    """Decoding stops when the ring is full; it does not go on because nobody takes the tiles."""
    plan, decoder = small_plan(two_bands), SpyDecoder()
    async with TileStream(MemorySource(two_bands), plan, executor=threads, workers=2, decoder=decoder) as stream:
        await anext(stream)

        def is_full() -> bool:
            following = plan.units[len(decoder.names)].nbytes
            return not decoder.running and held(stream) + following > plan.required_bytes

        await until(is_full)
        bytes_held, decoded = held(stream), len(decoder.names)
        assert 2 < decoded < len(plan.units)
        for _ in range(100):
            await asyncio.sleep(0)
        assert (held(stream), len(decoder.names)) == (bytes_held, decoded)
        assert len([pixels async for pixels in stream]) == len(plan.tiles) - 1


def zero_and_ones(folder: Path) -> tuple[dict[str, bytes], NDArray[np.uint16]]:
    """One band whose codestream tiles are constant: 0, 1, 0, 32767 by turns, row after row, and one with an edge."""
    tiles = np.array([[0, 1, 0], [32767, 0, 1], [0, 0, 1]], np.uint16)
    pixels = np.kron(tiles, np.ones((64, 64), np.uint16))
    pixels = np.pad(pixels, ((0, 0), (0, 20)))  # a column of narrower tiles, zero
    pixels[70, 70] = 5
    return {"B02": write_jp2(folder / "constant.jp2", pixels).read_bytes()}, pixels


async def test_only_bytes_known_to_be_zero_are_skipped_never_equal_length(folder: Path) -> None:
    files, pixels = zero_and_ones(folder)
    group = BandGroup(gsd_m=20, bands=("B02",), tile=64, stride=64)
    plan, decoder = small_plan(files, group), SpyDecoder()
    lengths = {unit.tile.index: sum(n for _, n in unit.tile.parts) for unit in plan.units}
    assert lengths[0] == lengths[1] == lengths[4 * 1 + 0], "0, 1 and 32767 should encode to the same length"
    with ThreadPoolExecutor(1) as one:
        # One at a time, so that a tile is known to be zero before the next is looked at.
        async with TileStream(
            MemorySource(files), plan, executor=one, workers=1, read_ahead=0, decoder=decoder
        ) as stream:
            tiles = {p.tile.index: p async for p in stream}
    for tile in tiles.values():
        check_tile(tile, (group,), {20: {"B02": pixels}})
    # Zero tiles of 64 x 64: 0, 2, 8, 9; of 64 x 20: 3, 7, 11. The first of each size is decoded.
    assert decoder.names == [f"codestream tile {n} of B02.jp2" for n in (0, 1, 3, 4, 5, 6, 10)]
    assert stream.stats.codestream_tiles_empty == 5
    assert stream.stats.codestream_tiles_decoded == 7


async def test_what_is_known_to_be_zero_takes_little_memory_however_a_file_is_made(folder: Path) -> None:
    """Each tile is zero and of other bytes than any before: all of the file would be kept."""
    pixels = np.zeros((640, 640), np.uint16)
    zero = Codestream.of(write_jp2(folder / "zero.jp2", pixels).read_bytes())
    comments = [b"\xff\x64" + (4 + n).to_bytes(2) + b"\0\0" + bytes([tile]) * n for tile, n in enumerate(range(9, 109))]
    comments[0] = b"\xff\x64" + (20_004).to_bytes(2) + bytes(20_002)
    parts = tuple(replace(part, segments=own) for part, own in zip(zero.parts, comments, strict=True))
    files = {"B02": replace(zero, parts=parts).encode()}
    group = BandGroup(gsd_m=20, bands=("B02",), tile=64, stride=64)
    with ThreadPoolExecutor(1) as one:
        async with TileStream(MemorySource(files), small_plan(files, group), executor=one, workers=1) as stream:
            assert all([p.is_empty async for p in stream])
            known = stream._zero[0]
    assert stream.stats.codestream_tiles_decoded == 100
    assert len(known) == 64
    assert max(map(len, known)) < 1000


async def test_a_band_does_not_learn_from_another(folder: Path) -> None:
    """The same bytes can mean something else under another main header."""
    files, pixels = zero_and_ones(folder)
    files["B03"] = files["B02"]
    group = BandGroup(gsd_m=20, bands=("B02", "B03"), tile=64, stride=64)
    plan, decoder = small_plan(files, group), SpyDecoder()
    with ThreadPoolExecutor(1) as one:
        async with TileStream(
            MemorySource(files), plan, executor=one, workers=1, read_ahead=0, decoder=decoder
        ) as stream:
            async for p in stream:
                check_tile(p, (group,), {20: {"B02": pixels, "B03": pixels}})
    assert stream.stats.codestream_tiles_empty == 10
    assert Counter(name[-7:-4] for name in decoder.names) == {"B02": 7, "B03": 7}


async def test_a_plain_file_among_others_is_decoded_once_and_cut_alike(
    folder: Path, two_bands: dict[str, bytes], threads: ThreadPoolExecutor
) -> None:
    whole = Codestream.of(two_bands["B02"]).with_segment(POC, poc_body(2, 4)).encode()
    files = {"B02": whole, "B03": two_bands["B03"]}
    plan, source, decoder = small_plan(files), MemorySource(files), SpyDecoder()
    async with TileStream(source, plan, executor=threads, workers=2, decoder=decoder) as stream:
        async for pixels in stream:
            check_tile(pixels, (GROUP,), {20: {"B02": scene(250, 310, seed=2), "B03": scene(250, 310, seed=3)}})
    check_accounts(stream, plan, decoder, source.bytes)
    assert decoder.names.count("B02.jp2") == 1
    assert len(decoder.names) == 1 + 4 * 5


class Ones:
    """Decodes anything to ones."""

    takes_thinned = True

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        return np.ones((height, width), np.uint16)


async def test_what_a_decoder_takes_for_a_huge_tile_is_part_of_the_reservation(threads: ThreadPoolExecutor) -> None:
    huge = make_index(1900, 1900, 1900, 1900, decode_bytes=17 * 2**20, plain_reason="made for a test")
    bands = [BandInput(path=b, index=huge, group=GROUP, channel=c) for c, b in enumerate(GROUP.bands)]
    plan = DecodePlan.of(bands, list(TileGrid(1900, 1900, 96, 8))[:3])
    source = MemorySource(dict.fromkeys(GROUP.bands, b"\xff\xd9" * 1000))
    assert plan.units[0].needed == Window(0, 0, 96, 80 + 80 + 96)
    assert plan.units[0].work_bytes >= 17 * 2**20 + 1900 * 1900 * 2, "all of its pixels are there for a moment"
    assert plan.required_bytes == plan.kept_bytes + 2 * plan.units[0].nbytes + plan.units[0].work_bytes
    async with TileStream(source, plan, executor=threads, workers=2, decoder=Ones()) as stream:
        assert len([pixels async for pixels in stream]) == 3
    assert stream.stats.peak_held_bytes == plan.required_bytes
    assert held(stream) == 0


async def test_products_share_one_executor(
    folder: Path, two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    other = {
        "B02": write_jp2(folder / "other2.jp2", scene(200, 180, seed=5)).read_bytes(),
        "B03": write_jp2(folder / "other3.jp2", scene(200, 180, seed=6), BLOCKXSIZE="48").read_bytes(),
    }
    images = [
        {20: {"B02": scene(250, 310, seed=2), "B03": scene(250, 310, seed=3)}},
        {20: {"B02": scene(200, 180, seed=5), "B03": scene(200, 180, seed=6)}},
    ]
    decoders = [SpyDecoder(), SpyDecoder(), SpyDecoder(fail_on="tile 7 of")]

    async def one(files: dict[str, bytes], decoder: SpyDecoder, images: dict[int, Any]) -> int:
        plan, source, count = small_plan(files), MemorySource(files), 0
        async with TileStream(source, plan, executor=threads, workers=2, decoder=decoder) as stream:
            async for pixels in stream:
                check_tile(pixels, (GROUP,), images)
                count += 1
        check_accounts(stream, plan, decoder, source.bytes)
        return count

    results = await asyncio.gather(
        one(two_bands, decoders[0], images[0]),
        one(other, decoders[1], images[1]),
        one(two_bands, decoders[2], images[0]),
        return_exceptions=True,
    )
    assert results[:2] == [len(small_plan(two_bands).tiles), len(small_plan(other).tiles)]
    assert isinstance(results[2], CodestreamError)


async def test_a_damaged_codestream_tile_is_an_error_at_the_tile_that_needs_it(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan = small_plan(two_bands)
    decoder = SpyDecoder(fail_on="codestream tile 12 of B03")
    first = next(i for i, need in enumerate(plan.needs) if any(is_unit(plan, u, "B03", 12) for u in need))
    assert first > 2
    stream, done = TileStream(MemorySource(two_bands), plan, executor=threads, workers=2, decoder=decoder), []
    with pytest.raises(CodestreamError, match=r"^codestream tile 12 of B03\.jp2 cannot be decoded .* fetch it again$"):
        await consume(stream, done)
    assert [pixels.tile.index for pixels in done] == list(range(first))


def is_unit(plan: DecodePlan, unit: int, path: str, tile: int) -> bool:
    return plan.bands[plan.units[unit].band].path == path and plan.units[unit].tile.index == tile


async def test_errors_of_tiles_that_nobody_asked_for_are_not_reported(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    """A consumer that leaves early has no use for the errors of what was read ahead."""
    plan, decoder = small_plan(two_bands), SpyDecoder(fail_on="tile 3 of")
    async with TileStream(
        MemorySource(two_bands), plan, executor=threads, workers=2, reservation_bytes=10**9, decoder=decoder
    ) as stream:
        await anext(stream)
        await until(lambda: any("tile 3 of" in name for name in decoder.names) and not decoder.running)


async def test_a_source_that_fails_is_an_error_at_the_tile_that_needs_it(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan, source = small_plan(two_bands), MemorySource(two_bands)
    (part,) = next(unit for unit in plan.units if is_unit(plan, plan.units.index(unit), "B02", 10)).tile.parts
    source.fail = ("B02", part[0], ProductError("B02.jp2 ends before byte 99: fetch the product again"))
    first = next(i for i, need in enumerate(plan.needs) if any(is_unit(plan, u, "B02", 10) for u in need))
    stream, done = TileStream(source, plan, executor=threads, workers=2), []
    with pytest.raises(ProductError, match="ends before byte 99"):
        await consume(stream, done)
    assert [pixels.tile.index for pixels in done] == list(range(first))


async def test_bytes_that_are_not_what_was_indexed_are_an_error(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan = small_plan(two_bands)
    replaced = {"B02": two_bands["B02"], "B03": bytes(len(two_bands["B03"]))}
    stream = TileStream(MemorySource(replaced), plan, executor=threads, workers=2)
    with pytest.raises(CodestreamError, match=r"^B03\.jp2: at byte \d+ a tile-part .* fetch it again$"):
        await consume(stream, [])


def nothing_is_left(stream: TileStream, decoder: SpyDecoder, source: MemorySource) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, f"tasks left: {others}"
    assert decoder.running == 0
    assert source.reading == 0
    assert repr(stream).endswith(f", 0/{stream._reservation} bytes held, 0 decoding>")
    assert stream._pixels == []


async def test_a_cancellation_at_any_moment_leaves_nothing(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan = small_plan(two_bands)
    moments = ended = 0
    while not ended:
        decoder, source = SpyDecoder(fail_on="tile 13 of"), MemorySource(two_bands)
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
        moments += 1 if moments < 60 else 1 + moments // 4
    assert ended > 60


async def test_a_second_cancellation_does_not_leave_a_decode_behind(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan, gate = small_plan(two_bands), threading.Event()
    decoder, source = SpyDecoder(gate=gate), MemorySource(two_bands)
    stream = TileStream(source, plan, executor=threads, workers=2, decoder=decoder)

    task = asyncio.create_task(consume(stream, []))
    await until(lambda: decoder.running == 2)
    for _ in range(3):
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done(), "it must wait for the threads that decode"
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    nothing_is_left(stream, decoder, source)
    assert len(decoder.names) == 2, "what waited for a thread was still decoded"


async def test_a_consumer_that_gives_up_waiting_gets_the_same_tile_later(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan, gate = small_plan(two_bands), threading.Event()
    decoder = SpyDecoder(gate=gate)
    images = {20: {"B02": scene(250, 310, seed=2), "B03": scene(250, 310, seed=3)}}
    async with TileStream(MemorySource(two_bands), plan, executor=threads, workers=2, decoder=decoder) as stream:
        waiting = asyncio.create_task(anext(stream))
        await until(lambda: decoder.running == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        tiles = [pixels async for pixels in stream]
    assert [pixels.tile.index for pixels in tiles] == list(range(len(plan.tiles)))
    for pixels in tiles:
        check_tile(pixels, (GROUP,), images)
    check_accounts(stream, plan, decoder)


async def test_leaving_early_ends_what_was_read_ahead(
    two_bands: dict[str, bytes], threads: ThreadPoolExecutor, loop_faults: list[dict[str, Any]]
) -> None:
    plan, decoder, source = small_plan(two_bands), SpyDecoder(), MemorySource(two_bands)
    async with TileStream(source, plan, executor=threads, workers=2, decoder=decoder) as stream:
        await anext(stream)
        assert "tile 1/" in repr(stream)
    nothing_is_left(stream, decoder, source)


async def test_a_stream_without_tiles_ends_at_once(threads: ThreadPoolExecutor) -> None:
    plan = DecodePlan.of([], [])
    async with TileStream(MemorySource({}), plan, executor=threads, workers=1) as stream:
        assert [pixels async for pixels in stream] == []


async def test_files_are_indexed_each_once_whatever_their_number(two_bands: dict[str, bytes]) -> None:
    source = MemorySource({f"R20m/{n}.jp2": two_bands["B02"] for n in range(20)})
    paths = [f"R20m/{n}.jp2" for n in range(20)] * 2
    indexes = await index_bands(source, paths)
    assert list(indexes) == paths[:20]
    assert {index.name for index in indexes.values()} == {f"{n}.jp2" for n in range(20)}
    assert set(source.reads.values()) == {source.reads["R20m/0.jp2"]}


async def test_the_file_that_cannot_be_indexed_is_named_and_the_others_are_let_go(
    two_bands: dict[str, bytes], loop_faults: list[dict[str, Any]]
) -> None:
    files = {f"R20m/{n}.jp2": two_bands["B02"] for n in range(20)}
    files["R20m/7.jp2"] = two_bands["B02"][:3000]
    source = MemorySource(files)
    with pytest.raises(CodestreamError, match=r"^7\.jp2: the box b'jp2c' at byte .* fetch it again$"):
        await index_bands(source, files)
    assert source.reads["R20m/19.jp2"] == 0
    with pytest.raises(CodestreamError, match=r"^missing\.jp2: 0 bytes are no JPEG 2000 file"):
        await index_bands(source, ["R20m/1.jp2", "R20m/missing.jp2"])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert source.reading == 0


async def test_indexing_can_be_cancelled_at_any_moment(
    two_bands: dict[str, bytes], loop_faults: list[dict[str, Any]]
) -> None:
    source = MemorySource({f"{n}.jp2": two_bands["B02"] for n in range(12)})
    for moment in range(40):
        task = asyncio.create_task(index_bands(source, await source.files()))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert source.reading == 0
