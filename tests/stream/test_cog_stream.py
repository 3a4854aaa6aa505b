"""Blocks in any order become the same file; little is held raw; a failure is told once, as what it was."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from kappamask_stream.cog import CogStream
from kappamask_stream.cog import stream as module
from kappamask_stream.cog.tiff import assemble
from tests.unit import naive_masks
from tests.unit.test_cog_tiff import NODATA, levels_of, spec_of


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture
async def complaints() -> list[str]:
    """What the event loop had to say: exceptions that nobody has seen."""
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(str(context)))
    return said


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - threads set it
            await asyncio.sleep(0.001)


async def add_all(cog: CogStream, mask: np.ndarray) -> None:
    for block in naive_masks.blocks(mask, NODATA, cog.spec.block_size):
        await cog.add(block)
    await cog.finish()


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
@pytest.mark.parametrize("shape", [(1, 1), (513, 300), (1300, 1830)])
async def test_any_order_of_arrival_gives_the_bytes_of_the_whole_mask(
    shape: tuple[int, int], compression: str, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    mask = naive_masks.blobs(*shape, seed=1)
    spec = spec_of(*shape, compression)
    expected = b"".join(assemble(spec, levels_of(mask, spec)))
    for order in (1, 2, 3):
        async with CogStream(spec, threads) as cog:
            for block in naive_masks.blocks(mask, NODATA, 512, seed=order):
                await cog.add(block)
            assert b"".join(await cog.finish()) == expected
            shown = next(m for m in [mask, *naive_masks.pyramid(mask, NODATA, 512)] if max(m.shape) <= 1100)
            np.testing.assert_array_equal(cog.quicklook_pixels(), shown)
    (tmp_path / "mask.tif").write_bytes(expected)
    assert cog_validate(tmp_path / "mask.tif", strict=True, quiet=True)[0]
    with rasterio.open(tmp_path / "mask.tif") as found:
        np.testing.assert_array_equal(found.read(1), mask)


class Gate:
    """A compressor that waits until it is opened and counts how many wait."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = self.peak = 0
        self._lock = threading.Lock()

    def __call__(self, pixels: np.ndarray, compression: str) -> bytes:
        with self._lock:
            self.running += 1
            self.peak = max(self.peak, self.running)
        assert self.open.wait(30)
        with self._lock:
            self.running -= 1
        return b"compressed"


async def test_adding_waits_while_too_many_blocks_are_being_compressed(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(module, "compress", gate)
    mask = np.ones((16 * 5, 16 * 8), np.uint8)
    added = 0

    async def add_counted(cog: CogStream) -> None:
        nonlocal added
        for block in naive_masks.blocks(mask, NODATA, 16):
            await cog.add(block)
            added += 1

    async with CogStream(spec_of(*mask.shape, block_size=16), threads) as cog:
        adding = asyncio.create_task(add_counted(cog))
        await until(lambda: gate.running == module._BLOCKS_AT_ONCE)
        assert added <= module._BLOCKS_AT_ONCE
        gate.open.set()
        await adding
        await cog.finish()
        assert repr(cog) == "<CogStream 57/57 blocks compressed>"
    assert gate.peak == module._BLOCKS_AT_ONCE


class Broken:
    """A compressor that fails on blocks of one value."""

    def __init__(self) -> None:
        self.error = MemoryError("no room to compress")

    def __call__(self, pixels: np.ndarray, compression: str) -> bytes:
        if pixels[0, 0] == 4:
            raise self.error
        return b"compressed"


async def test_a_block_that_cannot_be_compressed_fails_the_next_add_and_the_finish_with_its_own_error(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, complaints: list[str]
) -> None:
    broken = Broken()
    monkeypatch.setattr(module, "compress", broken)
    mask = np.ones((16, 64), np.uint8)
    mask[0, 0] = 4
    first, *others = naive_masks.blocks(mask, NODATA, 16)
    async with CogStream(spec_of(*mask.shape, block_size=16), threads) as cog:
        await cog.add(first)
        await until(lambda: not cog._tasks)
        with pytest.raises(MemoryError) as from_add:
            await cog.add(others[0])
        with pytest.raises(MemoryError) as from_finish:
            await cog.finish()
    assert from_add.value is from_finish.value is broken.error
    assert complaints == []


async def test_a_failure_while_finishing_is_raised_as_it_was_and_the_rest_is_cancelled(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, complaints: list[str]
) -> None:
    broken = Broken()
    monkeypatch.setattr(module, "compress", broken)
    mask = np.full((16, 96), 4, np.uint8)  # all fail: the first error is the one that is told
    before = asyncio.all_tasks()
    async with CogStream(spec_of(*mask.shape, block_size=16), threads) as cog:
        with pytest.raises(MemoryError) as found:
            await add_all(cog, mask)
    assert found.value is broken.error
    assert asyncio.all_tasks() == before
    assert complaints == []


async def test_a_missing_block_is_an_error_of_the_program(threads: ThreadPoolExecutor) -> None:
    mask = np.ones((16, 32), np.uint8)
    async with CogStream(spec_of(*mask.shape, block_size=16), threads) as cog:
        await cog.add(naive_masks.blocks(mask, NODATA, 16)[0])
        with pytest.raises(RuntimeError, match="1 of 2 blocks of level 0"):
            await cog.finish()


@pytest.mark.parametrize("moment", ["adding", "finishing"])
async def test_a_cancellation_leaves_neither_task_nor_thread_at_work(
    moment: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, complaints: list[str]
) -> None:
    gate = Gate()
    monkeypatch.setattr(module, "compress", gate)
    mask = np.ones((16, 16 * (12 if moment == "adding" else 3)), np.uint8)
    before = asyncio.all_tasks()

    async def work() -> None:
        async with CogStream(spec_of(*mask.shape, block_size=16), threads) as cog:
            await add_all(cog, mask)

    task = asyncio.create_task(work())
    # Three blocks of the mask, two and one of its overviews: all are in, `finish` waits for them.
    await until(lambda: gate.running == (8 if moment == "adding" else 6))
    begun = gate.peak
    task.cancel()
    await asyncio.sleep(0)
    gate.open.set()  # the threads end what they had begun
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (gate.running, gate.peak) == (0, begun)
    assert asyncio.all_tasks() == before
    assert complaints == []
