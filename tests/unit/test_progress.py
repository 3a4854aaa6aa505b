"""What people see: plain lines in logs, live lines on a terminal (a real pseudo-terminal), nothing with --json."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import sys
import time
import tty
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.cli.progress import _LIVE_PERIOD_S, ProgressDisplay, describe
from kappamask_stream.result import ProductProgress, StageClock
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"


def streaming(product: str = NAME) -> ProductProgress:
    """A product 10 s after it began: a quarter is done."""
    return ProductProgress(
        product=product,
        state="streaming",
        tiles_total=36,
        tiles_read=20,
        tiles_in_flight=11,
        tiles_done=9,
        pixels_read=15_000_000,
        started=time.monotonic() - 10,
    )


def test_a_line_says_tiles_read_in_flight_and_done_the_rate_and_the_time_left() -> None:
    assert describe(streaming()) == "9/36 tiles done, 20 read, 11 in flight, 1.5 Mpx/s, 0:30 left"


def test_the_time_left_is_unknown_before_the_first_answer() -> None:
    progress = streaming()
    progress.tiles_done = 0
    assert progress.seconds_left is None
    assert describe(progress) == "0/36 tiles done, 20 read, 11 in flight, 1.5 Mpx/s"


@pytest.mark.parametrize("state", ["waiting", "opening", "verifying", "indexing", "closing"])
def test_other_states_are_one_word(state: str) -> None:
    progress = streaming()
    progress.state = state  # type: ignore[assignment]
    assert describe(progress) == state


def test_stages_add_up_even_when_they_fail() -> None:
    clock = StageClock()
    with clock.measure("close"):
        pass
    before = clock.seconds["close"]
    with pytest.raises(OSError, match="full"), clock.measure("close"):
        raise OSError("full")
    assert clock.seconds["close"] > before


async def test_elsewhere_a_line_is_written_when_something_changes_or_the_last_one_is_old(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with ProgressDisplay() as display:
        display.message("starting Triton")
        progress = streaming()
        progress.state = "indexing"
        display.add(progress)
        display._say_news(100.0)
        display._say_news(101.0)
        progress.state = "streaming"
        display._say_news(102.0)
        display._say_news(111.9)
        display._say_news(112.0)
        progress.state = "done"
        display._say_news(200.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["starting Triton", f"{NAME}: indexing"]
    assert len(lines) == 4
    assert all(re.fullmatch(rf"{NAME}: 9/36 tiles done, 20 read, .* left", line) for line in lines[2:])


async def test_the_task_of_the_display_writes_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    async with ProgressDisplay() as display:
        display.add(streaming())
        seen: list[str] = []
        await until(lambda: seen.append(capsys.readouterr().err) or "9/36 tiles done" in seen[-1])
    assert seen[-1].count("\n") == 1


async def test_notes_are_said_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        async with ProgressDisplay(verbose=verbose) as display:
            progress = streaming()
            display.add(progress)
            for note in ("the queue is full; trying again", "the queue is full; trying again", None):
                progress.note = note or progress.note
                display._say_news(time.monotonic())
        assert capsys.readouterr().err.count(": the queue is full; trying again\n") == int(verbose)


@pytest.mark.parametrize(("enabled", "verbose"), [(True, True), (True, False), (False, True)])
async def test_what_stores_are_asked_again_is_said_when_asked_for(
    capsys: pytest.CaptureFixture[str], *, enabled: bool, verbose: bool
) -> None:
    async with ProgressDisplay(enabled=enabled, verbose=verbose) as display:
        display.note("StoreUnavailableError", "s3://b/k: the connection broke off")
    assert ("s3://b/k: the connection broke off\n" in capsys.readouterr().err) == (enabled and verbose)


async def test_with_json_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async with ProgressDisplay(enabled=False, verbose=True) as display:
        display.message("starting Triton")
        display.add(streaming())
        with display.aside():
            print("{}")
        await asyncio.sleep(0)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("{}\n", "")


async def test_colours_forced_on_a_log_do_not_make_it_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    async with ProgressDisplay() as display:
        display.add(streaming())
        display._say_news(100.0)
    assert "\x1b" not in capsys.readouterr().err


class Terminal:
    """A pseudo-terminal, and a display on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(self._master, False)
        self.file = os.fdopen(slave, "w", buffering=1)
        self.seen = ""

    def display(self, **options: bool) -> ProgressDisplay:
        # Only now: pytest sets its own stderr again between a fixture and its test.
        self._monkeypatch.setattr(sys, "stderr", self.file)
        return ProgressDisplay(**options)

    def read(self) -> str:
        """Return what was written since the last time."""
        try:
            new = os.read(self._master, 1 << 20).decode()
        except BlockingIOError:
            new = ""
        self.seen += new
        return new

    async def shows(self, text: str) -> None:
        await until(lambda: text in self.read())

    def close(self) -> None:
        with suppress(OSError):  # where the terminal has gone
            self.file.close()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    # rich asks the process's own descriptors for the size, which are pytest's.
    monkeypatch.setenv("COLUMNS", str(getattr(request, "param", 160)))
    screen = Terminal(monkeypatch)
    yield screen
    screen.close()


