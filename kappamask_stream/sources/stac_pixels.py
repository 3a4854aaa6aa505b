"""The darkest pixels of a COG's bands: what its offsets are checked by, for a few megabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.bands import index_cog_steps
from kappamask_stream.sources.stac_offsets import DARK_DN, BandFloor
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kappamask_stream.bands import BandTile, CogIndex
    from kappamask_stream.sources.types import Source

#: Dark over land and over water; of each row the first that is there. At 60 m a few blocks are the whole tile.
_LOOKED_AT = (("B01", "B02", "B04"), ("B12", "B11"))
_MOST_BLOCKS = 4


async def dark_pixels(
    source: Source, files: Mapping[tuple[str, int], str], listing: Mapping[str, int]
) -> list[tuple[BandFloor, CogIndex]]:
    """Read a few blocks of two bands and return their darkest pixels.

    Parameters
    ----------
    files : (band, gsd_m) -> path, COGs.
    listing : path -> bytes.

    Raises
    ------
    InputError
        If a block cannot be read or decoded.
    """
    found = []
    for row in _LOOKED_AT:
        at = next((key for band in row for key in sorted(files, reverse=True) if _is(key, band, files, listing)), None)
        if at is not None:
            found.append(await _floor(source, files[at], at[0], listing[files[at]]))
    return found


def _is(key: tuple[str, int], band: str, files: Mapping[tuple[str, int], str], listing: Mapping[str, int]) -> bool:
    return key[0] == band and files[key] in listing


async def _floor(source: Source, path: str, band: str, size: int) -> tuple[BandFloor, CogIndex]:
    index = await _index(source, path, size)
    stored = [tile for tile in index.tiles if not tile.is_zero]
    chosen = sorted({round(at) for at in np.linspace(0, len(stored) - 1, _MOST_BLOCKS)}) if stored else []
    counts = np.zeros(2**16, np.int64)
    for tile in (stored[at] for at in chosen):
        parts = [await source.read(path, offset, length) for offset, length in tile.parts]
        counts += await in_thread(None, _counted, index, tile, parts)
    counts[0] = 0
    valid = int(counts.sum())
    percentile_1 = float(np.searchsorted(np.cumsum(counts), 0.01 * valid)) if valid else 0.0
    dark = int(counts[:DARK_DN].sum())
    return BandFloor(band=band, valid=valid, dark=dark, percentile_1=percentile_1), index


async def _index(source: Source, path: str, size: int) -> CogIndex:
    steps = index_cog_steps(path, size)
    try:
        asked = next(steps)
        while True:
            asked = steps.send(await source.read(path, *asked))
    except StopIteration as finished:
        index: CogIndex = finished.value
        return index


def _counted(index: CogIndex, tile: BandTile, parts: list[bytes]) -> NDArray[np.int64]:
    """Decode a block and count its values (in a thread)."""
    return np.bincount(index.pixels(tile, parts).ravel(), minlength=2**16)
