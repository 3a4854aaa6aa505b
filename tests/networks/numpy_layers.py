"""Layers of the two networks in plain numpy, as Keras 2 defines them: the tests' own arithmetic, not the product's.

Images are ``[height, width, channels]``; kernels as Keras stores them. Nothing is folded or reordered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.floating]


def pad(x: Image, before: int, after: int, mode: str = "symmetric") -> Image:
    """Widen both axes; ``symmetric`` is TensorFlow's, which mirrors the edge pixel too. Modes are `numpy.pad`'s."""
    return np.pad(x, ((before, after), (before, after), (0, 0)), mode=mode) if before or after else x


def _windows(x: Image, kernel: int, stride: int, dilation: int) -> Sequence[Image]:
    """For each tap of a square kernel, row by row, the pixels that it sees, one for every output pixel."""
    reach = dilation * (kernel - 1)
    rows, columns = ((n - reach - 1) // stride + 1 for n in x.shape[:2])
    return [
        x[
            dilation * i : dilation * i + stride * (rows - 1) + 1 : stride,
            dilation * j : dilation * j + stride * (columns - 1) + 1 : stride,
        ]
        for i in range(kernel)
        for j in range(kernel)
    ]


def conv2d(x: Image, kernel: Image, bias: Image | None = None, *, stride: int = 1, dilation: int = 1) -> Image:
    """Convolve without padding; kernel ``(size, size, in, out)``."""
    taps = kernel.reshape(-1, *kernel.shape[2:])
    windows = _windows(x, len(kernel), stride, dilation)
    total = windows[0] @ taps[0]
    for window, tap in zip(windows[1:], taps[1:], strict=True):
        total += window @ tap
    return total if bias is None else total + bias


def same(x: Image, kernel: int, mode: str = "constant", *, odd_first: bool = False) -> Image:
    """Widen by what a convolution of stride 1 takes away; of an odd amount the larger half comes last."""
    small, large = (kernel - 1) // 2, kernel // 2
    return pad(x, large, small, mode) if odd_first else pad(x, small, large, mode)


def separable_conv2d(x: Image, depthwise: Image, pointwise: Image) -> Image:
    """Convolve each channel with its own kernel ``(size, size, channels, 1)``, then mix them ``(1, 1, in, out)``."""
    taps = depthwise.reshape(-1, depthwise.shape[2])
    total = np.zeros_like(_windows(x, len(depthwise), 1, 1)[0])
    for window, tap in zip(_windows(x, len(depthwise), 1, 1), taps, strict=True):
        total += window * tap
    return total @ pointwise[0, 0]


def batch_normalization(
    x: Image, gamma: Image, beta: Image, mean: Image, variance: Image, *, epsilon: float = 1e-3
) -> Image:
    """Normalise with the statistics of the training."""
    return (x - mean) / np.sqrt(variance + x.dtype.type(epsilon)) * gamma + beta


def relu(x: Image) -> Image:
    return np.maximum(x, 0)


def max_pool(x: Image, kernel: int, stride: int) -> Image:
    """Maximum of each window, without padding."""
    total, *others = _windows(x, kernel, stride, 1)
    for window in others:
        total = np.maximum(total, window)
    return total


def upsample_nearest(x: Image, factor: int) -> Image:
    return x.repeat(factor, axis=0).repeat(factor, axis=1)


def upsample_bilinear(x: Image, factor: int, *, half_pixel: bool = True) -> Image:
    """TensorFlow 2's ``resize`` (pixels have their values at their centres); or TensorFlow 1's, at their corners."""
    for axis in (0, 1):
        shift = 0.5 if half_pixel else 0.0
        at = np.clip((np.arange(x.shape[axis] * factor) + shift) / factor - shift, 0, x.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = (at - low).astype(x.dtype).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
    return x


def global_average(x: Image) -> Image:
    return x.mean(axis=(0, 1), keepdims=True, dtype=np.float64).astype(x.dtype)


def softmax(x: Image) -> Image:
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def sigmoid(x: Image) -> Image:
    return 1 / (1 + np.exp(-x))
