"""``kappamask-stream worker``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kappamask_stream.cli import options as given
from kappamask_stream.cli import worker_options as own
from kappamask_stream.cli.feed_options import FILTER_FLAGS, split_filter
from kappamask_stream.cli.queue_options import QUEUE_FLAGS
from kappamask_stream.cli.setting_flags import MASKING_FLAGS, NO_FLAGS, SettingFlags, takes_setting_flags

if TYPE_CHECKING:
    import signal

    from kappamask_stream.settings import Settings
    from kappamask_stream.worker.service import Service


@takes_setting_flags(QUEUE_FLAGS, FILTER_FLAGS, own.WORKER_FLAGS, MASKING_FLAGS, own.TRITON_FLAGS)
def worker(
    flags: SettingFlags = NO_FLAGS,
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
    png: given.Png = False,
    probabilities: given.Probabilities = False,
    subtiles: given.Subtiles = False,
    report: given.Report = False,
    keep_server: given.KeepServer = False,
    until_empty: own.UntilEmpty = False,
    max_messages: own.MaxMessages = None,
) -> None:
    """Mask the products that messages of a queue ask for, day and night.

    Understands notifications of Amazon's Sentinel-2 topics, S3 events, STAC Items of Earth Search, the Copernicus Data
    Space, bare product names, and what `submit` sends. Writes OUTPUT/<model>_<way>/<product>/ with a STAC Item. A
    message is deleted when its masks are there; one that can never be done goes to the dead-letter queue with the
    reason; all others come back. Any number of workers may share a queue.

    On SIGTERM, SIGINT or a spot notice it finishes what fits the grace period, gives back the rest and exits 0; once
    more, and it gives everything back at once.

    Example: kappamask-stream worker --queue https://sqs.eu-central-1.amazonaws.com/123456789012/products
                 --output s3://bucket/masks --triton dns:///triton:8001 --level L2A --tile '35V*'
             kappamask-stream worker --queue https://sqs.…/backfill --source cdse --s3-profile cdse
                 --output /data/masks --model csmask --concurrency 4 --until-empty
             kappamask-stream worker --allow default,s3://my-products --emit arn:aws:sns:…:masks
                 --listen 0.0.0.0:9108 --log-format json
    """
    from kappamask_stream.aoi import parse_aoi
    from kappamask_stream.dilation import parse_dilation
    from kappamask_stream.extras import selected
    from kappamask_stream.feed.within import WithinArea
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.runner import Order
    from kappamask_stream.settings import load_settings
    from kappamask_stream.worker.service import Service

    wanted, flags = split_filter(flags)
    settings = load_settings(**flags)
    _require_one_process(settings)
    area = None if aoi is None else parse_aoi(aoi)
    if area is not None:
        wanted = replace(wanted, masked=WithinArea(area))
    given.require_radiometry(radiometry, model)
    order = Order(
        options=MaskOptions(
            radiometry=radiometry, mosaic=mosaic, compression=settings.compression,
            dilate=tuple(parse_dilation(text) for text in dilate or ()), aoi=area,
        ),
        extras=selected(png=png, probabilities=probabilities, subtiles=subtiles, report=report, stac=True),
        source=source, allow_coarser=allow_coarser, verify_checksums=verify,
    )  # fmt: skip
    choice = ModelChoice(model=model, architecture=architecture, precision=precision, weights=weights)
    _serve(
        Service(
            settings=settings, choice=choice, order=order, wanted=wanted, keep_server=keep_server,
            max_messages=max_messages, until_empty=until_empty,
        )
    )  # fmt: skip


def _require_one_process(settings: Settings) -> None:
    """Refuse what is `run`'s: workers are stateless, so several of them are several processes already.

    Raises
    ------
    UsageError
        With the remedy.
    """
    from kappamask_stream.errors import UsageError

    if settings.processes > 1:
        raise UsageError(
            f"--processes {settings.processes} (setting `processes`) is for `run`; a worker is one process: start "
            f"{settings.processes} of them on the same queue (in Kubernetes: replicas), and leave it at 1"
        )


def _serve(service: Service) -> None:
    """Run a worker whose first signal drains it, and whose second one gives everything back at once."""
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.monitor import configure_log
    from kappamask_stream.worker.service import serve
    from kappamask_stream.worker.stop import Stop

    settings: Settings = service.settings
    stop = Stop()

    def drain(number: signal.Signals) -> None:
        stop.ask(number.name, grace_s=settings.grace_s)

    def give_all_back(number: signal.Signals) -> None:
        stop.insist(f"{number.name} once more")

    configure_log(settings.log_format)
    run_command(serve(service, stop), gently=(drain, give_all_back))
