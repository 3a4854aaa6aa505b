"""What Python's users say, as keyword arguments, and what it means."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from kappamask_stream.aoi import AreaOfInterest, parse_aoi
from kappamask_stream.dilation import parse_dilation
from kappamask_stream.errors import UsageError
from kappamask_stream.extras import selected
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.runner import Order

if TYPE_CHECKING:
    from kappamask_stream.s3 import S3Options
    from kappamask_stream.settings import Settings


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
    settings : limits and places (`processes` is for `run` alone); default: ``KAPPAMASK_*`` and the configuration file.
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


class WindowOptions(TypedDict, total=False):
    """What decides a mask's pixels, and how its product is read.

    Attributes
    ----------
    radiometry : ``corrected`` (default) or ``km_predict``.
    mosaic : ``crop`` (default) or ``blend``.
    aoi : area of interest: an `AreaOfInterest`, text as `aoi.parse_aoi` reads it, or a file of it.
    dilate : classes grown over others, in this order: (class name, metres), ``"CLASS=METRES"``, or a mapping.
    source : where a product is that is given by name: ``aws``, ``cdse`` or a folder.
    allow_coarser : True replicates the pixels of a band that is there only coarser than the model asks.
    verify : True compares all files with the manifest first.
    """

    radiometry: Literal["corrected", "km_predict"]
    mosaic: Literal["crop", "blend"]
    aoi: AreaOfInterest | str | os.PathLike[str] | None
    dilate: Iterable[tuple[str, float] | str] | Mapping[str, float]
    source: str | None
    allow_coarser: bool
    verify: bool


class ProductOptions(WindowOptions, total=False):
    """What is made of a product, and what is written.

    Attributes
    ----------
    compression : ``deflate`` or ``zstd``; default: as the settings say.
    overwrite : True replaces a different mask of the same name.
    png, probabilities, subtiles, stac, report : True writes these, too.
    """

    compression: Literal["deflate", "zstd"] | None
    overwrite: bool
    png: bool
    probabilities: bool
    subtiles: bool
    stac: bool
    report: bool


class AllOptions(MaskerOptions, ProductOptions, total=False):
    """Both: what the functions take that open a `Masker` for one product."""


class AllWindowOptions(MaskerOptions, WindowOptions, total=False):
    """The same for `stream_windows`, which writes nothing."""


def order_of(options: ProductOptions, settings: Settings) -> Order:
    """Translate what users say.

    Raises
    ------
    UsageError
        If a value is none of those that an option has.
    """
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
        compression=options.get("compression") or settings.compression,
        overwrite=options.get("overwrite", False),
        dilate=_dilation(options.get("dilate") or ()),
        aoi=_area(options.get("aoi")),
    )
    return Order(
        options=mask,
        extras=extras,
        source=options.get("source"),
        allow_coarser=options.get("allow_coarser", False),
        verify_checksums=options.get("verify", False),
    )


def _area(given: object) -> AreaOfInterest | None:
    if given is None or isinstance(given, AreaOfInterest):
        return given
    if isinstance(given, str | os.PathLike):
        return parse_aoi(os.fspath(given))
    raise UsageError(
        f"aoi is a {type(given).__name__}: give text ('WEST,SOUTH,EAST,NORTH', WKT, EWKT, GeoJSON), the path of a file "
        "with one of these, or an AreaOfInterest"
    )


def _dilation(given: object) -> tuple[tuple[str, float], ...]:
    """Read what grows, in any of its forms, each in the words of the command line."""
    if isinstance(given, Mapping):
        given = given.items()
    listed = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    return tuple(parse_dilation(_grown(each)) for each in listed)


def _grown(given: object) -> str:
    match given:
        case str():
            return given
        case (name, metres):
            return f"{name}={metres}"
    raise UsageError(f"dilate holds {given!r}: give pairs of a class's name and metres, e.g. [('CLOUD', 200)]")


def place_of(output: str | os.PathLike[str]) -> str:
    """Return an output as a setting would take it: no shell has turned ``~`` into the home folder."""
    given = os.fspath(output)
    return given if "://" in given else os.path.expanduser(given)  # noqa: PTH111 - pathlib's raises without a home


def split(options: AllOptions | AllWindowOptions) -> tuple[MaskerOptions, dict[str, Any]]:
    """Return what is the `Masker`'s, and what is the product's."""
    of_masker = {name: value for name, value in options.items() if name in MaskerOptions.__annotations__}
    of_product = {name: value for name, value in options.items() if name not in MaskerOptions.__annotations__}
    return cast("MaskerOptions", of_masker), of_product


def refuse_unknown(options: Mapping[str, object], known: type) -> None:
    """Complain about a misspelt option as Python does about a misspelt argument.

    Raises
    ------
    TypeError
        With those that there are.
    """
    names = sorted(known.__annotations__)
    if unknown := [name for name in options if name not in names]:
        raise TypeError(f"there is no option {unknown[0]!r}; options are {', '.join(names)}")
