"""What becomes of a product: it is refused, skipped as its mask is there already, or masked (`product_run`)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from kappamask_stream.bands import choose_files, provenance
from kappamask_stream.errors import ProductError, UsageError
from kappamask_stream.extras import MaskJob
from kappamask_stream.output import OutputPlan
from kappamask_stream.planning import Layout
from kappamask_stream.product_run import ProductRun
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination
    from kappamask_stream.extras import Extra
    from kappamask_stream.mask_options import MaskOptions
    from kappamask_stream.product import Product
    from kappamask_stream.resources import Resources, ServedModel


async def mask_product(
    product: Product,
    model: ServedModel,
    resources: Resources,
    options: MaskOptions,
    destination: Destination,
    progress: ProductProgress,
    *,
    extras: Sequence[Extra] = (),
) -> ProductResult:
    """Mask one product, or skip it where the same mask is there already.

    Parameters
    ----------
    extras : what else is made of it; these instances serve this product only.

    Raises
    ------
    KappaMaskError
        The first cause; nothing is left under the final names then, nor on cancellation.
    """
    started = time.monotonic()
    contract = model.client.contract
    require_level(product.name, product.level, contract)
    layout = await in_thread(None, _layout, product, contract, options)  # an area may have very many vertices
    resampled = provenance(choose_files(product, contract, allow_coarser=product.allow_coarser))
    notes = (*product.notes, *(f"resampled: {said}" for said in resampled))
    progress.note = "; ".join(notes) or progress.note
    plan = OutputPlan.of(product, contract, options, destination, resampled=resampled)
    job = MaskJob(
        product=product,
        contract=contract,
        options=options,
        frame=layout.frame,
        grid=layout.grid,
        stem=plan.stem,
        tags=plan.tags,
        destination=destination,
        workers=resources.workers,
    )
    names = [plan.quicklook, *(name for extra in extras for name in extra.file_names(job))]
    # Folders in the product's hold hundreds of tiles: their list names them, and results of many products are kept.
    files = tuple(destination.href(name) for name in dict.fromkeys([plan.mask, *names]) if "/" not in name)
    await plan.tidy(names)
    if await plan.is_done(options, names):
        progress.state = "skipped"
        return ProductResult(
            product=product.name, status="skipped", output=plan.href, quicklook=destination.href(plan.quicklook),
            files=files, notes=notes, seconds=time.monotonic() - started, model=contract.name,
            fingerprint=plan.fingerprint,
        )  # fmt: skip
    try:
        await destination.prepare([plan.mask, *names])
        uses = [plan.disk_use(job), *(extra.disk_use(job) for extra in extras)]
        async with resources.disk.reserve(uses, destination.disk_folder, what=product.name):
            run = ProductRun(job, layout, plan, model, resources, extras, progress, started)
            return replace(await run.run(), files=files, notes=notes)
    except BaseException:
        await destination.discard()
        raise


def _layout(product: Product, contract: ModelContract, options: MaskOptions) -> Layout:
    try:
        return Layout.of(product, contract, options)
    except UsageError as error:
        if options.aoi is None or not options.shared:
            raise
        # Nobody chose this product for this area: the next one may meet it.
        raise ProductError(str(error)) from error


def require_level(product: str, level: str, contract: ModelContract) -> None:
    """Refuse a product of another level than the model was trained on.

    Raises
    ------
    ProductError
        Naming both.
    """
    if level != contract.level:
        raise ProductError(
            f"{product} is a {level} product, the model {contract.name} was trained on {contract.level}: choose a "
            f"model for {level}"
        )
