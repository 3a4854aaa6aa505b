"""Where a mask comes from, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream import __version__

if TYPE_CHECKING:
    from kappamask_stream.extras import MaskJob

_RADIOMETRY = {
    "corrected": "corrected: the offsets of the product's metadata are applied",
    "km_predict": "km_predict: repeats the arithmetic of km_predict 2.4, offsets of L2A are not applied",
}
_MOSAIC = {
    "crop": "crop: each tile gives its core, margins are dropped",
    "blend": "blend: probabilities of overlapping tiles are weighed",
}


def provenance(job: MaskJob) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return groups of (what, value) pairs, each group with its title."""
    return [("Scene", _scene(job)), ("Model", _model(job)), ("Mask", _mask(job))]


def _scene(job: MaskJob) -> list[tuple[str, str]]:
    product = job.product
    offsets = sorted({product.offsets.get(band, 0.0) for band in job.contract.channels if band.startswith("B")})
    rows = [
        ("Product", product.name),
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


def _mask(job: MaskJob) -> list[tuple[str, str]]:
    options, frame = job.options, job.frame
    rows = [
        ("Size", f"{frame.height} × {frame.width} pixels of {frame.gsd_m} m"),  # noqa: RUF001 - for people
        ("Radiometry", _RADIOMETRY.get(options.radiometry, options.radiometry)),
        ("Tiles joined by", _MOSAIC.get(options.mosaic, options.mosaic)),
    ]
    rows += [("Grown", f"{name} by {metres:g} m") for name, metres in options.dilate]
    if options.aoi is not None:
        rows.append(("Area of interest", "the mask is cut to it; pixels outside are marked as without data"))
    if "RESAMPLED" in job.tags:
        rows.append(("Not as the model asks", job.tags["RESAMPLED"]))
    return [*rows, ("Software", f"kappamask-stream {__version__}"), ("Fingerprint", job.tags["FINGERPRINT"])]
