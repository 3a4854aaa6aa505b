"""Weights files that can be read, in all the ways that Keras writes them and some more."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import h5py
import numpy as np
from weights_writing import DEEPLAB, Bomb, case, deeplab, unet, write, written

if TYPE_CHECKING:
    from pathlib import Path


@case
def weights_alone(path: Path) -> None:
    written(path).close()


@case
def deeplab_weights(path: Path) -> str:
    written(path, deeplab()).close()
    return DEEPLAB


@case
def whole_model_with_code_in_it(path: Path) -> None:
    """Keras' own loader would run the Lambda; nothing but numbers may be looked at."""
    with h5py.File(path, "w") as file:
        lambda_layer = {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None], "module": "os"}}
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"layers": [lambda_layer]}})
        file.attrs["training_config"] = np.void(pickle.dumps(Bomb(path)))
        file["optimizer_weights"] = np.void(pickle.dumps(Bomb(path)))
        write(file.create_group("model_weights"), unet())


@case
def numbers_that_start_higher(path: Path) -> str:
    def later(name: str) -> str:
        layer, tensor = name.split("/")
        kind, _, number = layer.rpartition("_")
        starts = {"conv2d": 16, "separable_conv2d": 32, "batch_normalization": 49}
        kind, number = (kind, number) if kind in starts and number.isdigit() else (layer, "0")
        return f"{kind}_{int(number) + starts[kind]}/{tensor}"

    written(path, {later(name): values for name, values in deeplab().items()}).close()
    return DEEPLAB


@case
def names_split_over_several_attributes(path: Path) -> None:
    with written(path) as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:10], names[10:]


@case
def names_of_variable_length(path: Path) -> None:
    with h5py.File(path, "w") as file:
        write(file, unet(), strings=h5py.string_dtype())


@case
def big_endian_values(path: Path) -> None:
    written(path, {name: values.astype(">f4") for name, values in unet().items()}).close()


@case
def groups_in_a_circle(path: Path) -> None:
    with written(path) as file:
        file["conv2d"]["circle"] = file["/"]
        file["circle"] = file["/"]
