"""Reports of benchmarks that nobody ran."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kappamask_stream.bench.types import (
    BenchReport,
    BenchSettings,
    ClientLevel,
    EndToEndLevel,
    Environment,
    Floor,
    GpuUse,
    Latency,
    ServerLevel,
    ServerPoint,
)

ENVIRONMENT = Environment(
    cpu="A processor",
    gpu=None,
    cores=8,
    memory_bytes=32_000_000_000,
    system="Linux 6.1 x86_64",
    versions={"kappamask-stream": "1.2.3", "python": "3.11.9", "server": "triton 2.51.0"},
    commit="0123456789abcdef0123456789abcdef01234567+",
    time="2026-11-26T12:00:00Z",
)


SETTINGS = BenchSettings(
    decoder="cpu",
    decode_threads=8,
    radiometry="corrected",
    rounds=1,
    duration_s=10.0,
    products_at_once=2,
    budget_bytes=469_762_048,
    concurrency=(1, 4, 32),
)


def point(concurrency: int = 32, tiles_per_s: float = 400.0, **changes: Any) -> ServerPoint:
    defaults: dict[str, Any] = {
        "concurrency": concurrency,
        "processes": 2,
        "seconds": 10.0,
        "tiles": round(10 * tiles_per_s),
        "latency": Latency(p50_s=0.04, p95_s=0.06, p99_s=0.08, mean_s=0.045),
        "batch_sizes": {1: 10, 8: 490},
        "queue_s": 0.01,
        "input_s": 0.001,
        "compute_s": 0.02,
        "output_s": 0.0005,
        "client_cpu_s": 5.0,
        "lag_p99_s": 0.002,
    }
    return ServerPoint(**(defaults | changes))


def server_level(*points: ServerPoint, **changes: Any) -> ServerLevel:
    defaults: dict[str, Any] = {
        "transport": "gRPC",
        "request_bytes": 4_000_000,
        "answer_bytes": 262_144,
        "points": points or (point(1, 90.0), point(4, 300.0), point(32, 400.0)),
    }
    return ServerLevel(**(defaults | changes))


def client_level(cpu_s: float = 80.0, **changes: Any) -> ClientLevel:
    defaults: dict[str, Any] = {
        "wall_s": 12.0,
        "cpu_s": cpu_s,
        "start_cpu_s": 0.9,
        "floor": Floor(wall_s=10.0, cpu_s=74.0, threads=8, codestream_tiles=989, megapixels=638.0),
        "lag_p50_s": 0.0002,
        "lag_p99_s": 0.004,
        "lag_max_s": 0.012,
        "peak_rss_bytes": 640_000_000,
        "budget_bytes": 469_762_048,
        "stages": {"index": 0.2, "read": 1.0, "decode": 74.0, "cut": 2.0, "infer": 3.0, "mosaic": 1.5, "close": 0.4},
        "tiles": 529,
        "tiles_inferred": 328,
        "bytes_read": 424_000_000,
        "bytes_written": 4_000_000,
    }
    return ClientLevel(**(defaults | changes))


def end_to_end_level(**changes: Any) -> EndToEndLevel:
    """Four products in 80 s on 8 cores: 20 s each, the cores half busy, the server a twentieth."""
    defaults: dict[str, Any] = {
        "products": 4,
        "products_at_once": 2,
        "wall_s": 80.0,
        "client_cpu_s": 320.0,
        "server_cpu_s": None,
        "cores": 8,
        "stages": {"index": 0.8, "read": 4.0, "decode": 296.0, "cut": 8.0, "infer": 90.0, "mosaic": 6.0, "close": 1.0},
        "write_s": 0.6,
        "tiles_inferred": 1312,
        "window": 32,
        "mean_in_flight": 3.0,
        "peak_rss_bytes": 900_000_000,
        "lag_p99_s": 0.006,
        "queue_s": 0.002,
        "compute_s": 0.02,
        "server_busy": 0.1,
        "batch_sizes": {1: 100, 2: 606},
    }
    return EndToEndLevel(**(defaults | changes))


def gpu(utilisation: float | None = 0.29, **changes: Any) -> GpuUse:
    defaults: dict[str, Any] = {"gpus": 1, "memory_bytes": 4e9, "power_w": 250.0, "energy_j": 2500.0}
    return GpuUse(utilisation=utilisation, **(defaults | changes))


def report(**changes: Any) -> BenchReport:
    """All levels, a server elsewhere, nothing near its limit."""
    defaults: dict[str, Any] = {
        "environment": ENVIRONMENT,
        "model": "kappamask_l2a_deeplabv3plus",
        "product": "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T161000",
        "product_tiles": 529,
        "product_tiles_inferred": 328,
        "local_server": False,
        "server": server_level(),
        "client": client_level(),
        "end_to_end": end_to_end_level(),
    }
    return BenchReport(**(defaults | changes))


def with_gpu(made: BenchReport, utilisation: float | None = 0.29) -> BenchReport:
    """The same with one GPU at the server, in all levels."""
    server, real = made.server, made.end_to_end
    return replace(
        made,
        server=server and replace(server, points=tuple(replace(p, gpu=gpu(0.97)) for p in server.points)),
        end_to_end=real and replace(real, gpu=gpu(utilisation)),
    )
