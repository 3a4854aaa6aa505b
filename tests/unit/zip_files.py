"""Zip archives for tests: written by `zipfile`, then changed by the byte; and blobs in memory that count."""

from __future__ import annotations

import asyncio
import io
import struct
import zipfile
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class Unseekable(io.RawIOBase):
    """Where archives are written that are sent while they are made: sizes follow the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def pack(
    files: Mapping[str, bytes],
    *,
    method: int = DEFLATED,
    streamed: bool = False,
    zip64: bool = False,
    comment: bytes = b"",
) -> bytes:
    """Write an archive with a folder entry for each folder, as ESA's have."""
    target = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.comment = comment
        for folder in sorted({path.rpartition("/")[0] for path in files} - {""}):
            archive.writestr(zipfile.ZipInfo(folder + "/"), b"")
        for path, data in files.items():
            info = zipfile.ZipInfo(path)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write(data)
    return bytes(target.data if isinstance(target, Unseekable) else target.getvalue())


def patched(archive: bytes, name: str, *, local: dict[str, int] | None = None, **central: int) -> bytes:
    """Overwrite fields of a member in the central directory, and in its local header."""
    data = bytearray(archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as whole:
        info, at = whole.getinfo(name), whole.start_dir
    fields = {"flags": ("H", 8, 6), "method": ("H", 10, 8), "crc": ("I", 16, 14), "packed": ("I", 20, 18),
              "size": ("I", 24, 22), "attributes": ("I", 38, None), "offset": ("I", 42, None)}  # fmt: skip
    while data[at + 46 : at + 46 + len(name.encode())] != name.encode():
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    for field, value in central.items():
        kind, there, _ = fields[field]
        struct.pack_into("<" + kind, data, at + there, value)
    for field, value in (local or {}).items():
        kind, _, there = fields[field]
        assert there is not None
        struct.pack_into("<" + kind, data, info.header_offset + there, value)
    return bytes(data)


class MemoryBlob:
    """An archive in memory; counts its reads."""

    def __init__(self, data: bytes, *, coalesce_bytes: int = 0, label: str = "X.SAFE.zip") -> None:
        self.label, self.coalesce_bytes, self.data = label, coalesce_bytes, data
        self.requests: list[tuple[int, int]] = []
        self.reading = self.closed = 0

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.requests)

    async def size(self) -> int:
        return len(self.data)

    async def read(self, start: int, length: int) -> bytes:
        assert length > 0
        self.requests.append((start, length))
        self.reading += 1
        try:
            await asyncio.sleep(0)
            if not 0 <= start < start + length <= len(self.data):
                raise ProductError(f"{self.label} has {len(self.data)} bytes, {start} to {start + length} are needed")
            return self.data[start : start + length]
        finally:
            self.reading -= 1

    async def stream(self, start: int, length: int) -> AsyncIterator[bytes]:
        self.requests.append((start, length))
        self.reading += 1
        try:
            for at in range(start, start + length, 1000):
                await asyncio.sleep(0)
                yield self.data[at : min(at + 1000, start + length)]
        finally:
            self.reading -= 1

    async def aclose(self) -> None:
        self.closed += 1
