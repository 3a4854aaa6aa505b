"""``python -m kappamask_stream`` and the console script: what must hold before all else is imported, and afterwards."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from kappamask_stream.errors import OutputError
from kappamask_stream.signals import leave_at_once_on_signals

if TYPE_CHECKING:
    from typing import NoReturn

    from typing_extensions import Buffer

_STANDARD_FILES = 3


def main() -> NoReturn:
    """Run the command line. Signals and standard files that fail end it with an exit code, never with a traceback."""
    leave_at_once_on_signals()
    _open_standard_files()
    try:
        from kappamask_stream.cli import main as command_line

        command_line()
    finally:
        leave_at_once_on_signals()


def _open_standard_files() -> None:
    """Open those that the parent has closed: else the next file opened, a mask say, would receive what is printed.

    Children inherit them, for the same reason. Input cannot be read, as nohup's cannot: it is not empty.
    """
    for number in range(_STANDARD_FILES):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR if number else os.O_WRONLY), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stdout is None or not sys.stdout.isatty():
        encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_StandardOutput(1, "w", closefd=False)), encoding=encoding)


class _StandardOutput(io.FileIO):
    """Says in our words, once, that results cannot be written: the disk is full, say. A pipe that ends is none."""

    _failed = False

    def write(self, data: Buffer, /) -> int:
        """Write, or raise `OutputError`."""
        if self._failed:  # what Python still holds at its end
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._failed = True
            raise OutputError(
                f"cannot write to standard output: {error.strerror}: make room, or send it elsewhere"
            ) from error


if __name__ == "__main__":
    main()
