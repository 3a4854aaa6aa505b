"""A product that is open for the length of a block, wherever it lies."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from kappamask_stream.product import open_product
from kappamask_stream.sources.locate import open_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kappamask_stream.product import Product
    from kappamask_stream.s3 import Stores
    from kappamask_stream.sources.hrefs import MayRead


@asynccontextmanager
async def opened_product(
    where: str,
    stores: Stores,
    *,
    source: str | None = None,
    allow_coarser: bool = False,
    may_read: MayRead | None = None,
) -> AsyncIterator[Product]:
    """Find a product, read its metadata, and give back what it holds at the end of the block.

    Parameters
    ----------
    where : a path, an URL or a name, as `sources.locate.open_source` takes it.
    source : where names are looked up.
    allow_coarser : True replicates the pixels of a band that is there only coarser than the model asks;
        Earth Search has AOT and WVP at 20 m only.
    may_read : tells where a STAC Item, its links and redirects may lead; None: everywhere.

    Raises
    ------
    InputError
        If there is no such product, or its metadata is incomplete, damaged or contradicts itself.
    """
    found = await open_source(where, stores=stores, source=source, may_read=may_read)
    try:
        yield replace(await open_product(found), allow_coarser=allow_coarser)
    finally:
        await found.aclose()
