"""A product in a directory of the file system."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import contextmanager
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError, StoreChangedError
from kappamask_stream.names import checked_path
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

#: A SAFE product has 100 to 200 files; someone who names a home folder is told so before it is read to its end.
_MOST_FILES = 20_000
#: Of anything that folders hold; folders that are linked again and again multiply without a single file.
_MOST_ENTRIES = 100_000
_DEEPEST = 16
#: Size in bytes and time of the last change in ns: what tells versions of a file apart. Not the inode, which some
#: network file systems make up as they go.
_Version = tuple[int, int]
_NS = 10**9
#: Opening a named pipe must not wait for its other end.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


class DirectorySource:
    """A product in a directory of the file system; all calls that can block run in threads.

    Parameters
    ----------
    path : the product's directory. Its ``manifest.safe`` or ``MTD_MSI*.xml`` stands for it.

    State: the listing, once it is made; the version of each file that was listed or read. Files are opened for each
    read, so nothing is held open, and a file that is not as it was seen first is an error: two versions are not mixed.
    """

    coalesce_bytes = 0

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        self._files: Mapping[str, int] | None = None
        self._versions: dict[str, _Version] = {}
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
                found = await in_thread(None, _list, self.root)
                for path, version in found.items():
                    self._versions.setdefault(path, version)
                self._files = MappingProxyType({path: size for path, (size, _) in found.items()})
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

    async def size(self, path: str) -> int:
        """Return a file's size in bytes, from now on to be that of each read.

        Raises
        ------
        ProductError
            As `Source.read` does.
        """

        def look() -> int:
            with self._open(path) as (descriptor, size, full):
                self._require_same(path, descriptor, full)
                return size

        return await in_thread(None, look)

    def _read(self, path: str, start: int, length: int) -> bytes:
        with self._open(path) as (descriptor, size, full):
            # Asked first: pread would allocate `length` bytes, whatever a damaged header says it is.
            if not 0 <= start <= start + length <= size:
                raise _too_short(full, start, length, size)
            data = _pread(descriptor, start, length, full)
            self._require_same(path, descriptor, full)
            return data

    def _read_all(self, path: str, limit: int) -> bytes:
        with self._open(path) as (descriptor, size, full):
            if size > limit:
                raise ProductError(f"{full} has {size} bytes, at most {limit} are read: it is not what its name says")
            data = _pread(descriptor, 0, size, full)
            self._require_same(path, descriptor, full)
            return data

    def _require_same(self, path: str, descriptor: int, full: Path) -> None:
        """Refuse a file that is another one than when it was listed or read first."""
        status = os.fstat(descriptor)
        now = status.st_size, status.st_mtime_ns
        before = self._versions.setdefault(checked_path(path, said_by=self.label), now)
        if (difference := _difference(before, now)) is not None:
            raise StoreChangedError(
                f"{full} was changed or replaced while it was read ({difference}): bytes of two versions are not "
                "mixed, run again"
            )

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


def _difference(before: _Version, now: _Version) -> str | None:
    """Say in what two versions of a file differ; None where they are one.

    Network file systems say the time to the nanosecond while they remember it, and to the second when they are asked
    anew: where one of two times has no part of a second, only whole seconds are compared.
    """
    if before[0] != now[0]:
        return f"it had {before[0]} bytes, it has {now[0]}"
    (second, part), (now_second, now_part) = (divmod(version[1], _NS) for version in (before, now))
    if second == now_second and (part == now_part or not part or not now_part):
        return None
    return f"it was last changed at {second}.{part:09} s, now at {now_second}.{now_part:09} s"


def _list(root: Path) -> dict[str, _Version]:
    """Walk a product's directory; links are followed, except back into a folder that is being walked."""
    try:
        is_directory = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError as error:
        raise ProductError(f"{root} does not exist: check the path to the product") from error
    except OSError as error:
        raise ProductError(f"cannot look into {root}: {error.strerror}") from error
    except ValueError as error:  # a null byte
        raise ProductError(f"{str(root)[:200]!r} is no path: check the path to the product") from error
    if not is_directory:
        raise ProductError(f"{root} is a file, a product is a directory: give its .SAFE directory, or a .zip")
    walk = _Walk(root)
    walk.enter(root, "", ())
    return walk.found


class _Walk:
    """A walk through a directory. State: the files found so far, and how many entries were looked at."""

    def __init__(self, root: Path) -> None:
        self.found: dict[str, _Version] = {}
        self._root, self._seen = root, 0

    def enter(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        """Add the files below `folder`; `above` holds device and inode of the folders being walked."""
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = sorted(islice(listing, _MOST_ENTRIES + 1), key=lambda entry: entry.name)
        except OSError as error:
            raise ProductError(f"cannot list {folder}: {error.strerror}") from error
        here = (status.st_dev, status.st_ino)
        if here in above or len(above) >= _DEEPEST:
            return
        for entry in entries:
            self._count()
            if not entry.name.isprintable():
                continue  # no name of a product's file, and messages would break on it
            try:
                if entry.is_dir():
                    self.enter(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
                elif entry.is_file():
                    found = entry.stat()
                    self.found[prefix + entry.name] = found.st_size, found.st_mtime_ns
            except OSError:
                continue  # vanished, or a link to itself: missed only if the product needs it

    def _count(self) -> None:
        self._seen += 1
        if len(self.found) > _MOST_FILES or self._seen > _MOST_ENTRIES:
            raise ProductError(
                f"more than {_MOST_FILES} files, or {_MOST_ENTRIES} files and folders, lie under {self._root}: give "
                "one product's .SAFE directory"
            )


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
