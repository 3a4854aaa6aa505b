"""The STAC Collection around the masks of a run with ``--stac``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.stac import StacExtra, publish_catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kappamask_stream.result import ProductResult
    from kappamask_stream.runner import Order, Workshop


async def publish_collection(
    results: Sequence[ProductResult], workshop: Workshop, order: Order, output: str | Path
) -> None:
    """Write or grow the Collection in the output folder, if Items were asked for and there is one.

    Parameters
    ----------
    results : of the whole run; products that were skipped have Items, too.
    output : folder or ``s3://`` prefix that holds the products' folders.

    Raises
    ------
    OutputError
        If an Item cannot be read, or the Collection cannot be written.
    """
    from kappamask_stream.destinations import make_destination

    masked = [result for result in results if result.output is not None and result.error is None]
    if StacExtra not in order.extras or not masked:
        return
    root = await make_destination(output, "", workshop.stores)
    items: dict[str, bytes] = {}
    levels: set[str] = set()
    for result in masked:
        stem = str(result.output).rpartition("/")[2].removesuffix(".tif")
        levels.add(stem.partition("_")[0])
        name = f"{result.product}/{stem}.json"
        items[name] = await root.read(name)
    contracts = [(await workshop.models.get(level)).client.contract for level in sorted(levels)]
    await publish_catalogue(root, contracts, items)
