"""KappaMask's U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), as km_predict builds it.

Zero padding keeps the size; each step up is a nearest-neighbour enlargement and a 2 x 2 convolution; the
network ends in a 3 x 3 convolution to two channels and a 1 x 1 convolution to the classes. Dropout does
nothing outside training. Shapes in comments are [channels, size, size] for a tile of 512 pixels and the
published width of 64; the width is whatever the weights file has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server_models.graph_builder import FeatureMap, GraphBuilder
    from server_models.hdf5_weights import KerasWeights

#: Times that the size is halved.
DEPTH = 4

#: Tensor behind which an engine may compute in bfloat16: with the first pair of convolutions in float32, 0.994 instead
#: of 0.989 of the golden tile's pixels keep their class.
REDUCED_PRECISION_FROM = ("contracting_path_0",)


def unet(graph: GraphBuilder, x: FeatureMap, weights: KerasWeights, *, classes: int) -> FeatureMap:
    """Append the network and return its logits ``[classes, size, size]``, float32.

    Parameters
    ----------
    graph : where the nodes go.
    x : normalised bands, e.g. [13, 512, 512].
    weights : all tensors of the network's file; every one is taken.
    classes : width of the last layer.

    Raises
    ------
    InputError
        If a tensor is missing, too many, or of a shape that does not fit.
    """
    skips, x = _contracting_path(graph, x, weights)
    x = _expanding_path(graph, x, skips, weights)  # [64, 512, 512]
    x = _conv_relu(graph, x, weights, 22, kernel=3)  # [2, 512, 512]
    kernel = weights.take("conv2d_23/kernel", (1, 1, x.channels, classes))
    bias = weights.take("conv2d_23/bias", (classes,))
    weights.finish()
    return graph.to_float32(graph.conv(x, kernel, bias, name="conv2d_23"))  # [6, 512, 512]


def _contracting_path(graph: GraphBuilder, x: FeatureMap, weights: KerasWeights) -> tuple[list[FeatureMap], FeatureMap]:
    """Five pairs of convolutions with pooling between; returns the four skips and the bottom [1024, 32, 32]."""
    skips = []
    for level in range(DEPTH):  # [64, 512, 512], [128, 256, 256], [256, 128, 128], [512, 64, 64]
        x = _pair(graph, x, weights, 2 * level, name=f"contracting_path_{level}")
        skips.append(x)
        x = graph.max_pool(x, kernel=2, stride=2)
    return skips, _pair(graph, x, weights, 2 * DEPTH)


def _expanding_path(graph: GraphBuilder, x: FeatureMap, skips: list[FeatureMap], weights: KerasWeights) -> FeatureMap:
    """Four times: enlarge, halve the channels, join with the skip, convolve twice."""
    for step, skip in enumerate(reversed(skips)):  # [512, 64, 64], [256, 128, 128], [128, 256, 256], [64, 512, 512]
        number = 2 * DEPTH + 2 + 3 * step
        x = _conv_relu(graph, graph.upsample(x, 2, mode="nearest"), weights, number, kernel=2)
        x = _pair(graph, graph.concat(skip, x), weights, number + 1)
    return x


def _pair(
    graph: GraphBuilder, x: FeatureMap, weights: KerasWeights, number: int, *, name: str | None = None
) -> FeatureMap:
    """Two 3 x 3 convolutions, ``conv2d_<number>`` and the next; `name` is the last tensor's."""
    x = _conv_relu(graph, x, weights, number, kernel=3)
    return _conv_relu(graph, x, weights, number + 1, kernel=3, output=name)


def _conv_relu(
    graph: GraphBuilder,
    x: FeatureMap,
    weights: KerasWeights,
    number: int,
    *,
    kernel: int,
    output: str | None = None,
) -> FeatureMap:
    """``conv2d_<number>`` with Keras' ``same`` padding (an even kernel's odd zero comes last) and a ReLU."""
    name = f"conv2d_{number}" if number else "conv2d"
    values = weights.take(f"{name}/kernel", (kernel, kernel, x.channels, None))
    bias = weights.take(f"{name}/bias", (values.shape[3],))
    pads = ((kernel - 1) // 2, kernel // 2)
    return graph.relu(graph.conv(x, values, bias, name=name, pads=pads), name=output)
