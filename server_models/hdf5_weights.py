"""Read Keras 2 weights from HDF5, trusting nothing: numbers only, every tensor checked, none left over.

A weights file is fetched over plain HTTP, so it is treated as hostile: no pickles, no code (Keras' own loader
may run some), no links of any kind, no data outside the file, no compression (as Keras writes it; a compressed chunk
may fill the memory, and an unknown filter would load a plugin), no tensor that is not finite float32 or larger than the
file. HDF5 does not tell how long names of variable length are before it reads them: the process that builds has a limit
for its memory (`__main__`), and reaching it is an error of the file.

Both layouts are read: weights alone (``model.save_weights``) and the group ``model_weights`` of a whole model.
Layers are identified by class and number, as Keras names them in the order of construction; a file whose
numbers start higher, because its process had built another network before, is renumbered from zero.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from kappamask_stream.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

#: Larger than twice the largest published file (U-Net, 124 MB).
MAX_BYTES = 1 << 30
MAX_TENSORS = 4096

#: Larger than HDF5's limit for what Keras writes (64 KiB a list of names).
MAX_NAMES_BYTES = 1 << 20

#: Characters of one name, which may end up in a message on a terminal.
MAX_NAME = 200

#: Layouts whose values lie in the file as they are, in one piece.
_PLAIN_LAYOUTS = {h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS}

_NUMBERED = re.compile(r"(?P<kind>.+?)(?:_(?P<number>[1-9][0-9]{0,5}))?")


class KerasWeights:
    """The tensors of one weights file, each of which must be taken exactly once.

    Parameters
    ----------
    tensors : values by ``layer/tensor``, e.g. ``conv2d_3/kernel``; float32.
    origin : what the messages call the file.
    """

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], *, origin: str) -> None:
        self.origin = origin
        self._left = dict(tensors)
        self._taken: set[str] = set()

    def __repr__(self) -> str:
        return f"<KerasWeights {self.origin}: {len(self._taken)} tensors taken, {len(self._left)} left>"

    def take(self, name: str, shape: Sequence[int | None]) -> NDArray[np.float32]:
        """Hand out one tensor.

        Parameters
        ----------
        name : ``layer/tensor``.
        shape : what the network needs; None where the file decides (a layer's width).

        Raises
        ------
        InputError
            If the file has no such tensor, or one of another shape.
        """
        if name not in self._left:
            raise InputError(
                f"{self.origin}: tensor {name} is missing (expected shape {_written(shape)}); "
                "are these weights of another network or level?"
            )
        found = self._left[name].shape
        if len(found) != len(shape) or any(e not in (None, f) for e, f in zip(shape, found, strict=True)):
            raise InputError(
                f"{self.origin}: tensor {name} has shape {_written(found)}, expected {_written(shape)}; "
                "are these weights of another network or level?"
            )
        self._taken.add(name)
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Tell whether a tensor is there and not yet taken."""
        return name in self._left

    def finish(self) -> None:
        """Refuse tensors that the network did not use.

        Raises
        ------
        InputError
            Naming the first of them.
        """
        if self._left:
            first = [f"{name} {_written(values.shape)}" for name, values in sorted(self._left.items())[:3]]
            raise InputError(
                f"{self.origin}: {len(self._left)} of {len(self._left) + len(self._taken)} tensors are unknown to the "
                f"network, first {', '.join(first)}; are these weights of another network?"
            )


def read_keras_weights(path: Path) -> KerasWeights:
    """Read all tensors of a weights file.

    Parameters
    ----------
    path : an HDF5 file as Keras 2 writes it.

    Raises
    ------
    UsageError
        If there is no such file.
    InputError
        If it is no HDF5 file, not laid out as Keras 2 does it, or holds anything that is not plain float32 data.
    """
    if not path.is_file():
        raise UsageError(
            f"no weights file at {path}: give one that is there with --weights FILE, fetch one with `kappamask-stream "
            "models fetch`, name a server that has them with --triton, or take --model csmask"
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size} bytes, weights files have at most {MAX_BYTES}")
    try:
        with h5py.File(path, "r") as file:
            # A look at the link alone: `in` would open the file that an external one names.
            whole_model = file.get("model_weights", getlink=True) is not None
            root = _group(file, "model_weights", str(path)) if whole_model else file
            tensors = _renumbered(_tensors(root, str(path), size), str(path))
    except MemoryError as error:
        raise InputError(f"{path}: reading it takes more memory than a build may use: it is no weights file") from error
    # h5py tells damage by whatever exception the library's error stack maps to.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, UnicodeError) as error:
        raise InputError(f"{path}: not a readable Keras HDF5 weights file: {error}") from error
    return KerasWeights(tensors, origin=path.name)


def _tensors(root: h5py.Group, origin: str, limit: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield ``layer/tensor`` and values in the order of the file's own lists, `limit` bytes in all."""
    total = count = 0
    for layer in _names(root, "layer_names", origin):
        group = _group(root, layer, origin)
        for path in _names(group, "weight_names", origin):
            dataset = _dataset(group, path, f"{origin}: tensor {layer}/{path}")
            total, count = total + dataset.size * 4, count + 1
            if total > limit or count > MAX_TENSORS:
                raise InputError(
                    f"{origin}: {count} tensors with {total} bytes or more, in a file of {limit} bytes; at most "
                    f"{MAX_TENSORS} tensors are read"
                )
            yield f"{layer}/{PurePosixPath(path).name.partition(':')[0]}", _values(dataset, f"{origin}: {layer}/{path}")


def _names(group: h5py.Group, attribute: str, origin: str) -> list[str]:
    """Read a list of names; Keras splits a long one over ``name0``, ``name1`` and so on."""
    if attribute in group.attrs:
        names = _strings(group, attribute, origin)
    else:
        names, part = [], 0
        while f"{attribute}{part}" in group.attrs and len(names) <= MAX_TENSORS:
            names += _strings(group, f"{attribute}{part}", origin)
            part += 1
        if not part:
            raise InputError(f"{origin}: group {group.name} has no attribute {attribute}: not a Keras 2 weights file")
    if len(names) > MAX_TENSORS or len(set(names)) != len(names):
        raise InputError(
            f"{origin}: {attribute} of {group.name} lists {len(names)} names ({len(set(names))} different ones), "
            f"at most {MAX_TENSORS} are read, each once"
        )
    return names


def _strings(group: h5py.Group, attribute: str, origin: str) -> list[str]:
    """Read one attribute that is a list of strings; an empty list is whatever numpy makes of it."""
    found = group.attrs.get_id(attribute)
    if found.shape == (0,):
        return []
    what = f"{origin}: attribute {attribute} of {group.name}"
    if h5py.check_string_dtype(found.dtype) is None or found.shape is None or len(found.shape) > 1:
        raise InputError(f"{what} has type {found.dtype} and shape {found.shape}, expected a list of strings")
    count, size = int(np.prod(found.shape)), found.get_storage_size()
    if count > MAX_TENSORS or size > MAX_NAMES_BYTES:
        raise InputError(
            f"{what} lists {count} names in {size} bytes, at most {MAX_TENSORS} in {MAX_NAMES_BYTES} are read"
        )
    names = [n.decode("utf-8") if isinstance(n, bytes) else str(n) for n in np.atleast_1d(group.attrs[attribute])]
    unfit = [name for name in names if len(name) > MAX_NAME or not name.isprintable()]
    if unfit:
        raise InputError(
            f"{what} holds {unfit[0][:MAX_NAME]!a}, expected names of at most {MAX_NAME} printable characters"
        )
    return names


def _group(parent: h5py.Group, path: str, origin: str) -> h5py.Group:
    found = _member(parent, path, f"{origin}: group {path}")
    if not isinstance(found, h5py.Group):
        raise InputError(f"{origin}: {path} is a {type(found).__name__}, expected a group")
    return found


def _dataset(parent: h5py.Group, path: str, what: str) -> h5py.Dataset:
    found = _member(parent, path, what)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{what} is a {type(found).__name__}, expected a dataset")
    if found.is_virtual or found.external:
        raise InputError(f"{what} keeps its data outside the file: refused")
    if found.id.get_create_plist().get_layout() not in _PLAIN_LAYOUTS:
        raise InputError(
            f"{what} is stored in chunks or compressed, expected plain values as Keras writes them; "
            "`h5repack -l CONTI -f NONE` makes such a file"
        )
    if found.dtype.kind != "f" or found.dtype.itemsize != np.dtype(np.float32).itemsize:
        raise InputError(f"{what} has type {found.dtype}, expected float32")
    if not found.size:
        raise InputError(f"{what} has no values (shape {found.shape})")
    stored = found.id.get_storage_size()
    if stored != found.size * found.dtype.itemsize:
        raise InputError(
            f"{what} has {stored} bytes in the file, its shape {_written(found.shape)} needs "
            f"{found.size * found.dtype.itemsize}: it was never written or is damaged"
        )
    return found


def _member(parent: h5py.Group, path: str, what: str) -> Any:
    """Follow a path of hard links below `parent`, and no other kind of link."""
    found: Any = parent
    for part in PurePosixPath(path).parts:
        if part in {"/", "//", "..", "."} or not isinstance(found, h5py.Group):
            raise InputError(f"{what}: the path leaves its group: refused")
        link = found.get(part, getlink=True)
        if link is None:
            raise InputError(f"{what} is missing although the file lists it")
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{what} is reached through a {type(link).__name__}, expected plain data: refused")
        found = found[part]
    return found


def _values(dataset: h5py.Dataset, what: str) -> NDArray[np.float32]:
    values = np.asarray(dataset[...], dtype=np.float32)
    broken = int(values.size - np.count_nonzero(np.isfinite(values)))
    if broken:
        raise InputError(f"{what}: {broken} of {values.size} values are not finite")
    return values


def _renumbered(tensors: Iterable[tuple[str, NDArray[np.float32]]], origin: str) -> dict[str, NDArray[np.float32]]:
    """Let each class of layers start at number 0, without closing gaps (layers that lead nowhere are not stored)."""
    numbers: dict[str, list[int]] = defaultdict(list)
    parsed: dict[tuple[str, int, str], NDArray[np.float32]] = {}
    for name, values in tensors:
        layer, _, tensor = name.rpartition("/")
        match = _NUMBERED.fullmatch(layer)
        kind, number = (match["kind"], int(match["number"] or 0)) if match else (layer, 0)
        if (kind, number, tensor) in parsed:
            raise InputError(f"{origin}: the file lists tensor {name} twice")
        numbers[kind].append(number)
        parsed[kind, number, tensor] = values
    renumbered = {}
    for (kind, number, tensor), values in parsed.items():
        left = number - min(numbers[kind])
        renumbered[f"{kind}_{left}/{tensor}" if left else f"{kind}/{tensor}"] = values
    return renumbered


def _written(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("*" if n is None else str(n) for n in shape) + ")"
