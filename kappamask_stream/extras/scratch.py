"""A folder for files that grow while a product is masked; what a killed owner has left of its is removed."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from kappamask_stream.cog import scratch_error
from kappamask_stream.whereabouts import boot, pid_namespace

#: Of masks in work. Not ``kappamask-stream-``: the local server's state may lie beside it under such a name.
_PREFIX = "kappamask-scratch-"
#: In each folder, so that nobody else's is taken for one: its owner's machine (see `whereabouts`) and, for people, the
#: machine's name, the namespace of process ids and the process.
_MARK = ".owner"
_MARKED = re.compile(r"kappamask-stream (?P<boot>[0-9a-f]{32}) \S+ \d+ \d+\n")
#: A lock may not be seen on other machines that share the folder: theirs are left alone for so long.
_FOREIGN_AGE_S = 24 * 3600


class ScratchFolder:
    """A folder of its own, gone with all that is in it after `remove`. Both methods belong into threads.

    Its owner holds a lock on it, which the system lets go whichever way the process ends: see `remove_abandoned`.

    Making is apart from the constructor: a cancellation may come while a thread makes the folder, and it is removed all
    the same.

    Parameters
    ----------
    parent : folder that it is made in; None: the system's for temporary files (``TMPDIR``).
    prefix : of its name; `make` removes those of dead owners that begin so.
    """

    def __init__(self, parent: Path | None, *, prefix: str = _PREFIX) -> None:
        self._parent, self._prefix = parent, prefix
        self._folder: Path | None = None
        self._lock: int | None = None

    def make(self) -> Path:
        """Make the folder and return it; a hidden file in it says whose it is.

        Raises
        ------
        OutputError
            If it cannot be made; names the remedy.
        """
        parent = self._parent or Path(tempfile.gettempdir())
        with suppress(OSError):
            remove_abandoned(parent, self._prefix)
        try:
            while True:
                folder = parent / f"{self._prefix}{secrets.token_hex(8)}"
                folder.mkdir(mode=0o700)
                self._folder = folder
                if self._holds(folder):
                    return folder
        except OSError as error:
            raise scratch_error(parent, error) from error

    def remove(self) -> None:
        """Remove the folder, if it was made."""
        if self._folder is not None:
            _remove(self._folder)
        self._let_go()

    def _holds(self, folder: Path) -> bool:
        """Take the lock and mark it; False where another process has found the folder without, and removed it."""
        owner = f"{boot()} {platform.node() or '-'} {pid_namespace()} {os.getpid()}"
        with suppress(FileNotFoundError):
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks: nobody can take it for abandoned either
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            (folder / _MARK).write_text(f"kappamask-stream {owner}\n")
        if (folder / _MARK).is_file():
            return True
        self._let_go()
        return False

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_abandoned(parent: Path | None = None, prefix: str = _PREFIX) -> None:
    """Remove folders of owners that are dead; nothing that has not the name, the mark and the owner of one.

    Parameters
    ----------
    parent, prefix : see `ScratchFolder`.
    """
    parent = parent or Path(tempfile.gettempdir())
    shape = re.compile(rf"{re.escape(prefix)}[0-9a-f]{{16}}")
    for folder in parent.glob(f"{prefix}*"):
        if not shape.fullmatch(folder.name):
            continue
        # Other users' cannot be opened; of a name that is a link, what it leads to is not ours.
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_if_abandoned(folder)
            finally:
                os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    """Remove a folder that nobody here holds a lock on."""
    mark, there = folder / _MARK, os.listdir(folder)  # noqa: PTH208 - names
    if there in ([], [_MARK]) and (not there or mark.stat(follow_symlinks=False).st_size == 0):
        _remove(folder)  # its owner was killed before it was marked, or makes another one
    elif mark.is_file() and not mark.is_symlink():
        with mark.open() as file:
            marked = _MARKED.fullmatch(file.read(1024))
        is_old = time.time() - _changed(folder) > _FOREIGN_AGE_S
        if marked is not None and (marked["boot"] == boot() or is_old):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the mark last: who is killed in the middle leaves what the next one removes."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _MARK:
                Path(entry).unlink(missing_ok=True)
        (folder / _MARK).unlink(missing_ok=True)
        folder.rmdir()


def _changed(folder: Path) -> float:
    """Return when something was written into a folder, or a file of it, for the last time."""
    with os.scandir(folder) as entries:
        return max([folder.stat().st_mtime, *(entry.stat(follow_symlinks=False).st_mtime for entry in entries)])
