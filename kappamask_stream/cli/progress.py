"""What people see while products are in work: live lines on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from kappamask_stream.result import ProductProgress

_LIVE_PERIOD_S = 0.25
_PLAIN_PERIOD_S = 10.0
_OVER = ("done", "skipped", "failed")


class ProgressDisplay:
    """Shows `ProductProgress` objects until they are over. Use as an async context manager.

    Parameters
    ----------
    enabled : False shows nothing at all (``--json``).
    verbose : True prints notes (retries, overload) as they change.
    """

    def __init__(self, *, enabled: bool = True, verbose: bool = False) -> None:
        self._enabled, self._verbose = enabled, verbose
        self._console = Console(stderr=True, highlight=False)
        self._products: list[ProductProgress] = []
        self._notes: dict[str, str | None] = {}
        self._message: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._enabled:
            show = self._show_live if self._console.is_terminal else self._show_plain
            self._task = asyncio.create_task(show())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def add(self, progress: ProductProgress) -> None:
        """Begin to show a product."""
        self._products.append(progress)

    def message(self, text: str) -> None:
        """Say what the process as a whole is doing, e.g. starting a server."""
        self._message = text
        if self._enabled and not self._console.is_terminal:
            sys.stderr.write(f"{text}\n")

    async def _show_live(self) -> None:
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            while True:
                live.update(self._table(), refresh=True)
                await asyncio.sleep(_LIVE_PERIOD_S)

    async def _show_plain(self) -> None:
        while True:
            await asyncio.sleep(_PLAIN_PERIOD_S)
            for progress in self._running():
                sys.stderr.write(f"{progress.product}: {_line(progress)}\n")
            if self._verbose:
                self._print_notes()

    def _print_notes(self) -> None:
        for progress in self._products:
            if progress.note != self._notes.get(progress.product):
                self._notes[progress.product] = progress.note
                sys.stderr.write(f"{progress.product}: {progress.note}\n")

    def _running(self) -> list[ProductProgress]:
        return [p for p in self._products if p.state not in _OVER]

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        running = self._running()
        for progress in running:
            table.add_row(progress.product, _line(progress))
            if self._verbose and progress.note:
                table.add_row("", f"[dim]{progress.note}[/dim]")
        if self._message and not any(p.tiles_total for p in running):
            table.add_row(f"[dim]{self._message}[/dim]", "")
        return table


def _line(progress: ProductProgress) -> str:
    """Describe a product in one line: tiles read, in flight, done; Mpx/s; time left."""
    if progress.state != "streaming":
        return progress.state
    left = progress.seconds_left
    ending = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
    return (
        f"{progress.tiles_done}/{progress.tiles_total} tiles done, {progress.tiles_read} read, "
        f"{progress.tiles_in_flight} in flight, {progress.megapixels_per_s:.1f} Mpx/s{ending}"
    )
