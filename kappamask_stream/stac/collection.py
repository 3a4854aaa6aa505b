"""The STAC Collection of masks: made from contracts, grown by Items, the same in whatever order. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from kappamask_stream.stac.model import model_file
from kappamask_stream.stac.vocabulary import (
    COG,
    COLLECTION_ID,
    GEOJSON,
    MISSION_BBOX,
    MISSION_START,
    STAC_VERSION,
    band,
    extensions,
    unique,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from kappamask_stream.contract import ModelContract

COLLECTION_FILE = "collection.json"
_LEGAL_NOTICE = "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice"
_DESCRIPTION = (
    "Masks of clouds and their shadows, one per Sentinel-2 product, made by kappamask-stream. Contains modified "
    "Copernicus Sentinel data. Use of the scenes is free under the Copernicus Sentinel data terms (see the license "
    "link); each model names the terms of its weights."
)


@dataclass(frozen=True, kw_only=True)
class ItemEntry:
    """What a Collection keeps of an Item.

    Attributes
    ----------
    href : relative to the Collection, ``./<product>/<stem>.json``.
    title : for people.
    bbox : west, south, east, north, degrees.
    datetime : RFC 3339, in UTC.
    summaries : what is summed up over all Items.
    """

    href: str
    title: str
    bbox: tuple[float, float, float, float]
    datetime: str
    summaries: Mapping[str, Any]

    @classmethod
    def of(cls, item: Mapping[str, Any], href: str) -> Self:
        """Read an Item of ours.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is not one.
        """
        properties = item["properties"]
        west, south, east, north = (float(value) for value in item["bbox"])
        if not all(map(math.isfinite, (west, south, east, north))):
            raise ValueError(f"bbox {item['bbox']}")
        summed = ("platform", "gsd", "processing:level", "kappamask:model", "eo:cloud_cover")
        return cls(
            href=href,
            title=str(item["id"]),
            bbox=(west, south, east, north),
            datetime=str(properties["datetime"]),
            summaries={name: properties[name] for name in summed if name in properties},
        )


def collection(contracts: Sequence[ModelContract], items: Sequence[ItemEntry] = ()) -> dict[str, Any]:
    """Describe masks of some models.

    Where no Item is known the extent is what Sentinel-2 may ever show.

    Parameters
    ----------
    contracts : of the models in use, at least one.
    items : masks that are there.
    """
    models = sorted({model_file(contract) for contract in contracts})
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": extensions("classification", "eo", "processing", "raster"),
        "id": COLLECTION_ID,
        "title": "Sentinel-2 cloud masks",
        "description": _DESCRIPTION,
        "keywords": ["cloud mask", "cloud shadow", "kappamask", "sentinel-2"],
        "license": "other",
        "providers": _providers(),
        "extent": _extent(items),
        "summaries": _summaries(contracts, items),
        "item_assets": _item_assets(contracts),
        "links": [
            {"rel": "root", "href": f"./{COLLECTION_FILE}", "type": "application/json"},
            {"rel": "license", "href": _LEGAL_NOTICE, "title": "Legal notice on the use of Copernicus Sentinel data"},
            *({"rel": "derived_from", "href": f"./{model}", "type": GEOJSON} for model in models),
            *_item_links(items),
        ],
    }


def merged(known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Join two Collections of ours: all Items of both, and what covers them. Order and repetition change nothing.

    Raises
    ------
    ValueError, LookupError, TypeError, AttributeError
        If one is not a Collection of ours.
    """
    if known["id"] != new["id"] or known["type"] != new["type"]:
        raise ValueError(f"it is a {known['type']} named {known['id']}")
    sides = [known, new]
    if not all(isinstance(link["rel"], str) and isinstance(link["href"], str) for link in known["links"]):
        raise TypeError("a link's rel or href is no text")
    # A Collection without Items has the extent of the mission, which says nothing about theirs.
    extents = [side["extent"] for side in sides if _items_of(side)] or [new["extent"]]
    links = {(link["rel"], link["href"]): dict(link) for side in sides for link in side["links"]}
    # What people added, too.
    order = {"root": 0, "license": 1, "derived_from": 2, "item": 4}
    return {
        **new,
        "extent": _joined([e["spatial"]["bbox"][0] for e in extents], [e["temporal"]["interval"][0] for e in extents]),
        "summaries": _joined_summaries([side["summaries"] for side in sides]),
        "item_assets": _joined_assets(known["item_assets"], new["item_assets"]),
        "links": [links[key] for key in sorted(links, key=lambda key: (order.get(key[0], 3), key))],
    }


