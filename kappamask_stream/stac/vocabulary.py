"""What all catalogue entries say in the same way: versions, classes, encoding. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kappamask_stream.contract import MaskClass, ModelContract

STAC_VERSION = "1.1.0"
GEOJSON = "application/geo+json"
#: Media type of the mask, as the OGC names Cloud Optimized GeoTIFFs.
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
COLLECTION_ID = "sentinel-2-cloud-masks"

#: Identifiers of the extensions, each the address of its JSON schema. Of `eo` and `sat` older versions will do: the
#: fields used here have not changed since, and their schemas can be had for a test.
EXTENSIONS: Final = {
    name: f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in {
        "classification": "2.0.0",
        "eo": "1.1.0",
        "file": "2.1.0",
        "grid": "1.1.0",
        "mlm": "1.5.2",
        "processing": "1.2.0",
        "projection": "2.0.0",
        "raster": "2.0.0",
        "sat": "1.0.0",
        "sentinel-2": "1.0.0",
        "version": "1.2.0",
    }.items()
}

#: Names of classes that count as cloud, whatever the model.
CLOUD_CLASSES = frozenset({"CLOUD", "SEMI_TRANSPARENT_CLOUD"})

#: Latitudes between which Sentinel-2 acquires images (mission requirements: 56 degrees south to 84 north), as the
#: rectangle of all that may be masked, and the launch of the first satellite.
MISSION_BBOX = (-180.0, -56.0, 180.0, 84.0)
MISSION_START = "2015-06-23T00:00:00Z"

_NUMBERS = re.compile(r"\[(?:\n *[-+.\deE]+,?)+\n *\]", re.ASCII)
#: What a class name of the classification extension may not hold.
_NO_NAME = re.compile(r"[^0-9A-Za-z_-]+", re.ASCII)
_MEANING = {
    "UNDEFINED": "The network could not tell.",
    "CLEAR": "Ground or water without cloud or cloud shadow.",
    "CLOUD_SHADOW": "Ground or water in the shadow of a cloud.",
    "SEMI_TRANSPARENT_CLOUD": "Cloud through which the ground can be seen: thin clouds, haze, cirrus.",
    "CLOUD": "Cloud through which the ground cannot be seen.",
    "MISSING": "No data: outside the swath, beyond the image, or outside the area of interest.",
}


def extensions(*names: str) -> list[str]:
    """Return the identifiers of extensions, in the order of their names."""
    return [EXTENSIONS[name] for name in sorted(names)]


def classes(contract: ModelContract, shares: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Return ``classification:classes`` of a model.

    Parameters
    ----------
    shares : class name -> share of all pixels of the mask, for their ``percentage``.
    """
    return [_class(entry, contract.nodata_class, shares) for entry in contract.classes]


def _class(entry: MaskClass, nodata: int, shares: Mapping[str, float] | None) -> dict[str, Any]:
    # The extension's names are for machines; a network of one's own may call its classes as people do.
    name = _NO_NAME.sub("_", entry.name).strip("_") or f"class_{entry.value}"
    said: dict[str, Any] = {
        "value": entry.value,
        "name": name,
        **({} if name == entry.name else {"title": entry.name}),
        "description": _MEANING.get(entry.name, entry.name),
        "color_hint": "".join(f"{part:02X}" for part in entry.colour),
        "nodata": entry.value == nodata,
    }
    if shares is not None:
        said["percentage"] = percent(shares.get(entry.name, 0.0))
    return said


def percent(share: float) -> float:
    """Return a share of 1 in percent, to a thousandth: a few hundred pixels of a full mask."""
    return round(100.0 * share, 3)


def band(contract: ModelContract, shares: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return the description of a mask's only band."""
    return {
        "name": "classes",
        "data_type": "uint8",
        "nodata": contract.nodata_class,
        "raster:sampling": "area",
        "raster:spatial_resolution": contract.gsd_m,
        "classification:classes": classes(contract, shares),
    }


def unique(values: Iterable[Any]) -> list[Any]:
    """Return values that differ, in a fixed order."""
    by_text = {json.dumps(value, sort_keys=True): value for value in values}
    return [by_text[text] for text in sorted(by_text)]


def encode(document: Mapping[str, Any]) -> bytes:
    """Write a document: UTF-8, indented for people, the same bytes for the same document."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # Points and shapes on one line. A line break is never part of a string in JSON, so no text is touched.
    return (
        _NUMBERS.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n"
    ).encode()