async def test_on_a_terminal_a_live_line_per_product(terminal: Terminal) -> None:
    async with terminal.display() as display:
        first, second = streaming(), streaming("another")
        display.add(first)
        await terminal.shows(f"{NAME}  9/36 tiles done, 20 read, 11 in flight, 1.5 Mpx/s, 0:3")
        display.add(second)
        await terminal.shows("another  9/36 tiles done, 20 read, 11 in flight")
        first.tiles_done = 18
        await terminal.shows("18/36 tiles done")
        first.state = "done"
        second.state = "closing"
        await terminal.shows("another  closing")
        assert NAME not in terminal.read(), "what is over is shown no more"
    assert "\x1b[2K" in terminal.seen, "lines are rewritten in place"


async def test_before_the_first_tile_the_message_is_shown(terminal: Terminal) -> None:
    async with terminal.display() as display:
        display.message("building csmask_l2a [once]")
        await terminal.shows("building csmask_l2a [once]")


async def test_brackets_in_names_and_notes_are_no_markup(terminal: Terminal) -> None:
    async with terminal.display(verbose=True) as display:
        progress = streaming("[red]scenes[/red]/[1, 256]")
        progress.note = "the server says [/] float32 [1, 256]"
        display.add(progress)
        await terminal.shows("[red]scenes[/red]/[1, 256]  9/36")
        await terminal.shows("the server says [/] float32 [1, 256]")


@pytest.mark.parametrize("terminal", [80], indirect=True)
async def test_on_a_narrow_terminal_the_name_gives_way(terminal: Terminal) -> None:
    async with terminal.display() as display:
        display.add(streaming())
        await terminal.shows("S2A_MSIL2A_20221…  9/36 tiles done, 20 read, 11 in flight, 1.5 Mpx/s, 0:3")


async def test_results_stay_on_stdout_while_lines_are_live(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "/masks/" + "x" * 300
    async with terminal.display() as display:
        display.add(streaming())
        await terminal.shows("9/36 tiles done")
        with display.aside():
            print(long)
        await terminal.shows("9/36 tiles done")
        print("from a library")
    assert capsys.readouterr().out == f"{long}\nfrom a library\n", "whole, unwrapped, and not on the terminal's stream"
    assert long not in terminal.seen


async def test_a_terminal_that_goes_away_is_no_reason_to_fail(terminal: Terminal) -> None:
    async with terminal.display() as display:
        display.add(streaming())
        await terminal.shows("9/36 tiles done")
        os.close(terminal._master)
        terminal._master = os.open(os.devnull, os.O_RDONLY)
        with pytest.raises(OSError, match="Input/output error"):
            terminal.file.write("\n")
        await asyncio.sleep(2 * _LIVE_PERIOD_S)  # in which it tries to draw
        with display.aside():
            pass
