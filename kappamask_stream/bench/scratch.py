"""Temporary folders that do not outlive a killed owner for good: the next run removes what is left of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.atomic import output_error

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "kappamask-bench-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make an empty folder for the length of the block; before, remove those of owners that are dead.

    Its owner holds a lock on it, which the system lets go whichever way the process ends.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    try:
        folder, lock = _made()
    except OSError as error:
        where = Path(error.filename or tempfile.gettempdir())
        raise output_error(where, error, elsewhere="choose another temporary folder with TMPDIR") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made() -> tuple[Path, int]:
    """Return a new folder, and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have found the folder without a lock, and removed it.
            if folder.is_dir():
                return folder, lock
            os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        # Other users' cannot be opened; of a name that is a link, what it leads to is not ours.
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
