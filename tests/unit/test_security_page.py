"""docs/security.md: each promise names the tests that prove it, and they are there."""

from __future__ import annotations

import ast
import ipaddress
import re
from functools import cache

import pytest

from kappamask_stream.settings import Settings
from tests.unit.documents import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)))


@cache
def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name in functions_in(path)


def test_every_promise_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    promises = [row for row in rows if not row.rstrip().endswith("| proof |")]
    assert len(promises) > 25
    assert [row for row in promises if "::test_" not in row] == []


def test_what_a_worker_tells_is_told_on_this_machine_alone() -> None:
    assert ipaddress.ip_address(Settings.model_fields["listen"].default.rpartition(":")[0]).is_loopback
