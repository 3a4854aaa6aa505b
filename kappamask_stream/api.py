"""The library's front door: mask products from Python, whole or window by window.

    result = await mask_product("S2A_MSIL2A_….SAFE", model="csmask", output="masks")
    result = mask_product_sync("S2A_MSIL2A_….SAFE", model="csmask", output="masks")
    async for window in stream_windows("S2A_MSIL2A_….SAFE", model="csmask"): …

`Masker` holds what many products share: the connection, or the local server, threads, the memory budget. All calls
raise `errors.KappaMaskError`; its subclasses say what went wrong and whether trying again may help.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack, cast

from kappamask_stream.api_options import (
    AllOptions,
    AllWindowOptions,
    MaskerOptions,
    ProductOptions,
    WindowOptions,
    order_of,
    place_of,
    refuse_unknown,
    split,
)
from kappamask_stream.errors import UsageError
from kappamask_stream.extras import Extra
from kappamask_stream.grid import Window
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.resources import Resources
from kappamask_stream.result import ProductProgress
from kappamask_stream.runner import Workshop, mask_one
from kappamask_stream.s3 import Stores
from kappamask_stream.settings import Settings, load_settings
from kappamask_stream.sources.hrefs import shown_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.extras import MaskJob
    from kappamask_stream.mosaic import Block
    from kappamask_stream.result import ProductResult

#: Windows that wait to be taken; then the product waits.
_WINDOWS_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class MaskWindow:
    """A finished part of a mask.

    Attributes
    ----------
    row, col : of its upper-left pixel in the mask.
    pixels : uint8 ``[height, width]``, class values; 512 x 512, less at the mask's edges.
    ulx, uly : upper-left corner of its upper-left pixel, metres in the projection.
    gsd_m : size of a pixel, metres.
    epsg : code of the projection.
    """

    row: int
    col: int
    pixels: NDArray[np.uint8] = field(repr=False)
    ulx: float
    uly: float
    gsd_m: int
    epsg: int


class Masker:
    """Masks products with one model. Use as an async context manager.

    Several products at once are fine: `products_at_once` of the settings are in work, others wait for their turn; those
    that write the same files come one after the other.

    Parameters
    ----------
    options : see `MaskerOptions`.
    """

    def __init__(self, **options: Unpack[MaskerOptions]) -> None:
        refuse_unknown(options, MaskerOptions)
        weights = options.get("weights")
        self._choice = ModelChoice(
            model=options.get("model", "kappamask"),
            architecture=options.get("architecture"),
            precision=options.get("precision"),
            weights=None if weights is None else Path(weights),
        )
        settings = options.get("settings")
        if settings is None:
            settings = load_settings()
        elif not isinstance(settings, Settings):
            raise UsageError(
                f"settings is a {type(settings).__name__}: give kappamask_stream.settings.load_settings(NAME=VALUE, …)"
            )
        triton = options.get("triton")
        self._settings = settings if triton is None else settings.model_copy(update={"triton": triton})
        given = options.get("s3")
        self._s3 = given or self._settings.s3_options
        self._output_s3 = options.get("output_s3") or given or self._settings.output_s3_options
        self._keep_server = options.get("keep_server", False)
        self._stack = AsyncExitStack()
        self._workshop: Workshop | None = None

    def __repr__(self) -> str:
        return f"<Masker {self._choice.model}, {'closed' if self._workshop is None else 'open'}>"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            resources = stack.enter_context(Resources(settings=self._settings))
            stores = await stack.enter_async_context(Stores(self._s3, self._output_s3))
            models = await stack.enter_async_context(
                ModelPool(self._choice, self._settings, keep_server=self._keep_server)
            )
            self._workshop = Workshop(models=models, resources=resources, stores=stores)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what the STAC Collections lack, then give everything back.

        Raises
        ------
        OutputError
            If a Collection cannot be written; not where another exception is on its way.
        """
        workshop, self._workshop = self._workshop, None
        try:
            failure = None if workshop is None else await workshop.catalogues.finish()
        finally:
            await self._stack.aclose()
        if failure is not None and exc is None:
            raise failure

    async def mask(
        self,
        product: str | os.PathLike[str],
        *,
        output: str | os.PathLike[str] | None = None,
        progress: ProductProgress | None = None,
        **options: Unpack[ProductOptions],
    ) -> ProductResult:
        """Mask one product and write the files; a finished one is skipped.

        With ``stac`` a Collection that is there already is checked first, and kept in step: see `stac.Catalogue`.

        Parameters
        ----------
        product : path of a SAFE directory or zip, S3 URL, STAC Item, or a name with ``source``.
        output : folder or ``s3://`` prefix; default: as the settings say.
        progress : is kept up to date meanwhile.
        options : see `ProductOptions`.
        """
        refuse_unknown(options, ProductOptions)
        order = replace(order_of(options, self._settings), output=None if output is None else place_of(output))
        progress = progress or _progress(product)
        workshop = self._opened()
        if order.has_items:
            await workshop.catalogues.check(workshop.output(order))
        async with workshop.slots:
            result = await mask_one(os.fspath(product), workshop, order, progress)
        await workshop.catalogues.add(workshop.output(order), result, has_item=order.has_items)
        return result

    async def windows(
        self, product: str | os.PathLike[str], **options: Unpack[WindowOptions]
    ) -> AsyncGenerator[MaskWindow]:
        """Yield the windows of a product's mask, each as soon as it is finished; writes nothing.

        Together they cover the mask, each pixel once; their order is that in which the server answers. A consumer that
        is slow slows the product down, which counts for `products_at_once` until the last window is taken. Close the
        iterator (``contextlib.aclosing``) where it is not read to its end.

        Parameters
        ----------
        product : as for `mask`.
        options : see `WindowOptions`.
        """
        refuse_unknown(options, WindowOptions)
        ready: asyncio.Queue[MaskWindow | None] = asyncio.Queue(_WINDOWS_AHEAD)
        asked = order_of(cast("ProductOptions", options), self._settings)
        order = replace(asked, write=False, extras=[lambda: _Windows(ready)])
        workshop = self._opened()

        async def work() -> None:
            try:
                async with workshop.slots:
                    await mask_one(os.fspath(product), workshop, order, _progress(product))
            finally:
                # Nobody waits where the iterator was closed: then the queue may be full for ever.
                if (task := asyncio.current_task()) is None or not task.cancelling():
                    await ready.put(None)

        task = asyncio.create_task(work())
        try:
            while (window := await ready.get()) is not None:
                yield window
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _opened(self) -> Workshop:
        if self._workshop is None:
            raise UsageError("this Masker is not open: use it inside `async with Masker(…) as masker:`")
        return self._workshop


