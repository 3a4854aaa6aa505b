"""The ceilings of this GPU: matrix products, memory, copies to and from the host. Random data, medians."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from material import write

if TYPE_CHECKING:
    from collections.abc import Callable

_SIDE = 8192


def median_s(work: Callable[[], object], rounds: int = 10) -> float:
    """Return the median seconds of a piece of work on the current stream."""
    for _ in range(3):
        work()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[rounds // 2]


def ceilings() -> dict[str, float]:
    found = {}
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("f32", torch.float32)):
        side = _SIDE if dtype != torch.float32 else _SIDE // 2
        a, b = (torch.randn((side, side), device="cuda").to(dtype) for _ in range(2))
        found[f"matmul_{name}_tflops"] = 2 * side**3 / median_s(lambda a=a, b=b: a @ b) / 1e12
    x = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    found["memory_read_and_write_tbs"] = 2 * x.numel() / median_s(lambda: y.copy_(x)) / 1e12
    host = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    found["host_to_device_gbs"] = (
        host.numel() / median_s(lambda: x[: host.numel()].copy_(host, non_blocking=True)) / 1e9
    )
    found["device_to_host_gbs"] = (
        host.numel() / median_s(lambda: host.copy_(x[: host.numel()], non_blocking=True)) / 1e9
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    figures = ceilings()
    for name, value in figures.items():
        print(f"{name:28} {value:8.1f}", flush=True)
    write(arguments.json, "roofline", {"roofline": figures})


if __name__ == "__main__":
    main()
