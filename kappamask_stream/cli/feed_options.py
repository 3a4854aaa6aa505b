"""Options that choose products of a feed, for `worker` and `submit`, in the group under which help shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kappamask_stream.cli.setting_flags import SettingFlags

if TYPE_CHECKING:
    from kappamask_stream.feed import FeedFilter

WANTED = "Which products are wanted"

Level = Annotated[
    Literal["L1C", "L2A"] | None,
    typer.Option("--level", help="Products of one level. [default: both]", rich_help_panel=WANTED),
]
Tile = Annotated[
    list[str] | None,
    typer.Option(
        "--tile",
        metavar="TILE",
        help="Products of a tile: 29UNU, or 29U* for all that begin so. May be given again.",
        rich_help_panel=WANTED,
        show_default=False,
    ),
]
TilesFile = Annotated[
    str | None,
    typer.Option(
        "--tiles-file",
        metavar="FILE",
        help="The same from a file, one a line; empty lines and lines that begin with # are passed over.",
        rich_help_panel=WANTED,
    ),
]
Within = Annotated[
    str | None,
    typer.Option(
        "--within",
        metavar="AREA",
        help="Products that meet an area: WEST,SOUTH,EAST,NORTH[,EPSG:CODE], WKT or EWKT, GeoJSON, or a file with one "
        "of these. They are masked whole.",
        rich_help_panel=WANTED,
    ),
]
CloudBelow = Annotated[
    float | None,
    typer.Option(
        "--cloud-below",
        metavar="PERCENT",
        help="Products with at most so much cloud by their producer's count, and those whose count is not said.",
        rich_help_panel=WANTED,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Products sensed then or later: 2026-07-01, 2026-07-01T10:30 (UTC), or 30d, 12h before now.",
        rich_help_panel=WANTED,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="TIME",
        help="Products sensed then or earlier; a day means to its end.",
        rich_help_panel=WANTED,
    ),
]
Satellite = Annotated[
    list[str] | None,
    typer.Option(
        "--satellite",
        metavar="NAME",
        help="Products of a satellite: S2A, S2B, S2C, … May be given again.",
        rich_help_panel=WANTED,
        show_default=False,
    ),
]
Orbit = Annotated[
    list[int] | None,
    typer.Option(
        "--orbit",
        metavar="N",
        help="Products of a relative orbit, 1 to 143. May be given again.",
        rich_help_panel=WANTED,
        show_default=False,
    ),
]
BaselineFrom = Annotated[
    str | None,
    typer.Option(
        "--baseline-from",
        metavar="NN.NN",
        help="Products of this processing baseline or a later one, e.g. 05.00, and those whose name has none.",
        rich_help_panel=WANTED,
    ),
]

#: A group of flags for `setting_flags.takes_setting_flags`, which `split_filter` takes out again: they are no settings.
#: By name of the parameter of `FeedFilter.parse`.
FILTER_FLAGS: dict[str, Any] = {
    "level": Level,
    "tile": Tile,
    "tiles_file": TilesFile,
    "within": Within,
    "cloud_below": CloudBelow,
    "since": Since,
    "until": Until,
    "satellite": Satellite,
    "orbit": Orbit,
    "baseline_from": BaselineFrom,
}


def split_filter(flags: SettingFlags) -> tuple[FeedFilter, dict[str, Any]]:
    """Return the filter that a command's flags ask for, and its flags of settings.

    Raises
    ------
    UsageError
        If a flag is not understood.
    """
    from kappamask_stream.feed import FeedFilter

    wanted = FeedFilter.parse(**{name: flags.get(name) for name in FILTER_FLAGS})
    return wanted, {name: value for name, value in flags.items() if name not in FILTER_FLAGS}
