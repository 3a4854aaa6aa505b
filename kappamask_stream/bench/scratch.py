"""Temporary folders of a benchmark."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kappamask_stream.extras.scratch import ScratchFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make an empty folder for the length of the block; before, remove those of owners that are dead.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    folder = ScratchFolder(None, prefix="kappamask-bench-")
    try:
        yield folder.make()
    finally:
        folder.remove()
