"""OpenJPEG on damaged packets: pixels or words that name file and tile, in bounded memory; never a crash."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fault_table import Fault
from tests.hostile.jp2_corpus import valid
from tests.hostile.jp2_memory import cases

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).resolve().parents[2]
#: What is not counted: a decoder's work on tiles of ESA's size.
_SLACK_BYTES = 16 * 2**20
#: CPU time that one damaged file of 100 x 90 pixels may take.
_SLOWEST_S = 1.0


@pytest.mark.thorough
def test_damaged_packets_end_in_pixels_or_in_words_and_never_end_the_process(
    thorough: Callable[[int, float | None], None],
) -> None:
    """A flipped bit mostly gives other pixels without a word, which only checksums find (``--verify``)."""
    count = Fault.amount(400, 20_000)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hostile.jp2_decoding", "0", str(count)],
        capture_output=True, text=True, check=False, cwd=_ROOT, timeout=1800,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["refused"] + told["undecodable"] + told["decoded"] == count
    assert min(told["refused"], told["undecodable"]) > count // 50, told
    assert told["decoded"] > count // 3, "damage that nobody notices is the rule: it is what the test is for"
    assert told["grown_mb"] < 64, told
    assert told["slowest_s"] < _SLOWEST_S, told
    thorough(count, told["slowest_s"])


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return list(cases(valid(tmp_path_factory.mktemp("valid"))))


@pytest.mark.thorough
def test_decoding_takes_no_more_memory_than_was_announced_and_reserved(
    greedy: list[str], thorough: Callable[[int, float | None], None]
) -> None:
    """What is announced is held against the budget before anything is decoded; all files have some hundred bytes."""
    tried = greedy[:: Fault.amount(2, 1)]
    for case in tried:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.hostile.jp2_memory", case],
            capture_output=True, text=True, check=True, cwd=_ROOT, timeout=600,
        )  # fmt: skip
        told = json.loads(ended.stdout)
        assert told["taken"] <= told["announced"] + _SLACK_BYTES, f"{case}: {told}"
        assert ("own kind" in case) == bool(re.search("by itself wants", told["said"])), f"{case}: {told}"
    thorough(len(tried), None)
