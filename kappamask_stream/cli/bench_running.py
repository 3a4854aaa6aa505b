"""Measure, say how it goes, print what came of it, write the files."""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import typer

if TYPE_CHECKING:
    from rich.status import Status

    from kappamask_stream.bench.running import Bench
    from kappamask_stream.cli.bench_outputs import Outputs
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.settings import Settings

#: Lines that differ only in how far something is come at most so often.
_PERIOD_S = 10.0


def require_servable(choice: ModelChoice, settings: Settings, level: Literal["L1C", "L2A"] | None = None) -> None:
    """Find out before a product is made, which takes a while, what connecting would find out.

    Parameters
    ----------
    level : of the product; None where it is not known yet.

    Raises
    ------
    UsageError, ServerSetupError
        As `ModelPool`, and if there is to be a server on this machine and it is not installed.
    """
    from kappamask_stream.models import ModelPool
    from kappamask_stream.server import ServerEnvironment

    ModelPool(choice if level is None else replace(choice, levels=(level,)), settings)
    if settings.triton is None:
        ServerEnvironment.at(settings.server_env).require()


def made_product(level: Literal["L1C", "L2A"], size: int) -> Path:
    """Return the synthetic product, showing how far it is where it has to be made."""
    from kappamask_stream.bench.synthetic import synthetic_product

    with BenchProgress() as progress:

        def show(doing: str, done: int, total: int) -> None:
            progress.show(f"making a product to measure with, {doing}: {done} of {total}")

        return synthetic_product(level, size, show)


async def measure_and_report(bench: Bench, outputs: Outputs) -> None:
    """Run a benchmark; what was measured is printed and written even where a level failed.

    Raises
    ------
    KappaMaskError
        The first failure of a level, at the end; or if nothing was measured, or a file cannot be written.
    """
    from kappamask_stream.bench.document import to_json
    from kappamask_stream.bench.environment import Begun
    from kappamask_stream.bench.running import run_bench
    from kappamask_stream.cli.bench_page import page
    from kappamask_stream.threads import in_thread

    begun = await in_thread(None, Begun.now)
    with BenchProgress() as progress:
        outcome = await run_bench(bench, progress.show)
    report = begun.noted_in(outcome.report)
    typer.echo(to_json(report) if outputs.prints_json else page(report), nl=not outputs.prints_json)
    if outcome.perf_analyzer_command is not None:
        typer.echo(f"the server at its best, measured with perf_analyzer:\n{outcome.perf_analyzer_command}", err=True)
    await outputs.write(report)
    if outcome.failure is not None:
        raise outcome.failure


class BenchProgress:
    """Says on stderr what is being measured: one live line on a terminal, plain lines elsewhere.

    State: what was said last, without its numbers, and when.
    """

    def __init__(self) -> None:
        self._status: Status | None = None
        self._said, self._said_at = "", 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status("")
            self._status.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, text: str) -> None:
        """Say what is being done."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(text))  # a text, not a string: brackets would be markup
            return
        doing, now = re.sub(r"\d+", "", text), time.monotonic()
        if doing == self._said and now - self._said_at < _PERIOD_S:
            return
        self._said, self._said_at = doing, now
        with suppress(OSError):  # whoever read this has gone; the work goes on
            sys.stderr.write(f"{text}\n")
