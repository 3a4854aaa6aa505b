"""The STAC Item of one mask. Pure but for PROJ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kappamask_stream import __version__
from kappamask_stream.names import parse_product_name
from kappamask_stream.stac.footprint import job_footprint
from kappamask_stream.stac.model import model_file
from kappamask_stream.stac.vocabulary import (
    CLOUD_CLASSES,
    COLLECTION_ID,
    GEOJSON,
    STAC_VERSION,
    band,
    extensions,
    percent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import FileFacts
    from kappamask_stream.extras import MaskJob
    from kappamask_stream.frame import MaskFrame
    from kappamask_stream.product import Product

#: Where the Copernicus Data Space keeps the Item of a product: its name is its identity, wherever it was read from.
_SOURCE_ITEMS = "https://stac.dataspace.copernicus.eu/v1/collections/sentinel-2-{level}/items/{name}"
_URL = re.compile(r"(?P<scheme>s3|https?)://(?:[^/?#]*@)?(?P<rest>[^?#]+)")
#: By what follows the mask's stem in a file's name: title and roles.
_COMPANIONS = {
    "quicklook-png": ("Quicklook of the mask", ["overview", "thumbnail"]),
    "png": ("Mask in km_predict's grey codes", ["data"]),
    "pgw": ("World file of the mask in grey codes", ["metadata"]),
    "probabilities-tif": ("Probability of each class, 255 is 1", ["data"]),
    "html": ("Report for people", ["metadata"]),
}
#: Folders of the product's folder hold hundreds of tiles: they are no assets.
_FOLDER = "/"


def mask_item(
    job: MaskJob, classes: Mapping[str, float], files: Sequence[FileFacts], unread: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Describe a mask.

    ``eo:cloud_cover`` is the share, in percent, of the classes CLOUD and SEMI_TRANSPARENT_CLOUD among the pixels that
    hold data; shadows do not count, and neither do pixels outside the area of interest. It is left out where the
    model has no such class or no pixel holds data.

    Parameters
    ----------
    job : of the mask; the Item belongs beside its GeoTIFF, ``<stem>.tif``.
    classes : share of all pixels (of the area of interest, or the product) per class name.
    files : all that is published with the mask, the GeoTIFF included.
    unread : name -> media type of files that are there from before, whose size and checksum are not known.

    Returns
    -------
    The Item; the same for the same inputs: no clock, no host, no path of this machine. Where there is an area of
    interest its geometry is that area's, as far as the product reaches; ``proj:bbox`` is the file's.
    """
    outline = job_footprint(job)
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": extensions(
            "classification", "eo", "file", "grid", "processing", "projection", "raster", "sat", "sentinel-2"
        ),
        # The stem alone is no identity: products of one tile and time differ in baseline.
        "id": f"{job.product.name}_{job.contract.suffix}_{job.contract.gsd_m}m",
        "collection": COLLECTION_ID,
        "geometry": outline.geometry,
        "bbox": list(outline.bbox),
        "properties": {
            "title": f"Cloud mask of {job.product.name}",
            "datetime": _datetime(job.product.sensing_time),
            **_scene(job.product),
            "gsd": job.contract.gsd_m,
            **_projection(job.frame),
            **_cover(job.contract, classes),
            **_processing(job),
        },
        "links": _links(job),
        "assets": _assets(job, classes, files, unread or {}),
    }


