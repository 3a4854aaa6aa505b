"""``kappamask-stream synth``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from kappamask_stream.synth import SynthResult

Level = Literal["L2A", "L1C"]


def synth(
    dest: Annotated[Path, typer.Argument(help="Folder for the product and its truth; is made where missing.")],
    level: Annotated[Level, typer.Option(help="L2A: surface reflectance; L1C: top of atmosphere.")] = "L2A",
    size: Annotated[
        int, typer.Option(help="Height and width in 10 m pixels, a multiple of 6; a real product has 10980.")
    ] = 2304,
    seed: Annotated[int, typer.Option(help="Another seed is another place, day and sky.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a product of the same name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Make a synthetic Sentinel-2 product whose clouds and shadows are known.

    Writes DEST/<product>.SAFE, laid out as ESA's, and beside it DEST/<product>_truth_10m.tif with KappaMask's
    classes: 1 clear, 2 cloud shadow, 3 semi-transparent cloud, 4 cloud, 5 missing. Prints both paths. The same level,
    size and seed always give the same pixels. The tile is called T32ZZZ, which no real product is.

    Example: kappamask-stream synth scenes --seed 7
             kappamask-stream run scenes/S2A_MSIL2A_….SAFE --model csmask
             kappamask-stream evaluate MASK.tif scenes/S2A_MSIL2A_…_truth_10m.tif
    """
    started = time.monotonic()
    result = draw(dest, level=level, size=size, seed=seed, overwrite=overwrite, show_progress=not as_json)
    if as_json:
        document = {
            "product": str(result.product),
            "truth": str(result.truth),
            "level": level,
            "size": size,
            "seed": seed,
            "seconds": round(time.monotonic() - started, 3),
        }
        typer.echo(json.dumps(document))
    else:
        typer.echo(f"{result.product}\n{result.truth}")


def draw(
    dest: Path, *, level: Level, size: int, seed: int, overwrite: bool = False, show_progress: bool = True
) -> SynthResult:
    """Make a product and show how far it is; see `kappamask_stream.synth.write_product`."""
    from kappamask_stream.synth import write_product

    with _ProgressLine(enabled=show_progress) as line:
        return write_product(dest, level=level, size=size, seed=seed, on_progress=line.show, overwrite=overwrite)


class _ProgressLine:
    """A live line on stderr on a terminal, one plain line per step elsewhere, nothing where not `enabled`."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._doing: str | None = None

    def __enter__(self) -> Self:
        if self._enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._live = Progress(console=Console(stderr=True), transient=True)
            self._live.start()
            self._task = self._live.add_task("", total=1)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, doing: str, done: int, total: int) -> None:
        """Say what is being done and how far it is."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=doing, completed=done, total=total)
        elif self._enabled and doing != self._doing:
            sys.stderr.write(f"{doing}\n")
        self._doing = doing
