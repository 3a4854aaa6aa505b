"""A command that knows how to end itself: what signals do to it, one after the other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from kappamask_stream.cli.event_loop import run_command
from kappamask_stream.errors import OutputError
from kappamask_stream.worker.stop import Stop
from tests.stream.polling import DEADLINE_S


def steps(stop: Stop) -> tuple[object, ...]:
    return (
        lambda number: stop.ask(number.name, grace_s=100),
        lambda number: stop.insist(f"{number.name} once more"),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_such_a_command_to_end_and_cancels_nothing(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    stop, before = Stop(), signal.getsignal(number)

    async def work() -> str:
        asked = asyncio.Event()
        stop.on_ask(asked.set)
        os.kill(os.getpid(), number)
        await asked.wait()
        asked.clear()
        said = [stop.reason, stop.seconds_left > 0]
        os.kill(os.getpid(), number)
        await asked.wait()
        return str([*said, stop.reason, stop.seconds_left > 0])

    ended = run_command(work(), gently=steps(stop))  # type: ignore[arg-type]
    assert ended == f"['{number.name}', True, '{number.name} once more', False]"
    assert capsys.readouterr() == ("", ""), "what it does then is its own business to say"
    assert signal.getsignal(number) is before


def test_a_second_signal_is_heard_where_the_first_one_left_no_grace() -> None:
    stop = Stop()

    async def work() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            await stop.insisted.wait()
        return stop.seconds_left == 0

    first_without_grace = (lambda number: stop.ask(number.name, grace_s=0), steps(stop)[1])
    assert run_command(work(), gently=first_without_grace)  # type: ignore[arg-type]


def test_what_fails_while_such_a_command_ends_is_told() -> None:
    stop = Stop()

    async def work() -> None:
        asked = asyncio.Event()
        stop.on_ask(asked.set)
        os.kill(os.getpid(), signal.SIGTERM)
        await asked.wait()
        raise OutputError("no space")

    with pytest.raises(OutputError, match="no space"):
        run_command(work(), gently=steps(stop))  # type: ignore[arg-type]


def test_a_third_signal_ends_even_a_command_that_does_not_listen() -> None:
    code = (
        "import asyncio, os, signal\nfrom kappamask_stream.cli.event_loop import run_command\n"
        "async def work():\n"
        "    for _ in range(3):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        await asyncio.sleep(0.01)\n"
        "    await asyncio.sleep(1e6)\n"
        "run_command(work(), gently=(print, print))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert ended.returncode == 128 + signal.SIGTERM
