"""Many products over several processes: whoever is free takes the next."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from kappamask_stream.errors import KappaMaskError, ProcessEndedError
from kappamask_stream.processes.crew import Place, ended_twice
from kappamask_stream.processes.messages import Picture
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.runner import failed, in_turn
from kappamask_stream.sources.hrefs import shown_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from kappamask_stream.processes.crew import Crew
    from kappamask_stream.runner import Order, Workshop


async def mask_in_processes(
    wheres: Sequence[str],
    workshop: Workshop,
    order: Order,
    crew: Crew,
    *,
    fail_fast: bool = False,
    on_start: Callable[[ProductProgress], None] | None = None,
) -> AsyncGenerator[ProductResult]:
    """Mask products as `runner.mask_products` does, in child processes with `products_at_once` in each.

    A product whose process ends before it is done (killed, out of memory) is given to another one, once. Closing the
    iterator ends all children; so does the end of this process, whichever way.

    Parameters
    ----------
    wheres : paths, URLs or names, as `sources.locate` takes them.
    workshop : of this process: its models are connected before those of children, so that a local server is started
        once and outlives each of them, and its turns are those of all.
    """
    async with AsyncExitStack() as stack:
        places = [Place(number, crew, workshop, order) for number in range(crew.processes)]
        stack.push_async_callback(_close, places)
        # One of each place before the second of any: few products take all processes, not all slots of the first.
        slots = [_worker(place, on_start) for _ in range(crew.settings.products_at_once) for place in places]
        stream = await stack.enter_async_context(aclosing(in_turn(wheres, slots, fail_fast=fail_fast)))
        async for result in stream:
            yield result


async def _close(places: Sequence[Place]) -> None:
    await asyncio.gather(*(place.aclose() for place in places))


def _worker(
    place: Place, on_start: Callable[[ProductProgress], None] | None
) -> Callable[[str], Awaitable[ProductResult]]:
    async def work(where: str) -> ProductResult:
        progress = ProductProgress(product=shown_url(where))
        started = time.monotonic()
        if on_start is not None:
            on_start(progress)
        try:
            return await _with_a_second_try(place, where, progress)
        except KappaMaskError as error:
            return failed(progress, error, time.monotonic() - started)

    return work


async def _with_a_second_try(place: Place, where: str, progress: ProductProgress) -> ProductResult:
    try:
        return await place.mask(where, progress)
    except ProcessEndedError as error:
        again = ProductProgress(product=progress.product, note=f"{error}; begun again in another one")
        Picture.of(0, again).show(progress)
    try:
        return await place.mask(where, progress)
    except ProcessEndedError as error:
        raise ended_twice(error) from error
