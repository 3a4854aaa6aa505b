"""Write a synthetic scene as a SAFE product, with the truth beside it."""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from kappamask_stream.errors import OutputError, UsageError
from kappamask_stream.grid import Window
from kappamask_stream.synth.identity import RESOLUTIONS, SYNTHETIC, Identity, Place
from kappamask_stream.synth.jp2 import ImageSpec, StagedImage
from kappamask_stream.synth.manifest import manifest
from kappamask_stream.synth.metadata import Content, product_metadata, tile_metadata
from kappamask_stream.synth.scene import (
    ALIGNMENT,
    BANDS_OF,
    CLOUD,
    MISSING,
    SEMI_TRANSPARENT,
    Level,
    Rendered,
    Scene,
    render,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

#: Rows of a strip and columns of a window, 10 m pixels: small enough for the processor's caches.
_STRIP_ROWS, _WINDOW_COLS = 288, 1152
#: GDAL's block cache while writing, bytes; its default is a share of the machine's memory.
_GDAL_CACHE = 64 << 20
#: JPEG 2000 files are about this share of the pixels they hold.
_COMPRESSED_SHARE = 0.5
MIN_SIZE, MAX_SIZE = 96, 30000
MAX_SEED = 2**31 - 1


_TRUTH_COLOURS = {
    1: (66, 122, 66, 255),
    2: (40, 40, 100, 255),
    3: (170, 205, 235, 255),
    4: (255, 255, 255, 255),
    5: (0, 0, 0, 255),
}


@dataclass(frozen=True, kw_only=True)
class SynthResult:
    """What was written.

    Attributes
    ----------
    product : the SAFE directory.
    truth : GeoTIFF beside it, 10 m, KappaMask's classes: 1 clear, 2 cloud shadow, 3 semi-transparent, 4 cloud,
        5 missing.
    """

    product: Path
    truth: Path


def write_product(
    dest: Path,
    *,
    level: Level = "L2A",
    size: int = 2304,
    seed: int = 0,
    place: Place = SYNTHETIC,
    on_progress: Callable[[str, int, int], None] | None = None,
    overwrite: bool = False,
) -> SynthResult:
    """Make a synthetic Sentinel-2 product: the same level, size and seed always give the same pixels.

    Nothing appears under the final names until everything is written. While it works, the uncompressed images lie
    in a hidden folder in `dest` (2.8 GB for a full-size L2A product of 10980 pixels).

    Parameters
    ----------
    dest : folder for the product and its truth; is made where missing.
    level : ``L1C`` or ``L2A``.
    size : height and width in 10 m pixels, a multiple of 6.
    seed : 0 or more; decides the scene and its day.
    place : where it lies.
    on_progress : called with what is being done, how much is done, and of how much.
    overwrite : True replaces a product of the same name.

    Raises
    ------
    UsageError
        If level, size or seed are impossible, or the product exists.
    OutputError
        If it cannot be written.
    """
    check_request(level, size, seed)
    identity = Identity(level, size, seed, place)
    result = SynthResult(product=dest / f"{identity.product}.SAFE", truth=dest / f"{identity.product}_truth_10m.tif")
    for path in (result.product, result.truth):
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists: take another --seed or folder, or replace it with --overwrite")
    build = dest / f".{identity.product}.partial-{os.getpid()}"
    try:
        build.mkdir(parents=True, exist_ok=True)
        _write(identity, build, on_progress or (lambda *_: None))
        _publish(build / "SAFE", result.product)
        _publish(build / "truth.tif", result.truth)
    except (OSError, RasterioError) as error:
        raise OutputError(f"cannot write {result.product}: {error}") from error
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return result


def check_request(level: str, size: int, seed: int) -> None:
    """Refuse what cannot be made, with the nearest that can.

    Raises
    ------
    UsageError
        Naming the value and what is possible.
    """
    if level not in BANDS_OF:
        raise UsageError(f"level {level!r} is not one of {', '.join(BANDS_OF)}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"size {size} is not between {MIN_SIZE} and {MAX_SIZE} pixels of 10 m")
    if size % ALIGNMENT:
        lower = size - size % ALIGNMENT
        raise UsageError(
            f"size {size} is not a multiple of {ALIGNMENT}, which whole 20 m and 60 m pixels need: "
            f"take {lower} or {lower + ALIGNMENT}"
        )
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed {seed} is not between 0 and {MAX_SEED}")


def _write(identity: Identity, build: Path, on_progress: Callable[[str, int, int], None]) -> None:
    product, staging = build / "SAFE", build / "staging"
    staging.mkdir(parents=True)
    specs = _image_specs(identity, product)
    _check_space(build, specs)
    with rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE):
        images = {key: StagedImage(spec, staging) for key, spec in specs.items()}
        content = _draw(identity, images, build / "truth.tif", on_progress)
        images["TCI", 10].preview(product / f"{identity.preview_path}.jp2")
        _encode(list(images.values()), on_progress)
    staging.rmdir()
    names = [identity.image_path(band, gsd) for band, gsd in specs]
    _write_text(product / f"MTD_MSI{identity.level}.xml", product_metadata(identity, names, content))
    _write_text(product / f"GRANULE/{identity.granule}/MTD_TL.xml", tile_metadata(identity, content))
    _write_text(product / "manifest.safe", manifest(identity, product))


def _image_specs(identity: Identity, product: Path) -> dict[tuple[str, int], ImageSpec]:
    """Return the images of a product, the largest first."""
    keys = [(band, gsd) for band, resolutions in BANDS_OF[identity.level].items() for gsd in resolutions]
    if identity.level == "L2A":
        keys += [(band, gsd) for band in ("AOT", "WVP", "TCI") for gsd in RESOLUTIONS]
        keys += [("SCL", 20), ("SCL", 60)]
    else:
        keys.append(("TCI", 10))
    return {
        (band, gsd): ImageSpec(
            path=product / f"{identity.image_path(band, gsd)}.jp2",
            size=identity.size * 10 // gsd,
            gsd_m=gsd,
            count=3 if band == "TCI" else 1,
            dtype="uint8" if band in {"TCI", "SCL"} else "uint16",
            epsg=identity.place.epsg,
            transform=identity.transform(gsd),
        )
        for band, gsd in sorted(keys, key=lambda key: (key[1], key[0] != "TCI", key[0]))
    }


def _check_space(folder: Path, specs: dict[tuple[str, int], ImageSpec]) -> None:
    staged = sum(spec.staged_bytes for spec in specs.values())
    needed, free = round(staged * (1 + _COMPRESSED_SHARE)), shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder.parent} has {free / 1e6:.0f} MB free, the product needs {needed / 1e6:.0f} MB while it is made: "
            "make room or take a smaller --size"
        )


