"""Many products in one process: some at once, each failing alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from kappamask_stream.destinations import Nowhere, make_destination
from kappamask_stream.errors import InternalError, KappaMaskError, ProductError
from kappamask_stream.manifest import verify
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.names import mask_name, parse_product_name, same_scene
from kappamask_stream.opening import opened_product
from kappamask_stream.pipeline import mask_product
from kappamask_stream.product import open_product
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.s3 import is_s3_url
from kappamask_stream.sources.hrefs import shown_url
from kappamask_stream.stac import Catalogues, StacExtra
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination
    from kappamask_stream.extras import Extra
    from kappamask_stream.models import ModelPool
    from kappamask_stream.names import ProductName
    from kappamask_stream.product import Product
    from kappamask_stream.resources import Resources, ServedModel
    from kappamask_stream.s3 import Stores
    from kappamask_stream.sources.hrefs import MayRead


class Turns:
    """Lets one job at a time write a mask and its companions: the next one sees what the last one left.

    State: a lock per place that a job holds or waits for; it is gone with the last of them.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def held(self) -> list[str]:
        """Places that jobs hold or wait for."""
        return sorted(self._locks)

    @asynccontextmanager
    async def turn(self, place: str, progress: ProductProgress) -> AsyncIterator[None]:
        """Hold a place for the length of the block, after all who asked for it before."""
        lock = self._locks.setdefault(place, asyncio.Lock())
        state, note = progress.state, progress.note
        if lock.locked():
            progress.state, progress.note = "waiting", f"another job writes {place}: this one comes after it"
        async with lock:
            progress.state, progress.note = state, note
            yield


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What all products of a process are masked with; whoever made the parts closes them.

    Attributes
    ----------
    models, resources, stores : as they were opened.
    turns : of jobs that write the same files.
    slots : `products_at_once` of them; a product in work holds one.
    catalogues : of the folders that are written to; whoever masks adds the results and finishes them.
    """

    models: ModelPool
    resources: Resources
    stores: Stores
    turns: Turns = field(default_factory=Turns, repr=False)
    slots: asyncio.Semaphore = field(init=False, repr=False)
    catalogues: Catalogues = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", asyncio.Semaphore(self.resources.settings.products_at_once))
        object.__setattr__(self, "catalogues", Catalogues(self.stores, self._contract))

    def output(self, order: Order) -> str | Path:
        """Return the folder or ``s3://`` prefix that receives a folder per product."""
        return self.resources.settings.output if order.output is None else order.output

    async def _contract(self, level: str) -> ModelContract:
        return (await self.models.get(level)).client.contract


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
    may_read : tells where a STAC Item, its links and redirects may lead, where products are named by strangers.
    """

    options: MaskOptions = field(default_factory=MaskOptions)
    extras: Sequence[Callable[[], Extra]] = ()
    source: str | None = None
    allow_coarser: bool = False
    verify_checksums: bool = False
    output: str | None = None
    write: bool = True
    may_read: MayRead | None = None

    @property
    def has_items(self) -> bool:
        """True where a STAC Item is made of each mask."""
        return StacExtra in self.extras


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

    async def one(where: str) -> ProductResult:
        progress = ProductProgress(product=shown_url(where))
        async with workshop.slots:
            if on_start is not None:
                on_start(progress)
            return await masked(where, workshop, order, progress)

    slots = [one] * workshop.resources.settings.products_at_once
    async with aclosing(in_turn(wheres, slots, fail_fast=fail_fast)) as stream:
        async for result in stream:
            yield result


async def in_turn(
    wheres: Sequence[str], slots: Sequence[Callable[[str], Awaitable[ProductResult]]], *, fail_fast: bool = False
) -> AsyncGenerator[ProductResult]:
    """Do the same for each product, one at a time in each slot, and yield each result as it comes.

    A slot that is free takes the next product, whether or not its result has been taken: so what a product costs does
    not depend on how many there are.

    Parameters
    ----------
    slots : what is done with a product in each; an exception ends all, and is raised.
    fail_fast : True cancels the rest when one has failed.
    """
    waiting = deque(wheres)
    ended: asyncio.Queue[ProductResult | Exception] = asyncio.Queue()

    async def work(task: Callable[[str], Awaitable[ProductResult]]) -> None:
        try:
            while waiting:
                where = waiting.popleft()
                _name_task(where)
                ended.put_nowait(await task(where))
        except Exception as error:  # noqa: BLE001 - it is raised where results are taken
            ended.put_nowait(error)

    tasks = [asyncio.create_task(work(slot)) for slot in slots[: len(wheres)]]
    try:
        for _ in wheres:
            result = await ended.get()
            if isinstance(result, Exception):
                raise result
            yield result
            if fail_fast and result.status == "failed":
                return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _name_task(where: str) -> None:
    """Let what is said of a task that hangs name its product."""
    task = asyncio.current_task()
    if task is not None:
        task.set_name(f"mask {shown_url(where)}")


async def masked(where: str, workshop: Workshop, order: Order, progress: ProductProgress) -> ProductResult:
    """Do what `mask_one` does; a failure, for whatever reason, is a result, too."""
    started = time.monotonic()
    try:
        return await mask_one(where, workshop, order, progress)
    except Exception as error:  # noqa: BLE001 - it is reported with the product, the others go on
        return failed(progress, of_ours(error), time.monotonic() - started)


def failed(progress: ProductProgress, error: KappaMaskError, seconds: float) -> ProductResult:
    """Return the result of a product that failed so long after its turn came."""
    progress.state = "failed"
    return ProductResult(product=progress.product, status="failed", error=error, seconds=seconds)


async def mask_one(
    where: str,
    workshop: Workshop,
    order: Order,
    progress: ProductProgress,
    *,
    expected: ProductName | None = None,
    model: ServedModel | None = None,
) -> ProductResult:
    """Open one product, check it if asked to, and mask it; jobs for the same files take turns.

    Parameters
    ----------
    expected : the scene that must lie there; its baseline and discriminator may be others.
    model : to mask it with; None: the one for its level.

    Raises
    ------
    KappaMaskError
        The first cause.
    """
    progress.state = "opening"
    opening = opened_product(
        where, workshop.stores, source=order.source, allow_coarser=order.allow_coarser, may_read=order.may_read
    )
    async with opening as opened:
        product = opened
        progress.product, progress.note = product.name, "; ".join(product.notes) or None
        _require_scene(product, expected, where)
        if order.verify_checksums:
            product = await _verified(product, progress)
            _require_scene(product, expected, where)
        model = model or await workshop.models.get(product.level)
        destination = await _destination(product.name, workshop, order)
        extras = [make() for make in order.extras]

        async def work() -> ProductResult:
            return await mask_product(
                product, model, workshop.resources, order.options, destination, progress, extras=extras
            )

        if not order.write:
            return await work()
        contract = model.client.contract
        stem = destination.href(mask_name(product, contract.suffix, contract.gsd_m))
        place = stem if is_s3_url(stem) else await in_thread(None, os.path.realpath, stem)
        async with workshop.turns.turn(place, progress):
            return await work()


def _require_scene(product: Product, expected: ProductName | None, where: str) -> None:
    if expected is not None and not same_scene(parse_product_name(product.name), expected):
        raise ProductError(f"{shown_url(where)} is {product.name}, not {expected.text} as it was said to be")


async def _verified(product: Product, progress: ProductProgress) -> Product:
    """Return the product as its manifest vouches for it: its metadata, too, is read once more."""
    progress.state = "verifying"
    verified = await verify(product.source)
    product = replace(await open_product(verified.source), allow_coarser=product.allow_coarser)
    progress.product, progress.note = product.name, "; ".join([*product.notes, *verified.remarks]) or None
    progress.state = "waiting"
    return product


async def _destination(name: str, workshop: Workshop, order: Order) -> Destination:
    if not order.write:
        return Nowhere()
    return await make_destination(workshop.output(order), name, workshop.stores)


def of_ours(error: Exception) -> KappaMaskError:
    """Return an error of this package as it is; anything else is a fault of the program and says so."""
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
