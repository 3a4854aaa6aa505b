"""Many products in one process: some at once, each failing alone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.destinations import Nowhere, make_destination
from kappamask_stream.errors import InternalError, KappaMaskError, UsageError
from kappamask_stream.manifest import verify
from kappamask_stream.opening import opened_product
from kappamask_stream.output import MaskOptions
from kappamask_stream.pipeline import mask_product
from kappamask_stream.result import ProductProgress, ProductResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from kappamask_stream.destinations import Destination
    from kappamask_stream.extras import Extra
    from kappamask_stream.models import ModelPool
    from kappamask_stream.resources import Resources
    from kappamask_stream.s3 import Stores


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What all products of a process are masked with; whoever made the parts closes them."""

    models: ModelPool
    resources: Resources
    stores: Stores


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for, the same for every product.

    Attributes
    ----------
    options : of the mask itself.
    extras : make what else is wanted of a product, anew for each.
    source : where products are that are given by name: ``aws``, ``cdse`` or a folder.
    allow_coarser : True replicates the pixels of a band that is there only coarser than the model asks.
    verify_checksums : True compares all files with the manifest first.
    output : folder or ``s3://`` prefix that receives a folder per product; None: as the setting `output` says.
    write : False writes nothing: extras alone see the mask.
    """

    options: MaskOptions = field(default_factory=MaskOptions)
    extras: Sequence[Callable[[], Extra]] = ()
    source: str | None = None
    allow_coarser: bool = False
    verify_checksums: bool = False
    output: str | None = None
    write: bool = True


async def mask_products(
    wheres: Sequence[str],
    workshop: Workshop,
    order: Order,
    *,
    fail_fast: bool = False,
    on_start: Callable[[ProductProgress], None] | None = None,
) -> AsyncGenerator[ProductResult]:
    """Mask products, `products_at_once` at a time, and yield each result as it comes.

    A product that fails, for whatever reason, becomes a result with its error; the others go on, unless `fail_fast`:
    then the rest is cancelled and yields nothing. Closing the iterator early cancels what is in work.

    Parameters
    ----------
    wheres : paths, URLs or names, as `sources.locate` takes them.
    """
    slots = asyncio.Semaphore(workshop.resources.settings.products_at_once)
    in_work: set[str] = set()

    async def one(where: str) -> ProductResult:
        progress = ProductProgress(product=where)
        async with slots:
            started = time.monotonic()
            if on_start is not None:
                on_start(progress)
            try:
                return await mask_one(where, workshop, order, progress, in_work)
            except Exception as error:  # noqa: BLE001 - it is reported with the product, the others go on
                progress.state = "failed"
                return ProductResult(
                    product=progress.product,
                    status="failed",
                    error=_of_ours(error),
                    seconds=time.monotonic() - started,
                )

    tasks = [asyncio.create_task(one(where), name=f"mask {where}") for where in wheres]
    try:
        for ended in asyncio.as_completed(tasks):
            result = await ended
            yield result
            if fail_fast and result.status == "failed":
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def mask_one(
    where: str, workshop: Workshop, order: Order, progress: ProductProgress, in_work: set[str] | None = None
) -> ProductResult:
    """Open one product, check it if asked to, and mask it.

    Parameters
    ----------
    in_work : names of the products that this process masks at the moment: a second time is refused.

    Raises
    ------
    KappaMaskError
        The first cause.
    """
    in_work = set() if in_work is None else in_work
    progress.state = "opening"
    opening = opened_product(where, workshop.stores, source=order.source, allow_coarser=order.allow_coarser)
    async with opening as product:
        progress.product, progress.note = product.name, "; ".join(product.notes) or None
        if product.name in in_work:
            raise UsageError(f"{where} is {product.name}, which this run masks already: name each product once")
        in_work.add(product.name)
        if order.verify_checksums:
            progress.state = "verifying"
            progress.note = "; ".join(await verify(product.source)) or progress.note
            progress.state = "waiting"
        model = await workshop.models.get(product.level)
        destination = await _destination(product.name, workshop, order)
        extras = [make() for make in order.extras]
        return await mask_product(
            product, model, workshop.resources, order.options, destination, progress, extras=extras
        )


async def _destination(name: str, workshop: Workshop, order: Order) -> Destination:
    if not order.write:
        return Nowhere()
    output = workshop.resources.settings.output if order.output is None else order.output
    return await make_destination(output, name, workshop.stores)


def _of_ours(error: Exception) -> KappaMaskError:
    """Keep an error of this package; anything else is a fault of the program and says so."""
    if isinstance(error, KappaMaskError):
        return error
    ours = InternalError(
        f"{type(error).__name__}: {error}; this is a fault of kappamask-stream, please report it with what -v prints"
    )
    ours.__cause__ = error
    return ours


def exit_code(results: Sequence[ProductResult]) -> int:
    """Return 0 where all is well, the failures' common code where all failed alike, 1 otherwise."""
    errors = [r.error for r in results if r.error is not None]
    if not errors:
        return 0
    codes = {error.exit_code for error in errors}
    return codes.pop() if len(errors) == len(results) and len(codes) == 1 else 1
