"""What catalogues say of new products: Amazon's Sentinel-2 topics, Copernicus Data Space, STAC Items. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import MessageError
from kappamask_stream.feed.footprint import checked_footprint
from kappamask_stream.feed.strict_json import is_number
from kappamask_stream.feed.types import ProductRef
from kappamask_stream.names import parse_product_name
from kappamask_stream.sources.aws import AwsBuckets, product_name, tile_prefix
from kappamask_stream.sources.stac_fields import Node
from kappamask_stream.sources.stac_naming import is_of_something_else, item_product_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.names import ProductName

_WHOLE = 100.0
_ADDRESS = re.compile(r"(?:s3|https?)://\S+")
#: Links under which an Item says where it is to be read, the likelier first.
_OWN_PLACES = ("self", "canonical")
_EODATA = "/eodata/"
_MISSION = "S2"
#: A mask's Item has it, a product's does not: `stac.item`.
_OF_A_MASK = "kappamask:fingerprint"


def of_topic(message: Mapping[str, Any]) -> ProductRef:
    """Read what the topics NewSentinel2Product (L1C) and SentinelS2L2A say: name, path, tiles.

    Raises
    ------
    MessageError, ProductError
        If ``name`` is no product's.
    """
    name = parse_product_name(_text(message, "name"))
    tiles = [tile.get("path") for tile in message["tiles"] if isinstance(tile, dict)]
    path = message.get("path")
    # The tile names its product; the other way round costs a request more.
    if len(tiles) == 1 and isinstance(tiles[0], str) and tile_prefix(tiles[0]) == tiles[0].rstrip("/"):
        location = tiles[0].rstrip("/")
    elif isinstance(path, str) and product_name(path) == name:
        location = path.rstrip("/")
    else:
        location = None
    bucket = AwsBuckets().of(name.level)
    return ProductRef(name=name, kind="sentinel2-topic", location=location and f"s3://{bucket}/{location}")


def of_data_space(message: Mapping[str, Any]) -> tuple[ProductRef, ...]:
    """Read a push notification of the Copernicus Data Space.

    Of products of Sentinel-2 that are new; others ask for nothing.

    Source: https://documentation.dataspace.copernicus.eu/APIs/Subscriptions.html

    Raises
    ------
    MessageError, ProductError
        If it names no product, or two, or one of Sentinel-2 that is none.
    """
    if message["SubscriptionEvent"] != "created":
        return ()
    value = message.get("value")
    product = value if isinstance(value, dict) else {}
    said = [text for text in (message.get("ProductName"), product.get("Name")) if isinstance(text, str) and text]
    # Names of all missions there begin with the mission's.
    if said and not any(text.upper().startswith(_MISSION) for text in said):
        return ()
    names = {parse_product_name(text) for text in said}
    if len(names) != 1:
        shown = " and ".join(sorted(name.text for name in names)) or "no product"
        raise MessageError(f"its ProductName and value.Name are {shown}, one product is expected")
    name = names.pop()
    attributes = product.get("Attributes")
    covers = [
        entry.get("Value")
        for entry in (attributes if isinstance(attributes, list) else [])
        if isinstance(entry, dict) and entry.get("Name") == "cloudCover"
    ]
    ref = ProductRef(
        name=name, kind="cdse", location=_on_eodata(product.get("S3Path"), name),
        cloud_cover=_percent(covers[0] if covers else None), footprint=checked_footprint(product.get("GeoFootprint")),
    )  # fmt: skip
    return (ref,)


def of_item(item: dict[str, Any]) -> tuple[ProductRef, ...]:
    """Read a STAC Item of a Sentinel-2 product; its location is where it says that it is.

    One of another mission, or of what is no product of level 1C or 2A, asks for nothing: a topic may carry many.

    Raises
    ------
    MessageError, ProductError
        If it does not say what it is of, contradicts itself, or is of a mask.
    """
    node = Node(item, "the STAC Item")
    properties = node.node("properties")
    if _OF_A_MASK in properties.fields:
        raise MessageError("it is the Item of a mask that kappamask-stream made: masks and products need two queues")
    if is_of_something_else(node):
        return ()
    ref = ProductRef(
        name=item_product_name(node), kind="stac-item", location=_own_place(item.get("links")),
        cloud_cover=_percent(properties.fields.get("eo:cloud_cover")),
        footprint=checked_footprint(item.get("geometry")),
    )  # fmt: skip
    return (ref,)


def _own_place(links: object) -> str | None:
    places = {
        link["rel"]: link["href"]
        for link in reversed(links if isinstance(links, list) else [])
        if isinstance(link, dict) and _is_text(link.get("rel")) and _is_text(link.get("href"))
    }
    found = (places.get(rel) for rel in _OWN_PLACES)
    return next((place for place in found if place is not None and _ADDRESS.fullmatch(place)), None)


def _on_eodata(path: object, name: ProductName) -> str | None:
    """Return ``s3://eodata/…`` for the path that the Data Space gives, if it is the product's."""
    if not isinstance(path, str) or not path.startswith(_EODATA):
        return None
    folder = path.removeprefix(_EODATA).rstrip("/")
    return f"s3://eodata/{folder}" if folder.rpartition("/")[2].upper() == f"{name.text}.SAFE" else None


def _percent(value: object) -> float | None:
    """Return a share of cloud; None where it is none that makes sense: it chooses products and does nothing else."""
    if not isinstance(value, int | float) or not is_number(value):
        return None
    return float(value) if 0 <= value <= _WHOLE else None


def _text(message: Mapping[str, Any], field: str) -> str:
    value = message.get(field)
    if not isinstance(value, str):
        raise MessageError(f"its {field} is {repr(value)[:80]}, a text is expected")
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
