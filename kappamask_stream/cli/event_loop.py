"""Run a command's coroutine: signals become cancellation and exit codes 130 and 143."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

T = TypeVar("T")

_SIGNAL_BASE = 128
#: A second one must not cut short what the first one began to clean up; a third is for when that hangs.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_on_signals() -> None:
    """Make SIGINT and SIGTERM end the program with 130 and 143, through all ``finally`` and ``with`` blocks."""

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(_SIGNAL_BASE + number)

    for number in _SIGNALS:
        signal.signal(number, leave)


def run_command(command: Coroutine[object, object, T], *, gently: Sequence[Callable[[signal.Signals], None]] = ()) -> T:
    """Run to the end, or cancel on SIGINT or SIGTERM, clean up and exit with 128 + the signal's number.

    Parameters
    ----------
    gently : what the first signals do in place of that, one each, for a command that knows how to end itself: it then
        ends as if there had been none.
    """
    received: list[signal.Signals] = []

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(command)

        def cancel(number: signal.Signals) -> None:
            _say(f"{number.name}: stopping")
            task.cancel()

        def be_patient(_: signal.Signals) -> None:
            _say("still cleaning up; once more ends it at once")

        steps = gently or (cancel, be_patient)

        def stop(number: signal.Signals) -> None:
            received.append(number)
            if len(received) > len(steps):
                os._exit(_SIGNAL_BASE + received[0])
            steps[len(received) - 1](number)

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
    except (asyncio.CancelledError, Exception) as error:
        is_news = bool(gently) and isinstance(error, Exception)  # what fails while it is cancelled is none
        if not received or is_news:
            raise
        raise SystemExit(_SIGNAL_BASE + received[0]) from None


def _say(text: str) -> None:
    sys.stderr.write(f"\n{text}\n")
