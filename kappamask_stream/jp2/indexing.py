"""Index the files of a product: `index_steps` fed from a source, several files at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.jp2.codestream import index_steps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kappamask_stream.jp2.codestream import CodestreamIndex
    from kappamask_stream.sources import Source

#: Files indexed at once: each waits for many small reads.
_INDEXED_AT_ONCE = 8


async def index_bands(source: Source, paths: Iterable[str]) -> dict[str, CodestreamIndex]:
    """Index files of a product, several at once.

    Raises
    ------
    CodestreamError, ProductError
        Of the first file that cannot be indexed.
    """
    sizes = await source.files()
    limit = asyncio.Semaphore(_INDEXED_AT_ONCE)

    async def one(path: str) -> CodestreamIndex:
        async with limit:
            # The name that people know is the file's, not its path inside the product.
            steps = index_steps(path.rsplit("/", 1)[-1], sizes.get(path, 0))
            try:
                wanted = next(steps)
                while True:
                    wanted = steps.send(await source.read(path, *wanted))
            except StopIteration as finished:
                index: CodestreamIndex = finished.value
                return index

    unique = list(dict.fromkeys(paths))
    tasks = [asyncio.create_task(one(path)) for path in unique]
    try:
        return dict(zip(unique, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
