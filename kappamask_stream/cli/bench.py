"""``kappamask-stream bench``: a group that measures where no command of it is named."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kappamask_stream.cli import options as given
from kappamask_stream.cli.bench_compare import compare
from kappamask_stream.cli.bench_group import BenchGroup
from kappamask_stream.cli.setting_flags import MASKING_FLAGS, NO_FLAGS, SettingFlags, takes_setting_flags
from kappamask_stream.cli.worker_options import TRITON_FLAGS

if TYPE_CHECKING:
    from kappamask_stream.bench.types import Level

MEASURED = "What is measured"
_ALL_LEVELS = "server,client,end-to-end"
_MOST_IN_FLIGHT = 4096
_LONGEST_S = 86_400

#: Those of `run` that tell how a product is read and sent. What is written is thrown away; `--concurrency` is another
#: thing here, and there is one client process end to end.
_LEFT_OUT = {
    "output",
    "compression",
    "products_at_once",
    "processes",
    "output_s3_endpoint",
    "output_s3_region",
    "output_s3_profile",
}
_FLAGS = {name: option for name, option in MASKING_FLAGS.items() if name not in _LEFT_OUT} | {
    "products_at_once": Annotated[
        int | None,
        typer.Option(
            "--products-at-once",
            min=1,
            help="Products in work at once, end to end; --concurrency of `run`. [default: 2]",
            rich_help_panel=given.SERVER,
        ),
    ],
    "triton_metrics": Annotated[
        str | None,
        typer.Option(
            "--triton-metrics",
            metavar="URL",
            help="Metrics of the server at --triton, http://HOST:8002/metrics: its GPU's utilisation, memory, power, "
            "energy. [default: the local server's own]",
            rich_help_panel=given.SERVER,
        ),
    ],
}

Product = Annotated[
    str,
    typer.Option(
        "--product",
        metavar="SAFE|synthetic",
        help="Product to measure with, any that `run` takes; synthetic: a small one, made once (half a minute) and "
        "kept in the cache folder.",
        rich_help_panel=given.WHICH,
    ),
]
Size = Annotated[
    int,
    typer.Option(
        "--size",
        help="Height and width of the synthetic product in 10 m pixels; a real one has 10980, and is what figures for "
        "`plan` should come from.",
        rich_help_panel=given.WHICH,
    ),
]
ProductLevel = Annotated[
    Literal["L2A", "L1C"] | None,
    typer.Option(
        "--level",
        help="Of the synthetic product. [default: the one in the model's name, else L2A]",
        rich_help_panel=given.WHICH,
    ),
]
LevelsOption = Annotated[
    str,
    typer.Option(
        "--levels",
        metavar="LEVEL[,…]",
        help="server: tiles that lie ready; client: a product, with a network that answers at once; end-to-end: "
        "products through the real network. Each needs a server: it tells what the model's tiles are.",
        rich_help_panel=MEASURED,
    ),
]
ConcurrencyOption = Annotated[
    str | None,
    typer.Option(
        "--concurrency",
        metavar="N[,…]",
        help="Requests in flight at the server's level, a point each, e.g. 1,2,4,8. [default: doubled, up to 4 batches "
        "per instance of the model]",
        rich_help_panel=MEASURED,
    ),
]
Duration = Annotated[
    float,
    typer.Option(
        "--duration",
        metavar="SECONDS",
        help="Of each point, and of products end to end at least. Longer is steadier.",
        rich_help_panel=MEASURED,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        "--rounds", min=1, help="Of the client and its floor, in turns; the best counts.", rich_help_panel=MEASURED
    ),
]
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also a JSON file: for `bench compare` and `plan --bench`; - prints it in place of the page.",
        rich_help_panel=given.TELLING,
    ),
]
PlotFile = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Also a picture of the curves: FILE.png, .svg or .pdf. Needs matplotlib: pip install "
        "'kappamask-stream[plot]'.",
        rich_help_panel=given.TELLING,
    ),
]
PerfAnalyzer = Annotated[
    Path | None,
    typer.Option(
        "--perf-analyzer",
        metavar="FILE",
        help="Also the tiles as NVIDIA's perf_analyzer reads them, and the command with which it measures the same.",
        rich_help_panel=given.TELLING,
    ),
]

app = typer.Typer(invoke_without_command=True, cls=BenchGroup)
app.command("compare")(compare)


@app.callback()
@takes_setting_flags(_FLAGS, TRITON_FLAGS)
def bench(
    context: typer.Context,
    product: Product = "synthetic",
    size: Size = 2304,
    level: ProductLevel = None,
    model: given.Model = "kappamask",
    architecture: given.Architecture = None,
    precision: given.PrecisionOption = None,
    weights: given.Weights = None,
    radiometry: given.RadiometryOption = "corrected",
    levels: LevelsOption = _ALL_LEVELS,
    concurrency: ConcurrencyOption = None,
    duration: Duration = 5.0,
    rounds: Rounds = 1,
    flags: SettingFlags = NO_FLAGS,
    keep_server: given.KeepServer = False,
    json_file: JsonFile = None,
    plot: PlotFile = None,
    perf_analyzer: PerfAnalyzer = None,
) -> None:
    """Measure how many products an hour a server and this client do, and say what limits them.

    Three levels: the server alone, the client alone, both together; each beside its floor. The last line is the
    verdict: what limits, by how much, and what would help. Ratios carry over to other machines, times do not.

    Example: kappamask-stream bench --model csmask
             kappamask-stream bench --triton grpc://gpu:8001 --triton-metrics http://gpu:8002/metrics
                 --product S2A_MSIL2A_….SAFE --json gpu.json --plot gpu.png
             kappamask-stream bench --levels server --concurrency 1,8,64 --duration 20 --model csmask
             kappamask-stream bench compare before.json after.json
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    from kappamask_stream.bench.running import Bench
    from kappamask_stream.bench.synthetic import SYNTHETIC
    from kappamask_stream.cli.bench_outputs import Outputs
    from kappamask_stream.cli.bench_running import made_product, measure_and_report, require_servable
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.settings import load_settings

    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    given.require_radiometry(radiometry, model)
    settings = load_settings(**flags)
    outputs = Outputs.of(json_file=json_file, plot=plot, perf_analyzer=perf_analyzer)
    choice = ModelChoice(model=model, architecture=architecture, precision=precision, weights=weights)
    wanted, points = _levels(levels), _concurrency(concurrency)
    _require_time(duration)
    outputs.require()
    is_synthetic = product == SYNTHETIC
    product_level = level or _level_of(model) if is_synthetic else _level_in(product)
    require_servable(choice, settings, product_level)
    order = Bench(
        product=str(made_product(product_level or "L2A", size)) if is_synthetic else product,
        levels=wanted, choice=choice, settings=settings, radiometry=radiometry, concurrency=points,
        duration_s=duration, rounds=rounds, is_synthetic=is_synthetic, keep_server=keep_server,
        load_before=load_before, perf_analyzer=outputs.perf_analyzer_target,
    )  # fmt: skip
    run_command(measure_and_report(order, outputs))


