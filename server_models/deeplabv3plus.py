"""KappaMask's DeepLabv3+ (Chen et al. 2018, https://arxiv.org/abs/1802.02611) on an Xception-like backbone.

As km_predict builds it, layer by layer, with Keras' layer names and these differences to the paper:

- in the entry flow, a block's shortcut starts at the previous block's shortcut, not at its sum;
- a middle flow unit ends in a ReLU before the addition, and the exit flow has no pooling;
- padding mirrors the border including the edge pixel (TensorFlow's SYMMETRIC) instead of adding zeros.

Rewritten without changing the values: batch normalisation is folded into the convolution before it; the last
1 x 1 convolution stands before the last upsampling (both are linear: 6 channels are enlarged instead of 256).
Shapes in comments are [channels, size, size] for a tile of 512 pixels and the published widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from server_models.graph_builder import FeatureMap, GraphBuilder
    from server_models.hdf5_weights import KerasWeights

#: Keras' default, which the networks were trained with.
BATCH_NORM_EPSILON = 1e-3

#: Name of the sum at the end of the entry flow.
ENTRY_FLOW = "entry_flow"

#: Tensors behind which an engine may compute in bfloat16: with the entry flow in float32, 0.988 instead of 0.965 of the
#: pixels keep their class on the worst golden tile, for a fifth more time.
REDUCED_PRECISION_FROM = (ENTRY_FLOW, "separable_conv2d_3")

ENTRY_FLOW_BLOCKS = 3
MIDDLE_FLOW_UNITS = 8
ASPP_RATES = (6, 12, 18)


def deeplabv3plus(graph: GraphBuilder, x: FeatureMap, weights: KerasWeights, *, classes: int) -> FeatureMap:
    """Append the network and return its logits ``[classes, size, size]``, float32.

    Parameters
    ----------
    graph : where the nodes go.
    x : normalised bands, e.g. [14, 512, 512].
    weights : all tensors of the network's file; every one is taken.
    classes : width of the last layer.

    Raises
    ------
    InputError
        If a tensor is missing, too many, or of a shape that does not fit.
    """
    layers = _Layers(graph, weights)
    low_level, x = _entry_flow(layers, x)  # [256, 128, 128], [728, 32, 32]
    x = _middle_flow(layers, x)  # [728, 32, 32]
    x = _exit_flow(layers, x)  # [1024, 32, 32]
    x = _aspp(layers, x)  # [256, 32, 32]
    x = _decoder(layers, x, low_level, classes)  # [6, 128, 128]
    weights.finish()
    return graph.upsample(graph.to_float32(x), 4, mode="linear")  # [6, 512, 512]


def _entry_flow(layers: _Layers, x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    """Stem and three blocks; returns the decoder's tap at 1/4 scale and the sum at 1/16."""
    graph = layers.graph
    x = layers.conv_bn(graph.pad_symmetric(x, 0, 1), 0, norm=0, kernel=3, stride=2, relu=True)  # [32, 256, 256]
    x = layers.conv_bn(graph.pad_symmetric(x, 1, 1), 1, norm=1, kernel=3, relu=True)  # [64, 256, 256]
    shortcut, features = x, []
    for block in range(ENTRY_FLOW_BLOCKS):  # [128, 128, 128], [256, 64, 64], [728, 32, 32]
        y = layers.separable_bn(x if block == 0 else graph.relu(x), 2 * block, norm=3 * block + 2, relu=True)
        y = layers.separable_bn(y, 2 * block + 1, norm=3 * block + 3)
        shortcut = layers.conv_bn(shortcut, block + 2, norm=3 * block + 4, kernel=1, stride=2)
        graph.watch(y)
        # Mirroring repeats what the last window holds already: MaxPool's own padding gives the same maximum.
        pooled = graph.max_pool(y, kernel=3, stride=2, pads=(0, 1))
        x = graph.add(shortcut, pooled, name=ENTRY_FLOW if block == ENTRY_FLOW_BLOCKS - 1 else None)
        features.append(y)
    return features[1], x


def _middle_flow(layers: _Layers, x: FeatureMap) -> FeatureMap:
    """Eight residual units of three separable convolutions, [728, 32, 32] all along."""
    for unit in range(MIDDLE_FLOW_UNITS):
        y = layers.graph.relu(x)
        for step in range(3):
            y = layers.separable_bn(y, 6 + 3 * unit + step, norm=11 + 3 * unit + step, relu=True)
        x = layers.graph.add(x, y)
    return x


