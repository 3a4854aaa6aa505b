"""Evaluate a Keras layer listing (``*.layers.txt``) in plain numpy, layer by layer, wired as the listing says.

Two kinds of lines matter: ``layer<TAB>layer/tensor:0<TAB>shape<TAB>dtype`` for each tensor, and the comment lines
``# layer Class shape <- [inputs]``. What the listing does not say, its shapes do: strides, rates, amounts of padding.
"""

from __future__ import annotations

import re
from ast import literal_eval
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy_layers as layers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from random_weights import RandomWeights

    Image = NDArray[np.floating]

_LAYER = re.compile(r"# (?P<name>\S+) (?P<kind>\S+) \[?(?P<shape>\(.*?\))\]? <- (?P<inputs>\[.*\])")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One line of the listing.

    Attributes
    ----------
    size, channels : of the answer, at the listing's tile size.
    inputs : the layers it reads.
    operations : the TensorFlow operations whose answers others read from it, e.g. ``Relu``.
    """

    name: str
    kind: str
    size: int
    channels: int
    inputs: tuple[str, ...]
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    operations: set[str] = field(default_factory=set)


def read_listing(path: Path) -> dict[str, Layer]:
    """Return the layers by name, in order of construction; every line with a layer's shape must be understood."""
    found: dict[str, Layer] = {}
    tensors: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            name, *rest = line.split("\t")
            if len(rest) == 3:
                tensors.setdefault(name, {})[rest[0].split("/")[-1].removesuffix(":0")] = literal_eval(rest[1])
        elif " <- " in line:
            match = _LAYER.fullmatch(line)
            if match is None:
                raise ValueError(f"{path}: {line}")
            _, height, width, channels = literal_eval(match["shape"])
            if height != width:
                raise ValueError(f"{path}: {line}")
            sources = [source.split("/") for source in literal_eval(match["inputs"])]
            for source, *operations in sources:
                if source in found:
                    found[source].operations.update(operations[-1:])
            found[match["name"]] = Layer(
                name=match["name"],
                kind=match["kind"],
                size=height,
                channels=channels,
                inputs=tuple(source for source, *_ in sources),
                tensors=tensors.get(match["name"], {}),
            )
    return found


class Interpreter:
    """A listing that can be evaluated.

    Parameters
    ----------
    listing : what `read_listing` returns.
    weights : gives the tensors.
    """

    def __init__(self, listing: Mapping[str, Layer], weights: RandomWeights) -> None:
        self.listing, self.weights = listing, weights
        self._last = list(listing)[-1]
        self._normalised = {i for layer in listing.values() if layer.kind == "BatchNormalization" for i in layer.inputs}

    def __call__(self, x: Image) -> Image:
        """Return probabilities ``[size, size, 6]`` of a normalised tile ``[size, size, bands]``."""
        given = self.listing["input"]
        if x.shape[2] != given.channels:
            raise ValueError(f"{x.shape[2]} bands, the listing has {given.channels}")
        readers = {name: sum(name in layer.inputs for layer in self.listing.values()) for name in self.listing}
        answers: dict[str, Image] = {"input": x}
        for name, layer in self.listing.items():
            if layer.kind == "InputLayer":
                continue
            answers[name] = self._answer(layer, [answers[i] for i in layer.inputs], x.shape[0])
            self._check(layer, answers[name], x.shape[0])
            for source in layer.inputs:  # keep memory small: full-width activations are large
                readers[source] -= 1
                if not readers[source]:
                    del answers[source]
        return answers[self._last]

    def _check(self, layer: Layer, answer: Image, tile: int) -> None:
        pads = self.listing[layer.inputs[0]].size != layer.size and layer.kind == "CustomPad"
        expected = layer.size if layer.size == 1 else layer.size * tile / self.listing["input"].size
        if answer.shape[2] != layer.channels or (not pads and answer.shape[0] != expected):
            raise ValueError(f"{layer.name}: {answer.shape}, the listing has {layer.size} x {layer.channels}")

    def _answer(self, layer: Layer, inputs: list[Image], tile: int) -> Image:  # noqa: C901, PLR0911 - one case a class
        (x, *_), before = inputs, self.listing[layer.inputs[0]].size
        match layer.kind:
            case "CustomPad":  # TensorFlow's SAME amounts: of an odd one the larger half comes last
                return layers.pad(x, (layer.size - before) // 2, (layer.size - before + 1) // 2, "symmetric")
            case "Conv2D":
                return self._conv2d(layer, x, before)
            case "SeparableConv2D":
                return layers.separable_conv2d(
                    x, self._tensor(layer, "depthwise_kernel"), self._tensor(layer, "pointwise_kernel")
                )
            case "BatchNormalization":
                return layers.batch_normalization(x, *self._statistics(layer, x))
            case "ReLU" | "TFOpLambda":
                return layers.relu(x)
            case "Dropout":
                return x
            case "Add":
                return inputs[0] + inputs[1]
            case "Concatenate":
                return np.concatenate(inputs, axis=2)
            case "MaxPooling2D":  # a padded size is odd; its windows overlap
                return layers.max_pool(x, 3 if before % 2 else 2, 2)
            case "AveragePooling2D" if layer.size == 1:
                return layers.global_average(x)
            case "UpSampling2D":
                wanted = layer.size * tile // self.listing["input"].size
                bilinear = "ResizeBilinear:0" in layer.operations
                return (layers.upsample_bilinear if bilinear else layers.upsample_nearest)(x, wanted // x.shape[0])
        raise ValueError(f"{layer.name}: no rule for {layer.kind}")

    def _conv2d(self, layer: Layer, x: Image, before: int) -> Image:
        kernel = self._tensor(layer, "kernel")
        bias = self._tensor(layer, "bias") if "bias" in layer.tensors else None
        lost, reach = before - layer.size, len(kernel) - 1
        if not lost:
            y = layers.conv2d(layers.same(x, len(kernel)), kernel, bias)
        elif reach and lost % reach == 0:
            y = layers.conv2d(x, kernel, bias, dilation=lost // reach)
        else:
            y = layers.conv2d(x, kernel, bias, stride=2)
        if layer.name == self._last:  # the listing stops before it; FACTS.md: U-Net ends in a sigmoid
            return (layers.softmax if "custom_pad" in self.listing else layers.sigmoid)(y)
        return layers.relu(y) if "Relu:0" in layer.operations else y

    def _tensor(self, layer: Layer, tensor: str) -> Image:
        name = f"{layer.name}/{tensor}"
        return self.weights.take(name, layer.tensors[tensor], normalised=layer.name in self._normalised)

    def _statistics(self, layer: Layer, x: Image) -> tuple[Image, ...]:
        found = self.weights.statistics(layer.name, x)
        listed = [layer.tensors[tensor] for tensor in ("gamma", "beta", "moving_mean", "moving_variance")]
        if [t.shape for t in found] != listed:
            raise ValueError(f"{layer.name}: {[t.shape for t in found]}, the listing has {listed}")
        return found
