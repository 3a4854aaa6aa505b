"""Which pixels of a tile hold no data: those whose bands are all 0. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.contract import BandGroup, ModelContract


def nodata_mask(tensors: Mapping[str, NDArray[np.uint16]], contract: ModelContract) -> NDArray[np.bool_] | None:
    """Find the mask pixels under which every band of every resolution is 0.

    Parameters
    ----------
    tensors : per input tensor, uint16 ``[bands, height, width]`` as it goes to the server.
    contract : says resolutions and tile size.

    Returns
    -------
    bool ``[tile, tile]``, True where there is no data; None where all pixels hold data.
    """
    if any(band.all() for group in reversed(contract.inputs) for band in tensors[group.tensor]):
        return None  # most tiles, and the coarsest bands have few pixels to look at
    holds_data = np.zeros((contract.tile_size, contract.tile_size), np.bool_)
    for group in contract.inputs:
        some_band: NDArray[np.bool_] = np.not_equal(np.bitwise_or.reduce(tensors[group.tensor], axis=0), 0)
        holds_data |= _at_mask_resolution(some_band, group, contract)
        if holds_data.all():
            return None
    return np.logical_not(holds_data)


def _at_mask_resolution(holds_data: NDArray[np.bool_], group: BandGroup, contract: ModelContract) -> NDArray[np.bool_]:
    """Bring one resolution's flags to the mask's: repeat coarse pixels, join fine ones."""
    size = contract.tile_size
    if group.gsd_m < contract.gsd_m:
        factor = contract.gsd_m // group.gsd_m
        joined: NDArray[np.bool_] = np.logical_or.reduce(holds_data.reshape(size, factor, size, factor), axis=(1, 3))
        return joined
    # 85 pixels of 60 m end 2 pixels of 10 m before the tile does: its last rows take the last pixel.
    source = np.minimum(np.arange(size) * contract.gsd_m // group.gsd_m, group.tile - 1)
    return holds_data[source][:, source]
