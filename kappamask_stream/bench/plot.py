"""A report as a picture: what was measured only, a panel each. Needs matplotlib (the extra ``plot``).

The same report always gives the same SVG: no date in it, names of its parts from a fixed salt.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kappamask_stream.bench.facts import Facts
from kappamask_stream.bench.plot_panels import PANELS
from kappamask_stream.bench.wording import counted

if TYPE_CHECKING:
    from kappamask_stream.bench.types import BenchReport

_COLUMNS, _MANY, _COLUMNS_OF_MANY = 3, 6, 4
#: Inches, and dots of each.
_PANEL_WH = (4.6, 3.4)
_HEAD_INCH, _FOOT_INCH = 0.95, 0.85
_DPI = 120
_LETTERS_PER_INCH = 13.0
_STYLE: Any = {
    "svg.hashsalt": "kappamask-stream",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names are no formulas
}
#: What would tell when, and by which version, it was drawn.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


def plotted(report: BenchReport, file_format: str) -> bytes:
    """Draw a report.

    Parameters
    ----------
    file_format : ``png``, ``svg`` or ``pdf``.

    Returns
    -------
    The file's bytes.
    """
    facts = Facts(report=report)
    panels = [draw for draw, is_there in PANELS if is_there(facts)]
    columns = min(max(1, len(panels)), _COLUMNS if len(panels) <= _MANY else _COLUMNS_OF_MANY)
    rows = -(-len(panels) // columns)
    width, height = columns * _PANEL_WH[0], rows * _PANEL_WH[1] + _HEAD_INCH + _FOOT_INCH
    # Room for the words above and below.
    room = (0, _FOOT_INCH / height, 1, 1 - (_HEAD_INCH + _FOOT_INCH) / height)
    with style.context(_STYLE, after_reset=True):  # whatever this user's matplotlib is set to
        layout = ConstrainedLayoutEngine(rect=room)
        figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout=layout)
        for place, draw in enumerate(panels):
            draw(figure.add_subplot(rows, columns, place + 1), facts)
        _words(figure, report, width, height)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=file_format, metadata=_METADATA[file_format])
    return buffer.getvalue()


def _words(figure: Figure, report: BenchReport, width: float, height: float) -> None:
    """Write what was measured above, and the verdict below."""
    letters = int(_LETTERS_PER_INCH * width)
    machine = report.environment
    where = f"{machine.cpu or 'unknown processor'}, {counted(machine.cores, 'core')}"
    told = (
        f"{report.product}: {report.product_tiles_inferred} of {counted(report.product_tiles, 'tile')} hold data",
        f"{where}; {machine.gpu or 'GPU none, or unknown'}; {(machine.commit or 'no commit')[:12]}, {machine.time}",
    )
    at = 1 - 0.1 / height
    figure.text(0.01, at, textwrap.shorten(report.model, letters // 2), fontsize=12, fontweight="bold", va="top")
    for line, text in enumerate(told):
        below = at - (0.28 + 0.2 * line) / height
        figure.text(0.01, below, textwrap.shorten(text, letters), fontsize=9, color="#444444", va="top")
    if report.verdict is not None:
        text = textwrap.fill(report.verdict.text, letters, max_lines=4, placeholder=" …")
        figure.text(0.01, 0.08 / height, text, fontsize=10, va="bottom")
