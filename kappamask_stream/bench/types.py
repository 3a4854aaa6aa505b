"""What a benchmark measures. Values only, no arithmetic beyond rates.

Three levels: **server** (tiles that lie ready, sent as fast as they are answered), **client** (products, with a network
that answers at once) and **end-to-end** (products, with the real network).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Level = Literal["server", "client", "end-to-end"]
LEVELS: tuple[Level, ...] = ("server", "client", "end-to-end")
Transport = Literal["gRPC", "shared memory"]
#: What stops more products an hour from being masked.
Limit = Literal["decode", "client", "network", "queue", "compute", "write", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles, and the mean, in seconds; None where that was not noted."""

    p50_s: float
    p95_s: float
    p99_s: float
    mean_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """One or several GPUs over an interval, as the server's metrics tell; None where they do not.

    Attributes
    ----------
    gpus : how many were used; 0 where the metrics do not tell of any that it was.
    gpus_named : how many the metrics name, used or not; None where that was not noted.
    utilisation : mean over interval and used GPUs, 0 to 1.
    memory_bytes : most used at once, all used GPUs together.
    power_w : mean, all used GPUs together.
    energy_j : over the interval, all used GPUs together: from their counter of joules, else from `power_w`.
    """

    gpus: int
    gpus_named: int | None = None
    utilisation: float | None = None
    memory_bytes: float | None = None
    power_w: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True, kw_only=True)
class ServerPoint:
    """The server under a closed loop: so many requests in flight, always.

    Attributes
    ----------
    concurrency : requests in flight, of all client processes together.
    processes : client processes that sent them.
    seconds : of the measured interval, from one answer to another; warm-up not counted.
    tiles : answered in it, that with which it begins not counted.
    latency : of one request, at the client.
    batch_sizes : batch size -> executions in the interval; None where the server does not tell.
    queue_s, input_s, compute_s, output_s : of a request, mean, by the statistics extension: waiting for its batch, then
        moved in, computed, moved out; None where the server does not tell.
    untold : why not, in words: one of them is that other clients used the model meanwhile.
    client_cpu_s : CPU seconds of all client processes in the interval.
    lag_p99_s : of the event loop of the client process that lagged most.
    gpu : None without one, or where there are no metrics.
    """

    concurrency: int
    processes: int
    seconds: float
    tiles: int
    latency: Latency
    batch_sizes: Mapping[int, int] | None = None
    queue_s: float | None = None
    input_s: float | None = None
    compute_s: float | None = None
    output_s: float | None = None
    untold: str | None = None
    client_cpu_s: float = 0.0
    lag_p99_s: float | None = None
    gpu: GpuUse | None = None

    @property
    def tiles_per_s(self) -> float:
        """Tiles answered a second."""
        return self.tiles / self.seconds


