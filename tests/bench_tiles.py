"""Tiles for the benchmark that are from no product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.bench.tiles import TileSet

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract


def made_tiles(contract: ModelContract, folder: Path, *, count: int) -> TileSet:
    """Write tiles of random digital numbers that a null model calls clear or cloud."""
    rng = np.random.default_rng(7)
    arrays = {
        g.tensor: rng.integers(1000, 6000, (count, len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs
    }
    zeros = np.zeros((count, len(contract.channels)), np.float32)
    arrays |= {"OFFSET": zeros, "SCALE": zeros + np.float32(1e-4)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return TileSet(folder=folder, names=tuple(arrays), count=count, product="made")
