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


def test_each_product_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_summary([DONE, SKIPPED, FAILED], 63.04)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].split() == ["product", "seconds", "tiles", "cloud"]
    assert lines[1].split() == [LONG, "done", "61.2", "529", "50.0%"]
    assert lines[2].split() == ["B", "skipped", "0.0", "-", "-"]
    assert lines[3].split() == ["[red]C", "failed", "1.0", "-", "-"]
    assert "truncated" not in captured.err, "said when it happened"
    assert lines[-1] == "3 products: 1 done, 1 skipped, 1 failed; 63.0 s"
    assert "\x1b" not in captured.err


def test_of_many_products_those_that_failed_have_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    many = [ProductResult(product=f"P{number}", status="done") for number in range(4999)]
    show_summary([*many, FAILED], 63.04)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["product", "[red]C", "…", "5000"]
    assert lines[2] == "… and 4999 more"
    assert lines[3] == "5000 products: 4999 done, 1 failed; 63.0 s"
    show_summary([FAILED] * 5000, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 50 + 2
    assert lines[-2] == "… and 4950 more"


def test_one_product_is_one_product(capsys: pytest.CaptureFixture[str]) -> None:
    show_summary([FAILED], 1.0, not_masked=2)
    assert "1 product: 1 failed; 1.0 s\n2 more were not masked" in capsys.readouterr().err


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show_summary([FAILED], 1.0)
    assert "\x1b" not in capsys.readouterr().err
