"""Run a command's coroutine: signals become cancellation and exit codes 130 and 143."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

_SIGNAL_BASE = 128


def run_command(command: Coroutine[object, object, T]) -> T:
    """Run to the end, or cancel on SIGINT or SIGTERM, clean up and exit with 128 + the signal's number."""
    received: list[signal.Signals] = []

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(command)

        def stop(number: signal.Signals) -> None:
            if not received:
                sys.stderr.write(f"\n{number.name}: stopping\n")
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            return await task
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not received:
            raise
        raise SystemExit(_SIGNAL_BASE + received[0]) from None
