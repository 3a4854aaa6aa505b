"""``kappamask-stream km-predict``: km_predict's command line on this program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.aoi import AreaOfInterest
    from kappamask_stream.cli.masking import Masking
    from kappamask_stream.extras import Extra
    from kappamask_stream.km_predict import KmJob
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.settings import Settings

_KM_PREDICT = "km_predict's own"
_NEW = "New here"
_LOUD = 2


def km_predict(
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="FILE", help="Configuration, JSON.", rich_help_panel=_KM_PREDICT),
    ] = None,
    product: Annotated[
        str | None,
        typer.Option(
            "-product", "--product", metavar="NAME", help="Instead of product_name.", rich_help_panel=_KM_PREDICT
        ),
    ] = None,
    no_tiling: Annotated[
        bool, typer.Option("-t", "--no-tiling", help="No longer applies.", rich_help_panel=_KM_PREDICT)
    ] = False,
    use_cpu: Annotated[
        bool, typer.Option("-cpu", "--use-cpu", help="No longer applies.", rich_help_panel=_KM_PREDICT)
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "-f",
            "--force-predict",
            "--overwrite",
            help="Replace a mask that was made in another way, such as by km_predict.",
            rich_help_panel=_KM_PREDICT,
        ),
    ] = False,
    verbosity: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbosity",
            min=0,
            max=2,
            help="0: results and failures, 1: progress, 2: retries, too.",
            rich_help_panel=_KM_PREDICT,
        ),
    ] = 1,
    log_file: Annotated[
        Path | None,
        typer.Option("-l", "--log-file", metavar="FILE", help="Append to a log, too.", rich_help_panel=_KM_PREDICT),
    ] = None,
    tiling_output: Annotated[
        str | None,
        typer.Option("-O", "--tiling-output", help="No longer applies.", rich_help_panel=_KM_PREDICT),
    ] = None,
    geometry: Annotated[
        str | None,
        typer.Option("-g", "--geom", metavar="EWKT", help="Instead of aoi_geometry.", rich_help_panel=_KM_PREDICT),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the masks. [default: as KAPPAMASK_OUTPUT says, else prediction]",
            rich_help_panel=_NEW,
        ),
    ] = None,
    radiometry: Annotated[
        Literal["km_predict", "corrected"],
        typer.Option(help="corrected respects the offsets of products since 2022.", rich_help_panel=_NEW),
    ] = "km_predict",
    subtiles: Annotated[
        bool, typer.Option(help="Each tile's own mask, as km_predict leaves them.", rich_help_panel=_NEW)
    ] = True,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="The probabilities, in one GeoTIFF instead of predict_<CLASS>.png per tile.",
            rich_help_panel=_NEW,
        ),
    ] = False,
    triton: Annotated[
        str | None,
        typer.Option(help="grpc://HOST:PORT of a Triton. [default: one on this machine]", rich_help_panel=_NEW),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of words.", rich_help_panel=_NEW)
    ] = False,
) -> None:
    """Run a configuration of km_predict: the same product, network and arithmetic, results where it wrote them.

    Reads FOLDER_NAME/PRODUCT_NAME.SAFE (or .zip) and writes prediction/PRODUCT_NAME/…_KZ_10m.tif and .png, and each
    tile's masks below. Weights are taken from weights/, as km_predict kept them, or those that `models fetch` has
    brought. Keys and flags that no longer apply are named on stderr, each with the reason; docs/migration.md has
    them all.

    Example: kappamask-stream km-predict -c config/config.json -product S2A_MSIL2A_… -f
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.cli.km_log import KmLog
    from kappamask_stream.cli.masking import Telling, mask_and_report
    from kappamask_stream.errors import UsageError
    from kappamask_stream.extras import selected
    from kappamask_stream.km_predict import KmFlags, parse_config, translate
    from kappamask_stream.runner import exit_code
    from kappamask_stream.settings import load_settings

    if config is None:
        raise UsageError("-c FILE is missing: the configuration of km_predict")
    flags = KmFlags(
        no_tiling=no_tiling, force=force, geometry=geometry, tiling_output=tiling_output, use_cpu=use_cpu
    )  # fmt: skip
    with KmLog(log_file) as log:
        job = translate(parse_config(_text_of(config), where=str(config), product=product), flags)
        settings = load_settings(output=output, triton=triton)
        if "output" not in settings.model_fields_set:
            settings = settings.model_copy(update={"output": Path(job.output)})
        also = selected(png=True, subtiles=subtiles, probabilities=probabilities)
        masking = masking_of(job, settings, radiometry=radiometry, also=also)
        for note in job.notes:
            log.say(f"km_predict's {note}")
        telling = Telling(as_json=as_json, quiet=not verbosity, verbose=verbosity >= _LOUD, also=log.write)
        results = run_command(mask_and_report(replace(masking, telling=telling)))
    raise typer.Exit(exit_code(results))


def _text_of(config: Path) -> str:
    from kappamask_stream.errors import UsageError

    try:
        return config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the configuration {config} cannot be read: {error}") from error


def masking_of(
    job: KmJob, settings: Settings, *, radiometry: Radiometry = "km_predict", also: Sequence[Callable[[], Extra]] = ()
) -> Masking:
    """Turn a translated job into what is masked: looks which product and which weights are there."""
    from kappamask_stream.cli.masking import Masking
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.runner import Order

    weights = Path(job.weights)
    is_used = settings.triton is None and weights.is_file()
    return Masking(
        wheres=[next((place for place in job.places if Path(place).exists()), job.places[0])],
        choice=ModelChoice(
            architecture=job.architecture,
            weights=weights if is_used else None,
            levels=(job.level,),
            remedy=f"or put km_predict's own file at {job.weights}",
        ),
        settings=settings,
        order=Order(
            options=MaskOptions(
                radiometry=radiometry,
                compression=settings.compression,
                overwrite=job.overwrite,
                aoi=None if job.aoi is None else _area(job.aoi),
            ),
            extras=also,
        ),
    )


def _area(text: str) -> AreaOfInterest:
    from kappamask_stream.aoi import parse_aoi
    from kappamask_stream.errors import UsageError

    try:
        return parse_aoi(text)
    except UsageError as error:
        raise UsageError(f"the area of interest (-g, or aoi_geometry in the configuration): {error}") from error
