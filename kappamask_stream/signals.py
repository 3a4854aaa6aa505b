"""What SIGINT, SIGTERM and SIGHUP do to the program; imports next to nothing, so that it can be said first of all."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

#: Exit code of a program that a signal ended: this and the signal's number.
SIGNAL_BASE = 128


def heard_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end a command; SIGHUP is none where it is to be ignored, as ``nohup`` has it."""
    hangup = getattr(signal, "SIGHUP", None)  # of a terminal that has gone; Windows has none
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, hangup


def leave_at_once_on_signals() -> None:
    """Have signals end the program where it is: before anything is begun, and after everything has ended."""
    _handle_with(_leave_at_once)


def leave_on_signals() -> None:
    """Have signals end the program with 128 and their number, through all ``finally`` and ``with`` blocks."""
    _handle_with(_leave)


def _handle_with(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    for number in heard_signals():
        signal.signal(number, handler)


def _leave_at_once(number: int, _: FrameType | None) -> NoReturn:
    os._exit(SIGNAL_BASE + number)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(SIGNAL_BASE + number)
