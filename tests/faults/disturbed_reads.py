"""`kappamask-stream` while something happens to a file that it is reading: ``python -m tests.faults.disturbed_reads``.

One JSON object a line: ``{"argv": […], "out": FILE, "err": FILE, "path": TEXT, "call": "open" or "pread", "at": N,
"what": …}`` is answered with ``{"code": N, "times": N}``. In a fork that runs the command line, the N-th call on a file
whose path ends in TEXT has something really done to the file, before the call goes on as usual; or the call, and each
later one, answers as file systems can.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.warm_cli import _WARM, _be_a_run

if TYPE_CHECKING:
    from collections.abc import Callable


class Disturbance:
    """Stands in for two calls of `os`. State: calls on the file so far; how often something was done."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._path, self._call, self._at, self._what = asked["path"], asked["call"], asked["at"], asked["what"]
        self._told_in = Path(asked["err"] + ".times")
        self._open, self._pread = os.open, os.pread
        self._seen = self._times = 0

    def install(self) -> None:
        """Take the calls' places, in this process."""
        os.open, os.pread = self.open, self.pread  # type: ignore[assignment]

    def open(self, path: Any, *rest: Any, **more: Any) -> int:
        """Open a file."""
        if self._call == "open" and str(path).endswith(self._path):
            self._happen(Path(path))
        return self._open(path, *rest, **more)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        """Read from a file."""
        if self._call == "pread":
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if str(path).endswith(self._path):
                length = min(self._happen(path) or length, length)
        return self._pread(descriptor, length, offset)

    def _happen(self, path: Path) -> int:
        """Do it, where it is time; returns how many bytes a read may give, 0 for all."""
        self._seen += 1
        is_lasting = self._what in {"short", "stale", "broken"}
        if self._seen != self._at and not (is_lasting and self._seen > self._at):
            return 0
        self._times += 1
        self._told_in.write_text(str(self._times))
        if self._what in _ERRORS:
            raise OSError(_ERRORS[self._what], os.strerror(_ERRORS[self._what]), str(path))
        if self._what == "short":
            return 500
        _ACTIONS[self._what](path)
        return 0


_ERRORS = {"stale": errno.ESTALE, "broken": errno.EIO, "denied": errno.EACCES}


def _replaced(path: Path) -> None:
    """Put a file of the same size in its place: a whole one, of which a byte differs."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def _grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(100))


_ACTIONS: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "replaced": _replaced,
    "grown": _grown,
}


def _run(asked: dict[str, Any]) -> dict[str, int]:
    told_in = Path(asked["err"] + ".times")
    told_in.write_text("0")
    child = os.fork()
    if child == 0:
        Disturbance(asked).install()
        _be_a_run(asked["argv"], {}, (asked["out"], asked["err"]), None)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "times": int(told_in.read_text())}


def main() -> None:
    """Answer line by line."""
    for name in _WARM:
        importlib.import_module(f"kappamask_stream.{name}")
    from kappamask_stream.cli import build_app

    build_app()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
