"""What has a full amount is run in full by a target: `make faults` or `make thorough`, which prints what it ran."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.thorough_table import line, rows

_ROOT = Path(__file__).parents[2]
_TESTS = """
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.thorough_table import *

class Machine(RuleBasedStateMachine):
    @rule()
    def nothing(self): pass
Machine.TestCase.settings = settings(max_examples=7, deadline=None, database=None)
TestMachine = pytest.mark.thorough(Machine.TestCase)

@pytest.mark.thorough
@given(number=st.integers())
@settings(max_examples=30, database=None)
def test_property(number): pass

@pytest.mark.thorough
def test_counts(thorough): thorough(12, 0.25)

@pytest.mark.thorough
def test_tells_nothing(): pass

def test_unmarked(): pass
"""


def test_each_test_with_a_full_amount_carries_a_mark_that_a_target_runs() -> None:
    files = [
        path for path in (_ROOT / "tests").rglob("test_*.py") if re.search(r"[Ff]ault\.amount\(", path.read_text())
    ]
    assert len(files) > 10
    unmarked = [path.name for path in files if not re.search(r"mark\.(fault|thorough)\b", path.read_text())]
    assert unmarked == ["test_fault_table.py"] * ("test_fault_table.py" in unmarked)
    recipes = (_ROOT / "Makefile").read_text()
    for mark in ("fault", "thorough"):
        assert re.search(rf"FAULTS=full .*pytest .*-m {mark} ", recipes), f"no target runs -m {mark} in full"


def test_examples_and_inputs_are_counted_where_tests_run_and_in_workers(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = thorough\n")
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['tests.thorough_table']\n")
    for workers in ("0", "2"):
        target = tmp_path / workers / "table.json"
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider", str(tmp_path)], cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=120,
            env=os.environ | {"THOROUGH_TABLE": str(target), "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        found = {row["test"].rpartition("::")[2]: row for row in json.loads(target.read_text())}
        assert {name: row["inputs"] for name, row in found.items()} == {
            "runTest": 7, "test_property": 30, "test_counts": 12, "test_tells_nothing": None,
        }  # fmt: skip
        assert found["test_counts"]["slowest_s"] == 0.25
        assert 0 < found["test_property"]["slowest_s"] < 1
        assert "4 tests, 49 inputs" in ended.stdout


def _report(**changes: Any) -> Any:
    said = {"when": "call", "keywords": {"thorough": 1}, "user_properties": [], "nodeid": "t.py::a", "duration": 61.23,
            "outcome": "failed"}  # fmt: skip
    return SimpleNamespace(**{**said, **changes})


def test_a_test_that_failed_is_told() -> None:
    said = {"inputs": 20_000, "slowest_s": 0.0421}
    (row,) = rows(
        [_report(user_properties=[("thorough", said)]), _report(when="teardown"), _report(keywords={"fault": 1})]
    )
    assert row == {"test": "t.py::a", **said, "seconds": 61.2, "outcome": "failed"}
    assert line(row) == "  20,000  slowest    42 ms     61.2 s  failed  t.py::a"
    assert line(row | {"inputs": None, "slowest_s": None}) == "       -  slowest        -     61.2 s  failed  t.py::a"
