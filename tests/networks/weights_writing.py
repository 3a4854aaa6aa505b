"""Weights files as Keras 2 writes them, of narrow networks with random values; and a list of cases to fill."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import served_graph
import small_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]
    Case = Callable[[Path], str | None]

UNET, DEEPLAB = "kappamask_l2a_unet", "kappamask_l2a_deeplabv3plus"
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Note a function that writes a file and returns the model to build from it (U-Net if None)."""
    CASES[function.__name__] = function
    return function


@cache
def weights_of(level: str, architecture: str) -> Mapping[str, NDArray[np.float32]]:
    contract = served_graph.small_contract(level, architecture, small_network.TILE)
    return small_network.random_weights(contract, share=1 / 16).tensors


def unet() -> Tensors:
    return dict(weights_of("L2A", "Unet"))


def deeplab() -> Tensors:
    return dict(weights_of("L2A", "DeepLabv3Plus"))


def layers_of(tensors: Tensors) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"input": []}
    for name in tensors:
        layer, tensor = name.split("/")
        found.setdefault(layer, []).append(f"{layer}/{tensor}:0")
    return found


def write(root: h5py.Group, tensors: Tensors, *, strings: str = "S") -> None:
    """Write as Keras 2 does: a group a layer, the lists of names as attributes."""
    layers = layers_of(tensors)
    root.attrs["layer_names"] = np.array(list(layers), strings)
    root.attrs["backend"], root.attrs["keras_version"] = "tensorflow", "2.15.0"
    for layer, paths in layers.items():
        group = root.create_group(layer)
        group.attrs["weight_names"] = np.array(paths, strings) if paths else []
        for path in paths:
            group.create_dataset(path, data=tensors[f"{layer}/{path.split('/')[1].removesuffix(':0')}"])


def written(path: Path, tensors: Tensors | None = None) -> h5py.File:
    file = h5py.File(path, "w")
    write(file, unet() if tensors is None else tensors)
    return file


def replaced(path: Path, **how: Any) -> None:
    """Write a sound file but for one tensor, which `create_dataset` makes as told."""
    with written(path) as file:
        group = file["conv2d_1"]
        del group["conv2d_1/kernel:0"]
        group.create_dataset("conv2d_1/kernel:0", **how)


class Bomb:
    """What unpickles to a new file beside the weights."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path.with_suffix(".exploded"),)