async def mask_product(
    product: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    progress: ProductProgress | None = None,
    **options: Unpack[AllOptions],
) -> ProductResult:
    """Mask one product; see `Masker.mask`. For several, open one `Masker`."""
    refuse_unknown(options, AllOptions)
    of_masker, of_product = split(options)
    async with Masker(**of_masker) as masker:
        return await masker.mask(product, output=output, progress=progress, **of_product)


def mask_product_sync(
    product: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    progress: ProductProgress | None = None,
    **options: Unpack[AllOptions],
) -> ProductResult:
    """Do what `mask_product` does where no event loop runs.

    Raises
    ------
    UsageError
        If one runs in this thread, as it does in a notebook; and whatever `mask_product` raises.
    """
    if _is_in_loop():
        raise UsageError("an event loop runs here already: use `await mask_product(…)` instead of mask_product_sync")
    return asyncio.run(mask_product(product, output=output, progress=progress, **options))


async def stream_windows(
    product: str | os.PathLike[str], **options: Unpack[AllWindowOptions]
) -> AsyncGenerator[MaskWindow]:
    """Yield the windows of one product's mask; see `Masker.windows`."""
    refuse_unknown(options, AllWindowOptions)
    of_masker, of_product = split(options)
    async with Masker(**of_masker) as masker, aclosing(masker.windows(product, **of_product)) as windows:
        async for window in windows:
            yield window


class _Windows(Extra):
    """Hands finished blocks over, cut to the mask."""

    def __init__(self, ready: asyncio.Queue[MaskWindow | None]) -> None:
        self._ready = ready

    async def begin(self, job: MaskJob) -> None:
        self._frame = job.frame

    async def add_block(self, block: Block) -> None:
        frame = self._frame
        shown = block.window.intersection(Window(0, 0, frame.height, frame.width))
        window = MaskWindow(
            row=shown.row,
            col=shown.col,
            pixels=block.pixels[: shown.height, : shown.width],
            ulx=frame.ulx + shown.col * frame.gsd_m,
            uly=frame.uly - shown.row * frame.gsd_m,
            gsd_m=frame.gsd_m,
            epsg=frame.epsg,
        )
        await self._ready.put(window)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _progress(product: str | os.PathLike[str]) -> ProductProgress:
    return ProductProgress(product=shown_url(os.fspath(product)))
