"""Mask products and say how it goes: what `run`, `demo` and `km-predict` have in common."""

from __future__ import annotations

import json
import sys
import time
import traceback
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.cli.event_loop import say
from kappamask_stream.errors import InternalError, KappaMaskError
from kappamask_stream.names import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from kappamask_stream.cli.progress import ProgressDisplay
    from kappamask_stream.models import ModelChoice
    from kappamask_stream.result import ProductResult
    from kappamask_stream.runner import Order, Workshop
    from kappamask_stream.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How results and progress are said.

    Attributes
    ----------
    as_json : one JSON object per product on stdout, and nothing else.
    quiet : no progress, no summary; results and failures only.
    verbose : retries and the server's doings, too.
    also : receives each line that is said, e.g. to keep a log.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    also: Callable[[str], None] | None = None

    def result(self, result: ProductResult) -> None:
        """Print a result on stdout (a failure in words on stderr) the moment it is known."""
        text = json.dumps(result.to_json()) if self.as_json else printable(describe(result))
        if self.also is not None:
            self.also(text)
        if result.error is not None and not self.as_json:
            say(text)
        else:
            sys.stdout.write(f"{text}\n")
        if not self.as_json and not self.quiet:
            for note in result.notes:
                say(printable(f"{result.product}: note: {note}"))
        if self.verbose and not self.as_json and isinstance(result.error, InternalError):
            traceback.print_exception(result.error.__cause__)
        sys.stdout.flush()


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Products, and how to mask them; see `run` for the options.

    Attributes
    ----------
    wheres : paths, URLs or names of products.
    order : what is asked for, for each of them.
    """

    wheres: Sequence[str]
    choice: ModelChoice
    settings: Settings
    order: Order
    keep_server: bool = False
    fail_fast: bool = False
    telling: Telling = field(default_factory=Telling)


async def mask_and_report(masking: Masking) -> list[ProductResult]:
    """Mask products through one server, print each result as it comes, and sum up where there were several."""
    from kappamask_stream.cli.progress import ProgressDisplay
    from kappamask_stream.cli.summary import show_summary
    from kappamask_stream.models import ModelPool
    from kappamask_stream.resources import Resources
    from kappamask_stream.runner import Workshop
    from kappamask_stream.s3 import Stores

    settings, telling = masking.settings, masking.telling
    results: list[ProductResult] = []
    started = time.monotonic()
    is_shown = not telling.as_json and not telling.quiet
    async with AsyncExitStack() as stack:
        display = await stack.enter_async_context(ProgressDisplay(enabled=is_shown, verbose=telling.verbose))
        resources = stack.enter_context(Resources(settings=settings))
        stores = Stores(settings.s3_options, settings.output_s3_options, on_retry=display.note)
        await stack.enter_async_context(stores)
        models = await stack.enter_async_context(
            ModelPool(masking.choice, settings, keep_server=masking.keep_server, on_progress=display.message)
        )
        workshop = Workshop(models=models, resources=resources, stores=stores)
        stream = _stream(masking, workshop, display)
        has_items, output = masking.order.has_items, workshop.output(masking.order)
        if has_items:
            await workshop.catalogues.check(output)
        try:
            async for result in await stack.enter_async_context(aclosing(stream)):
                results.append(result)
                with display.aside():
                    telling.result(result)
                with suppress(KappaMaskError):  # tried again at the end, and told then
                    await workshop.catalogues.add(output, result, has_item=has_items)
        finally:
            failure = await workshop.catalogues.finish()
    if is_shown and len(masking.wheres) > 1:
        show_summary(results, time.monotonic() - started, not_masked=len(masking.wheres) - len(results))
    if failure is not None:
        raise failure
    return results


def _stream(masking: Masking, workshop: Workshop, display: ProgressDisplay) -> AsyncGenerator[ProductResult]:
    """Mask products in this process, or spread over several where that is asked for and there are as many."""
    from kappamask_stream.processes import Crew, mask_in_processes
    from kappamask_stream.runner import mask_products

    wheres, order = masking.wheres, masking.order
    processes = min(masking.settings.processes, len(wheres))
    if processes <= 1:
        return mask_products(wheres, workshop, order, fail_fast=masking.fail_fast, on_start=display.add)
    crew = Crew(processes=processes, choice=masking.choice, settings=masking.settings, on_note=display.note)
    return mask_in_processes(wheres, workshop, order, crew, fail_fast=masking.fail_fast, on_start=display.add)


def describe(result: ProductResult) -> str:
    """Say in one line how a product ended."""
    if result.error is not None:
        return f"{result.product}: error: {result.error}"
    if result.status == "skipped":
        return f"{result.output} (was there already)"
    shares = ", ".join(f"{name.lower()} {share:.1%}" for name, share in result.classes.items() if share)
    return f"{result.output} ({result.seconds:.1f} s; {shares})"
