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
from typing import TYPE_CHECKING, Literal, Self, TypedDict, Unpack

from kappamask_stream.aoi import AreaOfInterest, parse_aoi
from kappamask_stream.errors import UsageError
from kappamask_stream.extras import Extra, selected
from kappamask_stream.grid import Window
from kappamask_stream.models import ModelChoice, ModelPool
from kappamask_stream.output import MaskOptions
from kappamask_stream.resources import Resources
from kappamask_stream.result import ProductProgress
from kappamask_stream.runner import Order, Workshop, mask_one
from kappamask_stream.s3 import S3Options, Stores
from kappamask_stream.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.extras import MaskJob
    from kappamask_stream.mosaic import Block
    from kappamask_stream.result import ProductResult

#: Windows that wait to be taken; then the product waits.
_WINDOWS_AHEAD = 4


class MaskerOptions(TypedDict, total=False):
    """Which network, where: what all products of a `Masker` share.

    Attributes
    ----------
    model : ``kappamask`` (default), ``csmask``, or any model name that the server holds.
    architecture : of KappaMask, ``DeepLabv3Plus`` (default) or ``Unet``.
    precision : of KappaMask, ``f32`` (default), ``bf16`` or ``fp16``.
    weights : KappaMask's weights for the server on this machine; default: those fetched.
    triton : ``grpc://HOST:PORT``; default: as the settings say, else a Triton on this machine.
    keep_server : True leaves the local server running.
    settings : limits and places; default: ``KAPPAMASK_*`` and the configuration file.
    s3 : how object stores are reached; default: as the settings say, with the usual chain of credentials.
    output_s3 : the same for outputs; default: as the settings say, else as ``s3``.
    """

    model: str
    architecture: Literal["DeepLabv3Plus", "Unet"] | None
    precision: Literal["f32", "bf16", "fp16"] | None
    weights: str | os.PathLike[str] | None
    triton: str | None
    keep_server: bool
    settings: Settings | None
    s3: S3Options | None
    output_s3: S3Options | None


class ProductOptions(TypedDict, total=False):
    """What is made of a product.

    Attributes
    ----------
    radiometry : ``corrected`` (default) or ``km_predict``.
    mosaic : ``crop`` (default) or ``blend``.
    compression : ``deflate`` (default) or ``zstd``.
    overwrite : True replaces a different mask of the same name.
    aoi : area of interest, an `AreaOfInterest` or text as `aoi.parse_aoi` reads it.
    dilate : (class name, metres), grown over other classes in this order.
    png, probabilities, subtiles, stac, report : True writes these, too.
    source : where a product is that is given by name: ``aws``, ``cdse`` or a folder.
    allow_coarser : True replicates the pixels of a band that is there only coarser than the model asks.
    verify : True compares all files with the manifest first.
    """

    radiometry: Literal["corrected", "km_predict"]
    mosaic: Literal["crop", "blend"]
    compression: Literal["deflate", "zstd"]
    overwrite: bool
    aoi: AreaOfInterest | str | None
    dilate: Sequence[tuple[str, float]]
    png: bool
    probabilities: bool
    subtiles: bool
    stac: bool
    report: bool
    source: str | None
    allow_coarser: bool
    verify: bool


