"""KappaMask's DeepLabv3+ and U-Net once more, in plain numpy and in the papers' terms, nothing folded or reordered.

Written from the layer listings of the published weights, independently of `server_models`. A `Twist` changes one
thing about a network: the comparison must notice each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy_layers as layers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from random_weights import RandomWeights

    Image = NDArray[np.floating]

CLASSES = 6


@dataclass(frozen=True, kw_only=True)
class Twist:
    """What could have been got wrong; the defaults are what km_predict computes."""

    padding: str = "symmetric"
    aspp_padding: str = "symmetric"
    aspp_rates: tuple[int, int, int] = (6, 12, 18)
    epsilon: float = 1e-3
    shortcut_from_sum: bool = False
    middle_relu_before_add: bool = True
    tap: str = "normalised"
    half_pixel: bool = True
    aspp_mean_first: bool = True
    skip_first: bool = True
    odd_zero_first: bool = False
    upsampling: str = "nearest"
    two_channel_relu: bool = True


@dataclass(frozen=True)
class DeepLabv3Plus:
    """Chen et al. 2018 on KappaMask's Xception-like backbone.

    Parameters
    ----------
    weights : gives tensors by Keras' names.
    share : of the published widths.
    """

    weights: RandomWeights
    share: float = 1.0
    twist: Twist = Twist()

    def __call__(self, x: Image) -> Image:
        """Return probabilities ``[size, size, 6]`` of a normalised tile ``[size, size, bands]``."""
        tap, x = self._entry_flow(x)
        for unit in range(8):
            x = self._middle_unit(x, unit)
        x = layers.relu(self._separable(layers.relu(x), 30, 35, 728))
        x = self._separable(x, 31, 36, 1024)
        x = layers.upsample_bilinear(self._aspp(x), 4, half_pixel=self.twist.half_pixel)
        x = self._decoder(x, tap)
        x = layers.upsample_bilinear(x, 4, half_pixel=self.twist.half_pixel)
        kernel = self.weights.take("conv2d_15/kernel", (1, 1, x.shape[2], CLASSES))
        return layers.softmax(layers.conv2d(x, kernel, self.weights.take("conv2d_15/bias", (CLASSES,))))

    def _entry_flow(self, x: Image) -> tuple[Image, Image]:
        x = layers.relu(self._conv(layers.pad(x, 0, 1, self.twist.padding), 0, 0, 32, 3, stride=2))
        x = layers.relu(self._conv(self._around(x), 1, 1, 64, 3))
        shortcut, tap = x, x
        for block, width in enumerate((128, 256, 728)):
            y = layers.relu(self._separable(layers.relu(x) if block else x, 2 * block, 3 * block + 2, width))
            y = self._separable(y, 2 * block + 1, 3 * block + 3, width)
            start = x if self.twist.shortcut_from_sum else shortcut
            shortcut = self._conv(start, block + 2, 3 * block + 4, width, 1, stride=2)
            x = shortcut + layers.max_pool(layers.pad(y, 0, 1, self.twist.padding), 3, 2)
            if block == 1:
                tap = layers.relu(y) if self.twist.tap == "relu" else y
        return tap, x

    def _middle_unit(self, x: Image, unit: int) -> Image:
        y = layers.relu(x)
        for step in range(3):
            y = self._separable(y, 6 + 3 * unit + step, 11 + 3 * unit + step, 728)
            if step < 2 or self.twist.middle_relu_before_add:
                y = layers.relu(y)
        return x + y

    def _aspp(self, x: Image) -> Image:
        mean = layers.relu(self._conv(layers.global_average(x), 6, 40, 256, 1, bias=True))
        branches = [layers.relu(self._conv(x, 7, 41, 256, 1))]
        for number, rate in enumerate(self.twist.aspp_rates):
            wide = layers.pad(x, rate, rate, self.twist.aspp_padding)
            branches.append(layers.relu(self._conv(wide, 8 + number, 42 + number, 256, 3, dilation=rate)))
        flat = np.broadcast_to(mean, (*x.shape[:2], mean.shape[2]))
        ordered = [flat, *branches] if self.twist.aspp_mean_first else [*branches, flat]
        return layers.relu(self._conv(np.concatenate(ordered, axis=2), 11, 45, 256, 1))

    def _decoder(self, x: Image, tap: Image) -> Image:
        details = layers.relu(self._conv(tap, 12, 46, 48, 1))
        x = np.concatenate([x, details], axis=2)
        for number, norm in ((13, 47), (14, 48)):
            x = layers.relu(self._conv(self._around(x), number, norm, 256, 3))
        return x

    def _around(self, x: Image) -> Image:
        return layers.pad(x, 1, 1, self.twist.padding)

    def _conv(
        self, x: Image, number: int, norm: int, width: int, size: int, *, bias: bool = False, **how: int
    ) -> Image:
        name, norm_name = numbered("conv2d", number), numbered("batch_normalization", norm)
        width = int(width * self.share)
        kernel = self.weights.take(f"{name}/kernel", (size, size, x.shape[2], width), normalised=True)
        offset = self.weights.take(f"{name}/bias", (width,), normalised=True) if bias else None
        return self._normalised(layers.conv2d(x, kernel, offset, **how), norm_name)

    def _separable(self, x: Image, number: int, norm: int, width: int) -> Image:
        name, norm_name = numbered("separable_conv2d", number), numbered("batch_normalization", norm)
        depthwise = self.weights.take(f"{name}/depthwise_kernel", (3, 3, x.shape[2], 1))
        shape = (1, 1, x.shape[2], int(width * self.share))
        pointwise = self.weights.take(f"{name}/pointwise_kernel", shape, normalised=True)
        return self._normalised(layers.separable_conv2d(self._around(x), depthwise, pointwise), norm_name)

    def _normalised(self, x: Image, name: str) -> Image:
        statistics = self.weights.statistics(name, x)
        return layers.batch_normalization(x, *statistics, epsilon=self.twist.epsilon)


@dataclass(frozen=True)
class UNet:
    """Ronneberger et al. 2015 with zero padding, nearest enlargement and a sigmoid; parameters as `DeepLabv3Plus`."""

    weights: RandomWeights
    share: float = 1.0
    twist: Twist = Twist()

    def __call__(self, x: Image) -> Image:
        """Return probabilities ``[size, size, 6]`` of a normalised tile ``[size, size, bands]``."""
        skips, number = [], 0
        narrow, *wider, bottom = (int(width * self.share) for width in (64, 128, 256, 512, 1024))
        for width in (narrow, *wider, bottom):
            for _ in range(2):
                x = self._conv(x, number, width, 3)
                number += 1
            if width < bottom:
                skips.append(x)
                x = layers.max_pool(x, 2, 2)
        for width in (*reversed(wider), narrow):
            enlarged = (
                layers.upsample_nearest(x, 2) if self.twist.upsampling == "nearest" else layers.upsample_bilinear(x, 2)
            )
            up, skip = self._conv(enlarged, number, width, 2), skips.pop()
            x = np.concatenate([skip, up] if self.twist.skip_first else [up, skip], axis=2)
            for step in (1, 2):
                x = self._conv(x, number + step, width, 3)
            number += 3
        x = self._conv(x, 22, 2, 3, relu=self.twist.two_channel_relu)
        return layers.sigmoid(self._conv(x, 23, CLASSES, 1, relu=False))

    def _conv(self, x: Image, number: int, width: int, size: int, *, relu: bool = True) -> Image:
        name = numbered("conv2d", number)
        kernel = self.weights.take(f"{name}/kernel", (size, size, x.shape[2], width))
        bias = self.weights.take(f"{name}/bias", (width,))
        y = layers.conv2d(layers.same(x, size, odd_first=self.twist.odd_zero_first), kernel, bias)
        return layers.relu(y) if relu else y


def numbered(kind: str, number: int) -> str:
    """Keras' name of the n-th layer of a class."""
    return f"{kind}_{number}" if number else kind
