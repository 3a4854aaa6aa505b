"""Products and files on S3, read through the client that all products of a process share."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.names import checked_path
from kappamask_stream.s3 import SEGMENT_BYTES, Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from kappamask_stream.s3 import S3Client, S3Object

#: As of directories: whoever names a bucket full of products is told so before it is listed to its end.
_MOST_OBJECTS = 20_000


class S3Source:
    """A product whose files are objects.

    Parameters
    ----------
    client : not closed by this source.
    label : the product's place as people write it, ``s3://bucket/prefix/NAME.SAFE``.
    listing : finds the objects; called once.

    State: the listing. Sizes and versions are those of the listing, or of the first answer where it has no versions: an
    object that is replaced later is an error.
    """

    coalesce_bytes = SEGMENT_BYTES

    def __init__(self, client: S3Client, label: str, listing: Callable[[], Awaitable[Mapping[str, S3Object]]]) -> None:
        self.label = label
        self._client, self._listing = client, listing
        self._objects: Mapping[str, S3Object] | None = None
        self._files: Mapping[str, int] = MappingProxyType({})
        self._versions: defaultdict[str, Version] = defaultdict(Version)
        self._once = asyncio.Lock()

    def __repr__(self) -> str:
        listed = "not listed" if self._objects is None else f"{len(self._objects)} objects"
        return f"<S3Source {self.label}, {listed}>"

    @classmethod
    def at_prefix(cls, client: S3Client, bucket: str, prefix: str) -> S3Source:
        """Return the product whose objects' keys begin with ``prefix/``."""
        label = f"s3://{bucket}/{prefix}".rstrip("/")

        async def listing() -> Mapping[str, S3Object]:
            return await objects_under(client, bucket, prefix)

        return cls(client, label, listing)

    async def files(self) -> Mapping[str, int]:
        """See `Source.files`."""
        await self._listed()
        return self._files

    async def read(self, path: str, start: int, length: int) -> bytes:
        """See `Source.read`."""
        at = await self._range(path, start, length)
        return await self._client.read(at, start, length, self._versions[at.key])

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `Source.stream`: in the pieces in which they arrive."""
        at = await self._range(path, start, length)
        async with aclosing(self._client.stream(at, start, length, self._versions[at.key])) as pieces:
            async for piece in pieces:
                yield piece

    async def read_all(self, path: str, *, limit: int) -> bytes:
        """See `Source.read_all`; compared with the store's checksum, where there is one."""
        at = await self._object(path)
        if at.size > limit:
            raise ProductError(f"{at.url} has {at.size} bytes, at most {limit} are read: it is not what its name says")
        etag = at.etag or self._versions[at.key].etag
        return await self._client.get(at.bucket, at.key, limit=limit, etag=etag, size=at.size)

    async def aclose(self) -> None:
        """See `Source.aclose`: connections belong to the client."""

    async def _listed(self) -> Mapping[str, S3Object]:
        async with self._once:
            if self._objects is None:
                objects = await self._listing()
                self._files = MappingProxyType({path: at.size for path, at in objects.items()})
                self._objects = objects
            return self._objects

    async def _object(self, path: str) -> S3Object:
        objects = await self._listed()
        inside = checked_path(path, said_by=f"asked of {self.label}")
        at = objects.get(inside)
        if at is None:
            is_folder = any(other.startswith(inside + "/") for other in objects)
            what = "is a folder, a file is expected there" if is_folder else "is not there"
            raise ProductError(f"{self.label}/{inside} {what}: the product is incomplete, look for another copy")
        return at

    async def _range(self, path: str, start: int, length: int) -> S3Object:
        at = await self._object(path)
        _require_range(at, start, length)
        return at


class S3Blob:
    """One object that is read at random; see `blob.Blob`.

    Parameters
    ----------
    client : not closed by this blob.

    State: the object's size and version, as the first call finds them.
    """

    coalesce_bytes = SEGMENT_BYTES

    def __init__(self, client: S3Client, bucket: str, key: str) -> None:
        self.label = f"s3://{bucket}/{key}"
        self._client, self._bucket, self._key = client, bucket, key
        self._at: S3Object | None = None
        self._version = Version()
        self._once = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<S3Blob {self.label}, {'not looked at' if self._at is None else f'{self._at.size} bytes'}>"

    async def size(self) -> int:
        """Return its size in bytes.

        Raises
        ------
        ProductError
            If there is no such object.
        """
        return (await self._found()).size

    async def read(self, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from byte `start` on.

        Raises
        ------
        ProductError
            If there is no such object, or it ends before ``start + length``.
        """
        at = await self._found()
        _require_range(at, start, length)
        return await self._client.read(at, start, length, self._version)

    async def stream(self, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the same bytes in pieces, each as soon as it is there; an async generator."""
        at = await self._found()
        _require_range(at, start, length)
        async with aclosing(self._client.stream(at, start, length, self._version)) as pieces:
            async for piece in pieces:
                yield piece

    async def aclose(self) -> None:
        """Hold nothing: connections belong to the client."""

    async def _found(self) -> S3Object:
        async with self._once:
            if self._at is None:
                self._at = await self._client.head(self._bucket, self._key)
            if self._at is None:
                raise ProductError(f"{self.label} does not exist: check bucket and key")
            return self._at


async def objects_under(client: S3Client, bucket: str, prefix: str) -> Mapping[str, S3Object]:
    """List a prefix as a folder: path below it -> object.

    Raises
    ------
    ProductError
        If nothing lies there, or more than 20,000 objects do.
    """
    folder = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
    found = await client.list(bucket, folder, most=_MOST_OBJECTS)
    objects = {at.key.removeprefix(folder): at for at in found}
    # Folders' own markers end in a slash; other names that are no paths cannot be asked for.
    inside = {path: at for path, at in objects.items() if _is_path(path)}
    if not inside:
        raise ProductError(f"s3://{bucket}/{folder} does not exist: nothing lies under this prefix, check it")
    return MappingProxyType(inside)


def _is_path(text: str) -> bool:
    try:
        return checked_path(text, said_by="a key") == text
    except ProductError:
        return False


def _require_range(at: S3Object, start: int, length: int) -> None:
    if not 0 <= start <= start + length <= at.size:
        raise ProductError(
            f"{at.url} has {at.size} bytes, bytes {start} to {start + length} are needed: it is truncated, "
            "look for another copy"
        )
