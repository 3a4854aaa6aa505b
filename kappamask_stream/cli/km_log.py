"""What `km-predict` says, on stderr and in a log file as km_predict kept one."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, TextIO

from kappamask_stream.atomic import output_error
from kappamask_stream.errors import KappaMaskError, OutputError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class KmLog:
    """Appends lines to a file. Use as a context manager: an error of ours that ends the block is written, too.

    Parameters
    ----------
    path : of the file; None keeps no log.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                opened = self._path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
            except OSError as error:
                raise output_error(self._path, error) from error
            self._file = self._stack.enter_context(opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, KappaMaskError):
                with suppress(OutputError):  # that error is the news
                    self.write(f"error: {error}", kind="ERROR")
        finally:
            self._stack.close()

    def write(self, text: str, *, kind: str = "INFO") -> None:
        """Write a line with the time (UTC).

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        if self._file is not None and self._path is not None:
            now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
            try:
                self._file.write(f"{now}: {kind}: KMP: {text}\n")
            except OSError as error:
                raise output_error(self._path, error) from error

    def say(self, text: str) -> None:
        """Write a line on stderr, too."""
        sys.stderr.write(f"{text}\n")
        self.write(text)
