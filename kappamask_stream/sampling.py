"""Tiles of a product with all that a server needs to answer them: what a model is checked, and measured, on."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask_stream.errors import OutputError, ProductError
from kappamask_stream.grid import TileGrid
from kappamask_stream.jp2 import DecodePlan, TileStream
from kappamask_stream.planning import mask_size, plan_decoding
from kappamask_stream.radiometry import offset_scale

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.grid import Tile
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.product import Product

#: Tiles of which less is covered are taken only where no better ones are.
_WELL_COVERED = 0.5
_THREADS = max(2, min(8, os.cpu_count() or 1))


async def write_tiles(
    product: Product, contract: ModelContract, path: Path, *, count: int, radiometry: Radiometry
) -> int:
    """Cut tiles that hold data, spread over a product, and write them as ``models check --tiles`` reads them.

    Parameters
    ----------
    path : the file, a NumPy archive: the contract's input tensors, OFFSET and SCALE, each ``[n, …]``.
    count : how many; fewer where the product has fewer.

    Returns
    -------
    The number of tiles.

    Raises
    ------
    ProductError
        If the product is of another level than the model, or holds no data.
    InputError
        If a band is missing or damaged.
    OutputError
        If the file cannot be written.
    """
    plan = await plan_for(product, contract)
    chosen = spread(await covered(product, plan), count)
    arrays: dict[str, Any] = await cut(product, contract, radiometry, plan, chosen)
    try:
        with path.open("wb") as file:  # under the very name, which np.savez would change
            np.savez(file, **arrays)
    except OSError as error:
        raise OutputError(f"cannot write tiles of {product.name} to {path}: {error.strerror}") from error
    return len(arrays["OFFSET"])


async def plan_for(product: Product, contract: ModelContract) -> DecodePlan:
    """Plan to decode all of a product.

    Raises
    ------
    ProductError
        If the product is of another level than the model.
    InputError
        If a band is missing or damaged.
    """
    if product.level != contract.level:
        raise ProductError(
            f"{product.name} is a {product.level} product, the model {contract.name} was trained on {contract.level}"
        )
    return await plan_decoding(product, contract, TileGrid.of(contract, *mask_size(product, contract)))


async def cut(
    product: Product, contract: ModelContract, radiometry: Radiometry, plan: DecodePlan, tiles: Sequence[Tile]
) -> dict[str, NDArray[Any]]:
    """Cut tiles; those without data are left out.

    Parameters
    ----------
    plan : of the whole product.
    tiles : in the order of the grid.

    Returns
    -------
    Per input of the model, OFFSET and SCALE among them, ``[n, …]``.

    Raises
    ------
    ProductError
        If none holds data.
    InputError
        If a band is damaged.
    """
    # Pages that no tile comes to are never touched, and so take no memory.
    kept = {g.tensor: np.empty((len(tiles), len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs}
    wanted, found = DecodePlan.of(plan.bands, tiles), 0
    with ThreadPoolExecutor(_THREADS) as threads:
        async with TileStream(product.source, wanted, executor=threads, workers=_THREADS) as stream:
            async for pixels in stream:
                if not pixels.is_empty and not pixels.tile.core.is_empty:
                    for name, tensor in pixels.tensors.items():
                        kept[name][found] = tensor
                    found += 1
    if not found:
        raise ProductError(f"{product.name} holds no data: there is no tile to take from it")
    offset, scale = offset_scale(
        contract, offsets=product.offsets, quantification=product.quantification, radiometry=radiometry
    )
    arrays = {name: array[:found] for name, array in kept.items()}
    return arrays | {"OFFSET": np.tile(offset, (found, 1)), "SCALE": np.tile(scale, (found, 1))}


def spread(tiles: Sequence[tuple[Tile, float]], count: int) -> list[Tile]:
    """Choose tiles at even distances in the order of the grid.

    Parameters
    ----------
    tiles : each with the share of its pixels that hold data. Well covered ones are preferred.
    count : how many, at least 1.
    """
    good = [tile for tile, share in tiles if share >= _WELL_COVERED] or [tile for tile, _ in tiles]
    count = min(count, len(good))
    return [good[(2 * i + 1) * len(good) // (2 * count)] for i in range(count)]


async def covered(product: Product, plan: DecodePlan) -> list[tuple[Tile, float]]:
    """Return the tiles that hold data in the coarsest band, which costs least to decode, with their shares."""
    coarsest = max(plan.bands, key=lambda band: (band.group.gsd_m, -band.channel))
    found = []
    with ThreadPoolExecutor(_THREADS) as threads:
        alone = DecodePlan.of([coarsest], plan.tiles)
        async with TileStream(product.source, alone, executor=threads, workers=_THREADS) as stream:
            async for pixels in stream:
                if not pixels.is_empty and not pixels.tile.core.is_empty:
                    band = pixels.tensors[coarsest.group.tensor][coarsest.channel]
                    found.append((pixels.tile, float((band != 0).mean())))
    return found
