"""Run a command that the kernel ends when the process that started it is gone, in whatever way.

    python tether.py SIGNAL PARENT_PID COMMAND [ARGUMENT ...]

A program of its own and not a ``preexec_fn``: the supervisor has threads, and code between fork and exec must not meet
a lock that one of them held. Start it from the main thread: the kernel sends the signal when the *thread* that forked
ends. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def tethered(command: list[str], signal_number: int) -> list[str]:
    """Return the command line that runs `command` so that it gets a signal when this process is gone."""
    tether = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    return [*tether, str(int(signal_number)), str(os.getpid()), *command]


def _main() -> None:
    number, parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != int(parent):  # it ended before the kernel knew what to do then
        raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606 - becoming the command is the point


if __name__ == "__main__":
    _main()
