"""The driver finds what it is for: an exception, a hang, an allocation. With atheris, which the extra `fuzz` brings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("atheris", reason="fuzzing needs the extra `fuzz`")

_ROOT = Path(__file__).parents[2]


def _fuzz(folder: Path, name: str, *, runs: int = 100_000, seconds: int = 20) -> tuple[int, str, dict[str, Any]]:
    command = [
        sys.executable, "-m", "tests.fuzz.run", "--package", "tests.fuzz.proof", "--runs", runs, "--seconds", seconds,
        "--output", folder, "--findings", folder / "findings", name,
    ]  # fmt: skip
    ran = subprocess.run(
        [str(word) for word in command], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    return ran.returncode, ran.stdout, json.loads((folder / "fuzz.json").read_text())[name]


def test_an_exception_that_nobody_documents_is_found_and_made_short(tmp_path: Path) -> None:
    status, shown, said = _fuzz(tmp_path, "raises")
    assert status == 1
    (found,) = said["findings"]
    assert found["said"].startswith("KeyError at raises_target.py:")
    assert Path(found["file"]).read_bytes() == b"bad"
    assert said["executions"] == 100_000
    assert "KeyError: b'bad" in shown


def test_an_input_that_hangs_is_found_and_its_place_named(tmp_path: Path) -> None:
    status, _, said = _fuzz(tmp_path, "hangs", seconds=5)
    assert status == 1
    assert said["broken"] is None
    assert {found["kind"] for found in said["findings"]} == {"hangs"}
    assert {Path(found["file"]).read_bytes()[:1] for found in said["findings"]} <= {b"x", b"y"}
    assert all("hangs_target.py" in found["explained"] for found in said["findings"])


def test_memory_that_is_taken_and_never_touched_is_found(tmp_path: Path) -> None:
    status, _, said = _fuzz(tmp_path, "allocates", seconds=3)
    assert status == 1
    (found,) = said["findings"]
    assert Path(found["file"]).read_bytes()[:1] == b"x"
    assert found["said"].startswith("MemoryError at allocates_target.py:")
    assert said["most_bytes"] >= 300 << 20


def test_a_target_that_does_not_import_is_no_clean_result(tmp_path: Path) -> None:
    status, shown, said = _fuzz(tmp_path, "broken")
    assert status == 1
    assert "ModuleNotFoundError" in said["broken"]
    assert "broken" in shown


def test_a_second_run_begins_with_the_corpus_of_the_first(tmp_path: Path) -> None:
    _fuzz(tmp_path, "raises", runs=5_000)
    _, _, said = _fuzz(tmp_path, "raises", runs=10)
    assert said["coverage_before"] == said["coverage"] > 3


def test_what_fails_in_long_inputs_alone_is_found(tmp_path: Path) -> None:
    status, _, said = _fuzz(tmp_path, "long", runs=50_000)
    assert status == 1
    (found,) = said["findings"]
    assert found["said"].startswith("IndexError at long_target.py:")
    assert 20_000 < Path(found["file"]).stat().st_size < 1 << 16


def test_inputs_near_the_limits_are_run_too(tmp_path: Path) -> None:
    status, _, said = _fuzz(tmp_path, "near", runs=1_000)
    assert status == 1
    (found,) = said["findings"]
    assert found["said"].startswith("IndexError at near_target.py:")
