"""A folder for files that grow while a product is masked; what a killed owner has left of its is removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from kappamask_stream.cog import scratch_error

#: Of masks in work. Not ``kappamask-stream-``: the local server's state may lie beside it under such a name.
_PREFIX = "kappamask-scratch-"


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
        """Make the folder and return it.

        Raises
        ------
        OutputError
            If it cannot be made; names the remedy.
        """
        parent = self._parent or Path(tempfile.gettempdir())
        remove_abandoned(parent, self._prefix)
        try:
            while True:
                folder = self._folder = Path(tempfile.mkdtemp(dir=parent, prefix=self._prefix))
                if self._holds(folder):
                    return folder
        except OSError as error:
            raise scratch_error(parent, error) from error

    def remove(self) -> None:
        """Remove the folder, if it was made."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._let_go()

    def _holds(self, folder: Path) -> bool:
        """Take the lock; False where another process has found the folder without one, and removed it."""
        try:
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        with suppress(OSError):  # a file system without locks: nobody can take it for abandoned either
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return True
        self._let_go()
        return False

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_abandoned(parent: Path | None = None, prefix: str = _PREFIX) -> None:
    """Remove folders of owners that are dead.

    Parameters
    ----------
    parent, prefix : see `ScratchFolder`.
    """
    parent = parent or Path(tempfile.gettempdir())
    for folder in parent.glob(f"{prefix}*"):
        # Other users' cannot be opened; of a name that is a link, what it leads to is not ours.
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
