"""A few tiles of a product with all that a server needs to answer them, in a file: what a model is checked on."""

from __future__ import annotations

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

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.grid import Tile
    from kappamask_stream.output import Radiometry
    from kappamask_stream.product import Product

#: Tiles of which less is covered are taken only where no better ones are.
_WELL_COVERED = 0.5
_THREADS = 2


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
    if product.level != contract.level:
        raise ProductError(
            f"{product.name} is a {product.level} product, the model {contract.name} was trained on {contract.level}"
        )
    grid = TileGrid.of(contract, *mask_size(product, contract))
    plan = await plan_decoding(product, contract, grid)
    covered = await _covered(product, plan)
    if not covered:
        raise ProductError(f"{product.name} holds no data: there is nothing to check a model on")
    chosen = spread(covered, count)
    kept: dict[str, list[Any]] = {group.tensor: [] for group in contract.inputs}
    with ThreadPoolExecutor(_THREADS) as threads:
        wanted = DecodePlan.of(plan.bands, chosen)
        async with TileStream(product.source, wanted, executor=threads, workers=_THREADS) as stream:
            async for pixels in stream:
                for name, tensor in pixels.tensors.items():
                    kept[name].append(tensor)
    offset, scale = offset_scale(
        contract, offsets=product.offsets, quantification=product.quantification, radiometry=radiometry
    )
    vectors = {name: np.tile(vector, (len(chosen), 1)) for name, vector in (("OFFSET", offset), ("SCALE", scale))}
    arrays: dict[str, Any] = {name: np.stack(tensors) for name, tensors in kept.items()} | vectors
    try:
        with path.open("wb") as file:  # under the very name, which np.savez would change
            np.savez(file, **arrays)
    except OSError as error:
        raise OutputError(f"cannot write tiles of {product.name} to {path}: {error.strerror}") from error
    return len(chosen)


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


async def _covered(product: Product, plan: DecodePlan) -> list[tuple[Tile, float]]:
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
