"""Where a tile's time goes on the GPU: each step of the network apart, with its arithmetic and its bytes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import torch
from bare import pinned
from material import GFLOP, add_arguments, graph, tiles, write
from roofline import median_s

from server_models import torch_plan as plans
from server_models.torch_engine import TorchEngine

if TYPE_CHECKING:
    import numpy as np


def flop(step: plans.Step, answer: torch.Tensor) -> float:
    """Return operations of a step, two a multiplication."""
    weight: np.ndarray | None = getattr(step, "weight", None)
    if weight is None:
        return 0.0
    each = weight[..., 0].size if isinstance(step, plans.Conv) else 9
    return 2.0 * each * answer.shape[0] * answer.shape[1] * answer.shape[2] * weight.shape[-1]


def profile(engine: TorchEngine, batch: int) -> list[dict[str, Any]]:
    """Return seconds, operations and bytes (inputs once, answer once) of each step."""
    lane, network, rows = engine.lanes[0], engine.network, []
    inputs = {name: tensor[:batch] for name, tensor in lane.inputs.items()}
    flags = torch.zeros(batch, dtype=torch.int32, device="cuda")
    x = lane._preprocessing(inputs, flags, network.dtype)  # noqa: SLF001
    seconds = median_s(lambda: lane._preprocessing(inputs, flags, network.dtype), 5)  # noqa: SLF001
    moved = sum(t.numel() * t.element_size() for t in inputs.values()) + x.numel() * x.element_size()
    rows.append({"step": "pre-processing", "s": seconds, "bytes": moved, "flop": 0.0})

    def take(step: plans.Step, images: dict[str, torch.Tensor], flags: torch.Tensor) -> torch.Tensor:
        answer = network._step(step, images, flags)  # noqa: SLF001
        seconds = median_s(lambda: network._step(step, images, flags), 5)  # noqa: SLF001
        moved = sum(images[name].numel() * images[name].element_size() for name in step.inputs)
        moved += answer.numel() * answer.element_size()
        rows.append({"step": f"{type(step).__name__} {step.output}", "s": seconds, "bytes": moved,
                     "flop": flop(step, answer), "way": str(network.ways.get(step.output, ""))})  # fmt: skip
        return answer

    logits = network._run(x, flags, take)  # noqa: SLF001
    rows.append({"step": "classes", "s": median_s(lambda: lane._classify(logits, flags), 5), "flop": 0.0,  # noqa: SLF001
                 "bytes": logits.numel() * 4 + batch * 7 * 512 * 512})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--networks", nargs="+", default=list(GFLOP))
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    figures = {}
    for architecture in arguments.networks:
        model = graph(architecture, "f32", arguments.weights if architecture == "DeepLabv3Plus" else None)
        engine = TorchEngine(model, precision="fp16", batches=[arguments.batch])
        source = pinned(tiles(engine.contract, arguments.tiles, arguments.batch))
        engine.lanes[0].load({name: values.numpy() for name, values in source.items()}, 0, arguments.batch)
        torch.cuda.synchronize()
        rows = profile(engine, arguments.batch)
        whole = sum(row["s"] for row in rows)
        print(f"{architecture}, batch {arguments.batch}: {whole * 1e6 / arguments.batch:.1f} us a tile in steps")
        for row in sorted(rows, key=lambda row: -row["s"])[:28]:
            print(f"  {row['step']:40} {row['s'] * 1e6 / arguments.batch:7.2f} us {row['s'] / whole:6.1%} "
                  f"{row['flop'] / row['s'] / 1e12:7.1f} TFLOP/s {row['bytes'] / row['s'] / 1e12:5.2f} TB/s "
                f"{row.get('way', '')}")  # fmt: skip
        kinds: dict[str, float] = {}
        for row in rows:
            kind = row["step"].split()[0]
            kinds[kind] = kinds.get(kind, 0.0) + row["s"] * 1e6 / arguments.batch
        print("  ", {kind: round(value, 1) for kind, value in kinds.items()}, flush=True)
        figures[architecture] = {"batch": arguments.batch, "us_per_tile_by_kind": kinds, "steps": rows}
    write(arguments.json, "steps", {"fp16": figures})


if __name__ == "__main__":
    main()
