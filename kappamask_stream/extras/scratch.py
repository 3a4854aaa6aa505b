"""A folder for files that grow while a product is masked."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kappamask_stream.cog import scratch_error


class ScratchFolder:
    """A folder of its own, gone with all that is in it after `remove`. Both methods belong into threads.

    Making is apart from the constructor: a cancellation may come while a thread makes the folder, and it is removed all
    the same.

    Parameters
    ----------
    parent : folder that it is made in; None: the system's for temporary files (``TMPDIR``).
    """

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def make(self) -> Path:
        """Make the folder and return it.

        Raises
        ------
        OutputError
            If it cannot be made; names the remedy.
        """
        try:
            self._folder = tempfile.TemporaryDirectory(dir=self._parent, prefix="kappamask-stream-")
        except OSError as error:
            raise scratch_error(self._parent or Path(tempfile.gettempdir()), error) from error
        return Path(self._folder.name)

    def remove(self) -> None:
        """Remove the folder, if it was made."""
        if self._folder is not None:
            self._folder.cleanup()
