"""A served graph of any of the four networks with an eighth of the published width, random weights, a small tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import served_graph
from numpy_networks import DeepLabv3Plus, UNet
from random_weights import RandomWeights

if TYPE_CHECKING:
    import onnx

    from kappamask_stream.contract import ModelContract

TILE, SHARE = 64, 0.125


def random_weights(contract: ModelContract, share: float = SHARE, seed: int = 7) -> RandomWeights:
    """Return all tensors of a contract's network."""
    weights = RandomWeights(seed)
    network = (DeepLabv3Plus if contract.architecture == "DeepLabv3Plus" else UNet)(weights, share)
    network(served_graph.blobs(np.random.default_rng(2), len(contract.channels), 128, 128).transpose(1, 2, 0) * 3)
    return weights


def small_network(level: str, architecture: str, precision: str) -> tuple[ModelContract, onnx.ModelProto]:
    contract = served_graph.small_contract(level, architecture, TILE, precision)
    return contract, served_graph.build(contract, random_weights(contract).tensors)
