"""What a product's files are read through, wherever they are."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from kappamask_stream.names import checked_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


class Source(Protocol):
    """A product's files, wherever they are; paths are relative POSIX paths.

    Attributes
    ----------
    label : what people call the product's place, a path or a URL; for messages.
    coalesce_bytes : reads of one file that follow each other are best asked for together, up to so many bytes
        (`stream`); 0 where a small read costs no more than a part of a large one.
    """

    label: str
    coalesce_bytes: int

    async def files(self) -> Mapping[str, int]:
        """Return path -> size in bytes of every file; listed once.

        Raises
        ------
        ProductError
            If the place does not exist, cannot be listed, or is no product's.
        """
        ...

    async def read(self, path: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from byte `start` on.

        Raises
        ------
        ProductError
            If the file is missing, unreadable, no file, or ends before ``start + length``.
        StoreChangedError
            If it is not the file any more that was listed or read first.
        """
        ...

    def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the same bytes in pieces of any size, in order, each as soon as it is there.

        It is an async generator: close it (``contextlib.aclosing``) where it is not read to its end.

        Raises
        ------
        ProductError
            As `read` does, at the first piece or later; all pieces before are right.
        """
        ...

    async def read_all(self, path: str, *, limit: int) -> bytes:
        """Return a whole small file.

        Raises
        ------
        ProductError
            If it is larger than `limit` bytes, missing, unreadable or no file.
        """
        ...

    async def aclose(self) -> None:
        """Give back what the source holds; may be called again."""
        ...


class SubSource:
    """A product in a folder of another source, such as ``NAME.SAFE/`` in an archive; owns that source."""

    def __init__(self, outer: Source, folder: str) -> None:
        self._outer, self._folder = outer, folder
        self.coalesce_bytes = outer.coalesce_bytes
        self.label = f"{outer.label.rstrip('/')}/{folder}"
        self._files: Mapping[str, int] | None = None

    def __repr__(self) -> str:
        return f"<SubSource {self._folder} of {self._outer!r}>"

    async def files(self) -> Mapping[str, int]:
        """See `Source.files`."""
        if self._files is None:
            prefix = self._folder + "/"
            listed = (await self._outer.files()).items()
            inside = {path.removeprefix(prefix): size for path, size in listed if path.startswith(prefix)}
            self._files = MappingProxyType(inside)
        return self._files

    async def read(self, path: str, start: int, length: int) -> bytes:
        """See `Source.read`."""
        return await self._outer.read(self._inside(path), start, length)

    def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `Source.stream`."""
        return self._outer.stream(self._inside(path), start, length)

    async def read_all(self, path: str, *, limit: int) -> bytes:
        """See `Source.read_all`."""
        return await self._outer.read_all(self._inside(path), limit=limit)

    async def aclose(self) -> None:
        """See `Source.aclose`."""
        await self._outer.aclose()

    def _inside(self, path: str) -> str:
        return f"{self._folder}/{checked_path(path, said_by=f'asked of {self.label}')}"