@dataclass(frozen=True, kw_only=True)
class ServerLevel:
    """The server alone.

    Attributes
    ----------
    transport : how tensors travelled.
    request_bytes, answer_bytes : of one tile.
    points : one per concurrency, ascending.
    failures : error texts, each once, of requests that failed (they are not counted as tiles).
    broken_off : why not all of the numbers of requests in flight that were asked for have been measured, in words: no
        point is known to be the server's best then. None where all were.
    """

    transport: Transport
    request_bytes: int
    answer_bytes: int
    points: Sequence[ServerPoint]
    failures: Sequence[str] = ()
    broken_off: str | None = None

    @property
    def best(self) -> ServerPoint:
        """The point with most tiles a second, of those that were measured (see `broken_off`)."""
        return max(self.points, key=lambda point: point.tiles_per_s)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What decoding each codestream tile that is needed once costs, with nothing else.

    Attributes
    ----------
    wall_s, cpu_s : with `threads` threads.
    codestream_tiles : decoded.
    megapixels : decoded, in millions.
    """

    wall_s: float
    cpu_s: float
    threads: int
    codestream_tiles: int
    megapixels: float


@dataclass(frozen=True, kw_only=True)
class ClientLevel:
    """The client alone, one product in a process of its own, with a network that answers at once.

    Attributes
    ----------
    wall_s, cpu_s : from the start of the process to its end.
    start_cpu_s : CPU seconds of it before the product was begun: the interpreter and imports, once a process.
    floor : measured in the same run.
    lag_p50_s, lag_p99_s, lag_max_s : of the event loop while the product was in work.
    peak_rss_bytes : of the process; None where the system does not tell.
    stages : seconds busy per stage, summed over threads (`ProductResult.stages`).
    tiles, tiles_inferred : of the grid; that hold data.
    bytes_read, bytes_written : of the product; of all its files.
    requests : to an object store; None for a product on disk.
    """

    wall_s: float
    cpu_s: float
    start_cpu_s: float
    floor: Floor
    lag_p50_s: float
    lag_p99_s: float
    lag_max_s: float
    peak_rss_bytes: int | None
    budget_bytes: int
    stages: Mapping[str, float]
    tiles: int
    tiles_inferred: int
    bytes_read: int
    bytes_written: int
    requests: int | None = None

    @property
    def cpu_to_floor(self) -> float:
        """CPU seconds of the client by those of the floor."""
        return self.cpu_s / self.floor.cpu_s

    @property
    def megapixels_per_s(self) -> float:
        """Decoded pixels a second of wall time, in millions."""
        return self.floor.megapixels / self.wall_s


@dataclass(frozen=True, kw_only=True)
class EndToEndLevel:
    """Products through the real network, in one client process, with the server's warm-up over.

    Attributes
    ----------
    products : masked; one product several times where `bench` was given one.
    products_at_once : in work at the same time.
    wall_s : from the first one's beginning to the last one's end.
    client_cpu_s, server_cpu_s : for all; of the server only where it runs on this machine.
    cores : that the client could use.
    stages : seconds busy per stage, summed over threads and products.
    write_s : of the wall time, from last answers to closed files, summed over products.
    tiles_inferred : of all products.
    window : most requests in flight.
    mean_in_flight : requests in flight, mean over the time in which any was.
    peak_rss_bytes : of the client process; None where the system does not tell.
    queue_s, compute_s : of a request, mean, by the statistics extension; None where the server does not tell.
    untold : why not, in words: one of them is that other clients used the model meanwhile.
    server_busy : share of the wall time in which the server computed, of all instances together: 1, and a batch's time
        more at most; None where unknown.
    batch_sizes : batch size -> executions; None where unknown.
    gpu : None without one, or where there are no metrics.
    """

    products: int
    products_at_once: int
    wall_s: float
    client_cpu_s: float
    server_cpu_s: float | None
    cores: int
    stages: Mapping[str, float]
    write_s: float
    tiles_inferred: int
    window: int
    mean_in_flight: float
    peak_rss_bytes: int | None
    lag_p99_s: float
    queue_s: float | None = None
    compute_s: float | None = None
    server_busy: float | None = None
    batch_sizes: Mapping[int, int] | None = None
    untold: str | None = None
    gpu: GpuUse | None = None

    @property
    def products_per_hour(self) -> float:
        """Products an hour, if it went on like this."""
        return 3600 * self.products / self.wall_s


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where and with what it was measured; nothing that names a machine, a person or a place.

    Attributes
    ----------
    cpu, gpu : names of the processor and of the server's GPU; None where unknown.
    cores : that this process may use.
    memory_bytes : of the machine; None where unknown.
    system : kernel and architecture, e.g. ``Linux 6.1 x86_64``.
    versions : name -> version of what decides the figures (this package, Python, numpy, imagecodecs, tritonclient, the
        server).
    commit : of this package, with ``+`` where the tree is not as committed; None outside a checkout.
    time : when the measurement began, UTC, RFC 3339.
    """

    cpu: str | None
    gpu: str | None
    cores: int
    memory_bytes: int | None
    system: str
    versions: Mapping[str, str]
    commit: str | None
    time: str


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """With what it was measured: figures of two runs say the same only where these are equal.

    Attributes
    ----------
    decoder : ``cpu`` or ``gpu``: what decodes JPEG 2000.
    decode_threads : of the client.
    radiometry : as the mask's options name it.
    rounds : of the client level.
    duration_s : of a server's point, and of the end-to-end level at least.
    products_at_once : in work at the same time, in the end-to-end level.
    budget_bytes : of memory, for the client.
    max_in_flight : requests in flight at most that was asked for; None: what the model says is best.
    concurrency : requests in flight of the server's points that were asked for; empty where the level was left out.
    """

    decoder: str
    decode_threads: int
    radiometry: str
    rounds: int
    duration_s: float
    products_at_once: int
    budget_bytes: int
    max_in_flight: int | None = None
    concurrency: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What limits, in words.

    Attributes
    ----------
    limit : the first thing that would have to grow.
    text : one to three sentences: what limits, by how much, what would help.
    """

    limit: Limit
    text: str


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """All of one run of `bench`.

    Attributes
    ----------
    model : name of the served model.
    product : name of the product.
    product_tiles, product_tiles_inferred : of its grid; that hold data.
    local_server : True where the server runs on this machine: both share its cores.
    settings : with what it was measured; None where that was not noted.
    """

    environment: Environment
    model: str
    product: str
    product_tiles: int
    product_tiles_inferred: int
    local_server: bool
    server: ServerLevel | None = None
    client: ClientLevel | None = None
    end_to_end: EndToEndLevel | None = None
    verdict: Verdict | None = None
    notes: Sequence[str] = field(default=())
    settings: BenchSettings | None = None
