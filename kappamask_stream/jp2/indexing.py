"""Index the files of a product: `index_steps` fed from a source, several files at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kappamask_stream.bands.cog import index_cog_steps
from kappamask_stream.jp2.account import PieceAccount
from kappamask_stream.jp2.codestream import index_steps
from kappamask_stream.jp2.geometry import TileGeometry
from kappamask_stream.jp2.read_ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kappamask_stream.bands.types import BandIndex
    from kappamask_stream.sources import Source

#: Files indexed at once: each waits for many small reads, from afar mostly for answers.
_AT_ONCE_NEARBY, _AT_ONCE_FROM_AFAR = 8, 16


@dataclass(kw_only=True)
class IndexCost:
    """What indexing has cost so far.

    Attributes
    ----------
    requests : reads of the source.
    bytes_read : that they brought, those read ahead included.
    """

    requests: int = 0
    bytes_read: int = 0


async def index_bands(
    source: Source,
    paths: Iterable[str],
    *,
    wanted: Callable[[str, TileGeometry], Iterable[int]] | None = None,
    cost: IndexCost | None = None,
    most_bytes: int | None = None,
) -> dict[str, BandIndex]:
    """Index files of a product, several at once.

    Parameters
    ----------
    wanted : for an area of interest: called with a path and its image's geometry, returns the positions of the
        codestream tiles that are to be found; of the others `CodestreamTile.parts` may be empty. None: all tiles,
        and the file is checked to its end.
    cost : counts are added here.
    most_bytes : that what is kept of all their pieces may take (`kept_bytes`). None: no limit.

    Raises
    ------
    CodestreamError, ProductError
        Of the first file that cannot be indexed, or with which they are cut into too many pieces.
    """
    sizes = await source.files()
    limit = asyncio.Semaphore(_AT_ONCE_FROM_AFAR if source.coalesce_bytes else _AT_ONCE_NEARBY)
    counted, account = cost or IndexCost(), PieceAccount(most_bytes)

    async def one(path: str) -> BandIndex:
        async with limit:
            return await _index(source, path, sizes.get(path, 0), wanted and partial(wanted, path), counted, account)

    unique = list(dict.fromkeys(paths))
    tasks = [asyncio.create_task(one(path)) for path in unique]
    try:
        return dict(zip(unique, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _index(
    source: Source,
    path: str,
    size: int,
    wanted: Callable[[TileGeometry], Iterable[int]] | None,
    cost: IndexCost,
    account: PieceAccount,
) -> BandIndex:
    # The name that people know is the file's, not its path inside the product.
    name = path.rsplit("/", 1)[-1]
    # A TIFF's directory has all blocks: there is nothing to look for further on.
    is_tiff = name.lower().endswith((".tif", ".tiff"))

    def count_blocks(blocks: int) -> None:
        account.add(name, pieces=blocks, parts=blocks)

    steps = index_cog_steps(name, size, count_blocks) if is_tiff else index_steps(name, size, wanted, account)
    ahead = ReadAhead(size) if source.coalesce_bytes else None
    try:
        asked = next(steps)
        while True:
            fetched = ahead.fetch(*asked) if ahead else asked
            if fetched is not None:
                data = await source.read(path, *fetched)
                cost.requests += 1
                cost.bytes_read += len(data)
                if ahead:
                    ahead.keep(fetched[0], data)
            asked = steps.send(ahead.take(*asked) if ahead else data)
    except StopIteration as finished:
        index: BandIndex = finished.value
        if is_tiff:
            needed = len(index.tiles) if wanted is None else len(set(wanted(TileGeometry.of(index))))
            account.add(name, units=needed)
        return index
