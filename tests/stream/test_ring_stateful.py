"""The ring of decoded tiles against whole arrays: reads, decodes and the consumer move in any order, and are told to.

Bands are arrays in a format of the machine's own, cut at any places, so that a story of a hundred events takes
milliseconds; real JPEG 2000 goes through the same stream in `test_tile_stream`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from kappamask_stream.bands.types import BandTile
from kappamask_stream.contract import BandGroup
from kappamask_stream.grid import TileGrid, Window
from kappamask_stream.jp2 import BandInput, DecodePlan, TilePixels, TileStream
from tests.fault_table import Fault
from tests.stream.inline_threads import Inline
from tests.stream.loop_machine import LoopMachine
from tests.stream.test_tile_stream import check_tile, held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

#: More than a decoder may take uncounted.
_LARGE_WORK = 17 * 2**20


@dataclass
class ArrayIndex:
    """A band that is cut into pieces of its plain pixels; some are left out as all zero, some are in two parts."""

    name: str
    pixels: NDArray[np.uint16]
    tile_height: int
    tile_width: int
    tiles: tuple[BandTile, ...]
    decode_bytes: int
    decoded: Counter[int] = field(default_factory=Counter)
    layout: str = ""

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def decode_tile(self, tile: BandTile, parts: list[bytes], *_: object) -> NDArray[np.uint16]:
        self.decoded[tile.index] += 1
        return np.frombuffer(b"".join(parts), np.uint16).reshape(tile.window.height, tile.window.width)

    def identity(self, tile: BandTile, parts: list[bytes]) -> bytes:
        return b"".join(parts)


def cut_up(
    name: str, pixels: NDArray[np.uint16], size: tuple[int, int], skip: int, work: int
) -> tuple[ArrayIndex, bytes]:
    """Return a band's index and its file; the first row and column of pieces lack `skip` pixels."""
    edges = [
        sorted({0, count, *range(piece - skip % piece, count, piece)})
        for count, piece in zip(pixels.shape, size, strict=True)
    ]
    tiles: list[BandTile] = []
    content = b""
    for top, below in zip(edges[0], edges[0][1:], strict=False):
        for left, right in zip(edges[1], edges[1][1:], strict=False):
            data = pixels[top:below, left:right].tobytes()
            number, half = len(tiles), len(data) // 2
            is_left_out = not any(data) and number % 2 == 1
            parts = (
                ((len(content), half), (len(content) + half, len(data) - half))
                if number % 3
                else ((len(content), len(data)),)
            )
            window = Window(top, left, below - top, right - left)
            tiles.append(BandTile(index=number, window=window, parts=() if is_left_out else parts, is_zero=is_left_out))
            content += b"" if is_left_out else data
    return ArrayIndex(name, pixels, *size, tuple(tiles), work), content


class ToldSource:
    """Files in memory, whose reads wait until each is told to go on."""

    label = "memory"

    def __init__(self, files: dict[str, bytes], coalesce_bytes: int) -> None:
        self._files, self.coalesce_bytes = files, coalesce_bytes
        self.waiting: list[asyncio.Future[None]] = []

    async def read(self, path: str, start: int, length: int) -> bytes:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        await turn
        return self._files[path][start : start + length]

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        data = await self.read(path, start, length)
        for at in range(0, len(data), 100):
            yield data[at : at + 100]


