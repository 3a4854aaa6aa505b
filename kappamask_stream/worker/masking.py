"""One product of one message: found finished, or masked; its older versions deprecated; consumers told.

Everything here may be done twice, by anybody, at any time, and be broken off anywhere: the message that asked for it
comes back then, and what was done before is found. See `destinations.sets` for two that mask the same product at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kappamask_stream.destinations import make_destination
from kappamask_stream.destinations.sets import standing_item
from kappamask_stream.dilation import growths
from kappamask_stream.names import mask_name, parse_product_name
from kappamask_stream.pipeline import require_level
from kappamask_stream.runner import mask_one
from kappamask_stream.stac import StacExtra, publish_catalogue
from kappamask_stream.worker.emitting import emission
from kappamask_stream.worker.keys import place_of, variant_of
from kappamask_stream.worker.supersede import supersede
from kappamask_stream.worker.types import Finished

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination
    from kappamask_stream.extras import Extra
    from kappamask_stream.feed import ProductRef
    from kappamask_stream.names import ProductName
    from kappamask_stream.queues.types import Sink
    from kappamask_stream.resources import ServedModel
    from kappamask_stream.result import ProductResult
    from kappamask_stream.runner import Order, Workshop
    from kappamask_stream.worker.supersede import Versions
    from kappamask_stream.worker.types import Job


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """The folder of masks that are made in one way.

    Attributes
    ----------
    model : as it was when the folder was named; the server may be given another one of that name at any time.
    place : folder or ``s3://`` prefix.
    root : the same, to be read and written.
    """

    model: ServedModel
    place: str
    root: Destination

    @property
    def contract(self) -> ModelContract:
        """Of the model."""
        return self.model.client.contract

    def stem(self, name: ProductName) -> str:
        """Return what the files of a product's mask are called, without extension."""
        return mask_name(name, self.contract.suffix, self.contract.gsd_m)


class Masking:
    """Masks products into ``OUTPUT/<variant>/<product>/``; a `ProductWork`.

    How many at once is the caller's business: each job may be one more, within the byte budget of the workshop.

    Parameters
    ----------
    workshop : models, threads and stores; belongs to the caller.
    order : what is asked for of every product. Its Items are written whether it asks for them or not.
    where_of : says where a product is read: ``where`` and ``source`` of `sources.locate.open_source`.
    sink : is told of finished masks; None: nobody is.

    State: the variants whose Collection this process has seen to.
    """

    def __init__(
        self,
        workshop: Workshop,
        order: Order,
        *,
        where_of: Callable[[ProductRef], tuple[str, str | None]],
        sink: Sink | None = None,
    ) -> None:
        self._workshop, self._where_of, self._sink = workshop, where_of, sink
        self._order = replace(order, options=replace(order.options, shared=True))
        self._catalogued: set[str] = set()
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Masking to {self._workshop.output(self._order)}, {len(self._catalogued)} variants so far>"

    async def do(self, job: Job, extras: Sequence[Extra] = ()) -> Finished:
        """See `ProductWork.do`: afterwards mask and Item are durable, older versions deprecated, and consumers told.

        Consumers are told of a mask that was made now; of one that was found where the message was delivered before,
        as that delivery may have ended before it told them; and of each older one that it made deprecated.
        """
        name = parse_product_name(job.ref.name.text)
        model = await self._workshop.models.get(name.level)
        require_level(name.text, name.level, model.client.contract)
        variant = await self._variant(model)
        stem = variant.stem(name)
        result: ProductResult | None = None
        if await self._is_finished(variant, name, stem):
            job.progress.state = "skipped"
        else:
            result = await self._mask(job, variant, name, extras)
            # What the metadata say, which some catalogues' names leave out: baseline and discriminator.
            name = parse_product_name(result.product)
        versions = await supersede(variant.root, name, stem)
        told = set(versions.changed)
        if result is not None and result.status == "done":
            told.add(name.text)
        if job.message.received > 1:
            told |= {name.text, *(set(versions.items) - {versions.newest})}
        await self._tell(variant, versions, told, stem)
        output = variant.root.href(f"{name.text}/{stem}.tif")
        return Finished(output=output, item=versions.items[name.text], result=result)

    async def _variant(self, model: ServedModel) -> _Variant:
        contract = model.client.contract
        growths(self._order.options.dilate, contract)  # refuses what would fail with every product
        place = place_of(self._workshop.output(self._order), variant_of(contract, self._order.options))
        return _Variant(model=model, place=place, root=await make_destination(place, "", self._workshop.stores))

    async def _is_finished(self, variant: _Variant, name: ProductName, stem: str) -> bool:
        folder = await make_destination(variant.place, name.text, self._workshop.stores)
        return await standing_item(folder, f"{stem}.json", name.text) is not None

    async def _mask(self, job: Job, variant: _Variant, name: ProductName, extras: Sequence[Extra]) -> ProductResult:
        await self._catalogue(variant)
        others = [make for make in self._order.extras if make is not StacExtra]
        where, source = self._where_of(job.ref)
        order = replace(
            self._order,
            source=source,
            output=variant.place,
            extras=[*others, *((lambda extra=extra: extra) for extra in extras), StacExtra],
        )
        return await mask_one(where, self._workshop, order, job.progress, expected=name, model=variant.model)

    async def _catalogue(self, variant: _Variant) -> None:
        """Have what the links of Items lead to; it lists none, as many workers would fight over it."""
        async with self._lock:
            if variant.place not in self._catalogued:
                await publish_catalogue(variant.root, [variant.contract])
                self._catalogued.add(variant.place)

    async def _tell(self, variant: _Variant, versions: Versions, products: set[str], stem: str) -> None:
        if self._sink is None:
            return
        for product in sorted(products & set(versions.items)):  # one that is gone meanwhile needs no word
            await self._sink.send(emission(versions.items[product], variant.root.href(f"{product}/{stem}.json")))
