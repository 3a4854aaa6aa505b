"""From digital numbers on native grids to the networks' input: cm_vsm's arithmetic as ONNX nodes, in float32.

The networks were trained on what cm_vsm 0.3.7 writes, so its arithmetic is the definition of their input, in
this order:

1. the *quantum*: q = trunc(float32(DN * float32(1/65535)) * 65535.0), by which about half of all numbers lose 1;
2. 20 m and 60 m bands are enlarged tile by tile with GraphicsMagick's Blackman-windowed sinc, first along the
   rows' axis, then along the columns', each pass rounded to whole numbers: two matrix products;
3. x = max(q + OFFSET, 0) * SCALE per channel, which the client fills from the product's metadata.

Float32 at any precision of the network: half precision cannot tell neighbouring digital numbers apart. The
quantum is a table because its float64 product is silently computed in float32 by some engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from server_models.graph_builder import FeatureMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kappamask_stream.contract import BandGroup
    from server_models.graph_builder import GraphBuilder

#: Largest digital number.
FULL_SCALE = 65535

#: Reach of the windowed sinc in source pixels, to either side.
SINC_SUPPORT = 4

#: Names of the tensors at which a graph can be cut behind the pre-processing.
NORMALISED, INPUT_MAGNITUDE = "normalised", "input_magnitude"


@dataclass(frozen=True, kw_only=True)
class Preprocessed:
    """What the pre-processing hands on.

    Attributes
    ----------
    x : normalised channels, float32, tensor `NORMALISED`.
    magnitude : tensor `INPUT_MAGNITUDE` ``[N, 1, 1, 1]``, not finite where anything that came in was not.
    """

    x: FeatureMap
    magnitude: str


def quantum_table() -> NDArray[np.float32]:
    """Return what cm_vsm makes of each digital number, shape (65536,)."""
    shares = np.arange(FULL_SCALE + 1, dtype=np.float32) * np.float32(1 / FULL_SCALE)
    return np.trunc(shares.astype(np.float64) * FULL_SCALE).astype(np.float32)


def sinc_matrix(size_to: int, size_from: int) -> NDArray[np.float32]:
    """Return the weights (size_to, size_from) of GraphicsMagick's Blackman-windowed sinc enlargement.

    Taps outside the tile are dropped and the rest renormalised, so a tile needs no pixels of its neighbours.
    """
    factor = size_to / size_from
    matrix = np.zeros((size_to, size_from))
    for row in range(size_to):
        centre = (row + 0.5) / factor
        first = int(max(centre - SINC_SUPPORT + 0.5, 0))
        taps = np.arange(first, int(min(centre + SINC_SUPPORT + 0.5, size_from)))
        x = taps - centre + 0.5
        phase = np.pi * x / SINC_SUPPORT
        blackman = 0.42 + 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase)
        weights = blackman * np.sinc(x)
        matrix[row, taps] = weights / weights.sum()
    return matrix.astype(np.float32)


def preprocess(graph: GraphBuilder, groups: Sequence[BandGroup], channels: Sequence[str], *, size: int) -> Preprocessed:
    """Declare the inputs and append the pre-processing.

    Parameters
    ----------
    graph : where the nodes go.
    groups : one UINT16 input ``[N, bands, tile, tile]`` each.
    channels : the bands in the network's order.
    size : height and width of a tile of the mask, pixels.
    """
    table = graph.constant(quantum_table())
    names = [_quanta(graph, group, table, size) for group in groups]
    offset = _per_channel(graph, "OFFSET", len(channels))
    scale = _per_channel(graph, "SCALE", len(channels))

    bands = [band for group in groups for band in group.bands]
    q = graph.op("Concat", *names, axis=1) if len(names) > 1 else names[0]
    order = np.array([bands.index(channel) for channel in channels], np.int64)
    if not np.array_equal(order, np.arange(len(channels))):
        q = graph.op("Gather", q, graph.constant(order), axis=1)

    # The shape is [N, channels, size, size] from here on: OFFSET, clamp at 0, SCALE.
    x = graph.op("Mul", graph.op("Relu", graph.op("Add", q, offset)), scale, name=NORMALISED)
    # ReLU may turn NaN into 0, so OFFSET is looked at itself.
    magnitude = graph.op("Add", total(graph, x), total(graph, offset), name=INPUT_MAGNITUDE)
    return Preprocessed(x=FeatureMap(name=x, channels=len(channels), size=size), magnitude=magnitude)


def total(graph: GraphBuilder, name: str) -> str:
    """Sum a tensor's absolute values over all axes but the batch's: not finite where any value is not."""
    return graph.op("ReduceSum", graph.op("Abs", name), graph.constant(np.array([1, 2, 3], np.int64)), keepdims=1)


def _quanta(graph: GraphBuilder, group: BandGroup, table: str, size: int) -> str:
    """Return one resolution's bands as whole numbers in float32 ``[N, bands, size, size]``."""
    dn = graph.input(group.tensor, np.uint16, (len(group.bands), group.tile, group.tile))
    # onnxruntime and TensorRT index with signed integers only.
    q = graph.op("Gather", table, graph.cast(dn, np.int32), axis=0)
    if group.tile == size:
        return q
    matrix = sinc_matrix(size, group.tile)
    rows = _rounded(graph, graph.op("MatMul", graph.constant(matrix), q))  # [N, bands, size, tile]
    return _rounded(graph, graph.op("MatMul", rows, graph.constant(matrix.T)))


def _rounded(graph: GraphBuilder, name: str) -> str:
    """floor(clip(v, 0, 65535) + 0.5), GraphicsMagick's rounding of a pass."""
    low, high = graph.constant(np.float32(0)), graph.constant(np.float32(FULL_SCALE))
    clipped = graph.op("Clip", name, low, high)
    return graph.op("Floor", graph.op("Add", clipped, graph.constant(np.float32(0.5))))


def _per_channel(graph: GraphBuilder, name: str, channels: int) -> str:
    """Declare an input ``[N, channels]`` and give it the axes of an image."""
    graph.input(name, np.float32, (channels,))
    return graph.op("Unsqueeze", name, graph.constant(np.array([2, 3], np.int64)))
