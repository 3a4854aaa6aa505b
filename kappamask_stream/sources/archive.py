"""A product in a zip archive, read where it lies: nothing is unpacked to disk."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import aclosing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from kappamask_stream.errors import ProductError
from kappamask_stream.names import checked_path
from kappamask_stream.sources.inflating import POINT_BYTES, Cursor, Inflation
from kappamask_stream.sources.zip_directory import (
    LOCAL_HEADER_BYTES,
    Member,
    MissingBytes,
    data_offset,
    parse_directory,
)
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from kappamask_stream.sources.blob import Blob

#: Read at the end: a product's directory has 20 to 50 KB, an archive's comment at most 64.
_TAIL_BYTES = 128 * 1024
_FARTHEST_BACK = 16 * 1024 * 1024
#: Behind a member's local header its name and extra fields; from afar also the head of its data, for its index.
_EXTRA_BYTES, _HEAD_BYTES = 1024, 8192
_PIECE_BYTES = 256 * 1024
#: Packed bytes read at once, (least, most): near by, and from afar, where a request costs as long as some 100 KB.
_CHUNKS_NEARBY, _CHUNKS_FROM_AFAR = (64 * 1024, 1024 * 1024), (256 * 1024, 2 * 1024 * 1024)
#: States of inflaters kept to restart from: every MB, or as many as fit.
_POINT_SPACING, _MOST_POINT_BYTES = 1024 * 1024, 32 * 1024 * 1024


@dataclass(kw_only=True)
class _Opened:
    """A member whose local header was checked.

    Attributes
    ----------
    data_start : byte of the archive at which its data starts.
    head : first bytes of the data, which came with the header.
    inflation : of a deflated member.
    lock : guards what follows; held by each read of a deflated member.
    crc_end, crc : CRC-32 of a stored member's first `crc_end` bytes, which were read in order.
    """

    member: Member
    data_start: int
    head: bytes
    inflation: Inflation | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    crc_end: int = 0
    crc: int = 0


class ZipSource:
    """A product in a zip archive; its members are stored or deflated.

    Stored members are read by ranges of the archive. Deflated ones are inflated as far as they are read (`Inflation`):
    a walk through a file and a second one in order cost two passes. Held are at most 32 MB of points to restart from
    and at most 1 MB of input (2 MB from afar) for each stream under way and two more for each member in use.

    Parameters
    ----------
    blob : the archive; the source owns it.

    State: the directory, once it is read; members opened.
    """

    def __init__(self, blob: Blob) -> None:
        self.label = blob.label
        self.coalesce_bytes = blob.coalesce_bytes
        self._blob = blob
        self._members: Mapping[str, Member] | None = None
        self._files: Mapping[str, int] = MappingProxyType({})
        self._spacing = _POINT_SPACING
        self._listing = asyncio.Lock()
        self._opening: dict[str, asyncio.Lock] = {}
        self._opened: dict[str, _Opened] = {}

    def __repr__(self) -> str:
        listed = "not listed" if self._members is None else f"{len(self._members)} files, {len(self._opened)} opened"
        return f"<ZipSource {self.label}, {listed}>"

    async def files(self) -> Mapping[str, int]:
        """See `Source.files`."""
        await self._directory()
        return self._files

    async def read(self, path: str, start: int, length: int) -> bytes:
        """See `Source.read`."""
        opened = await self._open(path, start, length)
        if not length:
            return b""
        if opened.inflation is None:
            return await self._stored(opened, start, length)
        # One after the other: reads that follow each other are asked for together, and each goes on from the last.
        async with opened.lock:
            cursor = opened.inflation.take(start)
            try:
                return await self._inflated(opened, cursor, start, start + length, start + length)
            finally:
                opened.inflation.give_back(cursor)

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `Source.stream`."""
        opened = await self._open(path, start, length)
        end = start + length
        if opened.inflation is None:
            # It is an async generator, of which its type says only that it can be iterated over.
            stream = cast("AsyncGenerator[bytes, None]", self._blob.stream(opened.data_start + start, length))
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    await self._check_crc(opened, start, piece)
                    start += len(piece)
                    yield piece
            return
        cursor = opened.inflation.take(start)
        try:
            for at in range(start, end, _PIECE_BYTES):
                yield await self._inflated(opened, cursor, at, min(at + _PIECE_BYTES, end), end)
        finally:
            opened.inflation.give_back(cursor)

    async def read_all(self, path: str, *, limit: int) -> bytes:
        """See `Source.read_all`."""
        member = await self._member(path)
        if member.size > limit:
            raise ProductError(
                f"{member.path} in {self.label} has {member.size} bytes, at most {limit} are read: "
                "it is not what its name says"
            )
        return await self.read(path, 0, member.size)

    async def aclose(self) -> None:
        """See `Source.aclose`."""
        self._opened.clear()
        await self._blob.aclose()

    async def _directory(self) -> Mapping[str, Member]:
        async with self._listing:
            if self._members is None:
                members = await self._read_directory()
                deflated = sum(member.size for member in members.values() if member.is_deflated)
                self._spacing = max(_POINT_SPACING, deflated * POINT_BYTES // _MOST_POINT_BYTES)
                self._files = MappingProxyType({path: member.size for path, member in members.items()})
                self._members = members
            return self._members

    async def _read_directory(self) -> dict[str, Member]:
        size = await self._blob.size()
        start = max(size - _TAIL_BYTES, 0)
        tail = await self._blob.read(start, size - start) if size else b""
        while True:
            try:
                return await in_thread(None, parse_directory, self.label, size, start, tail)
            except MissingBytes as more:
                if not start - _FARTHEST_BACK <= more.start < start:
                    raise ProductError(
                        f"{self.label}: its directory is said to be at byte {more.start} of {size}, far from its end: "
                        "it is corrupt, fetch it again"
                    ) from None
                tail = await self._blob.read(more.start, start - more.start) + tail
                start = more.start

    async def _member(self, path: str) -> Member:
        path = checked_path(path, said_by=f"asked of {self.label}")
        member = (await self._directory()).get(path)
        if member is None:
            raise ProductError(f"{path} is not in {self.label}, or is a folder there: fetch the product again")
        return member

    async def _open(self, path: str, start: int, length: int) -> _Opened:
        """Return a member that has these bytes, its local header checked."""
        member = await self._member(path)
        if not 0 <= start <= start + length <= member.size:
            raise ProductError(
                f"{member.path} in {self.label} has {member.size} bytes, bytes {start} to {start + length} are needed: "
                "it is truncated, fetch it again"
            )
        async with self._opening.setdefault(member.path, asyncio.Lock()):
            if member.path not in self._opened:
                self._opened[member.path] = await self._read_header(member)
            return self._opened[member.path]

    async def _read_header(self, member: Member) -> _Opened:
        length = LOCAL_HEADER_BYTES + len(member.raw_name) + _EXTRA_BYTES + (_HEAD_BYTES if self.coalesce_bytes else 0)
        header = await self._blob.read(member.header_offset, min(length, member.end_limit - member.header_offset))
        data_start = data_offset(self.label, member, header)
        head_start = data_start - member.header_offset
        inflation = Inflation(self.label, member, spacing=self._spacing) if member.is_deflated else None
        head = b"" if inflation else header[head_start : head_start + member.packed_size]
        return _Opened(member=member, data_start=data_start, head=head, inflation=inflation)

    async def _stored(self, opened: _Opened, start: int, length: int) -> bytes:
        if start + length <= len(opened.head):
            data = opened.head[start : start + length]
        else:
            data = await self._blob.read(opened.data_start + start, length)
        await self._check_crc(opened, start, data)
        return data

    async def _check_crc(self, opened: _Opened, start: int, data: bytes) -> None:
        """Compare a stored member's CRC-32 once its bytes were read in order; what is read elsewhere has none."""
        member = opened.member
        async with opened.lock:
            if start not in (0, opened.crc_end):
                return
            before = opened.crc if start else 0
            large = len(data) > _PIECE_BYTES
            opened.crc = await in_thread(None, zlib.crc32, data, before) if large else zlib.crc32(data, before)
            opened.crc_end = start + len(data)
            if opened.crc_end == member.size and opened.crc != member.crc:
                raise ProductError(
                    f"{self.label}: {member.path} has CRC-32 {opened.crc:08x}, the directory says {member.crc:08x}: "
                    "the archive is corrupt, fetch it again"
                )

    async def _inflated(self, opened: _Opened, cursor: Cursor, start: int, end: int, goal: int) -> bytes:
        """Return bytes of a deflated member; `goal` is the end of what will be asked for next."""
        member, pieces = opened.member, list[bytes]()
        least, most = _CHUNKS_FROM_AFAR if self.coalesce_bytes else _CHUNKS_NEARBY
        while not cursor.is_at(end):
            if cursor.needs_input:
                expected = (goal - cursor.position) * member.packed_size // member.size + least // 8
                size = min(max(expected, least), most, cursor.input_left())
                cursor.feed(await self._blob.read(opened.data_start + cursor.next_input, size))
            pieces += await in_thread(None, cursor.inflate, start, end)
        return b"".join(pieces)
