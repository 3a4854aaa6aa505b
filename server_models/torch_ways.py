"""How the GPU engine may compute a step: storage types, and how the own kernels may be cut.

The lists hold what was chosen at least once for a network on an H200 (benchmarks/gpu); one way of each is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from server_models import torch_plan as plans

DTYPES = {"f32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

#: Values beyond are not held by the storage type (float32 and bfloat16: see `kappamask`).
LIMITS = {"f32": 1e38, "fp16": 65504.0, "bf16": 1e38}

#: Values from one pixel's logits to the next one's.
LOGITS = 8

LIBRARY, PRODUCT = "cudnn", "cublas"


@dataclass(frozen=True)
class Blocks:
    """How the own convolution is cut: rows, columns and depth of a block, warps, stages of its pipeline."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


BLOCKS = (
    Blocks(128, 256, 64, 8, 3),
    Blocks(256, 128, 64, 8, 3),
    Blocks(128, 128, 64, 8, 3),
    Blocks(128, 64, 64, 4, 4),
    Blocks(128, 32, 64, 4, 4),
    Blocks(128, 16, 64, 4, 4),
    Blocks(128, 64, 32, 4, 4),
    Blocks(128, 32, 16, 4, 4),
    Blocks(128, 64, 16, 4, 4),
    Blocks(128, 16, 16, 4, 4),
)


@dataclass(frozen=True)
class Strips:
    """How a depthwise convolution is cut: rows a program goes down, columns, channels, warps."""

    rows: int
    columns: int
    channels: int
    warps: int


STRIPS = (
    Strips(4, 8, 64, 4),
    Strips(8, 16, 64, 4),
    Strips(16, 8, 64, 4),
    Strips(8, 8, 64, 4),
)


#: How a convolution is computed: by a library, or by the own kernel so cut.
Way = str | Blocks | Strips


def has_ways(step: plans.Step) -> bool:
    """Tell whether there are several ways to compute a step."""
    return isinstance(step, plans.Conv | plans.Depthwise)


def sum_in_float32() -> None:
    """Tell the vendor's libraries, for the whole process, that float32 means float32; and to choose by measuring."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = True


def border(step: plans.Conv, size: int) -> str:
    """Return what the kernel calls a convolution's border, for an input of `size` pixels."""
    if not step.symmetric and step.before + step.after:
        return "zero"
    return "mirror" if max(step.before, step.after) <= size else "far"
