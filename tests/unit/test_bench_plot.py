"""The picture of a benchmark: valid files of three kinds, the same for the same report, only what was measured."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import imagecodecs
import pytest
from defusedxml import ElementTree

from kappamask_stream.bench.facts import Facts
from kappamask_stream.bench.plot import plotted
from kappamask_stream.bench.plot_panels import PANELS, _parts
from kappamask_stream.bench.types import Latency
from kappamask_stream.bench.verdict import verdict_of
from tests.unit.bench_reports import SETTINGS, end_to_end_level, point, report, server_level, with_gpu

if TYPE_CHECKING:
    from kappamask_stream.bench.types import BenchReport

#: Glyphs as texts, so that words can be looked for.
SVG_TEXTS = {"svg.fonttype": "none"}


#: Of one level: two panels.
SMALL = report(server=None, end_to_end=None)


def words(made: BenchReport, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from kappamask_stream.bench import plot

    monkeypatch.setattr(plot, "_STYLE", plot._STYLE | SVG_TEXTS)
    root = ElementTree.fromstring(plotted(made, "svg"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_png_has_pixels() -> None:
    pixels = imagecodecs.png_decode(plotted(report(), "png"))
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > 1000
    assert (pixels[..., :3] == 255).mean() > 0.5
    assert len({tuple(colour) for colour in pixels[::7, ::7, :3].reshape(-1, 3)}) > 20


def test_a_pdf_is_whole() -> None:
    made = plotted(SMALL, "pdf")
    assert made.startswith(b"%PDF-")
    assert made.rstrip().endswith(b"%%EOF")
    assert b"CreationDate" not in made


def test_the_same_report_gives_the_same_svg_which_tells_neither_when_nor_how_it_was_drawn() -> None:
    made = plotted(report(), "svg")
    assert made == plotted(report(), "svg")
    assert b"<dc:date>" not in made
    assert not re.search(rb"matplotlib\.org|Matplotlib v", made)


def test_panels_have_titles_and_axes_with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    found = words(with_gpu(report(verdict=verdict_of(report()))), monkeypatch)
    for title in (
        "Throughput", "Latency of a request", "Where a request's time goes", "Batches that the server forms", "GPU busy",
        "Stages of a product", "Against the floors",
    ):  # fmt: skip
        assert title in found
    for axis in (
        "requests in flight",
        "tiles/s",
        "ms",
        "% of the tiles",
        "% of the time",
        "measured / floor; 1 is the floor",
    ):
        assert axis in found
    assert any(text.startswith("No limit found: 50 % of 8 cores busy") for text in found)


def test_levels_that_were_not_measured_have_no_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = words(SMALL, monkeypatch)
    assert "Throughput" not in found
    assert "Stages of a product" in found


@pytest.mark.parametrize("levels", list(itertools.product([True, False], repeat=3)), ids=str)
def test_there_is_a_panel_where_anything_was_measured(levels: tuple[bool, bool, bool]) -> None:
    names = ("server", "client", "end_to_end")
    made = replace(report(), **{name: None for name, there in zip(names, levels, strict=True) if not there})
    assert any(is_there(Facts(report=made)) for _, is_there in PANELS) == any(levels)


def test_a_report_of_nothing_can_be_drawn() -> None:
    assert plotted(replace(SMALL, client=None), "svg").startswith(b"<?xml")


def test_what_the_server_does_not_tell_is_no_panel() -> None:
    untold = point(1, queue_s=None, batch_sizes=None)
    made = report(server=server_level(untold), end_to_end=end_to_end_level(batch_sizes=None))
    assert sum(is_there(Facts(report=made)) for _, is_there in PANELS) == 4


def test_one_point_and_one_without_tiles_can_be_drawn() -> None:
    made = replace(SMALL, client=None, server=server_level(point(3), point(5, tiles=0)))
    assert plotted(made, "svg")


def test_names_are_no_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a$b^{$_" in words(replace(SMALL, model="a$b^{$_"), monkeypatch)


def test_where_a_gpu_decodes_there_is_no_bar_of_cpu_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CPU" in words(SMALL, monkeypatch)
    assert "CPU" not in words(replace(SMALL, settings=replace(SETTINGS, decoder="gpu")), monkeypatch)


def test_a_requests_time_is_its_measured_mean() -> None:
    """Not what follows from requests in flight and rate: with few answers in the interval that is another number."""
    parts = _parts(point(1, 1000.0))
    assert sum(parts.values()) == pytest.approx(0.045)
    assert parts["way and client"] == pytest.approx(0.045 - 0.0315)
    assert _parts(point(1, latency=Latency(p50_s=0.04, p95_s=0.06, p99_s=0.08))) == {}
