"""Work in a process of its own, started for it: its CPU seconds and memory are then of that work and nothing else."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from kappamask_stream.errors import InternalError, KappaMaskError, ProcessEndedError
from kappamask_stream.processes.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_COMMAND = (sys.executable, "-P", "-m", "kappamask_stream.bench.child")
#: Seconds in which a process that is told to stop gives back what it holds, a lease on the local server, say.
ENDS_S = 15


class Work(Protocol[R_co]):
    """Something to be done in another process; it, and what it returns, can be pickled."""

    async def work(self, say: Callable[[str], None]) -> R_co:
        """Do it.

        Parameters
        ----------
        say : told what is being done, for people.
        """
        ...


@dataclass(frozen=True)
class Said:
    """What a process says of its progress."""

    text: str


@dataclass(frozen=True)
class Done:
    """What a process returns."""

    result: object


@dataclass(frozen=True, kw_only=True)
class Ended(Generic[R]):
    """How a process ended.

    Attributes
    ----------
    result : what its work returned.
    wall_s, cpu_s : from its start to its end, interpreter and imports included.
    """

    result: R
    wall_s: float
    cpu_s: float


async def in_child(work: Work[R], on_progress: Callable[[str], None]) -> Ended[R]:
    """Do something in a new process, and return when that has ended.

    The end of its standard input tells it to stop: so it does not outlive this process, whichever way this one ends.

    Parameters
    ----------
    on_progress : told what the process says, on the event loop.

    Raises
    ------
    KappaMaskError
        Of the kind with which the work failed.
    ProcessEndedError
        If the process cannot be started, or was killed.

    When cancelled, the process has ended.
    """
    loop = asyncio.get_running_loop()
    try:
        # A group of its own: Ctrl-C on the terminal is for this process, which ends the other one in its own way.
        process = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds, and a cancellation cannot lose it
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
    except OSError as error:
        raise ProcessEndedError(
            f"a process that measures cannot be started: {error.strerror}: end other programs, then try again"
        ) from error
    following = loop.run_in_executor(
        None, _follow, process, work, lambda text: loop.call_soon_threadsafe(on_progress, text)
    )
    try:
        return await asyncio.shield(following)
    finally:
        if not following.done():
            await _stopped(process, following)


def _follow(process: subprocess.Popen[bytes], work: Work[R], say: Callable[[str], object]) -> Ended[R]:
    """Hand over the work and listen until the process has ended (in a thread)."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - for the type checker
    started = time.perf_counter()
    last: object = None
    try:
        with suppress(BrokenPipeError):  # it has ended already: its exit code tells
            pickle.dump(work, process.stdin)
            process.stdin.flush()
        with suppress(EOFError, pickle.UnpicklingError):  # the end; in the middle of a message where it was killed
            while True:
                last = pickle.load(process.stdout)  # noqa: S301 - of our own program
                if isinstance(last, Said):
                    say(last.text)
    finally:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        with suppress(OSError):
            process.stdin.close()
    if isinstance(last, Failure):
        raise last.error()
    if not isinstance(last, Done):
        raise _sudden(process.returncode)
    return Ended(
        result=last.result,  # type: ignore[arg-type]
        wall_s=time.perf_counter() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
    )


async def _stopped(process: subprocess.Popen[bytes], following: asyncio.Future[Ended[R]]) -> None:
    """Have a process end, by force where it does not; returns when it is gone, though it be cancelled again."""
    assert process.stdin is not None  # noqa: S101 - for the type checker
    with suppress(OSError):
        process.stdin.close()
    timer = asyncio.get_running_loop().call_later(ENDS_S, os.kill, process.pid, signal.SIGKILL)
    while not following.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([following])
    timer.cancel()
    following.exception()  # mark as seen


def _sudden(code: int) -> KappaMaskError:
    if code >= 0:
        return InternalError(f"the process that measured ended with exit code {code}: see what it has said")
    how = f"signal {-code}"
    with suppress(ValueError):
        how = signal.Signals(-code).name
    return ProcessEndedError(
        f"the process that measured was ended by {how}: is there enough memory? A smaller --concurrency or "
        "--memory-budget-mb takes less"
    )
