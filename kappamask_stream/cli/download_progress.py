"""What people see while a file is fetched: a bar on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BAR_PERIOD_S = 0.1
_PLAIN_PERIOD_S = 10.0
_MB = 1e6


@contextmanager
def download_progress(
    name: str, *, enabled: bool
) -> Iterator[tuple[Callable[[int, int | None], None], Callable[[str], None]]]:
    """Show a bar on a terminal, plain lines elsewhere, on stderr; gives what is told bytes, and words."""
    # Asked of the stream itself: rich takes FORCE_COLOR for a terminal, and logs of CI would fill with escapes.
    console = Console(stderr=True, highlight=False)
    if not enabled:
        yield (lambda *_: None), (lambda _: None)
    elif sys.stderr.isatty() and not console.is_dumb_terminal:
        with _bar(name, console) as on_progress:
            yield on_progress, lambda text: console.print(text, markup=False, soft_wrap=True)
    else:
        yield _plain(name), _write


@contextmanager
def _bar(name: str, console: Console) -> Iterator[Callable[[int, int | None], None]]:
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    task = bar.add_task(name, total=None)
    drawn_at = -_BAR_PERIOD_S

    def on_progress(done: int, total: int | None) -> None:
        nonlocal drawn_at
        bar.update(task, completed=done, total=total)
        if (now := time.monotonic()) - drawn_at >= _BAR_PERIOD_S:
            drawn_at = now
            with suppress(OSError):  # a terminal that has gone is no reason to fail
                bar.refresh()

    with suppress(OSError):
        bar.start()
    try:
        yield on_progress
    finally:
        with suppress(OSError):
            bar.stop()


def _plain(name: str) -> Callable[[int, int | None], None]:
    """Say at the beginning, and then now and again, how far it is."""
    said_at = -_PLAIN_PERIOD_S

    def on_progress(done: int, total: int | None) -> None:
        nonlocal said_at
        if (now := time.monotonic()) - said_at >= _PLAIN_PERIOD_S:
            said_at = now
            _write(f"{name}: {done / _MB:.1f} MB" + (f" of {total / _MB:.1f} MB" if total is not None else ""))

    return on_progress


def _write(text: str) -> None:
    with suppress(OSError):  # whoever read this has gone; the work goes on
        sys.stderr.write(f"{text}\n")
