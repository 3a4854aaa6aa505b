"""Many products in one process: some at once, each failing alone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import InternalError, KappaMaskError, UsageError
from kappamask_stream.manifest import verify
from kappamask_stream.pipeline import mask_product
from kappamask_stream.product import open_product
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.sources import DirectorySource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from kappamask_stream.models import ModelPool
    from kappamask_stream.output import MaskOptions
    from kappamask_stream.pipeline import Resources


async def mask_products(
    paths: Sequence[Path],
    models: ModelPool,
    resources: Resources,
    options: MaskOptions,
    *,
    verify_checksums: bool = False,
    on_start: Callable[[ProductProgress], None] | None = None,
) -> AsyncGenerator[ProductResult]:
    """Mask products, `products_at_once` at a time, and yield each result as it comes.

    A product that fails, for whatever reason, becomes a result with its error; the others go on. Closing the iterator
    early cancels what is in work.
    """
    slots = asyncio.Semaphore(resources.settings.products_at_once)
    in_work: set[str] = set()

    async def one(path: Path) -> ProductResult:
        progress = ProductProgress(product=str(path))
        async with slots:
            started = time.monotonic()
            if on_start is not None:
                on_start(progress)
            try:
                return await _mask_path(path, models, resources, options, progress, in_work, verify_checksums)
            except Exception as error:  # noqa: BLE001 - it is reported with the product, the others go on
                progress.state = "failed"
                return ProductResult(
                    product=progress.product,
                    status="failed",
                    error=_of_ours(error),
                    seconds=time.monotonic() - started,
                )

    tasks = [asyncio.create_task(one(path), name=f"mask {path}") for path in paths]
    try:
        for ended in asyncio.as_completed(tasks):
            yield await ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _mask_path(
    path: Path,
    models: ModelPool,
    resources: Resources,
    options: MaskOptions,
    progress: ProductProgress,
    in_work: set[str],
    verify_checksums: bool,  # noqa: FBT001 - private
) -> ProductResult:
    """Open one product, check it if asked to, and mask it."""
    source = DirectorySource(path)
    try:
        progress.state = "opening"
        product = await open_product(source)
        progress.product, progress.note = product.name, "; ".join(product.notes) or None
        if product.name in in_work:
            raise UsageError(f"{path} is {product.name}, which this run masks already: name each product once")
        in_work.add(product.name)
        if verify_checksums:
            progress.state = "verifying"
            progress.note = "; ".join(await verify(source)) or progress.note
            progress.state = "waiting"
        model = await models.get(product.level)
        folder = Path(resources.settings.output)
        return await mask_product(product, model, resources, options, folder, progress)
    finally:
        await source.aclose()


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
