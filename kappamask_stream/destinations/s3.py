"""A product's files under a prefix of a bucket: one PUT each (in parts where it is large), in order."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.cog import inspect_head
from kappamask_stream.destinations.digests import file_facts
from kappamask_stream.errors import InputError, OutputError, OutputUnavailableError
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from kappamask_stream.cog import FoundMask
    from kappamask_stream.destinations.types import OutputFile
    from kappamask_stream.s3 import S3Client

#: A mask's directories and tags take about 20 kB.
_HEAD_BYTES = 64 * 1024
#: A mask takes 2 to 4 MB; what is larger under its name is not read.
_LARGEST_MASK = 64 * 1024 * 1024
#: More products than one datatake has.
_MOST_FOLDERS = 20_000
#: Names looked for, or removed, at once.
_AT_ONCE = 8


class S3Destination:
    """A prefix of a bucket. Each object is there whole or as it was before; the last one published stands for all.

    Unlike a directory, a failure between two objects leaves the earlier ones replaced: S3 knows no renaming. Each
    object's metadata say which mask it belongs to, so `missing` does not take them for another mask's.

    Parameters
    ----------
    client : for the store; belongs to the caller.
    bucket, prefix : where; the prefix is the product's folder, without a slash at its end; may be empty.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client, self._bucket = client, bucket
        self._folder = f"{prefix}/" if prefix else ""
        self.label = f"s3://{bucket}/{self._folder}".rstrip("/")
        self.disk_folder: Path | None = None  # nothing is spooled: files go from memory, or from scratch files

    def __repr__(self) -> str:
        return f"<S3Destination {self.label}>"

    def href(self, name: str) -> str:
        """Return an object's URL."""
        return f"{self.label}/{name}"

    async def inspect(self, name: str) -> FoundMask | None:
        """See `Destination.inspect`: size and first bytes tell; objects are never there in part."""
        with self._told("look for"):
            found = await self._client.head(self._bucket, self._key(name))
            if found is None:
                return None
            start = await self._client.read(found, 0, min(found.size, _HEAD_BYTES)) if found.size else b""
        return await in_thread(None, inspect_head, start, found.size)

    async def missing(self, names: Sequence[str], *, fingerprint: str | None = None) -> list[str]:
        """See `Destination.missing`."""
        told = await self._told_fingerprints(names)
        kept = {name for name, of in told.items() if fingerprint is None or of in (None, fingerprint)}
        return [name for name in names if name not in kept]

    async def foreign(self, names: Sequence[str], *, fingerprint: str) -> list[str]:
        """See `Destination.foreign`."""
        told = await self._told_fingerprints(names)
        return [name for name in names if told.get(name, fingerprint) not in (None, fingerprint)]

    async def has(self, name: str, *, size: int, sha256: str) -> bool:
        """See `Destination.has`."""
        with self._told("look for"):
            found = await self._client.head(self._bucket, self._key(name))
        return found is not None and found.size == size and found.metadata.get("sha256", sha256) == sha256

    async def folders(self, prefix: str) -> list[str]:
        """See `Destination.folders`."""
        with self._told("look for"):
            found = await self._client.folders(self._bucket, self._key(prefix), most=_MOST_FOLDERS)
        return sorted(key.removeprefix(self._folder).rstrip("/") for key in found)

    async def read(self, name: str) -> bytes:
        """See `Destination.read`."""
        with self._told("read"):
            return await self._client.get(self._bucket, self._key(name), limit=_LARGEST_MASK)

    async def prepare(self, names: Sequence[str]) -> None:
        """See `Destination.prepare`: an upload is begun and given up, so that missing rights are found now."""
        with self._told("write"):
            for name in names[:1]:
                await self._client.try_write(self._bucket, self._key(name))

    async def tidy(self, names: Sequence[str]) -> None:
        """See `Destination.tidy`: a store has no temporary files."""

    async def publish(self, files: Sequence[OutputFile], *, stale: Sequence[str] = ()) -> None:
        """See `Destination.publish`; what is there when a failure or cancellation comes stays."""
        await self.remove(stale[:1])  # an Item of other files than those that will lie beside it
        for file in files:
            metadata = await _metadata(file)
            with self._told("write"):
                await self._client.put(
                    self._bucket,
                    self._key(file.name),
                    file.content,
                    content_type=file.media_type,
                    metadata=metadata,
                )
        written = {file.name for file in files}
        await self.remove([name for name in stale if name not in written])

    async def replace(self, known: bytes, file: OutputFile) -> bool:
        """See `Destination.replace`."""
        if isinstance(file.content, Path):
            raise TypeError(f"{file.name} is a scratch file: only what is in memory replaces other content")
        data, metadata = b"".join(file.content), await _metadata(file)
        with self._told("write"):
            # The version first: where another one comes between the two looks, it is not this one that is replaced.
            found = await self._client.head(self._bucket, self._key(file.name))
            if found is None or found.size != len(known) or await self.read(file.name) != known:
                return False
            return await self._client.replace(found, data, content_type=file.media_type, metadata=metadata)

    async def remove(self, names: Sequence[str]) -> None:
        """See `Destination.remove`."""
        with self._told("remove"):
            await _each(names, lambda name: self._client.delete(self._bucket, self._key(name)))

    async def discard(self) -> None:
        """See `Destination.discard`: a store has no folders, nothing is to be removed."""

    async def _told_fingerprints(self, names: Sequence[str]) -> dict[str, str | None]:
        """Return, of those that are there, which mask each says that it belongs to; None where it says nothing."""
        told: dict[str, str | None] = {}

        async def look(name: str) -> None:
            found = await self._client.head(self._bucket, self._key(name))
            if found is not None:
                told[name] = found.metadata.get("fingerprint")

        with self._told("look for"):
            await _each(names, look)
        return told

    def _key(self, name: str) -> str:
        return f"{self._folder}{name}"

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except InputError as error:  # the client's words are about sources
            kind = OutputUnavailableError if error.retryable else OutputError
            raise kind(f"cannot {what} the output: {error}") from error


async def _metadata(file: OutputFile) -> dict[str, str]:
    """Return what an object says of itself; its checksum tells whether it belongs to what a catalogue lists."""
    try:
        return {**file.metadata, "sha256": (await file_facts(file, None)).sha256}
    except OSError as error:
        raise OutputError(f"cannot read {file.content}: {error.strerror}") from error


async def _each(names: Sequence[str], do: Callable[[str], Awaitable[None]]) -> None:
    """Call `do` for every name, some at once; the first failure ends it."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> None:
        async with slots:
            await do(name)

    try:
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(one(name))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
