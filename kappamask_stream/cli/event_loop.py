"""Run a command's coroutine: signals become cancellation and exit codes 129, 130 and 143."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from kappamask_stream.signals import SIGNAL_BASE, heard_signals, leave_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

__all__ = ["leave_on_signals", "run_command", "say"]

T = TypeVar("T")


def run_command(command: Coroutine[object, object, T], *, gently: Sequence[Callable[[signal.Signals], None]] = ()) -> T:
    """Run to the end, or cancel on a signal (see `heard_signals`), clean up and exit with 128 + its number.

    Parameters
    ----------
    gently : what the first signals do in place of that, one each, for a command that knows how to end itself: it then
        ends as if there had been none.
    """
    received: list[signal.Signals] = []

    async def guarded() -> T:
        task = asyncio.ensure_future(command)

        def cancel(number: signal.Signals) -> None:
            task.cancel()
            say(f"\n{number.name}: stopping")

        def be_patient(_: signal.Signals) -> None:
            say("\nstill cleaning up; once more ends it at once")

        # A second one must not cut short what the first one began to clean up; a third is for when that hangs.
        steps = gently or (cancel, be_patient)

        def stop(number: signal.Signals) -> None:
            received.append(number)
            if len(received) > len(steps):
                os._exit(SIGNAL_BASE + received[0])
            steps[len(received) - 1](number)

        with _heard(stop):
            return await task

    try:
        return asyncio.run(guarded())
    except KeyboardInterrupt:  # between the loop's handler and the one before it is Python's own
        raise SystemExit(SIGNAL_BASE + signal.SIGINT) from None
    except (asyncio.CancelledError, Exception) as error:
        is_news = bool(gently) and isinstance(error, Exception)  # what fails while it is cancelled is none
        if not received or is_news:
            raise
        raise SystemExit(SIGNAL_BASE + received[0]) from None


@contextmanager
def _heard(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Hand signals to a function of the running event loop; the handlers before it are put back."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in heard_signals()}
    for number in before:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def say(text: str) -> None:
    """Write a line to stderr; where that cannot be written (its terminal has gone, say), nobody is told."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")
