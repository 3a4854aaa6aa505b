"""The page: what it says is put together here, how it looks is in ``page/``."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import imagecodecs
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from kappamask_stream import __version__
from kappamask_stream.cog import MOST_QUICKLOOK_PIXELS
from kappamask_stream.disk import FILE_BYTES, TEXT_BYTES
from kappamask_stream.png import most_png_bytes
from kappamask_stream.quicklook import encode_quicklook
from kappamask_stream.report import figures
from kappamask_stream.report.provenance import provenance
from kappamask_stream.report.scene import MOST_PIXELS
from kappamask_stream.report.waterfall import stage_rows, ticks
from kappamask_stream.stac.item import data_fractions
from kappamask_stream.stac.vocabulary import CLOUD_CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from kappamask_stream.destinations import FileFacts
    from kappamask_stream.extras import FinishedMask, MaskJob
    from kappamask_stream.report.confidence import Confidence
    from kappamask_stream.report.scene import ScenePicture

_JPEG_QUALITY = 84
_CONFIDENCE_BINS = 20


def render_page(
    job: MaskJob, mask: FinishedMask, scene: ScenePicture, confidence: Confidence, files: Sequence[FileFacts]
) -> bytes:
    """Return the page, UTF-8. Every text from outside is escaped; only styles and script of this package run."""
    covered, fractions = data_fractions(job.contract, mask.classes)
    clouds = [share for name, share in fractions.items() if name in CLOUD_CLASSES]
    script = _file("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page: str = _template().render(
        job=job,
        mask=mask,
        version=__version__,
        style=Markup(_file("report.css")),  # noqa: S704 - this package's own
        script=Markup(script),  # noqa: S704 - this package's own
        script_digest=digest,
        cloud_cover=sum(clouds) if clouds else None,
        covered=covered,
        has_area=job.options.aoi is not None,
        grown=" and ".join(dict.fromkeys(figures.class_text(name) for name, _ in job.options.dilate)),
        pictures=_pictures(job, mask, scene),
        classes=_classes(job, mask),
        confidence=_confidence(job, confidence),
        stages=stage_rows(mask.timeline),
        ticks=ticks(mask.timeline.seconds),
        provenance=provenance(job, mask),
        files=files,
    )
    return page.encode()


def most_page_bytes() -> int:
    """Return the most bytes that a page takes: two pictures as texts of base64, and words.

    A JPEG takes six bytes a pixel at most (libjpeg-turbo's ``tjBufSize``, without subsampling).
    """
    scene = 6 * (MOST_PIXELS + 16) ** 2 + 2048
    pictures = scene + most_png_bytes(MOST_QUICKLOOK_PIXELS, MOST_QUICKLOOK_PIXELS, 3)
    return -(-pictures * 4 // 3) + TEXT_BYTES + FILE_BYTES


def _pictures(job: MaskJob, mask: FinishedMask, scene: ScenePicture) -> dict[str, Any]:
    """Return both pictures as data URLs, and how far each reaches beyond the frame, in percent of it."""
    frame, pixels = job.frame, mask.quicklook_pixels
    picture = scene.render(job.product.offsets, job.product.quantification)
    encoded = bytes(imagecodecs.jpeg_encode(picture, level=_JPEG_QUALITY))
    colours = {c.value: c.colour for c in job.contract.classes}
    return {
        "scene": _data_url("image/jpeg", encoded),
        "scene_reach": _reach(picture, scene.step, frame.height, frame.width),
        "mask": _data_url("image/png", encode_quicklook(pixels, colours)),
        # The mask's picture is an overview: each pixel stands for a power of two of them.
        "mask_reach": _reach(pixels, _factor(pixels.shape[0], frame.height), frame.height, frame.width),
        "is_true_colour": scene.is_true_colour,
        "bands": [channel.band for channel in scene.channels],
        "metres": scene.step * frame.gsd_m,
    }


def _factor(rows: int, height: int) -> int:
    factor = 1
    while -(-height // factor) > rows:
        factor *= 2
    return factor


def _reach(pixels: NDArray[np.uint8], factor: int, height: int, width: int) -> dict[str, float]:
    """Return height and width of a picture in percent of the frame: its last pixels may reach beyond."""
    rows, cols = pixels.shape[:2]
    return {"height": round(100 * rows * factor / height, 3), "width": round(100 * cols * factor / width, 3)}


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _classes(job: MaskJob, mask: FinishedMask) -> list[dict[str, Any]]:
    """Return the legend: classes that occur first, each with its share of all pixels."""
    rows = [
        {
            "name": figures.class_text(entry.name),
            "value": entry.value,
            "colour": "#{:02x}{:02x}{:02x}".format(*entry.colour),
            "share": mask.classes.get(entry.name, 0.0),
            "is_nodata": entry.value == job.contract.nodata_class,
        }
        for entry in job.contract.classes
    ]
    return sorted(rows, key=lambda row: -row["share"])


def _confidence(job: MaskJob, confidence: Confidence) -> dict[str, Any] | None:
    overall = confidence.mean()
    if overall is None:
        return None
    means = [(entry, confidence.mean(entry.value)) for entry in job.contract.classes]
    bars = confidence.histogram(_CONFIDENCE_BINS)
    return {
        "overall": overall,
        "pixels": confidence.pixels,
        "bars": [float(share) for share in bars],
        "highest": max(float(bars.max()), 1e-9),
        "classes": [
            {
                "name": figures.class_text(entry.name),
                "colour": "#{:02x}{:02x}{:02x}".format(*entry.colour),
                "mean": mean,
            }
            for entry, mean in means
            if mean is not None
        ],
    }


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_file), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "size": figures.size_text,
        "seconds": figures.seconds_text,
        "percent": figures.percent_text,
        "count": figures.count_text,
        "time": figures.time_text,
    }
    return environment.get_template("report.html.jinja")


@cache
def _file(name: str) -> str:
    return resources.files("kappamask_stream.report").joinpath("page", name).read_text(encoding="utf-8")
