"""Tiles on which a served model is checked: built-in ones for any contract, or a user's own. Numpy only.

The built-in tiles look like land, sea, clouds and their shadows, because a network that answers noise answers near
the borders of its classes and agrees with nothing, not even itself in another precision. They are drawn, not
measured: what they show is that a flavour computes what its float32 graph computes, not how good its masks are.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.contract import FAULT_LABEL
from kappamask_stream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import BandGroup, ModelContract

#: Most tiles of a file: they are held in memory, and each is sent several times.
MAX_TILES = 64
#: Share of a tile's pixels whose class LABELS must know.
LEAST_KNOWN = 0.1
#: Value in a file's LABELS that means: nothing is known of this pixel.
UNKNOWN_LABEL = FAULT_LABEL

_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
#: Reflectance of vegetation, soil, water and bright sand, float64 ``[surface, band]``.
_SURFACES = np.array(
    [
        [0.020, 0.030, 0.060, 0.035, 0.100, 0.280, 0.350, 0.370, 0.390, 0.390, 0.001, 0.200, 0.095],
        [0.060, 0.075, 0.100, 0.135, 0.160, 0.175, 0.190, 0.205, 0.220, 0.225, 0.001, 0.280, 0.240],
        [0.040, 0.042, 0.045, 0.025, 0.020, 0.014, 0.013, 0.011, 0.009, 0.008, 0.001, 0.005, 0.003],
        [0.180, 0.220, 0.290, 0.360, 0.390, 0.405, 0.420, 0.430, 0.440, 0.440, 0.002, 0.520, 0.470],
    ]
)
#: Reflectance of thick water cloud and of cirrus; share of the light that reaches a cloud's shadow.
_CLOUD = np.array([0.72, 0.72, 0.71, 0.71, 0.71, 0.71, 0.71, 0.71, 0.70, 0.68, 0.005, 0.48, 0.34])
_CIRRUS = np.array([0.51, 0.50, 0.49, 0.48, 0.48, 0.48, 0.48, 0.48, 0.47, 0.47, 0.300, 0.29, 0.22])
_SKYLIGHT = np.array([0.40, 0.34, 0.28, 0.24, 0.22, 0.21, 0.20, 0.19, 0.19, 0.18, 0.15, 0.14, 0.12])
_NOISE = 0.002
#: A product of processing baseline 04.00 or later: digital numbers of reflectance r, aerosol a, water vapour w.
_QUANTIFICATION, _OFFSET = 10000.0, -1000.0
_ATMOSPHERE_QUANTIFICATION = 1000.0
_FULL_SCALE = 65535.0


@dataclass(frozen=True, kw_only=True)
class CheckTiles:
    """Tiles, what the client would send with them, and maybe the answers that are right.

    Attributes
    ----------
    tensors : per input of the contract, OFFSET and SCALE included, an array whose first axis counts the tiles.
    labels : uint8 ``[n, H, W]``, `UNKNOWN_LABEL` where nothing is known; None without a reference.
    source : where they come from, for people.
    """

    tensors: Mapping[str, NDArray[Any]]
    labels: NDArray[np.uint8] | None
    source: str

    def __len__(self) -> int:
        return len(self.tensors["OFFSET"])

    def __repr__(self) -> str:
        return f"<CheckTiles {len(self)} {self.source}, {'with' if self.labels is not None else 'without'} labels>"

    def batch(self, size: int) -> tuple[list[int], dict[str, NDArray[Any]]]:
        """Return a batch and which tiles are in it: another one is first in each size, so that positions differ."""
        chosen = [(size - 1 + i) % len(self) for i in range(size)]
        return chosen, {name: array[chosen] for name, array in self.tensors.items()}

    def save(self, path: Path) -> None:
        """Write the file that `load_tiles` reads."""
        arrays: dict[str, Any] = {**self.tensors}
        if self.labels is not None:
            arrays["LABELS"] = self.labels
        np.savez(path, **arrays)


def builtin_tiles(contract: ModelContract, count: int) -> CheckTiles:
    """Draw tiles for a contract, the same ones every time.

    Parameters
    ----------
    count : number of tiles; each shows another place under another sky. One corner of the first has no data.
    """
    scenes = [_Scene(seed) for seed in range(count)]
    tensors: dict[str, NDArray[Any]] = {
        group.tensor: np.stack([scene.digital_numbers(contract, group) for scene in scenes])
        for group in contract.inputs
    }
    offset = [_offset(contract, band) for band in contract.channels]
    scale = [
        1.0 / (_full_scale(contract, band) * divisor)
        for band, divisor in zip(contract.channels, contract.divisors, strict=True)
    ]
    tensors["OFFSET"] = np.tile(np.array(offset, np.float32), (count, 1))
    tensors["SCALE"] = np.tile(np.array(scale, np.float32), (count, 1))
    return CheckTiles(tensors=tensors, labels=None, source="built-in tiles")


class _Scene:
    """One place under one sky, drawn at any resolution: fields are values on coarse grids, interpolated."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        rng = np.random.default_rng(seed)
        self._grids = {cells: rng.random((8, cells + 1, cells + 1)) for cells in (3, 6, 24, 96)}
        self._cloudiness, self._cirrus = rng.uniform(0.20, 0.45), rng.uniform(0.3, 0.9)

    def digital_numbers(self, contract: ModelContract, group: BandGroup) -> NDArray[np.uint16]:
        """Return uint16 ``[bands, tile, tile]``."""
        size = group.tile
        surfaces = self._surfaces(size)
        cloud, shade, cirrus = self._sky(size)
        rng = np.random.default_rng((self._seed, group.gsd_m))
        bands = []
        for band in group.bands:
            if band.startswith("B"):
                at = _BANDS.index(band) if band in _BANDS else 0
                ground = np.tensordot(_SURFACES[:, at], surfaces, 1) * (1 - shade * (1 - _SKYLIGHT[at]))
                veiled = ground * (1 - cirrus) + _CIRRUS[at] * cirrus
                reflectance = veiled * (1 - cloud) + _CLOUD[at] * cloud
                noisy = reflectance + rng.normal(0, _NOISE, reflectance.shape)
                dn = noisy * _QUANTIFICATION - _offset(contract, band)
            else:  # aerosol optical thickness, water vapour in g/cm2
                low, high = (0.05, 0.4) if band == "AOT" else (0.5, 3.0)
                dn = (low + (high - low) * self._noise(size, 3, 7)) * _ATMOSPHERE_QUANTIFICATION
            bands.append(np.clip(np.rint(dn), 1, _FULL_SCALE))
        pixels = np.stack(bands).astype(np.uint16)
        if self._seed == 0:
            pixels[:, : size // 8, : size // 5] = 0
        return pixels

    def _surfaces(self, size: int) -> NDArray[np.float64]:
        """Shares of each surface ``[4, size, size]``, each with a texture of its own."""
        pull = np.stack([4 * self._noise(size, 6, i) + self._noise(size, 24, i) for i in range(len(_SURFACES))])
        shares = np.exp(6 * (pull - pull.max(axis=0)))
        texture = 0.7 + 0.4 * self._noise(size, 24, 6) + 0.2 * self._noise(size, 96, 6)
        found: NDArray[np.float64] = texture * shares / shares.sum(axis=0)
        return found

    def _sky(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Opacity of clouds, share of the sunlight that their shadows lack, opacity of cirrus."""
        bumps = 0.6 * self._noise(size, 6, 4) + 0.3 * self._noise(size, 24, 4) + 0.1 * self._noise(size, 96, 4)
        cloud = np.clip((bumps - 1 + self._cloudiness) * 8, 0, 1)
        shade = np.roll(cloud, (size // 16, -size // 12), (0, 1))
        cirrus = self._cirrus * np.clip(2 * self._noise(size, 3, 5) - 1, 0, 1)
        return cloud, shade, cirrus

    def _noise(self, size: int, cells: int, layer: int) -> NDArray[np.float64]:
        """Return smooth noise between 0 and 1 whose blobs are size / cells pixels wide."""
        grid = self._grids[cells][layer]
        at = (np.arange(size) + 0.5) * cells / size
        low, part = at.astype(int), at % 1
        rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
        noise: NDArray[np.float64] = rows[:, low] * (1 - part) + rows[:, low + 1] * part
        return noise


def _offset(contract: ModelContract, band: str) -> float:
    return _OFFSET if contract.offset_rule == "reflectance" and band.startswith("B") else 0.0


def _full_scale(contract: ModelContract, band: str) -> float:
    """Return the digital number that a divisor of 1 stands for."""
    if contract.dn_unit == "full_scale":
        return _FULL_SCALE
    return _QUANTIFICATION if band.startswith("B") else _ATMOSPHERE_QUANTIFICATION


def load_tiles(path: Path, contract: ModelContract) -> CheckTiles:
    """Read tiles from a NumPy archive (``numpy.savez``): the contract's inputs and, optionally, LABELS.

    Raises
    ------
    InputError
        If the file is no such archive or an array is missing, too many, or not what the contract says. Nothing in it
        is unpickled.
    """
    size, channels = contract.tile_size, len(contract.channels)
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        g.tensor: (np.uint16, (len(g.bands), g.tile, g.tile)) for g in contract.inputs
    }
    expected |= dict.fromkeys(("OFFSET", "SCALE"), (np.float32, (channels,)))
    expected["LABELS"] = (np.uint8, (size, size))
    arrays = _arrays(path, expected)
    missing = sorted(set(expected) - set(arrays) - {"LABELS"})
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: {contract.name} takes {_wanted(expected)}")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError(f"{path} does not hold the same number of tiles, at least one, of everything: {counts}")
    if not (np.isfinite(arrays["OFFSET"]).all() and np.isfinite(arrays["SCALE"]).all()):
        raise InputError(f"{path}: OFFSET or SCALE holds values that are not finite")
    labels = arrays.pop("LABELS", None)
    if labels is not None:
        _require_classes(path, labels, contract)
    return CheckTiles(tensors=arrays, labels=labels, source=f"tiles of {path.name}")


def _require_classes(path: Path, labels: NDArray[Any], contract: ModelContract) -> None:
    """Refuse labels that the model cannot give, or that say nothing of a tile: it would pass without a comparison."""
    strange = set(np.unique(labels).tolist()) - {c.value for c in contract.classes} - {UNKNOWN_LABEL}
    if strange:
        raise InputError(
            f"{path}: LABELS holds {sorted(strange)}, which are no classes of {contract.name} "
            f"({UNKNOWN_LABEL} is for pixels of which nothing is known)"
        )
    known = (labels != UNKNOWN_LABEL).mean(axis=(1, 2))
    if known.min() < LEAST_KNOWN:
        raise InputError(
            f"{path}: LABELS knows the class of {known.min():.1%} of the pixels of tile {int(known.argmin())}, "
            f"at least {LEAST_KNOWN:.0%} of each are needed to compare: leave the tile out, or leave out LABELS"
        )


def _arrays(path: Path, expected: Mapping[str, tuple[type, tuple[int, ...]]]) -> dict[str, NDArray[Any]]:
    """Read the arrays of an archive that are as expected; headers are looked at before anything is read."""
    found: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name not in expected:
                    raise InputError(f"{path} holds {name}, which is not asked for; it may hold {_wanted(expected)}")
                if name in found:
                    raise InputError(f"{path} holds {name} twice")
                with archive.open(entry) as file:
                    found[name] = _array(file, f"{path}: {name}", *expected[name])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        ValueError,
        TypeError,
        EOFError,
        KeyError,
        RuntimeError,
    ) as error:
        raise InputError(f"{path} is no NumPy archive of plain arrays (numpy.savez): {error}") from error
    return found


def _array(file: IO[bytes], what: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read one array in NumPy's format: its header, and if that is as expected, as many bytes as it takes."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found_shape, by_columns, found_dtype = read_header(file)
    if found_dtype != dtype or tuple(found_shape[1:]) != shape:
        raise InputError(f"{what} is {found_dtype} {list(found_shape)}, not {_shown(dtype, shape)}")
    if type(found_shape[0]) is not int or not 0 <= found_shape[0] <= MAX_TILES:
        raise InputError(f"{what} is {found_shape[0]} tiles, at most {MAX_TILES} are checked")
    wanted = int(np.prod(found_shape)) * np.dtype(dtype).itemsize
    data = file.read(wanted)
    if len(data) < wanted:
        raise InputError(f"{what} is cut short: {len(data)} of {wanted} bytes")
    return np.frombuffer(data, dtype).reshape(found_shape, order="F" if by_columns else "C")


def _shown(dtype: type, shape: tuple[int, ...]) -> str:
    return f"{dtype.__name__} [n, {', '.join(map(str, shape))}]"


def _wanted(expected: Mapping[str, tuple[type, tuple[int, ...]]]) -> str:
    return ", ".join(
        f"{name} {_shown(*kind)}{' (optional)' if name == 'LABELS' else ''}" for name, kind in expected.items()
    )