@st.composite
def bands(draw: st.DrawFn) -> tuple[tuple[BandGroup, ...], list[tuple[ArrayIndex, bytes]], int]:
    """Draw one or two resolutions, their files, and the side of the image at the first one in pixels."""
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    stride, margin = draw(st.integers(2, 24)), draw(st.integers(0, 5))
    groups = [
        BandGroup(gsd_m=10, bands=("B02", "B03")[: draw(st.integers(1, 2))], tile=stride + 2 * margin, stride=stride)
    ]
    if draw(st.booleans()):
        groups.append(BandGroup(gsd_m=20, bands=("B11",), tile=-(-(stride + 2 * margin) // 2), stride=-(-stride // 2)))
    files = []
    noise = np.random.default_rng(draw(st.integers(0, 99)))
    for group in groups:
        factor = group.gsd_m // 10
        for band in group.bands:
            shape = -(-height // factor), -(-width // factor)
            pixels = noise.integers(1, 2**15, shape, np.uint16)
            pixels[:, draw(st.integers(0, shape[1])) :] = 0
            size = draw(st.integers(2, 40)), draw(st.integers(2, 40))
            work = draw(st.sampled_from([0, 0, _LARGE_WORK]))
            files.append(cut_up(band, pixels, size, draw(st.integers(0, 9)), work))
    return tuple(groups), files, margin


class Ring(LoopMachine):
    """One stream; `images` holds what its tiles must be cut from."""

    under_test = "stream"
    stream: TileStream

    def __init__(self) -> None:
        super().__init__()
        self.asking: asyncio.Task[TilePixels] | None = None
        self.taken = 0

    @initialize(
        case=bands(), wanted=st.lists(st.integers(0), max_size=6), spare=st.sampled_from([0, 1000, 10**9]),
        workers=st.integers(1, 3), ahead=st.integers(0, 4), joins=st.sampled_from([0, 700, 10_000]),
    )  # fmt: skip
    def open_stream(self, case: Any, wanted: list[int], spare: int, workers: int, ahead: int, joins: int) -> None:
        self.groups, files, margin = case
        inputs = [(group, band, channel) for group in self.groups for channel, band in enumerate(group.bands)]
        self.indexes = [index for index, _ in files]
        first = self.groups[0]
        grid = TileGrid(self.indexes[0].height, self.indexes[0].width, first.tile, margin)
        tiles = list(grid)
        if wanted:  # an area of interest
            chosen = {number % len(tiles) for number in wanted}
            tiles = [tile for tile in tiles if tile.index in chosen]
        self.plan = DecodePlan.of(
            [
                BandInput(path=band, index=index, group=group, channel=channel)
                for (group, band, channel), index in zip(inputs, self.indexes, strict=True)
            ],
            tiles,
        )
        self.images: dict[int, dict[str, Any]] = {}
        for (group, band, _), index in zip(inputs, self.indexes, strict=True):
            self.images.setdefault(group.gsd_m, {})[band] = index.pixels
        self.reservation = self.plan.required_bytes + spare
        self.source = ToldSource({band: data for (_, band, _), (_, data) in zip(inputs, files, strict=True)}, joins)
        self.decoders = Inline(at_once=False)
        self.loop.set_default_executor(Inline(at_once=True))

        async def enter() -> None:
            self.stream = TileStream(
                self.source, self.plan, executor=self.decoders, workers=workers,  # type: ignore[arg-type]
                reservation_bytes=self.reservation, read_ahead=ahead, compressed_bytes=joins and 2 * joins,
            )  # fmt: skip
            await self.stream.__aenter__()

        self.run_now(enter())
        self.settle()

    def settle(self) -> None:
        super().settle()
        if self.asking is not None and self.asking.done():
            self._take(self.asking)
            self.asking = None

    def _take(self, asking: asyncio.Task[TilePixels]) -> None:
        if asking.cancelled():
            return
        pixels = asking.result()
        assert pixels.tile == self.plan.tiles[self.taken]
        check_tile(pixels, self.groups, self.images)
        self.taken += 1

    @precondition(lambda self: self.asking is None and self.taken < len(self.plan.tiles))
    @rule()
    def ask(self) -> None:
        async def begin() -> None:
            self.asking = asyncio.create_task(self.stream.__anext__())  # type: ignore[arg-type]

        self.run_now(begin())
        self.settle()

    @precondition(lambda self: self.asking is not None)
    @rule()
    def give_up_waiting(self) -> None:
        """A consumer that was told to stop waiting may ask again: the same tile comes."""
        self.asking.cancel()  # type: ignore[union-attr]
        self.settle()

    @rule(pick=st.integers(0), count=st.integers(1, 5))
    def bytes_come(self, pick: int, count: int) -> None:
        for _ in range(count):
            if self.source.waiting:
                self.source.waiting.pop(pick % len(self.source.waiting)).set_result(None)
        self.settle()

    @rule(pick=st.integers(0), count=st.integers(1, 3))
    def decodes_end(self, pick: int, count: int) -> None:
        for _ in range(count):
            if self.decoders.waiting:
                self.decoders.waiting.pop(pick % len(self.decoders.waiting))[1]()
        self.settle()

    @invariant()
    def memory_is_what_was_reserved_at_most(self) -> None:
        """Counted from outside: arrays that the stream holds, and what decoders at work will hold."""
        if not hasattr(self, "stream"):
            return
        kept = [future.result() for future in self.stream._pixels if future.done() and future.exception() is None]
        there = sum(pixels.nbytes for pixels in kept if pixels is not None)
        units = [self.plan.units[number] for number, _ in self.decoders.waiting]
        coming = sum(unit.nbytes + unit.work_bytes for unit in units)
        assert there + coming <= held(self.stream) <= self.stream.stats.peak_held_bytes <= self.reservation

    @invariant()
    def each_piece_is_decoded_once_at_most(self) -> None:
        if hasattr(self, "stream"):
            assert all(times == 1 for index in self.indexes for times in index.decoded.values())

    def finish(self) -> None:
        """With sources that answer and decoders that end, all tiles come, and nothing but the plan is held then."""
        while self.taken < len(self.plan.tiles):
            if self.asking is None:
                self.ask()
                continue
            assert self.source.waiting or self.decoders.waiting, f"{self.stream} waits for ever"
            self.bytes_come(0, 1)
            self.decodes_end(0, 1)
            self.memory_is_what_was_reserved_at_most()
        assert held(self.stream) == self.plan.kept_bytes
        self.each_piece_is_decoded_once_at_most()
        self.run_now(self.stream.__aexit__(None, None, None))
        assert asyncio.all_tasks(self.loop) == set()


Ring.TestCase.settings = settings(max_examples=Fault.amount(25, 1000), stateful_step_count=30, deadline=None)
TestRingIsTheWholeArray = pytest.mark.thorough(Ring.TestCase)
