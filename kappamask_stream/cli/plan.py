"""``kappamask-stream plan``."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import typer

LOAD = "The load"
MACHINES = "Machines"
PRICES = "Prices, in one currency; what has none is left out of the sum"


def plan(
    bench: Annotated[
        list[Path],
        typer.Option(
            "--bench",
            metavar="FILE",
            help="Measured figures (JSON); several files of one network complete one another, the first that has a "
            "figure counts.",
            rich_help_panel=LOAD,
        ),
    ],
    products_per_day: Annotated[
        float, typer.Option(help="Products a day, on average; 15000 is all of Sentinel-2's L2A.", rich_help_panel=LOAD)
    ] = 15_000,
    peak_factor: Annotated[
        float,
        typer.Option(
            help="The busiest hours bring so many times the average: products come in bursts, a satellite's downlink "
            "at a time. An assumption, look at your queue.",
            rich_help_panel=LOAD,
        ),
    ] = 2.0,
    data_share: Annotated[
        float | None,
        typer.Option(
            help="Share of a product's tiles that hold data, 0 to 1; work grows with it. [default: as measured]",
            rich_help_panel=LOAD,
        ),
    ] = None,
    utilisation: Annotated[
        float,
        typer.Option(
            help="How busy machines may be in the busiest hours, 0 to 1: the nearer to 1, the longer products wait.",
            rich_help_panel=MACHINES,
        ),
    ] = 0.8,
    serve: Annotated[
        Literal["gpu", "cpu"] | None,
        typer.Option(
            help="What the network runs on. [default: gpu, where a file has a figure]", rich_help_panel=MACHINES
        ),
    ] = None,
    worker_cores: Annotated[
        int | None,
        typer.Option(min=1, help="Cores of one worker. [default: as measured]", rich_help_panel=MACHINES),
    ] = None,
    shared_memory: Annotated[
        bool,
        typer.Option(
            "--shared-memory",
            help="Workers are on the GPU's machine: take its rate over shared memory, not over the network.",
            rich_help_panel=MACHINES,
        ),
    ] = False,
    keep_days: Annotated[
        int, typer.Option(min=1, help="Days for which masks are kept; for --price-gb-month.", rich_help_panel=PRICES)
    ] = 365,
    price_gpu_hour: Annotated[
        float | None, typer.Option(help="Of one GPU with its machine.", rich_help_panel=PRICES)
    ] = None,
    price_core_hour: Annotated[
        float | None, typer.Option(help="Of one core with its memory.", rich_help_panel=PRICES)
    ] = None,
    price_gb_in: Annotated[
        float | None,
        typer.Option(help="Of 10^9 bytes read: requester pays, another region.", rich_help_panel=PRICES),
    ] = None,
    price_gb_egress: Annotated[
        float | None, typer.Option(help="Of 10^9 bytes of masks that leave.", rich_help_panel=PRICES)
    ] = None,
    price_gb_month: Annotated[
        float | None, typer.Option(help="Of 10^9 bytes kept for a month.", rich_help_panel=PRICES)
    ] = None,
    price_thousand_requests: Annotated[
        float | None, typer.Option(help="Of 1000 requests to the products' store.", rich_help_panel=PRICES)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing rounded.")] = False,
) -> None:
    """Plan machines for a load: GPUs, cores, memory, bandwidth and cost, from measured figures.

    Every number comes from FILE, from an option, or from a default that is named; nothing is known of machines that
    nobody measured. Figures of other machines than yours scale with theirs: measure on yours. Machines are rounded up
    to whole ones, nothing else is.

    Example: kappamask-stream plan --products-per-day 15000 --bench run.json --bench gpu.json --price-core-hour 0.05
    """
    from kappamask_stream.capacity import Load, Prices, cost_of, joined, plan_capacity, read_bench
    from kappamask_stream.cli.plan_page import document, page

    load = Load(
        products_per_day=_exactly(products_per_day),
        peak_factor=_exactly(peak_factor),
        utilisation=_exactly(utilisation),
        data_share=None if data_share is None else _exactly(data_share),
        serve=serve,
        worker_cores=worker_cores,
    )
    planned = plan_capacity(joined([read_bench(path, shared_memory=shared_memory) for path in bench]), load)
    given = {
        "gpu_hour": price_gpu_hour,
        "core_hour": price_core_hour,
        "gb_in": price_gb_in,
        "gb_egress": price_gb_egress,
        "gb_month": price_gb_month,
        "thousand_requests": price_thousand_requests,
    }
    prices = Prices(**{name: None if price is None else _exactly(price) for name, price in given.items()})
    cost = cost_of(planned, prices, keep_days=keep_days)
    typer.echo(json.dumps(document(planned, cost)) if as_json else page(planned, cost))


def _exactly(number: float) -> Fraction:
    """Take a number as it was typed: 0.1 is a tenth.

    Raises
    ------
    UsageError
        If it is infinite, or no number.
    """
    from kappamask_stream.errors import UsageError

    try:
        return Fraction(repr(number))
    except ValueError as error:  # inf, nan
        raise UsageError(f"{number} was given, a number is needed") from error