def _refuse_options(context: typer.Context) -> None:
    """Refuse options of measuring before a command that does not measure: they would have no effect.

    Raises
    ------
    UsageError
        Naming the first.
    """
    from kappamask_stream.errors import UsageError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"{parameter.opts[0]} is an option of measuring, which `bench {context.invoked_subcommand}` does not "
                "do: its own options come after its name"
            )


def _levels(text: str) -> tuple[Level, ...]:
    from kappamask_stream.bench.types import LEVELS
    from kappamask_stream.errors import UsageError

    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in LEVELS]
    if unknown or not words:
        raise UsageError(f"--levels {text!r}: give one or more of {', '.join(LEVELS)}, divided by commas")
    return tuple(level for level in LEVELS if level in words)


def _concurrency(text: str | None) -> tuple[int, ...] | None:
    from kappamask_stream.errors import UsageError

    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= _MOST_IN_FLIGHT for word in words):
        raise UsageError(
            f"--concurrency {text!r}: give numbers of requests in flight, 1 to {_MOST_IN_FLIGHT}, divided by commas, "
            "e.g. 1,2,4,8"
        )
    return tuple(sorted({int(word) for word in words}))


def _require_time(duration_s: float) -> None:
    from kappamask_stream.errors import UsageError

    if not 0 < duration_s <= _LONGEST_S:
        raise UsageError(f"--duration {duration_s:g}: give more than 0 and at most {_LONGEST_S} seconds")


def _level_of(model: str) -> Literal["L1C", "L2A"]:
    return "L1C" if "_l1c" in model.lower() else "L2A"


def _level_in(product: str) -> Literal["L1C", "L2A"] | None:
    """Take the level out of a product's name; None where it does not tell."""
    found = re.search(r"_MSI(L1C|L2A)_", product)
    return None if found is None else ("L1C" if found[1] == "L1C" else "L2A")