def without(document: Mapping[str, Any], hrefs: Collection[str]) -> dict[str, Any]:
    """Return a Collection of ours without its links to some Items.

    Its extent still covers them, as what the others cover is in their Items only; of the last one it goes.
    """
    links = [link for link in document["links"] if link["rel"] != "item" or link["href"] not in hrefs]
    remaining = {**document, "links": links}
    return remaining if _items_of(remaining) else {**remaining, "extent": _extent(())}


def _items_of(document: Mapping[str, Any]) -> list[Any]:
    return [link for link in document["links"] if link["rel"] == "item"]


def _item_links(items: Sequence[ItemEntry]) -> list[dict[str, Any]]:
    by_href = {item.href: item for item in items}
    return [{"rel": "item", "href": href, "type": GEOJSON, "title": by_href[href].title} for href in sorted(by_href)]


def _providers() -> list[dict[str, Any]]:
    return [
        {"name": "European Union/ESA/Copernicus", "roles": ["producer", "licensor"], "url": "https://copernicus.eu"},
        {
            "name": "Whoever ran kappamask-stream",
            "roles": ["processor"],
            "processing:lineage": "Source scenes were classified by a neural network; each Item names it.",
        },
    ]


def _extent(items: Sequence[ItemEntry]) -> dict[str, Any]:
    if not items:
        return {"spatial": {"bbox": [list(MISSION_BBOX)]}, "temporal": {"interval": [[MISSION_START, None]]}}
    return _joined([item.bbox for item in items], [(item.datetime, item.datetime) for item in items])


def _joined(boxes: Sequence[Sequence[float]], intervals: Sequence[Sequence[str | None]]) -> dict[str, Any]:
    """Return the extent around boxes and intervals; across the antimeridian it goes all the way round."""
    crosses = any(box[0] > box[2] for box in boxes)
    box = [
        -180.0 if crosses else min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        180.0 if crosses else max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    ]
    # None is an open end.
    starts, ends = ([interval[side] or "" for interval in intervals] for side in (0, 1))
    interval = ["" if "" in starts else min(starts), "" if "" in ends else max(ends)]
    return {"spatial": {"bbox": [box]}, "temporal": {"interval": [[bound or None for bound in interval]]}}


def _summaries(contracts: Sequence[ModelContract], items: Sequence[ItemEntry]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {
            "constellation": ["sentinel-2"],
            "instruments": ["msi"],
            "gsd": [contract.gsd_m],
            "processing:level": [contract.level],
            "kappamask:model": [contract.name],
        }
        for contract in contracts
    ]
    for item in items:
        said = {name: [value] for name, value in item.summaries.items() if name != "eo:cloud_cover"}
        cover = item.summaries.get("eo:cloud_cover")
        parts.append(said if cover is None else {**said, "eo:cloud_cover": {"minimum": cover, "maximum": cover}})
    return _joined_summaries(parts)


def _joined_summaries(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for name in sorted({name for part in parts for name in part}):
        values = [part[name] for part in parts if name in part]
        if all(isinstance(value, list) for value in values):
            joined[name] = unique(value for listed in values for value in listed)
        else:
            joined[name] = {
                "minimum": min(value["minimum"] for value in values),
                "maximum": max(value["maximum"] for value in values),
            }
    return joined


def _item_assets(contracts: Sequence[ModelContract]) -> dict[str, Any]:
    assets: dict[str, Any] | None = None
    for contract in contracts:
        mask = {"title": "Cloud mask", "type": COG, "roles": ["data", "cloud", "cloud-shadow"]}
        own = {"mask": {**mask, "bands": [band(contract)]}}
        assets = own if assets is None else _joined_assets(assets, own)
    return assets or {}


def _joined_assets(known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what all models say alike: classes of two families differ, then each Item tells its own."""
    joined = {**known, **new}
    return {
        name: {
            field: value
            for field, value in asset.items()
            if all(side[name].get(field) == value for side in (known, new) if name in side)
        }
        for name, asset in joined.items()
    }