def _exit_flow(layers: _Layers, x: FeatureMap) -> FeatureMap:
    """Two separable convolutions; the last one has no ReLU."""
    x = layers.separable_bn(layers.graph.relu(x), 30, norm=35, relu=True)  # [728, 32, 32]
    return layers.separable_bn(x, 31, norm=36)  # [1024, 32, 32]


def _aspp(layers: _Layers, x: FeatureMap) -> FeatureMap:
    """Atrous spatial pyramid pooling: the image's mean and rates 1, 6, 12, 18, joined by a 1 x 1 convolution."""
    graph = layers.graph
    mean = layers.conv_bn(graph.global_average(x), 6, norm=40, kernel=1, relu=True, bias=True)  # [256, 1, 1]
    branches = [
        graph.broadcast(mean, x.size),  # bilinear enlargement of one pixel
        layers.conv_bn(x, 7, norm=41, kernel=1, relu=True),
    ]
    for number, rate in enumerate(ASPP_RATES):
        padded = graph.pad_symmetric(x, rate, rate)  # [1024, 44 | 56 | 68, ...]
        branches.append(layers.conv_bn(padded, 8 + number, norm=42 + number, kernel=3, dilation=rate, relu=True))
    return layers.conv_bn(graph.concat(*branches), 11, norm=45, kernel=1, relu=True)  # [1280, ...] -> [256, 32, 32]


def _decoder(layers: _Layers, x: FeatureMap, low_level: FeatureMap, classes: int) -> FeatureMap:
    """Join the pyramid with the entry flow's details at 1/4 scale; logits there."""
    graph = layers.graph
    details = layers.conv_bn(low_level, 12, norm=46, kernel=1, relu=True)  # [48, 128, 128]
    x = graph.concat(graph.upsample(x, 4, mode="linear"), details)  # [304, 128, 128]
    for number in (13, 14):  # [256, 128, 128]
        x = layers.conv_bn(graph.pad_symmetric(x, 1, 1), number, norm=number + 34, kernel=3, relu=True)
    kernel = layers.weights.take("conv2d_15/kernel", (1, 1, x.channels, classes))
    bias = layers.weights.take("conv2d_15/bias", (classes,))
    return graph.conv(x, kernel, bias, name="conv2d_15")


@dataclass(frozen=True)
class _Layers:
    """Layers of the network by Keras' numbers, with their batch normalisation folded in."""

    graph: GraphBuilder
    weights: KerasWeights

    def conv_bn(
        self,
        x: FeatureMap,
        number: int,
        *,
        norm: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        relu: bool = False,
    ) -> FeatureMap:
        """``conv2d_<number>`` and ``batch_normalization_<norm>``, then a ReLU if asked."""
        name = _numbered("conv2d", number)
        values = self.weights.take(f"{name}/kernel", (kernel, kernel, x.channels, None))
        offset = self.weights.take(f"{name}/bias", (values.shape[3],)) if bias else None
        scaled, shift = self._folded(values, offset, norm)
        y = self.graph.conv(x, scaled, shift, name=name, stride=stride, dilation=dilation)
        return self.graph.relu(y) if relu else y

    def separable_bn(self, x: FeatureMap, number: int, *, norm: int, relu: bool = False) -> FeatureMap:
        """``separable_conv2d_<number>`` (3 x 3 per channel, then 1 x 1) and its batch normalisation."""
        name = _numbered("separable_conv2d", number)
        depthwise = self.weights.take(f"{name}/depthwise_kernel", (3, 3, x.channels, 1))
        pointwise = self.weights.take(f"{name}/pointwise_kernel", (1, 1, x.channels, None))
        scaled, shift = self._folded(pointwise, None, norm)
        y = self.graph.depthwise(self.graph.pad_symmetric(x, 1, 1), depthwise, name=f"{name}_depthwise")
        y = self.graph.conv(y, scaled, shift, name=name)
        return self.graph.relu(y) if relu else y

    def _folded(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32] | None, norm: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Kernel (height, width, in, out) and bias (out,) of a convolution with its normalisation in it."""
        name, shape = _numbered("batch_normalization", norm), (kernel.shape[3],)
        gamma, beta, mean, variance = (
            self.weights.take(f"{name}/{tensor}", shape).astype(np.float64)
            for tensor in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        if variance.min() < 0:
            raise InputError(f"{self.weights.origin}: {name}/moving_variance is {variance.min()}, expected 0 or more")
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        return kernel * scale, beta + ((0.0 if bias is None else bias) - mean) * scale


def _numbered(kind: str, number: int) -> str:
    """Keras' name of the n-th layer of a class."""
    return f"{kind}_{number}" if number else kind
