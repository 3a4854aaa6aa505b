"""What consumers are told of finished masks: the STAC Item, with attributes to filter by. Pure."""

from __future__ import annotations

import json
import os
import posixpath
from typing import TYPE_CHECKING, Any, Final, Literal

from kappamask_stream.names import parse_product_name
from kappamask_stream.queues import Draft
from kappamask_stream.stac import is_deprecated
from kappamask_stream.stac.vocabulary import GEOJSON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What SNS takes, and SQS took until August 2025, less what attributes may need.
MOST_BODY_BYTES: Final = 252 * 1024

Event = Literal["created", "deprecated"]


def emission(item: bytes, href: str) -> Draft:
    """Return the message about a mask.

    Its body is the Item with addresses that lead somewhere from anywhere, and a link to where it lies. An outline that
    makes it too large for SNS is told by its rectangle. The attributes are ``event`` (``deprecated`` where a newer
    version of the product is there, else ``created``), ``product``, ``level``, ``satellite``, ``tile``, ``orbit``,
    ``baseline``, ``datetime``, ``model`` and ``cloud_cover``, in percent and a number; what the Item does not tell is
    left out.

    Parameters
    ----------
    item : as it was written.
    href : URL or path where it was written.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError, ProductError
        If it is no Item of ours.
    """
    document = json.loads(item)
    body = _encoded(absolute_item(document, href))
    if len(body) > MOST_BODY_BYTES:
        body = _encoded(absolute_item({**document, "geometry": _rectangle(document["bbox"])}, href))
    return Draft(body=body, attributes=_attributes(document))


def absolute_item(item: Mapping[str, Any], href: str) -> dict[str, Any]:
    """Return an Item whose links and assets do not depend on where it lies, with a ``self`` link.

    Parameters
    ----------
    href : ``s3://BUCKET/KEY``, or a path of this machine.
    """
    href = href if "://" in href else os.path.abspath(href)  # noqa: PTH100 - of a text, without a look at the disk
    own = {"rel": "self", "href": href, "type": GEOJSON}
    links = [{**link, "href": _joined(href, link["href"])} for link in item["links"] if link["rel"] != "self"]
    assets = {key: {**asset, "href": _joined(href, asset["href"])} for key, asset in item["assets"].items()}
    return {**item, "links": [own, *links], "assets": assets}


def _joined(base: str, href: str) -> str:
    """Return where a link of the Item at `base` leads; links that are not relative stay as they are."""
    if not href.startswith("."):
        return href
    scheme, separator, path = base.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(posixpath.join(posixpath.dirname(path), href))}"


def _attributes(item: Mapping[str, Any]) -> dict[str, str | float]:
    said = item["properties"]
    name = parse_product_name(said["s2:product_uri"])
    event: Event = "deprecated" if is_deprecated(item) else "created"
    attributes: dict[str, str | float | None] = {
        "event": event,
        "product": name.text,
        "level": name.level,
        "satellite": name.satellite,
        "tile": name.tile_id,
        "orbit": f"R{name.relative_orbit:03}",
        "baseline": said.get("s2:processing_baseline"),
        "datetime": said.get("datetime"),
        "model": said.get("kappamask:model"),
        "cloud_cover": said.get("eo:cloud_cover"),
    }
    return {key: value for key, value in attributes.items() if isinstance(value, (str, int, float)) and value != ""}


def _rectangle(bbox: Sequence[float]) -> dict[str, Any]:
    """Return the rectangle of a bounding box; it is two where it crosses the antimeridian (RFC 7946, section 3.1.9)."""
    west, south, east, north = bbox
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    rings = [[[w, south], [e, south], [e, north], [w, north], [w, south]] for w, e in spans]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}


def _encoded(item: Mapping[str, Any]) -> str:
    # In ASCII: queues refuse some characters.
    return json.dumps(item, separators=(",", ":"), allow_nan=False)
