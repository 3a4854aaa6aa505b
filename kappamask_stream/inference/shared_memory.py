"""Memory that this process shares with a server on the same machine: making it, naming it, finding what the dead left.

POSIX shared memory of Linux: a file in ``/dev/shm``. A region's file is there only until the server has mapped it; from
then on nothing is left of it once both have let go, however they end.

Every user can list ``/dev/shm``, and a server takes the name of a region that it knows from whoever sends it a request.
So what a region is called in the server is another name than its file's, which only the two know.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kappamask_stream.whereabouts import pid_namespace

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_FOLDER = Path("/dev/shm")  # noqa: S108 - POSIX shared memory
#: A smaller one has no room beside what Triton's own processes take: a batch of tiles and its answers, tens of MB each.
_LEAST_BYTES = 256 * 2**20
#: Of its maker: namespace of process ids, user, process id, start in clock ticks since boot; then random digits.
_NAME = re.compile(r"kappamask-(\d+)-(\d+)-(\d+)-(\d+)-[0-9a-f]{32}")
_OWN = "self"


def lacking() -> str | None:
    """Say why this system has no such memory, None where it has."""
    if sys.platform != "linux":
        return f"only Linux has it, this is {sys.platform}"
    if not os.access(_FOLDER, os.W_OK | os.X_OK):
        return f"{_FOLDER} is missing or cannot be written"
    total, _ = _room()
    if 0 < total < _LEAST_BYTES:  # a total of 0 is a file system without a limit
        return f"{_FOLDER} has {total >> 20} MiB in all, {_LEAST_BYTES >> 20} are needed (docker run --shm-size)"
    return None


class Region:
    """Memory of this process that others can map while its file is there.

    Attributes
    ----------
    name : of the region in the server; a secret of the two. No other region ever has it: a server takes a name that it
        knows for memory that it knows.
    file : name of the file in ``/dev/shm``.
    size : bytes.
    address : where it begins in this process; nothing else is there while the region lives.
    """

    def __init__(self, file: str, memory: mmap.mmap) -> None:
        self.name, self.file, self.size = _new_name(), file, len(memory)
        self._memory = memory
        self.address = address_of(self.array(0, (0,), np.uint8))

    def __repr__(self) -> str:
        return f"<Region {self.file}, {self.size} bytes>"

    @classmethod
    def make(cls, size: int) -> Self:
        """Make a region, with all its bytes in place: a page that is missing later ends the process with SIGBUS.

        Raises
        ------
        OSError
            If there is no room; half of ``/dev/shm`` is left to others, such as the server's own processes.
        """
        _require_room(size)
        file = _new_name()
        path = _FOLDER / file
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            return cls(file, mmap.mmap(descriptor, size))
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)

    def unlink(self) -> None:
        """Remove the file: who has mapped it keeps the memory, nobody else finds it any more."""
        with contextlib.suppress(FileNotFoundError):
            (_FOLDER / self.file).unlink()

    def array(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a part of the memory as an array; it keeps the memory mapped as long as it lives."""
        return np.ndarray(shape, dtype, buffer=self._memory, offset=offset)


def address_of(array: NDArray[Any]) -> int:
    """Return where an array's first element is in this process."""
    address: int = array.__array_interface__["data"][0]
    return address


def is_of_the_dead(name: str) -> bool:
    """Tell whether the process that made a region or a file has ended; False where it cannot be known.

    Process ids of another namespace (a container's) say nothing here, and other users' processes may be hidden.
    """
    match = _NAME.fullmatch(name)
    if match is None or (int(match[1]), int(match[2])) != (pid_namespace(), os.getuid()):
        return False
    return _start(match[3]) != int(match[4])


def remove_abandoned_files() -> None:
    """Remove the files of regions whose makers were killed before a server had mapped them."""
    with contextlib.suppress(OSError):
        for path in _FOLDER.glob("kappamask-*"):
            if is_of_the_dead(path.name):
                with contextlib.suppress(OSError):
                    path.unlink()


def _require_room(size: int) -> None:
    total, free = _room()
    if total and free - size < total // 2:
        raise OSError(errno.ENOSPC, f"{_FOLDER} has {free} of {total} bytes free, half of all is left to others")


def _room() -> tuple[int, int]:
    """Return the bytes of the file system, and those of them that are free."""
    room = os.statvfs(_FOLDER)
    return room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize


def _new_name() -> str:
    return f"kappamask-{pid_namespace()}-{os.getuid()}-{os.getpid()}-{_start(_OWN)}-{secrets.token_hex(16)}"


def _start(process: str) -> int | None:
    """Return when a process began, in clock ticks since boot; None where it has ended."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in {"Z", "X"} else int(fields[18])  # starttime, field 22 of proc(5); the state is field 3
