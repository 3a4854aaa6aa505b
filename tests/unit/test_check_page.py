"""What `models check` says of the canary: asked, not asked, or that there is none."""

from __future__ import annotations

import pytest

from kappamask_stream.cli.check import _page

REPORT = {
    "model": "m", "tiles": 3, "source": "built-in tiles", "reference": "float32", "batches": [], "min_agreement": 0.9995,
    "canary": None, "has_canary": True, "passed": False, "faults": ["a batch of 1 is not answered: out of memory"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "canary: not asked"),
        ({"canary": 0.99999}, "canary: 0.99999 of the pixels have the class that the contract knows"),
        ({"has_canary": False}, "no canary: the contract knows no tile's answer"),
    ],
)
def test_the_canarys_line(told: dict[str, object], said: str) -> None:
    (line,) = [line for line in _page({**REPORT, **told}).splitlines() if "canary" in line]
    assert line.startswith(said)
