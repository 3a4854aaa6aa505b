"""Weights files whose lists of names lead astray."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
from weights_writing import CASES, case, unet, written

if TYPE_CHECKING:
    from pathlib import Path


def _renamed(name: str, old: str, new: str) -> None:
    def renamed(path: Path) -> None:
        with written(path) as file:
            for group in (file, *file.values()):
                for attribute in ("layer_names", "weight_names"):
                    names = [n.decode() for n in np.atleast_1d(group.attrs.get(attribute, [])) if isinstance(n, bytes)]
                    if old in names:
                        changed = [new if n == old else n for n in names]
                        group.attrs[attribute] = np.array(changed, h5py.string_dtype())

    CASES[name] = renamed


_renamed("path_upwards", "conv2d_1/kernel:0", "../conv2d_1/conv2d_1/kernel:0")
_renamed("absolute_path", "conv2d_1/kernel:0", "/conv2d_1/conv2d_1/kernel:0")
_renamed("doubly_absolute_path", "conv2d_1/kernel:0", "//conv2d_1/conv2d_1/kernel:0")
_renamed("layer_upwards", "conv2d_1", "../conv2d_1")
_renamed("tensor_that_is_its_group", "conv2d_1/kernel:0", "conv2d_1")
_renamed("path_through_a_tensor", "conv2d_1/kernel:0", "conv2d_1/kernel:0/more")
_renamed("empty_name", "conv2d_1/kernel:0", "")
_renamed("same_name_twice", "conv2d_1/bias:0", "conv2d_1/kernel:0")


@case
def same_tensor_under_two_paths(path: Path) -> None:
    with written(path) as file:
        group = file["conv2d_1"]
        group["again/kernel:0"] = group["conv2d_1/kernel:0"][...] + 1
        group.attrs["weight_names"] = np.array(["conv2d_1/kernel:0", "conv2d_1/bias:0", "again/kernel:0"], "S")


@case
def same_layer_under_two_numbers(path: Path) -> None:
    written(path, unet() | {"conv2d_01/kernel": np.ones((3, 3, 4, 4), np.float32)}).close()


@case
def number_of_five_thousand_digits(path: Path) -> None:
    name = "conv2d_" + "9" * 5000
    with written(path) as file:
        file[f"{name}/kernel:0"] = np.ones(3, np.float32)
        file[name].attrs["weight_names"] = np.array(["kernel:0"], "S")
        file.attrs["layer_names"] = np.array([*file.attrs["layer_names"], name.encode()], h5py.string_dtype())


@case
def terminal_commands_in_a_name(path: Path) -> None:
    with written(path) as file:
        names = [n.replace(b"conv2d_1", b"conv2d_1\x1b[2J") for n in file.attrs["layer_names"]]
        file.attrs["layer_names"] = np.array(names, "S")


@case
def names_that_are_numbers(path: Path) -> None:
    with written(path) as file:
        file.attrs["layer_names"] = np.arange(5)


@case
def names_that_are_not_unicode(path: Path) -> None:
    with written(path) as file:
        file.attrs["layer_names"] = np.array([b"conv2d", b"\xff\xfe"], "S")


@case
def too_many_tensors(path: Path) -> None:
    few = {f"layer_{i}/tensor_{j}": np.float32(0).reshape(1) for i in range(10) for j in range(500)}
    written(path, few).close()


@case
def too_many_names(path: Path) -> None:
    with written(path) as file:
        for part in range(9):
            names = [f"conv2d_1/n{part}_{i}:0" for i in range(500)]
            file["conv2d_1"].attrs[f"weight_names{part}"] = np.array(names, "S")
        del file["conv2d_1"].attrs["weight_names"]


@case
def one_huge_name(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.create("layer_names", np.zeros(64, "S1048576"))
