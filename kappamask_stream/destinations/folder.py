"""A product's files in a directory: hidden temporary names, then renamed in order."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from kappamask_stream.atomic import output_error, publish
from kappamask_stream.cog import FoundMask, inspect_mask
from kappamask_stream.errors import OutputError
from kappamask_stream.leftovers import tidy
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from kappamask_stream.destinations.types import OutputFile

#: Folders above those of products that this process has made: whichever product comes last removes them again where
#: nothing was written.
_MADE: set[Path] = set()


class FolderDestination:
    """A directory; made when it is needed. All blocking work is done in threads.

    Parameters
    ----------
    folder : of one product.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label = str(folder)
        self.disk_folder: Path | None = folder

    def __repr__(self) -> str:
        return f"<FolderDestination {self.label}>"

    def href(self, name: str) -> str:
        """Return a file's path."""
        return str(self.folder / name)

    async def inspect(self, name: str) -> FoundMask | None:
        """See `Destination.inspect`."""
        return await in_thread(None, self._inspect, self.folder / name)

    async def missing(self, names: Sequence[str], *, fingerprint: str | None = None) -> list[str]:  # noqa: ARG002
        """See `Destination.missing`; a directory keeps no metadata, its files are renamed together."""
        return await in_thread(None, self._missing, names)

    async def foreign(self, names: Sequence[str], *, fingerprint: str) -> list[str]:  # noqa: ARG002
        """See `Destination.foreign`; a directory keeps no metadata, its files are renamed together."""
        return []

    async def has(self, name: str, *, size: int, sha256: str) -> bool:
        """See `Destination.has`; the file is read."""
        return await in_thread(None, self._has, self.folder / name, size, sha256)

    async def folders(self, prefix: str) -> list[str]:
        """See `Destination.folders`."""
        return await in_thread(None, self._folders, prefix)

    async def read(self, name: str) -> bytes:
        """See `Destination.read`."""
        path = self.folder / name
        try:
            return await in_thread(None, path.read_bytes)
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror or error}") from error

    async def prepare(self, names: Sequence[str]) -> None:
        """See `Destination.prepare`."""
        await in_thread(None, self._prepare, [self.folder / name for name in names])

    async def tidy(self, names: Sequence[str]) -> None:
        """See `Destination.tidy`."""
        await in_thread(None, tidy, [self.folder / name for name in names])

    async def publish(self, files: Sequence[OutputFile], *, stale: Sequence[str] = ()) -> None:
        """See `Destination.publish`."""
        paths = [(self.folder / file.name, file.content) for file in files]
        gone = [self.folder / name for name in stale]
        made: list[Path] = []
        try:
            await in_thread(None, self._make_folders, [path for path, _ in paths], made)
            await publish(paths, stale=gone)
        except BaseException:
            _remove_empty(reversed(made))
            raise
        if gone:
            await in_thread(None, _remove_empty, self._folders_of(gone)[::-1])

    async def replace(self, known: bytes, file: OutputFile) -> bool:
        """See `Destination.replace`."""
        if await self.missing([file.name]) or await self.read(file.name) != known:
            return False
        await self.publish([file])
        return True

    async def remove(self, names: Sequence[str]) -> None:
        """See `Destination.remove`."""
        await in_thread(None, self._remove, names)

    async def discard(self) -> None:
        """See `Destination.discard`."""
        await in_thread(None, self._discard)

    def _inspect(self, path: Path) -> FoundMask | None:
        try:
            if not path.exists() or path.is_dir():  # `prepare` speaks of a folder
                return None
            if not path.is_file():  # whoever opens a named pipe waits for its other end
                return FoundMask(fingerprint=None, is_whole=False)
            return inspect_mask(path)
        except OSError as error:
            raise OutputError(f"cannot look for {path}: {error.strerror}") from error

    def _has(self, path: Path, size: int, sha256: str) -> bool:
        try:
            if not path.is_file() or path.stat().st_size != size:
                return False
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError as error:
            raise OutputError(f"cannot look for {path}: {error.strerror}") from error

    def _folders(self, prefix: str) -> list[str]:
        try:
            with os.scandir(self.folder) as found:
                return sorted(entry.name for entry in found if entry.name.startswith(prefix) and entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"cannot look into {self.folder}: {error.strerror}") from error

    def _missing(self, names: Sequence[str]) -> list[str]:
        try:
            return [name for name in names if not (self.folder / name).is_file()]
        except OSError as error:
            raise OutputError(f"cannot look for {error.filename}: {error.strerror}") from error

    def _prepare(self, paths: Sequence[Path]) -> None:
        try:
            _MADE.update(folder for folder in self.folder.parents if not folder.exists())
            self.folder.mkdir(parents=True, exist_ok=True)
            # Asking for permissions is not enough: a file system may be read-only, a quota may have ended.
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise output_error(self.folder, error) from error
        for path in paths:
            if path.is_dir():
                raise output_error(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
        for path in self._folders_of(paths):
            if path.exists() and not path.is_dir():
                raise output_error(path, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))

    def _make_folders(self, paths: Sequence[Path], made: list[Path]) -> None:
        """Make the folders of files that want some inside this one; those that were not there are added to `made`."""
        for folder in self._folders_of(paths):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise output_error(folder, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from None
            except OSError as error:
                raise output_error(folder, error) from error
            else:
                made.append(folder)

    def _folders_of(self, paths: Iterable[Path]) -> list[Path]:
        """Return the folders between this one and files of it, outer ones first."""
        inside = {folder for path in paths for folder in path.parents if self.folder in folder.parents}
        return sorted(inside, key=lambda folder: (len(folder.parts), folder))

    def _discard(self) -> None:
        _remove_empty([self.folder])
        for folder in self.folder.parents:
            if folder not in _MADE:
                return
            with suppress(OSError):
                folder.rmdir()
                _MADE.discard(folder)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            path = self.folder / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"cannot remove {path}: {error.strerror or error}") from error


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
