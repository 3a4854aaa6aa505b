"""How much is written at most, and the budget that holds products to it."""

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappamask_stream.cog import CogSpec, most_bytes
from kappamask_stream.cog.stream import compress, compress_quickly
from kappamask_stream.cog.tiff import Level, assemble
from kappamask_stream.disk import DiskBudget, DiskUse, free_bytes, most_compressed
from kappamask_stream.errors import OutputError
from kappamask_stream.png import encode_png, most_png_bytes

MB = 1024 * 1024


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs into threads is done at once."""

    async def done(_: object, function: Callable[..., Any], *args: object) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    monkeypatch.setattr("kappamask_stream.disk.in_thread", done)
    monkeypatch.setattr("kappamask_stream.disk._LIKELY", 1)


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- bounds -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 400_000), seed=st.integers(0, 9), values=st.sampled_from([256, 200, 2]))
def test_nothing_compresses_to_more_than_the_bound(size: int, seed: int, values: int) -> None:
    noise = np.random.default_rng(seed).integers(0, values, size, np.uint8)
    for level in (0, 1, 6, 9):
        assert len(zlib.compress(noise.tobytes(), level)) <= most_compressed(size)
    for compression in ("deflate", "zstd"):
        assert len(compress(noise, compression)) <= most_compressed(size)
        assert len(compress_quickly(noise, compression)) <= most_compressed(size)
    assert len(imagecodecs.deflate_encode(noise.tobytes(), level=1)) <= most_compressed(size)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 700), width=st.integers(1, 700), seed=st.integers(0, 9), samples=st.sampled_from([1, 3]),
    level=st.sampled_from([None, 3]),
)  # fmt: skip
def test_no_picture_is_larger_than_the_bound(
    height: int, width: int, seed: int, samples: int, level: int | None
) -> None:
    shape = (height, width, 3) if samples == 3 else (height, width)
    picture = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    assert len(encode_png(picture, level)) <= most_png_bytes(height, width, samples)


def spec_of(height: int, width: int, bands: int, compression: str) -> CogSpec:
    return CogSpec(
        height=height, width=width, ulx=499980.0, uly=6100020.0, gsd_m=10, epsg=32629, nodata=None, classes=(),
        tags={"PRODUCT": "S2A & more", "FINGERPRINT": "ab" * 32, "TIFFTAG_SOFTWARE": "x"},
        bands=tuple("abcdefgh"[:bands]), compression=compression,  # type: ignore[arg-type]
        block_size=64,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 600), width=st.integers(1, 600), bands=st.integers(1, 6),
    compression=st.sampled_from(["deflate", "zstd"]),
)  # fmt: skip
def test_no_geotiff_of_noise_is_larger_than_the_bound_and_that_is_little_more(
    height: int, width: int, bands: int, compression: str
) -> None:
    spec, draw = spec_of(height, width, bands, compression), np.random.default_rng(height)
    levels, blocks = [], 0
    sizes = [(height, width)]
    while max(sizes[-1]) > 64:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    for rows, cols in sizes:
        count = -(-rows // 64) * -(-cols // 64) * bands
        made = [compress_quickly(draw.integers(0, 256, (64, 64), np.uint8), compression) for _ in range(count)]
        levels.append(Level(height=rows, width=cols, blocks=made))
        blocks += sum(map(len, made))
    most_of_blocks, most_of_all = most_bytes(spec)
    whole = sum(map(len, assemble(spec, levels)))
    assert blocks <= most_of_blocks <= 1.3 * blocks  # the kilobyte a block weighs on blocks of 4
    assert whole <= most_of_all <= 1.3 * whole


# --- the budget -------------------------------------------------------------------------------------------------------


class Disk:
    """File systems with so much room."""

    def __init__(self, free: int | None) -> None:
        self.free = free

    def __call__(self, _: Path) -> int | None:
        return self.free


class Holder:
    """A product in work until it is told to end."""

    def __init__(self, budget: DiskBudget, folder: Path, nbytes: int) -> None:
        self.holds, self._end = False, asyncio.Event()
        self.task = asyncio.create_task(self._run(budget, folder, nbytes))

    async def _run(self, budget: DiskBudget, folder: Path, nbytes: int) -> None:
        async with budget.reserve([DiskUse(output=nbytes)], folder, what="a product"):
            self.holds = True
            try:
                await self._end.wait()
            finally:
                self.holds = False

    async def end(self) -> None:
        self._end.set()
        await self.task


async def test_products_wait_in_order_until_others_are_done(tmp_path: Path) -> None:
    budget = DiskBudget(100, free=Disk(None))
    first = Holder(budget, tmp_path, 60)
    await settle()
    large, small = Holder(budget, tmp_path, 80), Holder(budget, tmp_path, 10)
    await settle()
    assert (first.holds, large.holds, small.holds, budget.reserved) == (True, False, False, 60)
    await first.end()
    await settle()
    assert (large.holds, small.holds, budget.reserved) == (True, True, 90)
    await large.end()
    await small.end()
    assert budget.reserved == 0


async def test_a_product_waits_for_room_that_others_may_still_fill(tmp_path: Path) -> None:
    disk = Disk(100 * MB)
    budget = DiskBudget(1000 * MB, free=disk)
    first = Holder(budget, tmp_path, 60 * MB)
    await settle()
    second = Holder(budget, tmp_path, 60 * MB)
    await settle()
    assert (first.holds, second.holds) == (True, False)
    await first.end()
    await settle()
    assert second.holds
    await second.end()


async def test_room_that_nobody_gives_back_is_refused_with_both_numbers(tmp_path: Path) -> None:
    disk = Disk(100 * MB)
    budget = DiskBudget(1000 * MB, free=disk)
    first = Holder(budget, tmp_path, 60 * MB)
    await settle()
    second = Holder(budget, tmp_path, 60 * MB)
    await settle()
    disk.free = 40 * MB  # what the first one leaves
    await first.end()
    with pytest.raises(
        OutputError,
        match=rf"a product may write 60 MB to the file system of {tmp_path}, some 60 MB at least, 40 MB are free there: make room",
    ):
        await second.task
    assert budget.reserved == 0
    async with budget.reserve([DiskUse(output=40 * MB)], tmp_path, what="another"):
        pass  # and the next one has its turn


async def test_more_than_the_budget_is_refused_at_once(tmp_path: Path) -> None:
    budget = DiskBudget(100 * MB, free=Disk(None))
    uses = [DiskUse(output=30 * MB), DiskUse(scratch=71 * MB, scratch_folder=tmp_path)]
    with pytest.raises(
        OutputError, match=r"a product may write 101 MB .* the budget is 100 MB: .*KAPPAMASK_DISK_BUDGET_MB=101"
    ):
        async with budget.reserve(uses, tmp_path, what="a product"):
            pytest.fail("began")
    async with budget.reserve(uses, None, what="of a store's output nothing is on this machine"):
        assert budget.reserved == 71 * MB
    assert budget.reserved == 0


async def test_what_is_handed_over_within_a_file_system_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = DiskBudget(100 * MB, free=Disk(None))
    (tmp_path / "scratch").mkdir()
    uses = [DiskUse(scratch=50 * MB, handed_over=25 * MB, scratch_folder=tmp_path / "scratch"), DiskUse(output=MB)]
    async with budget.reserve(uses, tmp_path, what="a product"):
        assert budget.reserved == 51 * MB
    monkeypatch.setattr("kappamask_stream.disk._device", lambda folder: len(str(folder)))
    async with budget.reserve(uses, tmp_path, what="a product"):
        assert budget.reserved == 76 * MB
    budget = DiskBudget(100 * MB, free=lambda folder: 30 * MB if folder.name == "scratch" else 500 * MB)
    with pytest.raises(OutputError, match=r"50 MB to the file system of .*scratch, .*, 30 MB are free .*TMPDIR"):
        async with budget.reserve(uses, tmp_path, what="a product"):
            pytest.fail("began")


async def test_one_that_is_cancelled_while_it_waits_leaves_its_turn(tmp_path: Path) -> None:
    budget = DiskBudget(100, free=Disk(None))
    first = Holder(budget, tmp_path, 60)
    await settle()
    waiting, last = Holder(budget, tmp_path, 80), Holder(budget, tmp_path, 40)
    await settle()
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    await settle()
    assert (last.holds, budget.reserved) == (True, 100)
    await first.end()
    last.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await last.task
    assert budget.reserved == 0


def test_what_a_file_system_does_not_say_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (free_bytes(tmp_path) or 0) > 0
    assert free_bytes(tmp_path / "away") is None
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"total": 0, "free": 0}))
    assert free_bytes(tmp_path) is None
