"""Weights files whose data lie elsewhere, or are larger than they look."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

import h5py
import numpy as np
from weights_writing import case, replaced, unet, written

if TYPE_CHECKING:
    from pathlib import Path


@case
def soft_link(path: Path) -> None:
    with written(path) as file:
        file.move("conv2d_1/conv2d_1/kernel:0", "elsewhere")
        file["conv2d_1/conv2d_1/kernel:0"] = h5py.SoftLink("/elsewhere")


@case
def external_link(path: Path) -> None:
    with written(path) as file:
        del file["conv2d_1"]
        file["conv2d_1"] = h5py.ExternalLink(_trap(path), "/conv2d_1")


@case
def whole_model_by_external_link(path: Path) -> None:
    with written(path) as file:
        file["model_weights"] = h5py.ExternalLink(_trap(path), "/")


def _trap(path: Path) -> Path:
    """Return the path of a pipe that nobody writes: whoever opens it, waits."""
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    return pipe


@case
def external_storage(path: Path) -> None:
    secret = path.with_suffix(".secret")
    secret.write_bytes(np.ones(3 * 3 * 4 * 4, np.float32).tobytes())
    replaced(path, shape=(3, 3, 4, 4), dtype="f4", external=[(str(secret), 0, secret.stat().st_size)])


@case
def virtual_dataset(path: Path) -> None:
    with h5py.File(path.with_suffix(".source"), "w") as source:
        source["values"] = np.ones((3, 3, 4, 4), np.float32)
    layout = h5py.VirtualLayout((3, 3, 4, 4), np.float32)
    layout[...] = h5py.VirtualSource(path.with_suffix(".source"), "values", (3, 3, 4, 4))
    with written(path) as file:
        del file["conv2d_1/conv2d_1/kernel:0"]
        file["conv2d_1"].create_virtual_dataset("conv2d_1/kernel:0", layout)


@case
def compressed(path: Path) -> None:
    replaced(path, data=unet()["conv2d_1/kernel"], compression="gzip")


@case
def unknown_filter(path: Path) -> None:
    with written(path) as file:
        del file["conv2d_1/conv2d_1/kernel:0"]
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((3, 3, 4, 4))
        how.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple((3, 3, 4, 4))
        h5py.h5d.create(file["conv2d_1/conv2d_1"].id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, how)


@case
def chunk_that_inflates_to_a_gigabyte(path: Path) -> None:
    """HDF5 inflates a chunk to whatever it holds, be the tensor as small as it likes."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    with written(path) as file:
        del file["conv2d_1/conv2d_1/kernel:0"]
        kernel = file["conv2d_1"].create_dataset(
            "conv2d_1/kernel:0", (3, 3, 4, 4), "f4", chunks=(3, 3, 4, 4), compression="gzip"
        )
        kernel.id.write_direct_chunk((0, 0, 0, 0), bomb)


@case
def huge_shape_in_chunks(path: Path) -> None:
    replaced(path, shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))


@case
def huge_shape_never_written(path: Path) -> None:
    replaced(path, shape=(10**6, 10**6), dtype="f4")


@case
def never_written(path: Path) -> None:
    replaced(path, shape=(3, 3, 4, 4), dtype="f4")


@case
def larger_than_the_file(path: Path) -> None:
    """The same 400 bytes, listed a thousand times in the layout of a tensor."""
    with written(path) as file:
        names = []
        for i in range(1000):
            names.append(f"again_{i}:0")
            file["conv2d_9"][names[-1]] = file["conv2d_9/conv2d_9/kernel:0"]
        file["conv2d_9"].attrs["weight_names"] = np.array(names, "S")
