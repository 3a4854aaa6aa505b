"""Seeds and former findings of every fuzz target: none raises, and none takes much memory. Without atheris."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_NAMES = sorted(path.name.removesuffix("_target.py") for path in _HERE.glob("*_target.py"))
_MOST_BYTES, _SLOWEST_S = 256 << 20, 1.0


def _run(name: str, inputs: dict[str, bytes]) -> None:
    target = importlib.import_module(f"tests.fuzz.{name}_target")
    for what, data in inputs.items():
        tracemalloc.start()
        try:
            target.one_input(data)
        except Exception as error:
            error.add_note(f"{name}: {what}: {data[:100]!r}")
            raise
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < _MOST_BYTES, f"{name}: {what} took {peak >> 20} MB"


@pytest.mark.parametrize("name", _NAMES)
def test_seeds_raise_nothing_unforeseen(name: str) -> None:
    seeds = importlib.import_module(f"tests.fuzz.{name}_target").seeds()
    assert len(seeds) > 1
    _run(name, {f"seed {number}": seed for number, seed in enumerate(seeds)})


@pytest.mark.parametrize("name", _NAMES)
def test_inputs_near_the_limits_take_a_second_and_256_mb_at_most(name: str) -> None:
    """Fuzzing does not come so far: it runs inputs of some kilobytes."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.fuzz.near_limits", name],
        capture_output=True, text=True, check=False, cwd=_HERE.parents[1], timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    took = json.loads(ended.stdout)
    assert took
    for what, (seconds, taken) in took.items():
        assert seconds < _SLOWEST_S, f"{name}: {what} took {seconds:.2f} s"
        assert taken < _MOST_BYTES, f"{name}: {what} took {taken >> 20} MB"


@pytest.mark.parametrize("name", _NAMES)
def test_what_fuzzing_once_found_is_repaired(name: str) -> None:
    found = sorted((_HERE / "findings" / name).glob("*"))
    _run(name, {path.name: path.read_bytes() for path in found})
