"""A source whose bytes were compared with checksums: whatever is read of it afterwards are those very bytes."""

from __future__ import annotations

import zlib
from contextlib import aclosing
from itertools import zip_longest
from typing import TYPE_CHECKING, cast

from kappamask_stream.errors import StoreChangedError
from kappamask_stream.names import checked_path
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from kappamask_stream.sources.types import Source

#: Bytes that have a checksum of their own: reads grow to whole blocks, by one of them on average.
BLOCK_BYTES = 16 * 1024
#: How often a block is read that comes out wrong.
_ATTEMPTS = 3


def block_checksums(data: bytes) -> list[int]:
    """Return the CRC-32 of each `BLOCK_BYTES`, for bytes that begin where a block does; the last may be shorter."""
    view = memoryview(data)
    return [zlib.crc32(view[start : start + BLOCK_BYTES]) for start in range(0, len(data), BLOCK_BYTES)]


class VerifiedSource:
    """Compares what it reads with what was there when the files were verified; reads a block again that differs.

    Bytes that are damaged on their way are found so, each time they are read, where only whole files have checksums.

    Parameters
    ----------
    inner : the product, which this source owns from now on.
    checksums : path -> `block_checksums` of the whole file; files that are not among them are read as they come.
    """

    def __init__(self, inner: Source, checksums: Mapping[str, Sequence[int]]) -> None:
        self._inner, self._checksums = inner, checksums
        self.label, self.coalesce_bytes = inner.label, inner.coalesce_bytes

    def __repr__(self) -> str:
        return f"<VerifiedSource {len(self._checksums)} files of {self._inner!r}>"

    async def files(self) -> Mapping[str, int]:
        """See `Source.files`."""
        return await self._inner.files()

    async def read(self, path: str, start: int, length: int) -> bytes:
        """See `Source.read`."""
        path = checked_path(path, said_by=f"asked of {self.label}")
        if path not in self._checksums or not length:
            return await self._inner.read(path, start, length)
        first, end = await self._blocks(path, start, length)
        data = await self._inner.read(path, first, end - first)
        data = await self._right(path, first, data, await in_thread(None, self._wrong, path, first, data))
        return data[start - first : start - first + length]

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `Source.stream`; yields whole blocks, but for what is cut off at both ends."""
        path = checked_path(path, said_by=f"asked of {self.label}")
        is_known = path in self._checksums and length > 0
        at, end = await self._blocks(path, start, length) if is_known else (start, start + length)
        held = bytearray()
        inner = cast("AsyncGenerator[bytes, None]", self._inner.stream(path, at, end - at))
        async with aclosing(inner) as pieces:
            async for piece in pieces:
                if not is_known:
                    yield piece
                    continue
                held += piece
                whole = len(held) if at + len(held) == end else len(held) - len(held) % BLOCK_BYTES
                data = bytes(held[:whole])
                del held[:whole]
                data = await self._right(path, at, data, self._wrong(path, at, data))
                if wanted := data[max(start - at, 0) : max(start + length - at, 0)]:
                    yield wanted
                at += whole

    async def read_all(self, path: str, *, limit: int) -> bytes:
        """See `Source.read_all`."""
        path = checked_path(path, said_by=f"asked of {self.label}")
        data = await self._inner.read_all(path, limit=limit)
        if path not in self._checksums:
            return data
        if len(data) != (size := (await self.files())[path]):
            raise self._changed(path, min(len(data), size), max(len(data), size))
        return await self._right(path, 0, data, self._wrong(path, 0, data))

    async def aclose(self) -> None:
        """See `Source.aclose`."""
        await self._inner.aclose()

    async def _blocks(self, path: str, start: int, length: int) -> tuple[int, int]:
        """Return the range of whole blocks around a range."""
        size = (await self.files())[path]
        first, end = start - start % BLOCK_BYTES, start + length
        return first, max(end, min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, size))

    def _wrong(self, path: str, first: int, data: bytes) -> list[int]:
        """Return where the blocks begin that are not as they were; `first` is where one begins."""
        number, found = first // BLOCK_BYTES, block_checksums(data)
        pairs = zip_longest(found, self._checksums[path][number : number + len(found)])
        return [first + i * BLOCK_BYTES for i, (now, then) in enumerate(pairs) if now != then]

    async def _right(self, path: str, first: int, data: bytes, wrong: Sequence[int]) -> bytes:
        """Return the data with what other reads give in the place of blocks that are wrong."""
        if not wrong:
            return data
        pieces = bytearray(data)
        for at in wrong:
            again = await self._again(path, at, min(BLOCK_BYTES, first + len(data) - at))
            pieces[at - first : at - first + len(again)] = again
        return bytes(pieces)

    async def _again(self, path: str, start: int, length: int) -> bytes:
        for _ in range(_ATTEMPTS - 1):
            data = await self._inner.read(path, start, length)
            if not self._wrong(path, start, data):
                return data
        raise self._changed(path, start, start + length)

    def _changed(self, path: str, start: int, end: int) -> StoreChangedError:
        return StoreChangedError(
            f"{self.label}/{path}: bytes {start} to {end} are not those that were verified, also when they are read "
            "again: the file was changed since, or is damaged on its way; run the product again"
        )
