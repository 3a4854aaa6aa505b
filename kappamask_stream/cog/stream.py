"""A COG that is built while the mask is: blocks are compressed as they are finished, the file is written at the end."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Self

import imagecodecs
import numpy as np

from kappamask_stream.cog.blocks import BlockStore, MemoryBlocks, scratch_error
from kappamask_stream.cog.tiff import CogSpec, Level, assemble, data, head
from kappamask_stream.overviews import OverviewBlock, OverviewPyramid, overview_sizes
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.mosaic import Block

#: Level 6 of zlib and 9 of Zstandard: what GDAL takes; more costs time and saves under 2 % on masks.
_DEFLATE_LEVEL = 6
_ZSTD_LEVEL = 9
#: Pixels that are no classes compress to half at best, whatever the effort: libdeflate's level 6 gives zlib's size in
#: half its time, Zstandard's 3 gives 8 % more than its 9 in a fifth.
_QUICK_ZSTD_LEVEL = 3
_BLOCKS_AT_ONCE = 8
#: Rows and columns of a quicklook, at most.
MOST_QUICKLOOK_PIXELS = 1100


class CogStream:
    """Takes finished blocks of an image in any order and makes one file. Use as an async context manager.

    Leaving the block cancels what is being compressed. Holds compressed blocks (a few MB for a full mask) unless
    `store` keeps them elsewhere, the raw blocks of the overview that the quicklook shows, and at most
    `_BLOCKS_AT_ONCE` blocks being compressed.

    Parameters
    ----------
    spec : of the file.
    executor : whose threads compress.
    store : keeps compressed blocks; None: memory.
    halve : see `OverviewPyramid`.
    """

    def __init__(
        self,
        spec: CogSpec,
        executor: Executor,
        *,
        store: BlockStore | None = None,
        halve: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    ) -> None:
        self.spec = spec
        self._executor = executor
        self._store = store or MemoryBlocks()
        self._sizes = [(spec.height, spec.width), *overview_sizes(spec.height, spec.width, spec.block_size)]
        self._fill = 0 if spec.nodata is None else spec.nodata
        self._pyramid = OverviewPyramid(
            spec.height, spec.width, nodata=self._fill, block_size=spec.block_size, halve=halve
        )
        self._shown_level = shown_level(self._sizes)
        self._shown: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._slots = asyncio.Semaphore(_BLOCKS_AT_ONCE)
        self._pyramid_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        done = sum(map(self._store.count, range(len(self._sizes))))
        return f"<CogStream {done}/{sum(map(self._count, self._sizes))} blocks compressed>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, block: Block) -> None:
        """Take a finished block (of several bands: ``[bands, block, block]``); waits while too many are compressed.

        Raises the error of a block that could not be compressed, as `finish` does.
        """
        self._raise_failure()
        await self._submit(0, block)
        for overview in await self._overviews(block):
            await self._submit(overview.level, overview.block)

    async def finish(self) -> list[bytes]:
        """Wait for the last blocks and return the file in pieces, to be written one after the other.

        Raises
        ------
        OutputError
            If it would be too large for a GeoTIFF.
        """
        levels = await self._finished_levels()
        return await in_thread(self._executor, assemble, self.spec, levels)  # takes a digest of all blocks

    async def finish_into(self, path: Path) -> None:
        """Wait for the last blocks and write the file in a thread, a block at a time.

        Raises
        ------
        OutputError
            If it would be too large for a GeoTIFF, or cannot be written.
        """
        levels = await self._finished_levels()
        try:
            await in_thread(self._executor, self._write, levels, path)
        except OSError as error:
            raise scratch_error(path.parent, error) from error

    def quicklook_pixels(self) -> NDArray[np.uint8]:
        """Return the overview (or mask) of at most about 1100 pixels a side; after all blocks were added.

        Of a file of several bands nothing is kept for it.
        """
        height, width = self._sizes[self._shown_level]
        size = self.spec.block_size
        picture = np.full((-(-height // size) * size, -(-width // size) * size), self._fill, np.uint8)
        for (row, col), pixels in self._shown.items():
            picture[row * size : (row + 1) * size, col * size : (col + 1) * size] = pixels
        return picture[:height, :width]

    async def _overviews(self, block: Block) -> list[OverviewBlock]:
        if block.pixels.ndim == 2:  # noqa: PLR2004 - a millisecond
            return self._pyramid.add(block)
        async with self._pyramid_lock:  # tens of milliseconds
            return await in_thread(self._executor, self._pyramid.add, block)

    async def _submit(self, level: int, block: Block) -> None:
        if level == self._shown_level and len(self.spec.bands) == 1:
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
        await in_thread(self._executor, self._keep, level, block)

    def _keep(self, level: int, block: Block) -> None:
        if block.pixels.ndim == 2:  # noqa: PLR2004
            bands = [compress(block.pixels, self.spec.compression)]
        else:
            bands = [compress_quickly(band, self.spec.compression) for band in block.pixels]
        self._store.put((level, block.row, block.col), bands)

    async def _finished_levels(self) -> list[Level]:
        self._raise_failure()
        while self._tasks:
            await asyncio.gather(*self._tasks)
        return [self._level(number) for number in range(len(self._sizes))]

    def _write(self, levels: list[Level], path: Path) -> None:
        with path.open("wb") as file:
            file.writelines(head(self.spec, levels))
            file.writelines(data(levels))

    def _count(self, size: tuple[int, int]) -> int:
        return -(-size[0] // self.spec.block_size) * -(-size[1] // self.spec.block_size)

    def _level(self, number: int) -> Level:
        height, width = self._sizes[number]
        added, expected = self._store.count(number), self._count((height, width))
        if added != expected:
            raise RuntimeError(f"{added} of {expected} blocks of level {number} were added")
        return Level(height=height, width=width, blocks=self._store.in_order(number))


def compress(pixels: NDArray[np.uint8], compression: str) -> bytes:
    """Compress one block."""
    if compression == "zstd":
        return bytes(imagecodecs.zstd_encode(pixels.tobytes(), level=_ZSTD_LEVEL))
    return zlib.compress(pixels.tobytes(), _DEFLATE_LEVEL)


def compress_quickly(pixels: NDArray[np.uint8], compression: str) -> bytes:
    """Compress one band of a block of probabilities."""
    if compression == "zstd":
        return bytes(imagecodecs.zstd_encode(pixels.tobytes(), level=_QUICK_ZSTD_LEVEL))
    return bytes(imagecodecs.deflate_encode(pixels.tobytes(), level=_DEFLATE_LEVEL))


def shown_level(sizes: Sequence[tuple[int, int]]) -> int:
    """Choose what a quicklook shows: the first of mask and overviews that is small enough for a screen."""
    return next((i for i, size in enumerate(sizes) if max(size) <= MOST_QUICKLOOK_PIXELS), len(sizes) - 1)
