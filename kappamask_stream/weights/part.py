"""A file that is being fetched: its beginning (``.part``), held by one process, and which version it belongs to.

The lock is on the ``.part`` itself: the kernel gives it back however its holder ends, and nothing is left over. It is
renamed to the final name while it is held, so who waited for it finds another file, or none, under its name.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kappamask_stream.threads import in_thread
from kappamask_stream.weights.cache import MODE, cache_error, write_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Pin:
    """The one version of a file whose bytes may be put together.

    Attributes
    ----------
    url : where it was asked for; another URL is another file.
    validator : what the server is asked to compare (``If-Range``): a strong ETag or a strong date; None where it
        gave neither, and then the beginning is worth nothing.
    etag : as the server gave it, strong or weak.
    total : bytes of the whole file, None where unknown.
    """

    url: str
    validator: str | None = None
    etag: str | None = None
    total: int | None = None


class PartFile:
    """The beginning of a file, open and locked; made by `held_part`.

    State: the descriptor, the bytes written, the pin of the version that they belong to, and whether the ``.part`` is
    still there under its name.

    Raises
    ------
    OutputError
        Wherever the file cannot be written or read: naming it, the bytes needed and free, and the remedy.
    """

    def __init__(self, path: Path, final: Path, descriptor: int) -> None:
        self._path, self._final, self._descriptor = path, final, descriptor
        self._pin_path = path.with_name(f"{path.name}.json")
        self.size = os.fstat(descriptor).st_size
        self.pin = self._read_pin()
        self._is_there = True

    def __repr__(self) -> str:
        return f"<PartFile {self._path}: {self.size} bytes of {self.pin}>"

    def begin(self, pin: Pin) -> None:
        """Throw away what is there and begin with this version."""
        self.clear()
        self.repin(pin)

    def repin(self, pin: Pin) -> None:
        """Note more about the version that is there."""
        write_json(self._pin_path, asdict(pin))
        self.pin = pin

    def clear(self) -> None:
        """Throw away what is there: the next attempt begins anew."""
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError as error:
            raise cache_error(self._path, error) from error
        self.size = 0
        self._forget_pin()

    async def append(self, data: bytes) -> None:
        """Write bytes at the end."""
        await in_thread(None, self._append, data)

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:  # a disk that fills up takes a part before it refuses
                written = os.pwrite(self._descriptor, left, self.size)
                self.size, left = self.size + written, left[written:]
        except OSError as error:
            needed = self.pin.total - self.size if self.pin and self.pin.total else len(left)
            raise cache_error(self._path, error, needed) from error

    def head(self, length: int) -> bytes:
        """Return the first bytes."""
        try:
            return os.pread(self._descriptor, length, 0)
        except OSError as error:
            raise cache_error(self._path, error) from error

    async def sha256(self) -> str:
        """Return the digest of what is on the disk, not of what was received."""
        return await in_thread(None, self._sha256)

    def _sha256(self) -> str:
        try:
            with open(self._descriptor, "rb", closefd=False) as file:
                file.seek(0)
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise cache_error(self._path, error) from error

    def publish(self) -> None:
        """Give the file its final name, on the disk and for good."""
        try:
            os.fchmod(self._descriptor, MODE)
            os.fsync(self._descriptor)
            self._path.replace(self._final)
            self._is_there = False
            folder = os.open(self._final.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise cache_error(self._final, error) from error
        self._forget_pin()

    def discard(self) -> None:
        """Leave nothing; what another process may have begun since is not ours."""
        if self._is_there:
            self._forget_pin()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._is_there = False

    def _forget_pin(self) -> None:
        with suppress(OSError):
            self._pin_path.unlink(missing_ok=True)
        self.pin = None

    def _read_pin(self) -> Pin | None:
        """Read which version the bytes belong to; None where that cannot be told."""
        try:
            document = json.loads(self._pin_path.read_bytes())
            pin = Pin(**document)
            is_of_this = pin.total is None or self.size <= pin.total
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        is_sound = all(isinstance(text, str) or text is None for text in (pin.url, pin.validator, pin.etag))
        return pin if is_sound and is_of_this else None


@asynccontextmanager
async def held_part(final: Path, say: Callable[[str], None]) -> AsyncIterator[PartFile]:
    """Hold the ``.part`` of a file, waiting for another process that does; an empty one is not left behind.

    Raises
    ------
    OutputError
        If the folder or the file cannot be made.
    """
    path = final.with_name(f"{final.name}.part")
    is_said = False
    while (descriptor := _take(path)) is None:
        if not is_said:
            say(f"another process fetches {final.name}; waiting")
            is_said = True
        await asyncio.sleep(_POLL_S)
    try:
        part = PartFile(path, final, descriptor)
        try:
            yield part
        finally:
            if part.size == 0:
                part.discard()
    finally:
        os.close(descriptor)


def part_files(final: Path) -> list[Path]:
    """Name what a fetch that was interrupted has left."""
    return [path for suffix in (".part", ".part.json") if (path := final.with_name(final.name + suffix)).exists()]


def is_being_fetched(final: Path) -> bool:
    """Tell whether some process holds the file's ``.part``."""
    try:
        descriptor = os.open(final.with_name(f"{final.name}.part"), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take(path: Path) -> int | None:
    """Open and lock a ``.part``; None where another holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with ExitStack() as undo:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                undo.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return None
                # Its last holder may have renamed or removed it between our two steps.
                with suppress(FileNotFoundError):
                    if os.fstat(descriptor).st_ino == path.stat().st_ino:
                        undo.pop_all()
                        return descriptor
    except OSError as error:
        raise cache_error(path, error) from error
