"""The table of faults: what tests said is joined by fault, and a test that failed is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.fault_table import Fault, as_markdown, rows


def said(group: str, name: str, times: int, *, failed: bool = False, when: str = "teardown", **outcomes: int) -> Any:
    record = Fault(group, name)
    record.injected(times)
    for what, count in outcomes.items():
        record.outcome(what, count)
    return SimpleNamespace(when=when, user_properties=[("fault", vars(record) | {"failed": failed})])


def test_what_tests_said_is_joined_by_fault_and_sorted() -> None:
    reports = [
        said("Triton", "hangs", 2, identical=2),
        said("Disk", "is full (a | b)", 1000, refused=3, identical=1),
        said("Triton", "hangs", 1, failed=True),
        said("Triton", "hangs", 5, when="call", identical=5),  # of the same test: counted once
    ]
    table = rows(reports)
    assert [(row["group"], row["fault"], row["injected"], row["failed"]) for row in table] == [
        ("Disk", "is full (a | b)", 1000, 0),
        ("Triton", "hangs", 3, 1),
    ]
    assert (
        as_markdown(table)
        == """2 faults, injected 1,003 times.

## Disk

| fault | injected | outcome |
| --- | ---: | --- |
| is full (a \\| b) | 1,000 | 1 x identical; 3 x refused |

## Triton

| fault | injected | outcome |
| --- | ---: | --- |
| hangs | 3 | 2 x identical; 1 TESTS FAILED |
"""
    )
