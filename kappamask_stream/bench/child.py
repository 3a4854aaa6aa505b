"""A process for one piece of work: ``python -m kappamask_stream.bench.child``. Only `apart.in_child` starts it."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from kappamask_stream.bench.apart import ENDS_S, Done, Said
from kappamask_stream.processes.messages import Failure
from kappamask_stream.runner import of_ours

if TYPE_CHECKING:
    from kappamask_stream.bench.apart import Work

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def main() -> None:
    """Be that process."""
    with os.fdopen(os.dup(_STDOUT), "wb") as answers:
        os.dup2(_STDERR, _STDOUT)  # whatever else is printed
        with os.fdopen(os.dup(_STDIN), "rb") as asked:
            work: Work[Any] = pickle.load(asked)  # noqa: S301 - of our own program
        answer: Done | Failure
        try:
            answer = Done(asyncio.run(_done(work, answers)))
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - it is raised where the work was asked for
            answer = Failure.of(of_ours(error))
        _send(answers, answer)


async def _done(work: Work[Any], answers: BinaryIO) -> object:
    """Do the work, unless standard input ends before: whoever asked for it is gone, or wants it no more."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker

    def stop() -> None:
        loop.remove_reader(_STDIN)
        signal.alarm(ENDS_S)  # whatever may hang
        task.cancel()

    loop.add_reader(_STDIN, stop)
    try:
        return await work.work(lambda text: _send(answers, Said(text)))
    finally:
        loop.remove_reader(_STDIN)


def _send(answers: BinaryIO, message: object) -> None:
    with suppress(BrokenPipeError):  # nobody listens: standard input has ended, too
        pickle.dump(message, answers)
        answers.flush()


if __name__ == "__main__":
    main()
