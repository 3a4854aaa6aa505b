"""Random weights in Keras' shapes, made when a network first asks for them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]


class RandomWeights:
    """Tensors by ``layer/tensor``; which tensor it is decides on its values, not the order of asking.

    Batch normalisation gets about the statistics of the activations that it is first asked with, as training would
    give it, so that a deep network neither dies out nor explodes. Their variances spread over three decades (the
    kernels before them are scaled so), for the normalisation's epsilon to matter.

    Parameters
    ----------
    seed : another seed, other weights.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.tensors: dict[str, Array] = {}

    def take(self, name: str, shape: tuple[int, ...], *, normalised: bool = False) -> Array:
        """Return a kernel or bias; `normalised` if a batch normalisation reads the layer's answer."""
        if name not in self.tensors:
            rng = self._rng(name)
            if name.endswith("/depthwise_kernel"):
                spread, fan_in = 1.0, np.prod(shape[:2])
            else:
                spread = 10.0 ** rng.uniform(-1.5, 0, shape[-1]) if normalised else 1.0
                fan_in = np.prod(shape[:-1])
            # A ReLU before it halves the mean square.
            deviation = 0.2 if name.endswith("/bias") else np.sqrt(2 / fan_in)
            self.tensors[name] = (rng.normal(0, deviation, shape) * spread).astype(np.float32)
        if self.tensors[name].shape != shape:
            raise ValueError(f"{name} was {self.tensors[name].shape} and is now {shape}")
        return self.tensors[name]

    def statistics(self, layer: str, x: Array) -> tuple[Array, Array, Array, Array]:
        """Return gamma, beta, moving mean and moving variance for a layer that is given `x`, ``[..., channels]``."""
        names = [f"{layer}/{tensor}" for tensor in ("gamma", "beta", "moving_mean", "moving_variance")]
        if names[0] not in self.tensors:
            rng, channels = self._rng(layer), x.shape[-1]
            mean, variance = x.mean(axis=(0, 1)), x.var(axis=(0, 1)) + np.square(x).mean(axis=(0, 1)) / 10
            made = (
                rng.uniform(0.6, 1.4, channels),
                rng.normal(0, 0.3, channels),
                mean + rng.normal(0, 0.3, channels) * np.sqrt(variance),
                variance * rng.uniform(0.5, 2, channels),
            )
            self.tensors.update((name, m.astype(np.float32)) for name, m in zip(names, made, strict=True))
        gamma, beta, mean, variance = (self.tensors[name] for name in names)
        return gamma, beta, mean, variance

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])
