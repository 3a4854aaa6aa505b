"""A configuration file of km_predict: what is in it, and what is wrong with it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from kappamask_stream.errors import ProductError, UsageError
from kappamask_stream.names import ProductName, parse_product_name

if TYPE_CHECKING:
    from collections.abc import Mapping

Architecture = Literal["DeepLabv3Plus", "Unet"]
ARCHITECTURES: tuple[Architecture, ...] = ("DeepLabv3Plus", "Unet")
LEVELS = ("L1C", "L2A")
#: What the networks were trained with and are served with; km_predict's own examples name the same.
TILE_SIZE, OVERLAPPING, RESAMPLING = 512, 0.0625, "sinc"

#: Of whole numbers: pixels of a tile, tiles of a batch.
_MOST = 1_000_000
#: Characters of a text; an area may have many corners.
_LONGEST = 1 << 20
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class KmConfig:
    """What a configuration file says, checked.

    Attributes
    ----------
    where : the file, for messages.
    product : what to mask, from the file or the command line.
    architecture : of the network.
    folder : folder of the products, as written: relative to where the command runs.
    tile_size : pixels of 10 m.
    overlapping : share of a tile by which it overlaps the next; the first releases counted pixels, an `int` here.
    resampling_method, batch_size : of cm_vsm and Keras.
    aoi_geometry : EWKT; None where there is none.
    weights_source : URL of the folder that km_predict took weights from; None where not given.
    keys : all keys of the file with their values, in its order.
    """

    where: str
    product: ProductName
    architecture: Architecture
    folder: str
    tile_size: int
    overlapping: float | int
    resampling_method: str
    batch_size: int
    aoi_geometry: str | None
    weights_source: str | None
    keys: Mapping[str, Any] = field(repr=False)


def parse_config(text: str, *, where: str, product: str | None = None) -> KmConfig:
    """Read a configuration and check it.

    Parameters
    ----------
    text : the file's content, JSON.
    where : its path, for messages.
    product : name that replaces the file's ``product_name``; None takes the file's.

    Raises
    ------
    UsageError
        With the file, the key, its value and what is allowed.
    """
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise UsageError(f"{where} is no configuration: its JSON is nested too deeply") from error
    except ValueError as error:
        raise UsageError(f"{where} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{where} holds {type(document).__name__}: a configuration is one JSON object, {{…}}")
    reader = _Reader(document, where)
    name = reader.product(product)
    tile_size = reader.whole_number("tile_size", TILE_SIZE)
    return KmConfig(
        where=where,
        product=name,
        architecture=cast("Architecture", reader.choice("architecture", ARCHITECTURES)),
        folder=reader.text("folder_name", "data"),
        tile_size=tile_size,
        overlapping=reader.overlapping(tile_size),
        resampling_method=reader.text("resampling_method", RESAMPLING),
        batch_size=reader.whole_number("batch_size", 1),
        aoi_geometry=reader.text("aoi_geometry", "") or None,
        weights_source=reader.text("model_weights_source", "") or None,
        keys=document,
    )


class _Reader:
    """Takes values out of a document and complains in one form."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self._document, self._where = document, where

    def product(self, given: str | None) -> ProductName:
        """Return the product's name, which must be of the level that the file names."""
        value = given or self._document.get("product_name", _MISSING)
        allowed = "the name of a Sentinel-2 product, S2A_MSIL2A_…, or give one with -product"
        if value is _MISSING:
            raise UsageError(f"{self._where}: product_name is missing: allowed is {allowed}")
        where = "-product" if given else "product_name"
        if not isinstance(value, str):
            raise self._complaint(where, value, allowed)
        try:
            name = parse_product_name(value.removesuffix(".zip"))
        except ProductError as error:
            raise self._complaint(where, value, allowed) from error
        level = self.choice("level_product", LEVELS, name.level)
        if level != name.level:
            allowed = f"{name.level}, the level of {name.text}"
            raise self._complaint("level_product", level, allowed)
        return name

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """Return one of a few words; without a `default` the key must be there."""
        value = self._document.get(key, _MISSING if default is None else default)
        if value is _MISSING:
            raise UsageError(f"{self._where}: {key} is missing: allowed is {' or '.join(allowed)}")
        if value not in allowed:
            raise self._complaint(key, value, " or ".join(allowed))
        return str(value)

    def text(self, key: str, default: str) -> str:
        """Return a text; null counts as not given."""
        value = self._document.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value.isprintable() or len(value) > _LONGEST:
            raise self._complaint(key, value, "a text" if not isinstance(value, str) else "a text of one line")
        return value

    def whole_number(self, key: str, default: int) -> int:
        """Return a number of things, 1 or more."""
        value = self._document.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise self._complaint(key, value, f"a whole number from 1 to {_MOST}, e.g. {default}")
        return value

    def overlapping(self, tile_size: int) -> float | int:
        """Return the overlap, by km_predict's own rule an even number of pixels: a share, or (whole numbers) pixels."""
        value = self._document.get("overlapping", OVERLAPPING)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < tile_size:
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < 1 or (value * tile_size) % 2:
            allowed = f"a share of the tile that is an even number of its {tile_size} pixels, e.g. {OVERLAPPING}"
            raise self._complaint("overlapping", value, allowed)
        return float(value)

    def _complaint(self, key: str, value: object, allowed: str) -> UsageError:
        return UsageError(f"{self._where}: {key} is {json.dumps(value)[:200]}: allowed is {allowed}")
