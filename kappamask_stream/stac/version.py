"""The version extension of STAC (1.2.0): masks of older versions of a product point to the newest one's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kappamask_stream.stac.vocabulary import EXTENSIONS, GEOJSON

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Links to what is to be used instead: the extension wants the second one of whatever is deprecated.
_RELS: Final = ("successor-version", "latest-version")
_DEPRECATED = "deprecated"


def deprecated_item(item: Mapping[str, Any], *, href: str, title: str) -> dict[str, Any]:
    """Return an Item as deprecated, with links to the one that takes its place; nothing else of it is changed.

    The same for the same Item, whatever it was deprecated for before.

    Parameters
    ----------
    item : an Item of ours.
    href, title : of the newest Item.

    Raises
    ------
    KeyError, TypeError, AttributeError
        If it is no Item.
    """
    version = EXTENSIONS["version"]
    newest = {"href": href, "type": GEOJSON, "title": title}
    properties = {name: value for name, value in item["properties"].items() if name != _DEPRECATED}
    return {
        **item,
        "stac_extensions": [*(name for name in item["stac_extensions"] if name != version), version],
        "properties": {**properties, _DEPRECATED: True},
        "links": [
            *(link for link in item["links"] if link.get("rel") not in _RELS),
            *({"rel": rel, **newest} for rel in _RELS),
        ],
    }


def is_deprecated(item: Mapping[str, Any]) -> bool:
    """Tell whether an Item says that another one is to be used instead."""
    return item["properties"].get(_DEPRECATED) is True
