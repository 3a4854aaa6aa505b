"""Run a command's coroutine: signals become cancellation and exit codes 130 and 143."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

_SIGNAL_BASE = 128
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: A second signal must not cut short what the first one began to clean up; a third is for when that hangs.
_PATIENCE = 2


def leave_on_signals() -> None:
    """Make SIGINT and SIGTERM end the program with 130 and 143, through all ``finally`` and ``with`` blocks."""

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(_SIGNAL_BASE + number)

    for number in _SIGNALS:
        signal.signal(number, leave)


def run_command(command: Coroutine[object, object, T]) -> T:
    """Run to the end, or cancel on SIGINT or SIGTERM, clean up and exit with 128 + the signal's number."""
    received: list[signal.Signals] = []

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(command)

        def stop(number: signal.Signals) -> None:
            received.append(number)
            if len(received) == 1:
                _say(f"{number.name}: stopping")
                task.cancel()
            elif len(received) == _PATIENCE:
                _say("still cleaning up; once more ends it at once")
            else:
                os._exit(_SIGNAL_BASE + received[0])

        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            loop.add_signal_handler(number, stop, number)
        try:
            return await task
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    try:
        return asyncio.run(guarded())
    except (asyncio.CancelledError, Exception):  # what fails while it is being ended is no news
        if not received:
            raise
        raise SystemExit(_SIGNAL_BASE + received[0]) from None


def _say(text: str) -> None:
    sys.stderr.write(f"\n{text}\n")
