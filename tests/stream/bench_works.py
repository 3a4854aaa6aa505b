"""Pieces of work for processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Spin:
    """Use so many CPU seconds, and say so."""

    seconds: float

    async def work(self, say: Callable[[str], None]) -> str:
        say("spinning")
        print("not for the parent")
        while time.process_time() < self.seconds:
            pass
        say("done")
        return "spun"


@dataclass(frozen=True)
class Fail:
    """Fail with an error that nobody expected."""

    async def work(self, say: Callable[[str], None]) -> None:
        say("failing")
        raise KeyError("surprise")


@dataclass(frozen=True)
class EndSuddenly:
    """End by a signal, or with an exit code."""

    by_signal: bool

    async def work(self, say: Callable[[str], None]) -> None:
        say("ending")
        if self.by_signal:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(7)


@dataclass(frozen=True)
class Hang:
    """Wait for ever; when told to stop, leave a note."""

    note: Path

    async def work(self, say: Callable[[str], None]) -> None:
        say(str(os.getpid()))
        try:
            await asyncio.Event().wait()
        finally:
            self.note.write_text("cleaned up")
            sys.stdout.flush()
