"""``kappamask-stream run``."""

from __future__ import annotations

import typer

from kappamask_stream.cli import options as given
from kappamask_stream.cli.setting_flags import MASKING_FLAGS, NO_FLAGS, SettingFlags, takes_setting_flags
from kappamask_stream.cli.worker_options import TRITON_FLAGS


@takes_setting_flags(MASKING_FLAGS, TRITON_FLAGS)
def run(
    products: given.Products = None,
    products_file: given.ProductsFile = None,
    source: given.SourceOption = None,
    aoi: given.Aoi = None,
    allow_coarser: given.AllowCoarser = False,
    verify: given.Verify = False,
    model: given.Model = "kappamask",
    architecture: given.Architecture = None,
    precision: given.PrecisionOption = None,
    weights: given.Weights = None,
    radiometry: given.RadiometryOption = "corrected",
    mosaic: given.Mosaic = "crop",
    dilate: given.Dilate = None,
    flags: SettingFlags = NO_FLAGS,
    png: given.Png = False,
    probabilities: given.Probabilities = False,
    subtiles: given.Subtiles = False,
    stac: given.Stac = False,
    report: given.Report = False,
    overwrite: given.Overwrite = False,
    keep_server: given.KeepServer = False,
    fail_fast: given.FailFast = False,
    as_json: given.AsJson = False,
    verbose: given.Verbose = False,
) -> None:
    """Mask Sentinel-2 products: a Cloud Optimized GeoTIFF and a quicklook each.

    Writes OUTPUT/<product>/<level>_<tile>_<sensing time>_<KZ|CS>_<resolution>m.tif. A mask that is there already
    and was made in the same way is skipped, so a run that was interrupted goes on when it is started again.

    Example: kappamask-stream run S2A_MSIL2A_….SAFE --model csmask --output masks
             kappamask-stream run 'archive/*_T29UNU_*.zip' --concurrency 3 --fail-fast
             kappamask-stream run s3://bucket/products/S2A_MSIL2A_….SAFE/ --aoi field.geojson --stac
             kappamask-stream run S2A_MSIL2A_… --source cdse --s3-profile cdse
                 --output s3://bucket/masks --output-s3-profile default
             find archive -name '*.SAFE' | kappamask-stream run - --triton grpc://gpu:8001 --json
    """
    from kappamask_stream.aoi import parse_aoi
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.cli.masking import Masking, Telling, mask_and_report
    from kappamask_stream.cli.product_list import products_of
    from kappamask_stream.dilation import parse_dilation
    from kappamask_stream.extras import selected
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.runner import Order, exit_code
    from kappamask_stream.settings import load_settings

    settings = load_settings(**flags)
    given.require_radiometry(radiometry, model)
    order = Order(
        options=MaskOptions(
            radiometry=radiometry, mosaic=mosaic, compression=settings.compression, overwrite=overwrite,
            dilate=tuple(parse_dilation(text) for text in dilate or ()), aoi=None if aoi is None else parse_aoi(aoi),
        ),
        extras=selected(png=png, probabilities=probabilities, subtiles=subtiles, stac=stac, report=report),
        source=source, allow_coarser=allow_coarser, verify_checksums=verify,
    )  # fmt: skip
    wheres = products_of(products or (), products_file)
    if not wheres:
        typer.echo("no product to mask: the list is empty", err=True)
        return
    masking = Masking(
        wheres=wheres,
        choice=ModelChoice(model=model, architecture=architecture, precision=precision, weights=weights),
        settings=settings, order=order, keep_server=keep_server, fail_fast=fail_fast,
        telling=Telling(as_json=as_json, verbose=verbose),
    )  # fmt: skip
    raise typer.Exit(exit_code(run_command(mask_and_report(masking))))
