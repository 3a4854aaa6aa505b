"""Where a mask comes from, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shapely

from kappamask_stream import __version__
from kappamask_stream.report.figures import count_text
from kappamask_stream.stac.item import place_text

if TYPE_CHECKING:
    from kappamask_stream.aoi import AreaOfInterest
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.extras import FinishedMask, MaskJob
    from kappamask_stream.inference import BatchSizes

#: Characters of an area's coordinates that are told; of a longer one, where it is.
_AREA_LENGTH = 600
_CRS_LENGTH = 80
_DECIMALS = 6

_RADIOMETRY = {
    "corrected": "corrected: the offsets of the product's metadata are applied",
    "km_predict": "km_predict: repeats the arithmetic of km_predict 2.4, offsets of L2A are not applied",
}
_MOSAIC = {
    "crop": "crop: each tile gives its core, margins are dropped",
    "blend": "blend: probabilities of overlapping tiles are weighed",
}


def provenance(job: MaskJob, mask: FinishedMask) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return groups of (what, value) pairs, each group with its title."""
    model = [*_model(job), *_server(job.contract, mask.batch_sizes)]
    return [("Scene", _scene(job)), ("Model", model), ("Mask", _mask(job))]


def _scene(job: MaskJob) -> list[tuple[str, str]]:
    product = job.product
    offsets = sorted({product.offsets.get(band, 0.0) for band in job.contract.channels if band.startswith("B")})
    rows = [
        ("Product", product.name),
        ("Read from", place_text(product.source.label)),
        ("Satellite", product.satellite),
        ("Level, baseline", f"{product.level}, {product.baseline}"),
        (
            "Offset of the bands",
            ", ".join(f"{offset:g} DN".replace("-", "\N{MINUS SIGN}") for offset in offsets) or "none",
        ),
        ("Projection", f"EPSG:{job.frame.epsg}"),
        ("Metadata SHA-256", product.metadata_sha256),
    ]
    return [*rows, *(("Remark", note) for note in product.notes)]


def _model(job: MaskJob) -> list[tuple[str, str]]:
    contract = job.contract
    bands = "; ".join(f"{', '.join(group.bands)} at {group.gsd_m} m" for group in contract.inputs)
    return [
        ("Name", contract.name),
        ("Architecture", f"{contract.architecture}, {contract.precision}"),
        ("Bands", bands),
        ("Weights", contract.weights_source),
        ("Weights SHA-256", contract.weights_sha256 or "unknown"),
    ]


def _server(contract: ModelContract, batches: BatchSizes | None) -> list[tuple[str, str]]:
    """Say how the network was run, as far as the contract and the server's counts tell."""
    counts = None if batches is None else batches.counts
    if counts:
        formed = ", ".join(f"{count_text(n)} of {size}" for size, n in counts.items())
        formed += " tiles, for all clients, while this product was in work"
    elif counts is not None:
        formed = "none while this product was in work"
    else:
        formed = "not known" if batches is None or not batches.reason else f"not known: {batches.reason}"
    instances = "1 instance" if contract.instances == 1 else f"{contract.instances} instances"
    return [("Served by", f"{instances}, in batches of up to {contract.max_batch}"), ("Batches formed", formed)]


def _area(area: AreaOfInterest) -> str:
    """Write an area's coordinates in its own coordinate system, or where it is, if they are many."""
    crs, many = area.crs.to_string()[:_CRS_LENGTH], shapely.get_num_coordinates(area.geometry)
    if many * 2 * _DECIMALS < _AREA_LENGTH:
        text = str(shapely.to_wkt(area.geometry, rounding_precision=_DECIMALS, trim=True))
        if len(text) <= _AREA_LENGTH:
            return f"{text} in {crs}"
    west, south, east, north = (f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".") for value in area.geometry.bounds)
    return f"{count_text(many)} vertices within {west} to {east}, {south} to {north} in {crs}"


def _mask(job: MaskJob) -> list[tuple[str, str]]:
    options, frame = job.options, job.frame
    rows = [
        ("Size", f"{frame.height} × {frame.width} pixels of {frame.gsd_m} m"),  # noqa: RUF001 - for people
        ("Radiometry", _RADIOMETRY.get(options.radiometry, options.radiometry)),
        ("Tiles joined by", _MOSAIC.get(options.mosaic, options.mosaic)),
    ]
    rows += [("Grown", f"{name} by {metres:g} m") for name, metres in options.dilate]
    if options.aoi is not None:
        rows.append(("Area of interest", _area(options.aoi)))
    if "RESAMPLED" in job.tags:
        rows.append(("Read at another resolution", job.tags["RESAMPLED"]))
    return [*rows, ("Software", f"kappamask-stream {__version__}"), ("Fingerprint", job.tags["FINGERPRINT"])]
