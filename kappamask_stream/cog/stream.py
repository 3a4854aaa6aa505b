"""A COG that is built while the mask is: blocks are compressed as they are finished, the file is written at the end."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec, Self

import imagecodecs

from kappamask_stream.cog.tiff import CogSpec, Level, assemble
from kappamask_stream.errors import OutputError
from kappamask_stream.overviews import OverviewPyramid, overview_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.mosaic import Block

P = ParamSpec("P")

#: Level 6 of zlib and 9 of Zstandard: what GDAL takes; more costs time and saves under 2 % on masks.
_DEFLATE_LEVEL = 6
_ZSTD_LEVEL = 9
_BLOCKS_AT_ONCE = 8
_QUICKLOOK_PIXELS = 1100


class CogStream:
    """Takes finished blocks of a mask in any order and writes one file. Use as an async context manager.

    Leaving the block without `close` discards everything. Holds compressed blocks (a few MB for a full mask), the
    raw blocks of the overview that the quicklook shows, and at most `_BLOCKS_AT_ONCE` blocks being compressed.
    """

    def __init__(self, spec: CogSpec, executor: Executor) -> None:
        self.spec = spec
        self._executor = executor
        self._sizes = [(spec.height, spec.width), *overview_sizes(spec.height, spec.width, spec.block_size)]
        self._compressed: list[dict[tuple[int, int], bytes]] = [{} for _ in self._sizes]
        self._pyramid = OverviewPyramid(spec.height, spec.width, nodata=spec.nodata, block_size=spec.block_size)
        self._shown_level = next(
            (i for i, size in enumerate(self._sizes) if max(size) <= _QUICKLOOK_PIXELS), len(self._sizes) - 1
        )
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
        """Take a finished block; waits while too many are being compressed."""
        self._submit(0, block)
        for overview in self._pyramid.add(block):
            self._submit(overview.level, overview.block)
        await self._slots.acquire()
        self._slots.release()

    async def close(self, path: Path) -> int:
        """Write the file under a temporary name and rename it; returns its size in bytes.

        Raises
        ------
        OutputError
            If it cannot be written; nothing is left behind then.
        """
        while self._tasks:
            await asyncio.gather(*self._tasks)
        levels = [self._level(number) for number in range(len(self._sizes))]
        pieces = assemble(self.spec, levels)
        return await _finish_in_thread(write_atomically, path, pieces)

    def quicklook_pixels(self) -> NDArray[np.uint8]:
        """Return the overview (or mask) of at most about 1100 pixels a side; after all blocks were added."""
        import numpy as np

        height, width = self._sizes[self._shown_level]
        size = self.spec.block_size
        picture = np.full((-(-height // size) * size, -(-width // size) * size), self.spec.nodata, np.uint8)
        for (row, col), pixels in self._shown.items():
            picture[row * size : (row + 1) * size, col * size : (col + 1) * size] = pixels
        return picture[:height, :width]

    def _submit(self, level: int, block: Block) -> None:
        if level == self._shown_level:
            self._shown[block.row, block.col] = block.pixels
        task = asyncio.create_task(self._compress(level, block))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()

    async def _compress(self, level: int, block: Block) -> None:
        async with self._slots:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._executor, compress, block.pixels, self.spec.compression)
        self._compressed[level][block.row, block.col] = data

    def _count(self, size: tuple[int, int]) -> int:
        return -(-size[0] // self.spec.block_size) * -(-size[1] // self.spec.block_size)

    def _level(self, number: int) -> Level:
        if self._failure is not None:
            raise self._failure
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


async def _finish_in_thread(function: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run in a thread and, when cancelled, wait for it to clean up before the cancellation goes on."""
    work = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with suppress(Exception):
            await work
        raise


def write_atomically(path: Path, pieces: Sequence[bytes]) -> int:
    """Write a file under a temporary name in its folder, then rename it; returns its size.

    Raises
    ------
    OutputError
        Naming the path and, where there is no space, the bytes needed and free.
    """
    needed = sum(map(len, pieces))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _output_error(path, needed, error) from error
    return needed


def _output_error(path: Path, needed: int, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
        return OutputError(
            f"no space for {path}: {needed} bytes are needed, {free} are free (or a quota ends): make room"
        )
    return OutputError(f"cannot write {path}: {error.strerror}")
