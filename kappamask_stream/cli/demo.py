"""``kappamask-stream demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kappamask_stream.cli.server import Environment

if TYPE_CHECKING:
    from kappamask_stream.evaluation import Confusion
    from kappamask_stream.result import ProductResult


def demo(
    dest: Annotated[Path, typer.Argument(help="Folder for the product, its truth and the mask.")] = Path("demo-output"),
    level: Annotated[Literal["L2A", "L1C"], typer.Option(help="Level of the generated product.")] = "L2A",
    size: Annotated[int, typer.Option(help="Height and width in 10 m pixels, a multiple of 6.")] = 2304,
    seed: Annotated[int, typer.Option(help="Another seed is another place, day and sky.")] = 7,
    env: Environment = None,
) -> None:
    """Show all of it once: a generated product, a real Triton on this machine, real weights, a mask to look at.

    Generates a product with `synth`, masks it with csmask through the local server as `run` does, and compares the
    mask with the truth. Needs `server install`.

    Example: kappamask-stream demo
    """
    from kappamask_stream.cli.evaluate import compare
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.cli.masking import Masking, mask_and_report
    from kappamask_stream.cli.synth import draw
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.runner import Order
    from kappamask_stream.server import ServerEnvironment
    from kappamask_stream.settings import load_settings

    settings = load_settings(output=dest / "masks", server_env=env)
    ServerEnvironment.at(settings.server_env).require()
    made = draw(dest, level=level, size=size, seed=seed, overwrite=True)
    masking = Masking(
        wheres=[str(made.product)],
        choice=ModelChoice(model="csmask"),
        settings=settings,
        order=Order(options=MaskOptions(overwrite=True), verify_checksums=True),
    )
    (result,) = run_command(mask_and_report(masking))
    if result.error is not None or result.output is None:
        raise typer.Exit(result.error.exit_code if result.error else 1)
    typer.echo(_report(result, made.truth, compare(Path(result.output), made.truth, "kappamask")))


def _report(result: ProductResult, truth: Path, confusion: Confusion) -> str:
    """Say where everything is and how well mask and truth agree."""
    cloud, shadow = confusion.scores(4), confusion.scores(2)
    return "\n".join(
        [
            "",
            f"agreement with the truth: {confusion.agreement:.3f} of {confusion.pixels} pixels",
            f"  cloud          precision {cloud.precision or 0:.3f}, recall {cloud.recall or 0:.3f}",
            f"  cloud shadow   precision {shadow.precision or 0:.3f}, recall {shadow.recall or 0:.3f}",
            "  (csmask has no class for the truth's semi-transparent cloud: those pixels can't agree)",
            f"truth:     {truth}",
            f"mask:      {result.output}",
            f"quicklook: {result.quicklook}",
        ]
    )
