"""What people see while products are in work: live lines on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from kappamask_stream.names import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kappamask_stream.result import ProductProgress

_LIVE_PERIOD_S = 0.25
_PLAIN_PERIOD_S = 10.0
_OVER = ("done", "skipped", "failed")
_SHORTEST_NAME = 12


@dataclass
class _Shown:
    """A product, and what plain lines have said of it: state (None: nothing yet), when, and note."""

    progress: ProductProgress
    state: str | None = None
    said_at: float = 0.0
    note: str | None = None


class ProgressDisplay:
    """Shows `ProductProgress` objects until they are over. Use as an async context manager.

    Parameters
    ----------
    enabled : False shows nothing at all (``--json``).
    verbose : True says notes (retries, overload), too.

    State: the products that are not over, with what plain lines have said of each; the last message.
    """

    def __init__(self, *, enabled: bool = True, verbose: bool = False) -> None:
        self._enabled, self._verbose = enabled, verbose
        # Asked of the stream itself: rich takes FORCE_COLOR for a terminal, and logs of CI would fill with escapes.
        console = Console(stderr=True, highlight=False)
        is_live = enabled and sys.stderr.isatty() and not console.is_dumb_terminal
        # What is printed on stdout must stay there: rich would redirect it to its own console.
        self._live = (
            Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            if is_live
            else None
        )
        self._products: list[_Shown] = []
        self._message: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._draw(Live.start)
        if self._enabled:
            self._task = asyncio.create_task(self._show())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._task is not None:
                self._task.cancel()
                with suppress(asyncio.CancelledError):
                    await self._task
        finally:
            self._draw(Live.stop)

    def add(self, progress: ProductProgress) -> None:
        """Begin to show a product."""
        if self._enabled:
            self._products.append(_Shown(progress))

    def message(self, text: str) -> None:
        """Say what the process as a whole is doing, e.g. starting a server."""
        self._message = text
        if self._enabled and self._live is None:
            _write(text)

    def note(self, _cause: str, text: str) -> None:
        """Say what happened between products, e.g. that a store is asked again; only where notes are wanted."""
        if self._enabled and self._verbose:
            with self.aside():
                _write(text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the live lines away while something else is printed."""
        self._draw(Live.stop)
        try:
            yield
        finally:
            self._draw(Live.start)

    def _draw(self, action: Callable[[Live], None]) -> None:
        """Act on the live lines, if there are any; a terminal that has gone is no reason to fail."""
        if self._live is not None:
            with suppress(OSError):
                action(self._live)

    async def _show(self) -> None:
        while True:
            if self._live is not None:
                self._draw(lambda live: live.update(self._lines(live.console.width), refresh=True))
            else:
                self._say_news(time.monotonic())
            await asyncio.sleep(_LIVE_PERIOD_S)

    def _say_news(self, now: float) -> None:
        """Write a plain line where a product's state has changed, or the last line on it is old."""
        for shown in self._products:
            progress = shown.progress
            is_old = shown.state is not None and now - shown.said_at >= _PLAIN_PERIOD_S
            if progress.state not in _OVER and (shown.state != progress.state or is_old):
                shown.state, shown.said_at = progress.state, now
                _write(f"{progress.product}: {describe(progress)}")
            if self._verbose and progress.note != shown.note:
                shown.note = progress.note
                _write(f"{progress.product}: {progress.note}")
        self._forget()

    def _forget(self) -> None:
        """Drop what is over: a run may have any number of products, and is drawn four times a second."""
        self._products = [shown for shown in self._products if shown.progress.state not in _OVER]

    def _lines(self, width: int) -> Group:
        """Lay out one line per product; names give way where the terminal is narrow."""
        self._forget()
        running = [shown.progress for shown in self._products]
        lines = []
        for progress in running:
            text = describe(progress)
            name = _shortened(progress.product, max(_SHORTEST_NAME, width - len(text) - 3))
            # Texts, not strings: names and messages may hold brackets, which are markup to rich.
            lines.append(Text(printable(f"{name}  {text}"), no_wrap=True, overflow="ellipsis"))
            if self._verbose and progress.note:
                lines.append(Text(printable(f"  {progress.note}"), style="dim"))
        if self._message and not any(p.tiles_total for p in running):
            lines.append(Text(self._message, style="dim"))
        return Group(*lines)


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _write(text: str) -> None:
    with suppress(OSError):  # whoever read this has gone; the work goes on
        sys.stderr.write(f"{printable(text)}\n")


def describe(progress: ProductProgress) -> str:
    """Describe a product in one line: tiles read, in flight, done; Mpx/s; time left."""
    if progress.state != "streaming":
        return progress.state
    left = progress.seconds_left
    ending = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
    return (
        f"{progress.tiles_done}/{progress.tiles_total} tiles done, {progress.tiles_read} read, "
        f"{progress.tiles_in_flight} in flight, {progress.megapixels_per_s:.1f} Mpx/s{ending}"
    )