def data_fractions(contract: ModelContract, classes: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Return the share of pixels that hold data, and per class its share of those (nothing where none do).

    Parameters
    ----------
    classes : share of all pixels per class name.
    """
    data = {c.name: classes.get(c.name, 0.0) for c in contract.classes if c.value != contract.nodata_class}
    total = sum(data.values())
    return total, {name: share / total for name, share in data.items()} if total > 0 else {}


def _cover(contract: ModelContract, classes: Mapping[str, float]) -> dict[str, Any]:
    """Return cloud cover and the fractions of all classes among the pixels that hold data."""
    covered, fractions = data_fractions(contract, classes)
    said: dict[str, Any] = {}
    clouds = [share for name, share in fractions.items() if name in CLOUD_CLASSES]
    if clouds:
        said["eo:cloud_cover"] = min(100.0, percent(sum(clouds)))
    said["kappamask:data_fraction"] = round(covered, 6)
    said["kappamask:class_fractions"] = {name: round(share, 6) for name, share in fractions.items()}
    return said


def _scene(product: Product) -> dict[str, Any]:
    """Return what the scene says of itself."""
    name = parse_product_name(product.name)
    return {
        "platform": product.satellite.lower(),
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "grid:code": f"MGRS-{product.tile_id.removeprefix('T')}",
        "sat:relative_orbit": name.relative_orbit,
        "s2:product_uri": f"{product.name}.SAFE",
        "s2:product_type": f"S2MSI{product.level.removeprefix('L')}",
        "s2:processing_baseline": product.baseline,
    }


def _projection(frame: MaskFrame) -> dict[str, Any]:
    right = frame.ulx + frame.width * frame.gsd_m
    bottom = frame.uly - frame.height * frame.gsd_m
    return {
        "proj:code": f"EPSG:{frame.epsg}",
        "proj:shape": [frame.height, frame.width],
        "proj:bbox": [frame.ulx, bottom, right, frame.uly],
        "proj:transform": [frame.gsd_m, 0, frame.ulx, 0, -frame.gsd_m, frame.uly],
    }


def lineage(job: MaskJob) -> str:
    """Say in one sentence how a mask was made."""
    contract, options = job.contract, job.options
    grown = "".join(f", {name} grown by {metres:g} m" for name, metres in options.dilate)
    where = ", in an area of interest only" if options.aoi is not None else ""
    replaced = f"; {job.tags['RESAMPLED']}" if "RESAMPLED" in job.tags else ""
    return (
        f"Each pixel of {job.product.name} was given a class by the network {contract.name} (weights: "
        f"{contract.weights_source}); radiometry {options.radiometry}, tiles joined by {options.mosaic}{grown}{where}"
        f"{replaced}."
    )


def _processing(job: MaskJob) -> dict[str, Any]:
    contract, options = job.contract, job.options
    return {
        "processing:level": job.product.level,
        "processing:software": {"kappamask-stream": __version__},
        "processing:lineage": lineage(job),
        "kappamask:model": contract.name,
        "kappamask:weights_sha256": contract.weights_sha256,
        "kappamask:radiometry": options.radiometry,
        "kappamask:mosaic": options.mosaic,
        "kappamask:fingerprint": job.tags["FINGERPRINT"],
        **({} if options.aoi is None else {"kappamask:area_of_interest": options.aoi.identity}),
    }


def _links(job: MaskJob) -> list[dict[str, Any]]:
    """Return relative links to the catalogue, and where the mask comes from."""
    up = "../collection.json"
    name = job.product.name
    links = [
        {"rel": "root", "href": up, "type": "application/json"},
        {"rel": "parent", "href": up, "type": "application/json"},
        {"rel": "collection", "href": up, "type": "application/json"},
        {
            "rel": "derived_from",
            "href": _SOURCE_ITEMS.format(level=job.product.level.lower(), name=name),
            "type": GEOJSON,
            "title": f"Source scene {name}",
        },
        {
            "rel": "derived_from",
            "href": f"../{model_file(job.contract)}",
            "type": GEOJSON,
            "title": f"Model {job.contract.name}",
        },
    ]
    if (read_from := public_address(job.product.source.label)) is not None:
        links.append({"rel": "via", "href": read_from, "title": "Where the scene was read"})
    return links


def place_text(label: str) -> str:
    """Say where a source is: a store's address as `public_address` gives it, of a path the last part only."""
    return public_address(label) or re.split(r"[/\\]", label.rstrip("/\\"))[-1].partition("?")[0]


def public_address(label: str) -> str | None:
    """Return a store's address of a source without user, query and fragment, which may hold secrets; None of a path."""
    found = _URL.match(label)
    return None if found is None else f"{found['scheme']}://{found['rest']}"


def _assets(
    job: MaskJob, classes: Mapping[str, float], files: Sequence[FileFacts], unread: Mapping[str, str]
) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    for file in files:
        if _FOLDER in file.name:
            continue
        key, described = _asset(job, classes, file.name)
        assets[key] = {"href": f"./{file.name}", "type": file.media_type, **described}
        # A report tells how long it all took: with its checksum the same inputs would give another Item each time.
        if not file.media_type.startswith("text/html"):
            assets[key] |= {"file:size": file.size, "file:checksum": file.multihash}
    for name, media_type in unread.items():
        key, described = _asset(job, classes, name)
        assets[key] = {"href": f"./{name}", "type": media_type, **described}
    return assets


def _asset(job: MaskJob, classes: Mapping[str, float], name: str) -> tuple[str, dict[str, Any]]:
    """Return an asset's key, and its title and roles, by what the file is called."""
    stem = job.stem
    if name == f"{stem}.tif":
        # The classes of the only band are those of the file.
        return "mask", {
            "title": "Cloud mask",
            "roles": ["data", "cloud", "cloud-shadow"],
            "bands": [band(job.contract, classes)],
        }
    key = name.removeprefix(stem).strip("._-").replace(".", "-") or "file"
    title, roles = _COMPANIONS.get(key, (name, ["metadata"]))
    return key, {"title": title, "roles": roles}


def _datetime(sensing_time: str) -> str:
    """Write a time of file names, ``20221005T115411``, as RFC 3339."""
    day, _, clock = sensing_time.partition("T")
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}Z"
