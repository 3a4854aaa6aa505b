"""The project's own message: one product, in JSON of a versioned schema (``product-message.schema.json``). Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import MessageError
from kappamask_stream.feed.footprint import checked_footprint
from kappamask_stream.feed.naming import product_at
from kappamask_stream.feed.strict_json import is_number
from kappamask_stream.feed.types import ProductRef
from kappamask_stream.names import parse_product_name
from kappamask_stream.sources.hrefs import shown_url

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "kappamask-stream/product"
VERSION = "1.0"
_VERSION = re.compile(r"(?P<major>\d{1,4})\.\d{1,4}", re.ASCII)
_LOCATION = re.compile(r"(?:s3|https?)://\S{1,4090}")
_WHOLE = 100.0


def to_message(
    name: str,
    location: str | None = None,
    *,
    cloud_cover: float | None = None,
    footprint: Mapping[str, Any] | None = None,
) -> str:
    """Write the message that asks for a product; what is None is left out.

    Parameters
    ----------
    name : of the product, with or without ``.SAFE``.
    location : ``s3://…``, or ``https://…`` of a STAC Item.
    cloud_cover : percent, 0 to 100, as the producer computed it.
    footprint : GeoJSON Polygon or MultiPolygon in longitude and latitude.

    Raises
    ------
    ProductError
        If the name is none of a Sentinel-2 product.
    MessageError
        If another value is not what the schema says.
    """
    said = {
        "schema": SCHEMA, "version": VERSION, "product": parse_product_name(name).text,
        "location": location, "cloud_cover": cloud_cover, "footprint": footprint,
    }  # fmt: skip
    message = {key: value for key, value in said.items() if value is not None}
    read_own(message)
    return json.dumps(message)


def read_own(message: Mapping[str, Any]) -> ProductRef:
    """Read a message of the project's own; fields that are not known are passed over.

    Raises
    ------
    MessageError
        If it is of another schema or major version, or a field is not what the schema says.
    ProductError
        If ``product`` is no product's name.
    """
    if message.get("schema") != SCHEMA:
        raise MessageError(f"its schema is {_shown(message.get('schema'))}, {SCHEMA!r} is read here")
    version = message.get("version")
    found = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if found is None or found["major"] != VERSION.partition(".")[0]:
        raise MessageError(f"its version is {_shown(version)}, {VERSION} and other 1.x are read here")
    product, location, cover = message.get("product"), message.get("location"), message.get("cloud_cover")
    if not isinstance(product, str):
        raise MessageError(f"its product is {_shown(product)}, a product's name is expected")
    name = parse_product_name(product)
    if location is not None:
        if not isinstance(location, str) or _LOCATION.fullmatch(location) is None or not location.isprintable():
            shown = shown_url(location) if isinstance(location, str) else location
            raise MessageError(f"its location is {_shown(shown)}, s3://… or https://… is expected")
        at = product_at(location)
        if at is not None and at.text != name.text:
            raise MessageError(f"its product is {name.text}, its location is of {at.text}: it contradicts itself")
    if cover is not None and not (is_number(cover) and 0 <= cover <= _WHOLE):
        raise MessageError(f"its cloud_cover is {_shown(cover)}, percent from 0 to 100 are expected")
    footprint = checked_footprint(message.get("footprint"))
    if footprint is None and message.get("footprint") is not None:
        raise MessageError("its footprint is no GeoJSON Polygon or MultiPolygon in longitude and latitude")
    return ProductRef(
        name=name, kind="own", location=location, cloud_cover=None if cover is None else float(cover),
        footprint=footprint,
    )  # fmt: skip


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]