def _draw(
    identity: Identity,
    images: dict[tuple[str, int], StagedImage],
    truth: Path,
    on_progress: Callable[[str, int, int], None],
) -> Content:
    """Draw the scene strip by strip in threads, write the strips in order, and count what is on them."""
    scene = identity.scene()
    classes: Counter[int] = Counter()
    scl: Counter[int] = Counter()
    with _open_truth(identity, truth) as truth_file:
        for row, strip in _strips(scene):
            for (band, gsd), pixels in _layers(strip).items():
                images[band, gsd].write_rows(row * 10 // gsd, pixels)
            truth_file.write(strip.truth, 1, window=RasterWindow(0, row, scene.size, strip.truth.shape[0]))
            classes.update(_counts(strip.truth))
            if strip.scl:
                scl.update(_counts(strip.scl[20]))
            on_progress("drawing the scene", row + strip.truth.shape[0], scene.size)
    for image in images.values():
        image.close()
    return _content(classes, scl)


def _strips(scene: Scene) -> Iterator[tuple[int, Rendered]]:
    """Yield first row and pixels of all strips in order, drawn by as many threads as there are processors."""
    workers = _workers()
    with ThreadPoolExecutor(workers, thread_name_prefix="synth") as pool:
        waiting: deque[tuple[int, Future[Rendered]]] = deque()
        try:
            for row in range(0, scene.size, _STRIP_ROWS):
                waiting.append((row, pool.submit(_strip, scene, row)))
                if len(waiting) > workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _strip(scene: Scene, row: int) -> Rendered:
    """Draw full rows window by window and put them side by side."""
    height = min(_STRIP_ROWS, scene.size - row)
    parts = [
        render(scene, Window(row, col, height, min(_WINDOW_COLS, scene.size - col)))
        for col in range(0, scene.size, _WINDOW_COLS)
    ]
    return Rendered(
        bands={key: np.concatenate([part.bands[key] for part in parts], 1) for key in parts[0].bands},
        scl={key: np.concatenate([part.scl[key] for part in parts], 1) for key in parts[0].scl},
        tci={key: np.concatenate([part.tci[key] for part in parts], 2) for key in parts[0].tci},
        truth=np.concatenate([part.truth for part in parts], 1),
    )


def _layers(strip: Rendered) -> dict[tuple[str, int], NDArray[Any]]:
    layers: dict[tuple[str, int], NDArray[Any]] = {**strip.bands}
    layers |= {("SCL", gsd): pixels for gsd, pixels in strip.scl.items()}
    layers |= {("TCI", gsd): pixels for gsd, pixels in strip.tci.items()}
    return layers


def _encode(images: list[StagedImage], on_progress: Callable[[str, int, int], None]) -> None:
    with ThreadPoolExecutor(_workers(), thread_name_prefix="synth") as pool:
        futures = [pool.submit(image.encode) for image in images]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                on_progress("encoding JPEG 2000", done, len(futures))
        finally:
            for future in futures:
                future.cancel()


def _open_truth(identity: Identity, path: Path) -> Any:
    writer = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=identity.size,
        height=identity.size,
        count=1,
        dtype="uint8",
        crs=f"EPSG:{identity.place.epsg}",
        transform=identity.transform(10),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        predictor=1,
        interleave="band",
    )
    writer.write_colormap(1, _TRUTH_COLOURS)
    writer.update_tags(
        SYNTHETIC="YES",
        PRODUCT=identity.product,
        SEED=str(identity.seed),
        CLASSES="1 clear, 2 cloud shadow, 3 semi-transparent cloud, 4 cloud, 5 missing",
    )
    return writer


def _counts(classes: NDArray[np.uint8]) -> dict[int, int]:
    counts = np.bincount(classes.ravel(), minlength=1)
    return {value: int(count) for value, count in enumerate(counts) if count}


def _content(classes: Counter[int], scl: Counter[int]) -> Content:
    total, missing = sum(classes.values()), classes[MISSING]
    seen = max(1, total - missing)
    scl_seen = max(1, sum(scl.values()) - scl[0])
    return Content(
        nodata_share=missing / total,
        cloud_share=(classes[CLOUD] + classes[SEMI_TRANSPARENT]) / seen,
        scl_shares={value: count / scl_seen for value, count in scl.items() if value},
    )


def _publish(built: Path, final: Path) -> None:
    """Move what is complete to its name; what was there goes only then."""
    replaced = built.with_name(f"{built.name}.replaced")
    if final.exists():
        final.rename(replaced)
    built.rename(final)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _workers() -> int:
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
