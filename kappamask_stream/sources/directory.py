"""A product in a directory of the file system."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.names import checked_path
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

#: A SAFE product has 100 to 200 files; someone who names a home folder is told so before it is read to its end.
_MOST_FILES = 20_000
_DEEPEST = 16
#: Opening a named pipe must not wait for its other end.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


class DirectorySource:
    """A product in a directory of the file system; all calls that can block run in threads.

    Parameters
    ----------
    path : the product's directory. Its ``manifest.safe`` or ``MTD_MSI*.xml`` stands for it.

    State: the listing, once it is made. Files are opened for each read, so nothing is held open.
    """

    coalesce_bytes = 0

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        self._files: Mapping[str, int] | None = None
        self._listing = asyncio.Lock()

    def __repr__(self) -> str:
        listed = "not listed" if self._files is None else f"{len(self._files)} files"
        return f"<DirectorySource {self.label}, {listed}>"

    @property
    def root(self) -> Path:
        """The directory that paths are relative to."""
        is_part = self._path.name == "manifest.safe" or self._path.match("MTD_MSI*.xml")
        return self._path.parent if is_part else self._path

    async def files(self) -> Mapping[str, int]:
        """See `Source.files`."""
        async with self._listing:
            if self._files is None:
                self._files = MappingProxyType(await in_thread(None, _list, self.root))
            return self._files

    async def read(self, path: str, start: int, length: int) -> bytes:
        """See `Source.read`."""
        return await in_thread(None, self._read, path, start, length)

    async def stream(self, path: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See `Source.stream`: in one piece."""
        yield await self.read(path, start, length)

    async def read_all(self, path: str, *, limit: int) -> bytes:
        """See `Source.read_all`."""
        return await in_thread(None, self._read_all, path, limit)

    async def aclose(self) -> None:
        """See `Source.aclose`: nothing is held."""

    def _read(self, path: str, start: int, length: int) -> bytes:
        with self._open(path) as (descriptor, size, full):
            # Asked first: pread would allocate `length` bytes, whatever a damaged header says it is.
            if not 0 <= start <= start + length <= size:
                raise _too_short(full, start, length, size)
            return _pread(descriptor, start, length, full)

    def _read_all(self, path: str, limit: int) -> bytes:
        with self._open(path) as (descriptor, size, full):
            if size > limit:
                raise ProductError(f"{full} has {size} bytes, at most {limit} are read: it is not what its name says")
            return _pread(descriptor, 0, size, full)

    @contextmanager
    def _open(self, path: str) -> Iterator[tuple[int, int, Path]]:
        """Open a regular file; yields descriptor, size in bytes and full path."""
        full = self.root / checked_path(path, said_by=f"asked of {self.label}")
        try:
            descriptor = os.open(full, _OPEN_FLAGS)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
                    raise ProductError(f"{full} is {what}, a file is expected there: fetch the product again")
                yield descriptor, status.st_size, full
            finally:
                os.close(descriptor)
        except FileNotFoundError as error:
            raise ProductError(f"{full} is not there (or a link to nothing): fetch the product again") from error
        except OSError as error:
            raise ProductError(f"cannot read {full}: {error.strerror}") from error


def _list(root: Path) -> dict[str, int]:
    """Walk a product's directory; links are followed, except back into a folder that is being walked."""
    try:
        is_directory = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError as error:
        raise ProductError(f"{root} does not exist: check the path to the product") from error
    except OSError as error:
        raise ProductError(f"cannot look into {root}: {error.strerror}") from error
    if not is_directory:
        raise ProductError(f"{root} is a file, a product is a directory: give its .SAFE directory, or a .zip")
    found: dict[str, int] = {}
    _walk(root, "", (), found)
    return found


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...], found: dict[str, int]) -> None:
    """Add the files below `folder` to `found`; `above` holds device and inode of the folders being walked."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise ProductError(f"cannot list {folder}: {error.strerror}") from error
    here = (status.st_dev, status.st_ino)
    if here in above or len(above) >= _DEEPEST:
        return
    for entry in entries:
        if not entry.name.isprintable():
            continue  # no name of a product's file, and messages would break on it
        try:
            if entry.is_dir():
                _walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, here), found)
            elif entry.is_file():
                found[prefix + entry.name] = entry.stat().st_size
        except OSError:
            continue  # vanished, or a link to itself: missed only if the product needs it
        if len(found) > _MOST_FILES:
            raise ProductError(f"more than {_MOST_FILES} files lie under {folder}: give one product's .SAFE directory")


def _pread(descriptor: int, start: int, length: int, full: Path) -> bytes:
    """Read exactly `length` bytes; the kernel may give less at a time (2 GiB, signals)."""
    pieces: list[bytes] = []
    missing = length
    while missing:
        piece = os.pread(descriptor, missing, start + length - missing)
        if not piece:
            raise _too_short(full, start, length, start + length - missing)
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_short(full: Path, start: int, length: int, size: int) -> ProductError:
    return ProductError(
        f"{full} has {size} bytes, bytes {start} to {start + length} are needed: it is truncated, fetch it again"
    )
