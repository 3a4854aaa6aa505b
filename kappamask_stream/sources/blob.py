"""One file or object whose bytes are read at random: what an archive lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kappamask_stream.errors import ProductError
from kappamask_stream.sources.directory import DirectorySource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_PIECE_BYTES = 1024 * 1024


class Blob(Protocol):
    """A file or object, wherever it is.

    Attributes
    ----------
    label : its path or URL, for messages.
    coalesce_bytes : as `Source.coalesce_bytes`.
    """

    label: str
    coalesce_bytes: int

    async def size(self) -> int:
        """Return its size in bytes.

        Raises
        ------
        ProductError
            If it is not there or cannot be read.
        """
        ...

    async def read(self, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from byte `start` on.

        Raises
        ------
        ProductError
            If it is missing, unreadable, or ends before ``start + length``.
        """
        ...

    def stream(self, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the same bytes in pieces, in order; an async generator, as `Source.stream`.

        Raises
        ------
        ProductError
            As `read` does, at the first piece or later.
        """
        ...

    async def aclose(self) -> None:
        """Give back what it holds; may be called again."""
        ...


class FileBlob:
    """A file of the file system; opened for each read, so nothing is held.

    Parameters
    ----------
    path : of the file.
    """

    coalesce_bytes = 0

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        self._folder = DirectorySource(path.parent)

    def __repr__(self) -> str:
        return f"<FileBlob {self.label}>"

    async def size(self) -> int:
        """See `Blob.size`."""
        try:
            return await self._folder.size(self._path.name)
        except ProductError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise ProductError(f"{self.label} does not exist: check the path to the product") from error

    async def read(self, start: int, length: int) -> bytes:
        """See `Blob.read`."""
        return await self._folder.read(self._path.name, start, length)

    async def stream(self, start: int, length: int) -> AsyncIterator[bytes]:
        """See `Blob.stream`."""
        for at in range(start, start + length, _PIECE_BYTES):
            yield await self.read(at, min(_PIECE_BYTES, start + length - at))

    async def aclose(self) -> None:
        """See `Blob.aclose`: nothing is held."""