class AllOptions(MaskerOptions, ProductOptions, total=False):
    """Both: what the functions take that open a `Masker` for one product."""


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
    """Masks products with one model. Use as an async context manager; several products at once are fine.

    Parameters
    ----------
    options : see `MaskerOptions`.
    """

    def __init__(self, **options: Unpack[MaskerOptions]) -> None:
        _refuse_unknown(options, MaskerOptions)
        weights = options.get("weights")
        self._choice = ModelChoice(
            model=options.get("model", "kappamask"),
            architecture=options.get("architecture"),
            precision=options.get("precision"),
            weights=None if weights is None else Path(weights),
        )
        settings = options.get("settings") or load_settings()
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

    async def __aexit__(self, *exc_info: object) -> None:
        self._workshop = None
        await self._stack.aclose()

    async def mask(
        self,
        product: str | os.PathLike[str],
        *,
        output: str | os.PathLike[str] | None = None,
        progress: ProductProgress | None = None,
        **options: Unpack[ProductOptions],
    ) -> ProductResult:
        """Mask one product and write the files; a finished one is skipped.

        Parameters
        ----------
        product : path of a SAFE directory or zip, S3 URL, STAC Item, or a name with ``source``.
        output : folder or ``s3://`` prefix; default: as the settings say.
        progress : is kept up to date meanwhile.
        options : see `ProductOptions`.
        """
        order = replace(_order(options), output=None if output is None else os.fspath(output))
        return await mask_one(os.fspath(product), self._opened(), order, progress or _progress(product))

    async def windows(
        self, product: str | os.PathLike[str], **options: Unpack[ProductOptions]
    ) -> AsyncGenerator[MaskWindow]:
        """Yield the windows of a product's mask, each as soon as it is finished; writes nothing.

        Together they cover the mask, each pixel once; their order is that in which the server answers. A consumer that
        is slow slows the product down. Close the iterator (``contextlib.aclosing``) where it is not read to its end.
        """
        ready: asyncio.Queue[MaskWindow | None] = asyncio.Queue(_WINDOWS_AHEAD)
        order = replace(_order(options), write=False, extras=[lambda: _Windows(ready)])

        async def work() -> None:
            try:
                await mask_one(os.fspath(product), self._opened(), order, _progress(product))
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
    of_masker, of_product = _split(options)
    async with Masker(**of_masker) as masker:
        return await masker.mask(product, output=output, progress=progress, **of_product)


def mask_product_sync(
    product: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    **options: Unpack[AllOptions],
) -> ProductResult:
    """Do what `mask_product` does where no event loop runs."""
    return asyncio.run(mask_product(product, output=output, **options))


async def stream_windows(product: str | os.PathLike[str], **options: Unpack[AllOptions]) -> AsyncGenerator[MaskWindow]:
    """Yield the windows of one product's mask; see `Masker.windows`."""
    of_masker, of_product = _split(options)
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
        frame, size = self._frame, len(block.pixels)
        shown = Window(block.row * size, block.col * size, size, size).intersection(
            Window(0, 0, frame.height, frame.width)
        )
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


def _order(options: ProductOptions) -> Order:
    """Translate what users say."""
    _refuse_unknown(options, ProductOptions)
    aoi = options.get("aoi")
    extras = selected(
        png=options.get("png", False),
        probabilities=options.get("probabilities", False),
        subtiles=options.get("subtiles", False),
        stac=options.get("stac", False),
        report=options.get("report", False),
    )
    mask = MaskOptions(
        radiometry=options.get("radiometry", "corrected"),
        mosaic=options.get("mosaic", "crop"),
        compression=options.get("compression", "deflate"),
        overwrite=options.get("overwrite", False),
        dilate=tuple(options.get("dilate", ())),
        aoi=parse_aoi(aoi) if isinstance(aoi, str) else aoi,
    )
    return Order(
        options=mask,
        extras=extras,
        source=options.get("source"),
        allow_coarser=options.get("allow_coarser", False),
        verify_checksums=options.get("verify", False),
    )


def _split(options: AllOptions) -> tuple[MaskerOptions, ProductOptions]:
    _refuse_unknown(options, AllOptions)
    of_masker = {name: value for name, value in options.items() if name in MaskerOptions.__annotations__}
    of_product = {name: value for name, value in options.items() if name not in MaskerOptions.__annotations__}
    return of_masker, of_product  # type: ignore[return-value]


def _refuse_unknown(options: Mapping[str, object], known: type) -> None:
    """Complain about a misspelt option as Python does about a misspelt argument."""
    names = sorted(known.__annotations__)
    if unknown := [name for name in options if name not in names]:
        raise TypeError(f"there is no option {unknown[0]!r}; options are {', '.join(names)}")


def _progress(product: str | os.PathLike[str]) -> ProductProgress:
    return ProductProgress(product=os.fspath(product))
