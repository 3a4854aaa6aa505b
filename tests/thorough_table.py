"""What `make thorough` ran: how many examples or inputs each test had, and how long the slowest of them took.

Tests that are brief as a rule and have a full amount (`Fault.amount`) but inject no fault carry
``@pytest.mark.thorough``. Examples of Hypothesis are counted here; a test that counts for itself takes the fixture
`thorough`. ``THOROUGH_TABLE=FILE`` prints the table and writes it as JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis.statistics import collector

from tests.fault_table import show_table

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_KEY = "thorough"
_PHASES = ("reuse-phase", "generate-phase")


@pytest.fixture
def thorough(record_property: Callable[[str, object], None]) -> Callable[[int, float | None], None]:
    """Take down how many inputs a test had, and what the slowest took, s of CPU time; None where it is not looked at."""

    def ran(inputs: int, slowest_s: float | None) -> None:
        record_property(_KEY, {"inputs": inputs, "slowest_s": slowest_s})

    return ran


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Count Hypothesis's examples, beside whoever else listens to its statistics."""
    if item.get_closest_marker(_KEY) is None:
        return (yield)
    other = collector.value

    def note(statistics: dict[str, Any]) -> None:
        if other is not None:
            other(statistics)
        cases = [case for phase in _PHASES for case in statistics.get(phase, {}).get("test-cases", ())]
        valid = [case["runtime"] for case in cases if case["status"] == "valid"]
        item.user_properties.append((_KEY, {"inputs": len(valid), "slowest_s": max(valid, default=None)}))

    with collector.with_value(note):
        return (yield)


def rows(reports: list[Any]) -> list[dict[str, Any]]:
    """Return a row for each test that carries the mark: name, inputs, the slowest and the whole test, s, how it ended."""
    table = []
    for report in reports:
        if report.when != "call" or _KEY not in report.keywords:
            continue
        said = next((value for name, value in report.user_properties if name == _KEY), {})
        table.append(
            {
                "test": report.nodeid, "inputs": said.get("inputs"), "slowest_s": said.get("slowest_s"),
                "seconds": round(report.duration, 1), "outcome": report.outcome,
            }
        )  # fmt: skip
    return sorted(table, key=lambda row: row["test"])


def line(row: dict[str, Any]) -> str:
    """Return a row as it is printed."""
    inputs = "-" if row["inputs"] is None else f"{row['inputs']:,}"
    slowest = "-" if row["slowest_s"] is None else f"{1000 * row['slowest_s']:,.0f} ms"
    return f"{inputs:>8}  slowest {slowest:>8}  {row['seconds']:>7,.1f} s  {row['outcome']}  {row['test']}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table and write it, where it is asked for."""
    show_table(
        terminalreporter, "THOROUGH_TABLE", "thorough", rows, line,
        lambda table: f"{len(table)} tests, {sum(row['inputs'] or 0 for row in table):,} inputs",
    )  # fmt: skip
