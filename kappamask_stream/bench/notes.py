"""What must be known of a report lest too much is concluded from it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.bench.facts import Facts
from kappamask_stream.bench.wording import counted, duration, number, percent
from kappamask_stream.grid import TileGrid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kappamask_stream.bench.running import Bench
    from kappamask_stream.bench.types import BenchReport, ServerPoint
    from kappamask_stream.contract import ModelContract

#: Height and width of a Sentinel-2 product, metres.
_FULL_M = 109_800
#: Share of the cores that others may want before it is worth a word.
_LOADED = 0.3
#: A client process at this share of a core, or with a loop as late as this, may have been the limit itself.
_BUSY_CLIENT, _LATE_S = 0.8, 0.020


def notes_on(report: BenchReport, bench: Bench, contract: ModelContract, *, has_metrics: bool) -> tuple[str, ...]:
    """Return what people should know, in the order of its weight.

    Parameters
    ----------
    has_metrics : True where the server's metrics were asked for.
    """
    return tuple(_notes(report, bench, contract, has_metrics=has_metrics))


def _notes(report: BenchReport, bench: Bench, contract: ModelContract, *, has_metrics: bool) -> Iterator[str]:
    cores = report.environment.cores
    if bench.load_before is not None and bench.load_before >= _LOADED * cores:
        yield (
            f"the machine was not quiet: {number(bench.load_before)} processes wanted its {counted(cores, 'core')} "
            "before this began; every rate is too low, CPU seconds and memory hold"
        )
    side = _FULL_M // contract.gsd_m
    full = len(TileGrid.of(contract, side, side))
    if report.product_tiles < full:
        kind = "a synthetic product" if bench.is_synthetic else "a product"
        tiles = f"{counted(report.product_tiles, 'tile')}, a full one has {number(full)}"
        yield (
            f"measured with {kind} of {tiles}: starting and ending weigh more here, and `plan` would plan for products "
            "like this one; for both give a full product with --product"
        )
    if report.product_tiles_inferred == 0:
        yield "how many tiles of the product hold data was not measured: the client's level tells"
    if bench.settings.triton is not None and report.local_server:
        yield "the server's address is one of this machine: it is taken to run here and to share its cores"
    if not has_metrics:
        yield "no metrics of the server were named (--triton-metrics): of its GPU, if it has one, nothing is known"
    yield from _on_sweep(report)
    level, best = report.server, Facts(report=report).best
    if level is not None and best is not None:
        yield from _on_load(best)
        if level.transport == "shared memory" and Facts(report=report).has_gpu:
            yield (
                "the server's rate is over shared memory: `plan --shared-memory` takes it; for workers on other "
                "machines measure with --shared-memory off"
            )


def _on_sweep(report: BenchReport) -> Iterator[str]:
    """Say where the server's points do not tell what it can."""
    facts, level, real = Facts(report=report), report.server, report.end_to_end
    if level is None or not level.points:
        return
    most = level.points[-1].concurrency
    if level.broken_off is not None:
        yield (
            f"what the server can do is unknown, its level broke off after {number(most)} in flight: nothing is "
            "compared with its points"
        )
    elif not facts.is_saturated:
        known = "" if real is None else f" and products end to end may have {number(real.window)}"
        yield (
            f"the server had at most {number(most)} in flight, where its rate still grew{known}: what it can do is "
            "unknown; measure it with more (--concurrency)"
        )


def _on_load(best: ServerPoint) -> Iterator[str]:
    """Doubt the server's rate where those who sent may have been slower."""
    busy = best.client_cpu_s / (best.seconds * best.processes)
    late = best.lag_p99_s or 0.0
    if busy >= _BUSY_CLIENT or late >= _LATE_S:
        yield (
            f"at the server's best, {counted(best.processes, 'client process', 'client processes')} used "
            f"{percent(busy)} of a core each and were {duration(late)} late (p99): the server may be capable of more"
        )
