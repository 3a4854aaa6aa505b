"""What is said at the end of a run of several products. On stderr: stdout is the results'."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kappamask_stream.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.result import ProductResult

_CLOUDS = ("CLOUD", "SEMI_TRANSPARENT_CLOUD")
_NO_DATA = "MISSING"
#: Lines of the table; of more products it shows those that failed.
_MOST_LINES = 50
#: Wide enough for a product's name and all columns where there is no terminal to ask.
_PLAIN_WIDTH = 132


def cloud_share(result: ProductResult) -> float | None:
    """Return the share of cloud, thin ones included, in the pixels that hold data; None where there are none."""
    seen = 1 - result.classes.get(_NO_DATA, 0.0)
    if not result.classes or seen <= 0:
        return None
    return sum(result.classes.get(name, 0.0) for name in _CLOUDS) / seen


def show_summary(results: Sequence[ProductResult], seconds: float, *, not_masked: int = 0) -> None:
    """Print a table with one line per product, and one of totals; why one failed was said when it did.

    Parameters
    ----------
    results : as they ended.
    seconds : wall time of the whole run.
    not_masked : products that were left out, after a failure with ``--fail-fast``.
    """
    is_terminal = sys.stderr.isatty()  # asked of the stream itself: rich takes FORCE_COLOR for a terminal
    width = None if is_terminal else _PLAIN_WIDTH
    console = Console(stderr=True, highlight=False, force_terminal=is_terminal, width=width)
    with suppress(OSError):  # whoever read this has gone
        shown = _worth_a_line(results)
        console.print(_table(shown))
        if left_out := len(results) - len(shown):
            console.print(Text(f"… and {left_out} more"))
        console.print(Text(_totals(results, seconds)))
        if not_masked:
            console.print(Text(f"{not_masked} more were not masked: --fail-fast"))


def _worth_a_line(results: Sequence[ProductResult]) -> Sequence[ProductResult]:
    if len(results) <= _MOST_LINES:
        return results
    return [result for result in results if result.error is not None][:_MOST_LINES]


def _table(results: Sequence[ProductResult]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("product", overflow="fold")
    table.add_column("", no_wrap=True)
    for title in ("seconds", "tiles", "cloud"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        cloud = cloud_share(result)
        # Texts, not strings: names and messages may hold brackets, which are markup to rich.
        table.add_row(
            Text(printable(result.product)),
            Text(result.status, style="red" if result.status == "failed" else ""),
            f"{result.seconds:.1f}",
            str(result.tiles or "-"),
            "-" if cloud is None else f"{cloud:.1%}",
        )
    return table


def _totals(results: Sequence[ProductResult], seconds: float) -> str:
    counts = [(status, sum(r.status == status for r in results)) for status in ("done", "skipped", "failed")]
    said = ", ".join(f"{count} {status}" for status, count in counts if count)
    return f"{len(results)} product{'' if len(results) == 1 else 's'}: {said}; {seconds:.1f} s"
