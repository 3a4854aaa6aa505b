"""Tiled TIFFs for tests: written by GDAL in the ways Sentinel-2 bands are published, and by hand where GDAL would not.

Nothing here uses the package's own parser: pixels are read back with rasterio.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.transform import Affine

from kappamask_stream.bands import CogIndex, index_cog_steps
from kappamask_stream.jp2 import ImagecodecsDecoder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.bands import BandIndex

ULX, ULY = 499980.0, 5900040.0


def write_cog(path: Path, pixels: NDArray[Any], *, gsd_m: int = 10, epsg: int = 32629, **options: Any) -> Path:
    """Write a band as GDAL's GTiff driver does; `options` are its creation options."""
    height, width = pixels.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": pixels.dtype.name,
        "crs": f"EPSG:{epsg}",
        "transform": Affine(gsd_m, 0.0, ULX, 0.0, -gsd_m, ULY),
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **{**profile, **options}) as file:
        file.write(pixels, 1)
    return path


def index_file(data: bytes, name: str = "B02.tif") -> tuple[CogIndex, list[tuple[int, int]]]:
    """Index a TIFF; returns what was read of it, too."""
    reads = []
    steps = index_cog_steps(name, len(data))
    try:
        offset, length = next(steps)
        while True:
            reads.append((offset, length))
            offset, length = steps.send(data[offset : offset + length])
    except StopIteration as finished:
        return finished.value, reads


def decode_whole(index: BandIndex, data: bytes) -> NDArray[np.uint16]:
    """Decode every piece and put it into its place; pixels of no piece stay 4242."""
    pixels = np.full((index.height, index.width), 4242, np.uint16)
    for tile in index.tiles:
        place = pixels[tile.window.relative_to(type(tile.window)(0, 0, index.height, index.width))]
        if tile.is_zero:
            place[...] = 0
            continue
        parts = [data[offset : offset + length] for offset, length in tile.parts]
        place[...] = index.decode_tile(tile, parts, ImagecodecsDecoder())
    return pixels


def tiff(
    tags: dict[int, tuple[int, tuple[int, ...]]], *, order: str = "<", big: bool = False, tail: bytes = b""
) -> bytes:
    """Write a TIFF of one directory: tag -> (field type, values); values that do not fit lie behind the directory."""
    letters = {1: "B", 3: "H", 4: "I", 12: "d", 16: "Q"}
    wide, letter = (8, "Q") if big else (4, "I")
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    head = (b"II" if order == "<" else b"MM") + head
    entries, beyond = b"", b""
    start = len(head) + (8 if big else 2) + len(tags) * (4 + 2 * wide) + wide
    for code, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{letters[kind]}", *values)
        if len(data) > wide:
            field = struct.pack(order + letter, start + len(beyond))
            beyond += data
        else:
            field = data.ljust(wide, b"\0")
        entries += struct.pack(order + "HH" + letter, code, kind, len(values)) + field
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + count + entries + bytes(wide) + beyond + tail
