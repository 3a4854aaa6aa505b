"""What OpenJPEG makes of stand-alone tiles: pixels, or words that name file and tile; small images only, for speed."""

from __future__ import annotations

import imagecodecs
import numpy as np

from kappamask_stream.errors import CodestreamError
from kappamask_stream.jp2.decode import ImagecodecsDecoder
from tests.fuzz.jp2_files import LONGEST, files, large_files
from tests.fuzz.jp2_index_target import indexed

_MOST_PIXELS = 2**14
_DECODER = ImagecodecsDecoder()

__all__ = ["LONGEST", "large", "one_input", "seeds"]


def seeds() -> list[bytes]:
    """Return files of every layout, and small ones with packets as OpenJPEG writes them."""
    pixels = np.random.default_rng(1).integers(0, 9000, (24, 20)).astype(np.uint16)
    written = [
        imagecodecs.jpeg2k_encode(
            pixels, codecformat=form, reversible=reversible, level=level, bitspersample=15, resolutions=resolutions
        )
        for form, reversible, level, resolutions in (("j2k", True, 0, 3), ("jp2", False, 60, 2), ("j2k", True, 0, 1))
    ]
    return [*files(), *map(bytes, written)]


def large() -> dict[str, bytes]:
    """Return files near the limits."""
    return large_files()


def one_input(data: bytes) -> None:
    """Index a file and decode one of its tiles."""
    index = indexed(data)
    if index is None or index.height * index.width > _MOST_PIXELS or index.decode_bytes > _MOST_PIXELS * 1024:
        return
    tile = index.tiles[len(data) % len(index.tiles)]
    parts = [data[offset : offset + length] for offset, length in tile.parts]
    pixels = said = None
    try:
        pixels = index.decode_tile(tile, parts, _DECODER)
    except CodestreamError as error:
        said = str(error)
    if pixels is not None:
        assert (pixels.shape, pixels.dtype) == ((tile.window.height, tile.window.width), np.uint16)
        return
    assert said is not None
    assert index.name in said, "the file is not named"
