"""Tiles of a product that lie ready to be sent: in files, which all processes map into their memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask_stream.atomic import output_error
from kappamask_stream.errors import InputError
from kappamask_stream.inference import TileRequest
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.grid import Tile
    from kappamask_stream.mask_options import Radiometry
    from kappamask_stream.product import Product

_VECTORS = ("OFFSET", "SCALE")
_ELSEWHERE = "choose another temporary folder with TMPDIR"


@dataclass(frozen=True, kw_only=True)
class TileSet:
    """Tiles in a folder: a ``.npy`` file per input of the model, ``[n, …]``.

    Attributes
    ----------
    folder : where the files lie; whoever made it removes it.
    names : of the inputs: those of the contract, OFFSET and SCALE.
    count : how many tiles.
    product : name of the product that they are from.
    """

    folder: Path
    names: tuple[str, ...]
    count: int
    product: str

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Map the files: read-only, and read from disk when they are first used.

        Raises
        ------
        InputError
            If one is not there, or is no such file.
        """
        try:
            return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.names}
        except (OSError, ValueError) as error:
            raise InputError(f"tiles of {self.product} cannot be read from {self.folder}: {error}") from error

    def requests(self) -> list[TileRequest]:
        """Return a request per tile; their arrays are parts of the mapped files. Raises as `arrays`."""
        # Plain arrays: slices of `numpy.memmap` cost more.
        arrays = {name: np.asarray(array) for name, array in self.arrays().items()}
        offset, scale = (arrays.pop(name).astype(np.float32, copy=False) for name in _VECTORS)
        return [
            TileRequest(
                name=f"tile {i} of {self.product}",
                tensors={name: array[i] for name, array in arrays.items()},
                offset=offset[i],
                scale=scale[i],
            )
            for i in range(self.count)
        ]


async def write_tile_set(
    product: Product, contract: ModelContract, radiometry: Radiometry, folder: Path, *, most: int
) -> TileSet:
    """Cut tiles that hold data out of a product, and write them to a folder that is there.

    Parameters
    ----------
    most : how many at most, beside each other (they share what must be decoded); whatever holds data where the grid has
        no more.

    Raises
    ------
    ProductError
        If the product is of another level than the model, or holds no data.
    InputError
        If a band is missing or damaged.
    OutputError
        If the files cannot be written.
    """
    from kappamask_stream.sampling import covered, cut, plan_for  # processes that send tiles need no decoder

    plan = await plan_for(product, contract)
    chosen = plan.tiles
    if most < len(chosen):
        chosen = tuple(neighbours([tile for tile, _ in await covered(product, plan)], most))
    arrays = await cut(product, contract, radiometry, plan, chosen)
    await in_thread(None, _write, arrays, folder)
    return TileSet(folder=folder, names=tuple(arrays), count=len(arrays["OFFSET"]), product=product.name)


def neighbours(tiles: Sequence[Tile], most: int) -> list[Tile]:
    """Choose the tiles around the one in the middle of all, in their order."""
    if not tiles:
        return []
    middle = tiles[len(tiles) // 2]

    def distance(tile: Tile) -> int:
        return max(abs(tile.row - middle.row), abs(tile.col - middle.col))

    nearest = {tile.index for tile in sorted(tiles, key=distance)[:most]}
    return [tile for tile in tiles if tile.index in nearest]


def _write(arrays: dict[str, NDArray[np.generic]], folder: Path) -> None:
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        try:
            np.save(path, array)
        except OSError as error:  # of numpy's own kind where the disk is full: without a number
            raise output_error(path, error, array.nbytes, elsewhere=_ELSEWHERE) from error
