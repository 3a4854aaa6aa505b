"""From a load and measured figures to machines: exact fractions, and only what is provided is rounded, up."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from kappamask_stream.capacity.defaults import with_defaults
from kappamask_stream.capacity.load import Flow, Load, Processes, Resource
from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.capacity.figures import BenchFigures, Figure


@dataclass(frozen=True, kw_only=True)
class CapacityPlan:
    """What a load needs.

    Attributes
    ----------
    load, figures : what it was made from: `figures` without what was not used, with the defaults that stood in.
    tiles : that go to the server for one product.
    worker, server : the resources; the server's is GPUs or cores.
    workers : processes that the worker's cores are made of.
    servers : processes of a server without a GPU; None with one.
    flows : by name.
    """

    load: Load
    figures: BenchFigures
    tiles: Fraction
    worker: Resource
    server: Resource
    workers: Processes
    servers: Processes | None
    flows: Mapping[str, Flow]

    @property
    def enough_for(self) -> Fraction:
        """Products a day for which all of it would be enough."""
        return min(self.worker.enough_for, self.server.enough_for)

    @property
    def worker_cores_per_server(self) -> Fraction:
        """Workers' cores that keep one GPU (or server's core) busy."""
        return self.worker.seconds / self.server.seconds

    @property
    def worker_seconds(self) -> Fraction:
        """Seconds that a worker needs at least for one product: its CPU work on its cores."""
        return self.worker.seconds / self.workers.cores

    @property
    def catch_up_hours(self) -> Fraction | None:
        """Hours after which a day's products that have piled up are done, beside those that come; None: never."""
        spare = min(self.worker.most_per_s, self.server.most_per_s) - self.load.mean_per_s
        return None if spare <= 0 else 24 * self.load.mean_per_s / spare


def plan_capacity(figures: BenchFigures, load: Load) -> CapacityPlan:
    """Plan machines for a load.

    Raises
    ------
    InputError
        If the figures lack what is needed.
    """
    tiles_inferred = _needed(figures.tiles_inferred, "how many tiles of a product go to the server")
    share = _share(figures, load, tiles_inferred)
    figures = with_defaults(figures)
    client_cpu_s = _needed(figures.client_cpu_s, "the CPU seconds of the client for a product")
    cores = load.worker_cores or math.ceil(_needed(figures.client_cores, "the cores that the client had (or a flag)"))
    count = _count(load, client_cpu_s * share / cores)
    worker = Resource(name="worker_cores", seconds=client_cpu_s * share, provided=count * cores, load=load)
    server, servers = _server(figures, load, tiles_inferred * share, share)
    return CapacityPlan(
        load=load,
        figures=_without_unused(figures, server.name),
        tiles=tiles_inferred * share,
        worker=worker,
        server=server,
        workers=Processes(count=count, cores=cores, rss_bytes=_value(figures.client_rss_bytes)),
        servers=servers,
        flows=_flows(figures, load, tiles_inferred * share, share),
    )


def _server(figures: BenchFigures, load: Load, tiles: Fraction, share: Fraction) -> tuple[Resource, Processes | None]:
    if load.serve == "gpu" or (load.serve is None and figures.gpu_tiles_per_s is not None):
        seconds = tiles / _needed(figures.gpu_tiles_per_s, "the tiles a second of a GPU")
        return Resource(name="gpu", seconds=seconds, provided=_count(load, seconds), load=load), None
    seconds = share * _needed(figures.server_cpu_s, "what a server takes: tiles a second of a GPU, or CPU seconds")
    cores = math.ceil(_needed(figures.server_cores, "the cores that the server had"))
    count = _count(load, seconds / cores)
    processes = Processes(count=count, cores=cores, rss_bytes=_value(figures.server_rss_bytes))
    return Resource(name="server_cores", seconds=seconds, provided=count * cores, load=load), processes


def _without_unused(figures: BenchFigures, served_by: str) -> BenchFigures:
    if served_by == "gpu":
        return replace(figures, server_cpu_s=None, server_cores=None, server_rss_bytes=None)
    return replace(figures, gpu=None, gpu_tiles_per_s=None)


def _count(load: Load, seconds: Fraction) -> int:
    """Return how many are needed, at least one, of something that takes so long for a product."""
    return max(1, math.ceil(load.peak_per_s * seconds / load.utilisation))


def _share(figures: BenchFigures, load: Load, tiles_inferred: Fraction) -> Fraction:
    """Return how much more, or less, of a product holds data than of the measured one."""
    if load.data_share is None:
        return Fraction(1)
    tiles = _needed(figures.tiles, "how many tiles a product has, which another share with data is taken of")
    return load.data_share * tiles / tiles_inferred


def _flows(figures: BenchFigures, load: Load, tiles: Fraction, share: Fraction) -> dict[str, Flow]:
    per_product = {
        "bytes_read": _scaled(figures.bytes_read, share),
        "requests": _scaled(figures.requests, share),
        "bytes_to_server": _scaled(figures.request_bytes, tiles),
        "bytes_from_server": _scaled(figures.answer_bytes, tiles),
        "bytes_written": _value(figures.bytes_written),
    }
    return {
        name: Flow(name=name, per_product=value, load=load) for name, value in per_product.items() if value is not None
    }


def _scaled(figure: Figure | None, by: Fraction) -> Fraction | None:
    return None if figure is None else figure.value * by


def _value(figure: Figure | None) -> Fraction | None:
    return None if figure is None else figure.value


def _needed(figure: Figure | None, what: str) -> Fraction:
    if figure is None:
        raise InputError(
            f"no file says {what}: give one more with --bench (docs/capacity.md tells which file holds what)"
        )
    return figure.value
