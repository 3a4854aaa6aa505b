"""The table at the end of a run of several products."""

from __future__ import annotations

import pytest

from kappamask_stream.cli.summary import cloud_share, show_summary
from kappamask_stream.errors import ProductError
from kappamask_stream.result import ProductResult

LONG = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
DONE = ProductResult(
    product=LONG,
    status="done",
    seconds=61.25,
    tiles=529,
    classes={"CLEAR": 0.3, "CLOUD": 0.2, "SEMI_TRANSPARENT_CLOUD": 0.1, "MISSING": 0.4},
)
SKIPPED = ProductResult(product="B", status="skipped")
FAILED = ProductResult(
    product="[red]C", status="failed", seconds=1.0, error=ProductError("B02 is [bold]truncated[/bold]: " + "why " * 60)
)


def test_clouds_are_a_share_of_what_holds_data() -> None:
    assert cloud_share(DONE) == pytest.approx(0.5)
    assert cloud_share(SKIPPED) is None
    assert cloud_share(ProductResult(product="D", status="done", classes={"MISSING": 1.0})) is None


def test_each_product_has_a_line_and_failures_their_reason_whole(capsys: pytest.CaptureFixture[str]) -> None:
    show_summary([DONE, SKIPPED, FAILED], 63.04)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].split() == ["product", "seconds", "tiles", "cloud"]
    assert lines[1].split() == [LONG, "done", "61.2", "529", "50.0%"]
    assert lines[2].split() == ["B", "skipped", "0.0", "-", "-"]
    assert lines[3].split() == ["[red]C", "failed", "1.0", "-", "-"]
    assert f"[red]C: {FAILED.error}" in lines
    assert lines[-1] == "3 products: 1 done, 1 skipped, 1 failed; 63.0 s"
    assert "\x1b" not in captured.err


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show_summary([FAILED], 1.0)
    assert "\x1b" not in capsys.readouterr().err
