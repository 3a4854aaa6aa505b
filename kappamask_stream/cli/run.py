"""``kappamask-stream run``."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kappamask_stream.errors import InternalError, UsageError

if TYPE_CHECKING:
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.output import MaskOptions
    from kappamask_stream.result import ProductResult
    from kappamask_stream.settings import Settings


def run(
    products: Annotated[
        list[Path], typer.Argument(help="SAFE directories, L1C or L2A.", metavar="PRODUCT", readable=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the masks. [default: .]", readable=False)
    ] = None,
    model: Annotated[
        str, typer.Option(help="kappamask, csmask, or any model name that the server holds.")
    ] = "kappamask",
    architecture: Annotated[
        Literal["DeepLabv3Plus", "Unet"] | None, typer.Option(help="KappaMask's network. [default: DeepLabv3Plus]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="KappaMask weights (Keras HDF5) for the server on this machine.", exists=True, dir_okay=False
        ),
    ] = None,
    radiometry: Annotated[
        Literal["corrected", "km_predict"],
        typer.Option(help="corrected: offsets as the metadata says; km_predict: km_predict's own arithmetic."),
    ] = "corrected",
    precision: Annotated[
        Literal["f32", "bf16", "fp16"] | None, typer.Option(help="Of the network. [default: f32]")
    ] = None,
    mosaic: Annotated[
        Literal["crop", "blend"], typer.Option(help="crop: each tile's core; blend: overlapping tiles are weighed.")
    ] = "crop",
    triton: Annotated[
        str | None,
        typer.Option(help="grpc://HOST:PORT of a Triton server. [default: one is started on this machine]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a different mask of the same name.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check the manifest's checksums before masking.")] = False,
    keep_server: Annotated[
        bool, typer.Option("--keep-server", help="Leave the local server running (`server stop` ends it).")
    ] = False,
    compression: Annotated[
        Literal["deflate", "zstd"] | None, typer.Option(help="Of the mask's blocks. [default: deflate]")
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option(min=1, help="Requests in flight. [default: 2 x batch x instances of the model]")
    ] = None,
    memory_budget_mb: Annotated[
        int | None, typer.Option(min=16, help="Decoded pixels held at once, MB. [default: 448]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per product, and nothing else.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more: retries, the server's doings.")] = False,
) -> None:
    """Mask Sentinel-2 products: a Cloud Optimized GeoTIFF and a quicklook each.

    Writes OUTPUT/<product>/<level>_<tile>_<sensing time>_<KZ|CS>_<resolution>m.tif. A mask that is there already
    and was made in the same way is skipped.

    Example: kappamask-stream run S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE
    --model csmask --output masks
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.output import MaskOptions
    from kappamask_stream.runner import exit_code
    from kappamask_stream.settings import load_settings

    settings = load_settings(
        output=output, triton=triton, compression=compression, max_in_flight=max_in_flight,
        memory_budget_mb=memory_budget_mb,
    )  # fmt: skip
    choice = ModelChoice(model=model, architecture=architecture, precision=precision, weights=weights)
    if radiometry == "km_predict" and model == "csmask":
        raise UsageError("--radiometry km_predict is KappaMask's; csmask was trained on reflectance: leave it out")
    options = MaskOptions(radiometry=radiometry, mosaic=mosaic, compression=settings.compression, overwrite=overwrite)
    results = run_command(
        mask_and_report(
            products,
            choice,
            settings,
            options,
            keep_server=keep_server,
            verify=verify,
            as_json=as_json,
            verbose=verbose,
        )
    )
    raise typer.Exit(exit_code(results))


async def mask_and_report(
    products: list[Path],
    choice: ModelChoice,
    settings: Settings,
    options: MaskOptions,
    *,
    keep_server: bool,
    verify: bool,
    as_json: bool,
    verbose: bool,
) -> list[ProductResult]:
    """Mask products through one server and print each result as it comes; see `run` for the options."""
    from kappamask_stream.cli.progress import ProgressDisplay
    from kappamask_stream.models import ModelPool
    from kappamask_stream.pipeline import Resources
    from kappamask_stream.runner import mask_products

    results: list[ProductResult] = []
    async with ProgressDisplay(enabled=not as_json, verbose=verbose) as display:
        with Resources(settings=settings) as resources:
            async with (
                ModelPool(choice, settings, keep_server=keep_server, on_progress=display.message) as models,
                aclosing(
                    mask_products(products, models, resources, options, verify_checksums=verify, on_start=display.add)
                ) as stream,
            ):
                async for result in stream:
                    results.append(result)
                    with display.aside():
                        _report(result, as_json=as_json, verbose=verbose)
    return results


def _report(result: ProductResult, *, as_json: bool, verbose: bool) -> None:
    """Print a result on stdout (a failure in words on stderr) the moment it is known."""
    if as_json:
        sys.stdout.write(json.dumps(result.to_json()) + "\n")
    elif result.error is not None:
        sys.stderr.write(f"{result.product}: error: {result.error}\n")
        if verbose and isinstance(result.error, InternalError):
            traceback.print_exception(result.error.__cause__)
    elif result.status == "skipped":
        sys.stdout.write(f"{result.output} (was there already)\n")
    else:
        shares = ", ".join(f"{name.lower()} {share:.1%}" for name, share in result.classes.items() if share)
        sys.stdout.write(f"{result.output} ({result.seconds:.1f} s; {shares})\n")
    sys.stdout.flush()
