"""The pre-processing on the GPU: what `kappamask_preprocess` builds as ONNX nodes, as three kernels, always in float32.

Between the two passes of the enlargement, and after them, values are whole numbers up to 65535: they are kept as
uint16, a quarter of the memory traffic of float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kappamask_stream.errors import UsageError
from server_models import torch_kernels as kernels
from server_models.kappamask_preprocess import sinc_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

#: Channels of the normalised image, more than any network sees; the rest is zero. Tensor cores take 16 at a time.
CHANNELS = 16

_TAPS = 8
#: Pixels of a program; rows of one in the second pass.
_BLOCK, _ROWS = 128, 8


class Preprocessing:
    """Digital numbers of a contract's bands to normalised channels, for tiles on one device.

    Parameters
    ----------
    contract : of a KappaMask network.
    device : where the tables go.
    limit : largest value that the network's storage type holds.

    Raises
    ------
    UsageError
        If the contract's tiles are not one native resolution and enlargements of others.
    """

    def __init__(self, contract: ModelContract, device: torch.device, limit: float) -> None:
        self._size, self._limit, self._device = contract.tile_size, limit, device
        native_grids = [g for g in contract.inputs if g.tile == contract.tile_size]
        self._enlarged = [g for g in contract.inputs if g.tile != contract.tile_size]
        too_large = any(g.tile > self._size for g in self._enlarged)
        if len(native_grids) != 1 or len(contract.channels) > CHANNELS or too_large:
            raise UsageError(f"{contract.name}: the GPU engine is for KappaMask's networks; serve it with onnxruntime")
        self._native = native_grids[0]
        self._taps = {g.tensor: self._on_device(*taps(self._size, g.tile)) for g in self._enlarged}
        enlarged = [band for g in self._enlarged for band in g.bands]
        self._planes = len(enlarged)
        native = self._native.bands
        planes = [native.index(c) if c in native else enlarged.index(c) for c in contract.channels]
        is_native = [c in native for c in contract.channels]
        self._plane, self._is_native, _ = self._on_device(np.array(planes, np.int32), np.array(is_native, np.int32))
        self._channels = len(planes)

    def __call__(self, tensors: Mapping[str, torch.Tensor], flags: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return ``[N, size, size, CHANNELS]``; a tile that is not finite is marked in `flags`.

        Parameters
        ----------
        tensors : the model's inputs, uint16 and float32, contiguous, on the device.
        flags : int32 ``[N]``.
        dtype : the network's storage type.
        """
        dn, size = tensors[self._native.tensor], self._size
        batch = len(dn)
        enlarged = torch.empty((batch, max(self._planes, 1), size, size), dtype=torch.uint16, device=self._device)
        plane = 0
        for group in self._enlarged:
            self._enlarge(tensors[group.tensor], enlarged, plane, self._taps[group.tensor])
            plane += len(group.bands)
        x = torch.empty((batch, size, size, CHANNELS), dtype=dtype, device=self._device)
        kernels.normalise[(-(-size * size // _BLOCK), batch)](
            dn, enlarged, tensors["OFFSET"], tensors["SCALE"], self._plane, self._is_native, x, flags,
            len(self._native.bands), enlarged.shape[1], self._limit,
            CHANNELS=self._channels, PITCH=CHANNELS, PIXELS=size * size, BLOCK=_BLOCK,
        )  # fmt: skip
        return x

    def _enlarge(
        self, dn: torch.Tensor, enlarged: torch.Tensor, plane: int, taps_of_grid: tuple[torch.Tensor, ...]
    ) -> None:
        first, weights, transposed = taps_of_grid
        batch, bands, tile, _ = dn.shape
        size, grid = self._size, batch * bands
        rows = torch.empty((grid, size, tile), dtype=torch.uint16, device=self._device)
        kernels.enlarge_rows[(size, grid, -(-tile // _BLOCK))](dn, first, weights, rows, tile, SIZE=size, BLOCK=_BLOCK)
        kernels.enlarge_cols[(size // _ROWS, grid, -(-size // _BLOCK))](
            rows, first, transposed, enlarged, tile, bands, plane, enlarged.shape[1],
            SIZE=size, ROWS=_ROWS, BLOCK=_BLOCK,
        )  # fmt: skip

    def _on_device(self, first: NDArray[np.int32], weights: NDArray[np.generic]) -> tuple[torch.Tensor, ...]:
        """Return both, and the second one transposed."""
        arrays = (first, weights, np.ascontiguousarray(weights.T))
        return tuple(torch.from_numpy(array).to(self._device) for array in arrays)


def taps(size_to: int, size_from: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return per row of `sinc_matrix` its first tap (size_to,) and the weights from there on (size_to, 8)."""
    matrix = sinc_matrix(size_to, size_from)
    first = np.array([np.flatnonzero(row)[0] for row in matrix], np.int32)
    padded = np.pad(matrix, ((0, 0), (0, _TAPS)))
    weights = np.stack([padded[row, start : start + _TAPS] for row, start in enumerate(first)])
    if not np.isclose(weights.sum(), matrix.sum()):
        raise UsageError(f"enlarging {size_from} to {size_to} pixels takes more than {_TAPS} taps")
    return first, np.ascontiguousarray(weights)
