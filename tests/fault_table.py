"""Faults that tests inject, and the table that `make faults` prints of them: fault, times injected, outcome.

A test takes the fixture `fault` and carries ``@pytest.mark.fault(group, name)``. It counts what it injects and has the
outcome checked here, so that a line of the table is something that was seen. ``FAULTS=full`` (`make faults`) has tests
inject as often and as long as docs/reliability.md says; without it they are brief. ``FAULT_TABLE=FILE`` prints the
table and writes it as JSON; ``python -m tests.fault_table FILE`` prints that as docs/faults.md has it.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_PASSED: pytest.StashKey[bool] = pytest.StashKey()
_T = TypeVar("_T")
_IDENTICAL = "recovered, mask byte-identical"
_REFUSED = "failed with the cause, no file"
_PIPE = r"\|"


class Fault:
    """What one test injected and what came of it."""

    def __init__(self, group: str, name: str) -> None:
        self.group, self.name = group, name
        self.times = 0
        self.outcomes: Counter[str] = Counter()

    @staticmethod
    def amount(brief: _T, full: _T) -> _T:
        """How often, or how long, in seconds: the first as a rule, the second in `make faults` and `make thorough`."""
        return full if os.environ.get("FAULTS") == "full" else brief

    def injected(self, times: int = 1) -> None:
        """Count what was really injected, where it was seen to be: by a proxy, a server, a signal that arrived."""
        self.times += times

    def outcome(self, what: str, times: int = 1) -> None:
        """Count an outcome that the test has just asserted, in the words of the table."""
        self.outcomes[what] += times

    def identical(self, made: Path, undisturbed: Path) -> None:
        """Assert that a mask has the bytes of an undisturbed run's."""
        assert made.read_bytes() == undisturbed.read_bytes(), f"{made} is not {undisturbed}"
        self.outcome(_IDENTICAL)

    def refused(self, said: object, output: Path, *causes: str) -> None:
        """Assert that a message names each of the causes, shows no traceback, and that no file was left.

        Parameters
        ----------
        said : the error, or what a command wrote to stderr.
        output : folder in which the output would lie.
        """
        for cause in causes:
            assert cause in str(said), f"{cause!r} is not in: {said}"
        assert "Traceback" not in str(said)
        left = [path for path in output.rglob("*") if not path.is_dir()]
        assert left == [], left
        self.outcome(_REFUSED)


@pytest.fixture
def fault(request: pytest.FixtureRequest, record_property: Any) -> Iterator[Fault]:
    """The record of the fault that the test's mark names."""
    mark = request.node.get_closest_marker("fault")
    assert mark is not None, "mark the test: @pytest.mark.fault(group, name)"
    record = Fault(*mark.args)
    yield record
    has_passed = request.node.stash.get(_PASSED, None)
    if has_passed is None:
        return
    record_property("fault", vars(record) | {"outcomes": dict(record.outcomes), "failed": not has_passed})
    if has_passed:
        assert record.times > 0, "no fault was injected"
        assert record.outcomes, "no outcome was seen"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the fixture how its test ended."""
    report = yield
    if report.when == "call" and not report.skipped:
        item.stash[_PASSED] = report.passed
    return report


def rows(reports: list[Any]) -> list[dict[str, Any]]:
    """Join the records of tests, and of workers, by fault."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", []):
            if name != "fault" or report.when != "teardown":
                continue
            row = table.setdefault(
                (value["group"], value["name"]),
                {"group": value["group"], "fault": value["name"], "injected": 0, "outcomes": Counter(), "failed": 0},
            )
            row["injected"] += value["times"]
            row["outcomes"].update(value["outcomes"])
            row["failed"] += value["failed"]
    return [row | {"outcomes": dict(row["outcomes"])} for _, row in sorted(table.items())]


def show_table(
    terminalreporter: Any, variable: str, title: str, make: Callable[..., list[dict[str, Any]]],
    line: Callable[[dict[str, Any]], str], total: Callable[[list[dict[str, Any]]], str],
) -> None:  # fmt: skip
    """Print what `make` finds in pytest's reports and write it to the file that a variable names, where it is set."""
    target = os.environ.get(variable)
    if not target:
        return
    table = make([report for kind in terminalreporter.stats.values() for report in kind if hasattr(report, "when")])
    terminalreporter.section(title)
    for row in table:
        terminalreporter.write_line(line(row))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(json.dumps(table, indent=1) + "\n")
    terminalreporter.write_line(f"{total(table)}: {target}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table and write it, where it is asked for."""
    show_table(
        terminalreporter, "FAULT_TABLE", "faults", rows,
        lambda row: f"{row['group']:<10} {row['fault']:<58} {row['injected']:>6}  {_came_of(row)}",
        lambda table: f"{len(table)} faults, {sum(row['injected'] for row in table)} times injected",
    )  # fmt: skip


def _came_of(row: dict[str, Any]) -> str:
    outcomes = "; ".join(f"{times} x {what}" for what, times in sorted(row["outcomes"].items())) or "-"
    return outcomes + (f"; {row['failed']} TESTS FAILED" if row["failed"] else "")


def as_markdown(table: list[dict[str, Any]]) -> str:
    """Return the table as `rows` made it, a heading and a table for each group."""
    lines: list[str] = []
    for group in dict.fromkeys(row["group"] for row in table):
        lines += ["", f"## {group}", "", "| fault | injected | outcome |", "| --- | ---: | --- |"]
        lines += [
            f"| {row['fault'].replace('|', _PIPE)} | {row['injected']:,} | {_came_of(row)} |"
            for row in table
            if row["group"] == group
        ]
    total = sum(row["injected"] for row in table)
    return "\n".join([f"{len(table)} faults, injected {total:,} times.", *lines, ""])


if __name__ == "__main__":
    print(as_markdown(json.loads(Path(sys.argv[1]).read_bytes())), end="")
