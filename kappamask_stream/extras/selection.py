"""From what users tick to what is made."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.extras.types import Extra


def selected(
    *,
    png: bool = False,
    probabilities: bool = False,
    subtiles: bool = False,
    report: bool = False,
    stac: bool = False,
    scratch: Path | None = None,
) -> list[Callable[[], Extra]]:
    """Return what makes the extras of one product; call each once per product, in this order.

    The STAC Item comes last: it lists the files of all others.

    Parameters
    ----------
    png : km_predict's grey PNG of the mask.
    probabilities : a GeoTIFF with one band per class.
    subtiles : each tile's own mask.
    report : an HTML page.
    stac : a STAC Item.
    scratch : folder for files that grow while a product is masked; None: the system's for temporary files.
    """
    chosen: list[Callable[[], Extra]] = []
    if png:
        from kappamask_stream.extras.grey_png import GreyPngExtra

        chosen.append(GreyPngExtra)
    if probabilities:
        from kappamask_stream.extras.probabilities import ProbabilitiesExtra

        chosen.append(partial(ProbabilitiesExtra, scratch))  # no lambda: orders go to other processes
    if subtiles:
        from kappamask_stream.extras.subtiles import SubtilesExtra

        chosen.append(SubtilesExtra)
    if report:
        from kappamask_stream.report import ReportExtra

        chosen.append(ReportExtra)
    if stac:
        from kappamask_stream.stac import StacExtra

        chosen.append(StacExtra)
    return chosen
