"""A COG that is built while the mask is: blocks are compressed as they are finished, the file is written at the end."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Self

import imagecodecs
import numpy as np

from kappamask_stream.cog.tiff import CogSpec, Level, assemble
from kappamask_stream.overviews import OverviewPyramid, overview_sizes
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from kappamask_stream.mosaic import Block

#: Level 6 of zlib and 9 of Zstandard: what GDAL takes; more costs time and saves under 2 % on masks.
_DEFLATE_LEVEL = 6
_ZSTD_LEVEL = 9
_BLOCKS_AT_ONCE = 8
_QUICKLOOK_PIXELS = 1100


class CogStream:
    """Takes finished blocks of a mask in any order and makes one file. Use as an async context manager.

    Leaving the block cancels what is being compressed. Holds compressed blocks (a few MB for a full mask), the
    raw blocks of the overview that the quicklook shows, and at most `_BLOCKS_AT_ONCE` blocks being compressed.
    """

    def __init__(self, spec: CogSpec, executor: Executor) -> None:
        self.spec = spec
        self._executor = executor
        self._sizes = [(spec.height, spec.width), *overview_sizes(spec.height, spec.width, spec.block_size)]
        self._compressed: list[dict[tuple[int, int], bytes]] = [{} for _ in self._sizes]
        self._pyramid = OverviewPyramid(spec.height, spec.width, nodata=spec.nodata, block_size=spec.block_size)
        self._shown_level = shown_level(self._sizes)
        self._shown: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._slots = asyncio.Semaphore(_BLOCKS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        done = sum(map(len, self._compressed))
        return f"<CogStream {done}/{sum(map(self._count, self._sizes))} blocks compressed>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, block: Block) -> None:
        """Take a finished block; waits while too many are being compressed.

        Raises the error of a block that could not be compressed, as `finish` does.
        """
        self._raise_failure()
        await self._submit(0, block)
        for overview in self._pyramid.add(block):
            await self._submit(overview.level, overview.block)

    async def finish(self) -> list[bytes]:
        """Wait for the last blocks and return the file in pieces, to be written one after the other.

        Raises
        ------
        OutputError
            If it would be too large for a GeoTIFF.
        """
        self._raise_failure()
        while self._tasks:
            await asyncio.gather(*self._tasks)
        levels = [self._level(number) for number in range(len(self._sizes))]
        return assemble(self.spec, levels)

    def quicklook_pixels(self) -> NDArray[np.uint8]:
        """Return the overview (or mask) of at most about 1100 pixels a side; after all blocks were added."""
        height, width = self._sizes[self._shown_level]
        size = self.spec.block_size
        picture = np.full((-(-height // size) * size, -(-width // size) * size), self.spec.nodata, np.uint8)
        for (row, col), pixels in self._shown.items():
            picture[row * size : (row + 1) * size, col * size : (col + 1) * size] = pixels
        return picture[:height, :width]

    async def _submit(self, level: int, block: Block) -> None:
        if level == self._shown_level:
            self._shown[block.row, block.col] = block.pixels
        await self._slots.acquire()
        task = asyncio.create_task(self._compress(level, block))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._slots.release()  # here: a task that is cancelled before its first step runs nothing of its own
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()  # asked for always: else asyncio complains
        self._failure = self._failure or error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _compress(self, level: int, block: Block) -> None:
        data = await in_thread(self._executor, compress, block.pixels, self.spec.compression)
        self._compressed[level][block.row, block.col] = data

    def _count(self, size: tuple[int, int]) -> int:
        return -(-size[0] // self.spec.block_size) * -(-size[1] // self.spec.block_size)

    def _level(self, number: int) -> Level:
        height, width = self._sizes[number]
        blocks = self._compressed[number]
        if len(blocks) != self._count((height, width)):
            raise RuntimeError(f"{len(blocks)} of {self._count((height, width))} blocks of level {number} were added")
        return Level(height=height, width=width, blocks=[blocks[key] for key in sorted(blocks)])


def compress(pixels: NDArray[np.uint8], compression: str) -> bytes:
    """Compress one block."""
    if compression == "zstd":
        return bytes(imagecodecs.zstd_encode(pixels.tobytes(), level=_ZSTD_LEVEL))
    return zlib.compress(pixels.tobytes(), _DEFLATE_LEVEL)


def shown_level(sizes: Sequence[tuple[int, int]]) -> int:
    """Choose what a quicklook shows: the first of mask and overviews that is small enough for a screen."""
    return next((i for i, size in enumerate(sizes) if max(size) <= _QUICKLOOK_PIXELS), len(sizes) - 1)
