"""Weights files of something else, and with tensors that do not fit."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from weights_writing import CASES, DEEPLAB, Bomb, case, deeplab, replaced, unet, weights_of, written

if TYPE_CHECKING:
    from pathlib import Path


@case
def no_hdf5(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path)) + bytes(4096))


@case
def empty_file(path: Path) -> None:
    path.touch()


@case
def truncated(path: Path) -> None:
    written(path).close()
    os.truncate(path, path.stat().st_size // 2)


@case
def no_layer_names(path: Path) -> None:
    with written(path) as file:
        del file.attrs["layer_names"]


@case
def no_weight_names(path: Path) -> None:
    with written(path) as file:
        del file["conv2d_3"].attrs["weight_names"]


@case
def other_level(path: Path) -> str:
    written(path, dict(weights_of("L1C", "DeepLabv3Plus"))).close()
    return DEEPLAB


@case
def other_network(path: Path) -> str:
    written(path, dict(weights_of("L1C", "Unet"))).close()
    return "kappamask_l1c_deeplabv3plus"


@case
def missing_tensor(path: Path) -> None:
    tensors = unet()
    del tensors["conv2d_7/bias"]
    written(path, tensors).close()


@case
def listed_but_absent(path: Path) -> None:
    with written(path) as file:
        del file["conv2d_7/conv2d_7/bias:0"]


@case
def extra_tensor(path: Path) -> None:
    written(path, unet() | {"dense/kernel": np.zeros((3, 4), np.float32)}).close()


@case
def no_values(path: Path) -> None:
    replaced(path, shape=(3, 3, 4, 0), dtype="f4")


@case
def null_dataspace(path: Path) -> None:
    replaced(path, data=h5py.Empty("f4"))


@case
def negative_variance(path: Path) -> str:
    tensors = deeplab()
    tensors["batch_normalization_7/moving_variance"] = -tensors["batch_normalization_7/moving_variance"]
    written(path, tensors).close()
    return DEEPLAB


@case
def not_a_number(path: Path) -> None:
    tensors = unet()
    tensors["conv2d_4/kernel"] = tensors["conv2d_4/kernel"].copy()
    tensors["conv2d_4/kernel"].flat[:2] = np.nan, np.inf
    written(path, tensors).close()


def _typed(name: str, kind: Any) -> None:
    def typed(path: Path) -> None:
        tensors = unet()
        tensors["conv2d_1/kernel"] = tensors["conv2d_1/kernel"].astype(kind)
        written(path, tensors).close()

    CASES[name] = typed


for _name, _kind in {
    "double_values": np.float64, "half_values": np.float16, "whole_numbers": np.int32, "complex_values": np.complex64,
    "string_values": "S8", "truth_values": np.bool_,
}.items():  # fmt: skip
    _typed(_name, _kind)


@case
def variable_length_values(path: Path) -> None:
    replaced(path, shape=(3, 3, 4, 4), dtype=h5py.vlen_dtype(np.float32))


@case
def references(path: Path) -> None:
    replaced(path, shape=(3, 3, 4, 4), dtype=h5py.ref_dtype)


@case
def opaque_pickle(path: Path) -> None:
    replaced(path, data=np.void(pickle.dumps(Bomb(path))))
