"""Which product of Sentinel-2 a STAC Item is of, if of any. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.names import ProductName, parse_product_name
from kappamask_stream.sources.tile_ids import with_zone_padded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kappamask_stream.sources.stac_fields import Node

_MGRS = "MGRS-"
_SENTINEL_2 = re.compile(r"sentinel[-_ ]?2(?!\d)|(?<![a-z0-9])s2[a-z]?(?![a-z0-9])", re.IGNORECASE | re.ASCII)
#: Levels of the processing extension of which products of Sentinel-2 are not masked: raw data, and mosaics.
_OTHER_LEVEL = re.compile(r"(?:RAW|L[034])(?![0-9])", re.IGNORECASE | re.ASCII)


def item_product_name(item: Node) -> ProductName:
    """Return the product's name: what an Item is of, or is called by; where both are names they must agree.

    Raises
    ------
    ProductError
        If neither is one, or the Item contradicts itself.
    """
    names, said = _names(item)
    if not names:
        raise ProductError(
            f"{item.where} names no Sentinel-2 product: neither s2:product_uri ({said[0]!r}) nor its id ({said[1]!r})"
        )
    require_one(item.where, "level, tile and time", {(n.level, n.tile_id, n.sensing_time) for n in names})
    tile = item.node("properties").text("grid:code", "s2:mgrs_tile")
    if tile is not None:
        bare = tile.removeprefix(_MGRS).removeprefix("T")
        require_one(item.where, "tile", {names[0].tile_id, "T" + with_zone_padded(bare)})
    return names[0]


def is_of_something_else(item: Node) -> bool:
    """Tell whether an Item is in order and of another mission, or of a level of Sentinel-2 that is not masked.

    That takes more than the lack of a name: it says another platform or constellation, or a grid that is none of
    Sentinel-2's (aerial images name no platform), and nothing in it speaks of Sentinel-2.

    Raises
    ------
    ProductError
        If what it says is no text.
    """
    names, _ = _names(item)
    if names:
        return False
    properties = item.node("properties")
    platforms = [text for key in ("platform", "constellation") if (text := properties.text(key)) is not None]
    about = [*platforms, item.text("collection"), item.text("id")]
    if any(text is not None and _SENTINEL_2.search(text) for text in about):
        return _OTHER_LEVEL.match(properties.text("processing:level") or "") is not None
    return bool(platforms) or not (properties.text("grid:code") or _MGRS).startswith(_MGRS)


def require_one(where: str, what: str, found: Iterable[object]) -> None:
    """Return where an Item says one thing, or nothing.

    Raises
    ------
    ProductError
        If it says two.
    """
    values = sorted(map(str, found))
    if len(values) > 1:
        raise ProductError(f"{where} contradicts itself, its {what} is {' and '.join(values)}: look for another copy")


def _names(item: Node) -> tuple[list[ProductName], tuple[str | None, str | None]]:
    """Return the names of products among what an Item is of and called by, and both as they are."""
    said = item.node("properties").text("s2:product_uri", "sentinel:product_id"), item.text("id")
    names: list[ProductName] = []
    for text in filter(None, said):
        try:
            names.append(parse_product_name(text))
        except ProductError:
            continue
    return names, said
