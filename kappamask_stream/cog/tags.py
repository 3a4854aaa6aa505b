"""What a mask that is there says about its origin, and whether all of it is there."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rasterio
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from kappamask_stream.cog.stream import shown_level
from kappamask_stream.cog.tiff import BLOCK_FRAME, DIGEST_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class FoundMask:
    """What lies under a mask's name.

    Attributes
    ----------
    fingerprint : of a mask of ours; None where the file is no such mask, or cut or damaged before its tags.
    is_whole : True where its blocks are, to the bit, those that were written.
    """

    fingerprint: str | None
    is_whole: bool


def inspect_mask(source: Path | bytes) -> FoundMask:
    """Read a file's fingerprint and check its blocks against their digest (a few ms: nothing is decompressed).

    Parameters
    ----------
    source : the file, or its content.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    try:
        with _opened(source) as mask:
            tags = mask.tags()
            blocks = _block_bytes(mask)
    except (RasterioError, TypeError):  # TypeError: no such blocks, another format
        return FoundMask(fingerprint=None, is_whole=False)
    fingerprint, said = tags.get("FINGERPRINT"), tags.get(DIGEST_TAG)
    if fingerprint is None or said is None:
        return FoundMask(fingerprint=fingerprint, is_whole=False)
    digest = hashlib.sha256(_read(source, blocks)).hexdigest()
    return FoundMask(fingerprint=fingerprint, is_whole=digest == said)


def inspect_head(start: bytes, size: int) -> FoundMask:
    """Read a fingerprint from a file's first bytes, and whether its size is the one that its directories promise.

    Parameters
    ----------
    start : enough to hold the directories (64 kB do for a full mask).
    size : of the whole file, bytes.
    """
    try:
        with _opened(start) as mask:
            fingerprint, blocks = mask.tags().get("FINGERPRINT"), _block_bytes(mask)
    except (RasterioError, TypeError):
        return FoundMask(fingerprint=None, is_whole=False)
    return FoundMask(fingerprint=fingerprint, is_whole=fingerprint is not None and blocks.stop == size)


@contextmanager
def _opened(source: Path | bytes, **options: int) -> Iterator[rasterio.DatasetReader]:
    if isinstance(source, bytes):
        with MemoryFile(source) as memory, rasterio.open(memory.name, **options) as mask:
            yield mask
    else:
        with rasterio.open(source, **options) as mask:
            yield mask


def _read(source: Path | bytes, where: range) -> bytes:
    if isinstance(source, bytes):
        return source[where.start : where.stop]
    with source.open("rb") as file:
        file.seek(where.start)
        return file.read(len(where))


def _block_bytes(mask: rasterio.DatasetReader) -> range:
    """Return where a file of ours holds blocks: from the coarsest overview's first to the mask's last."""
    coarsest = len(mask.overviews(1)) - 1
    height, width = mask.block_shapes[0]
    last = f"{(mask.width - 1) // width}_{(mask.height - 1) // height}"
    start = mask.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=coarsest if coarsest >= 0 else None)
    end = mask.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", bidx=1)
    size = mask.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", bidx=1)
    return range(int(start) - BLOCK_FRAME, int(end) + int(size) + BLOCK_FRAME)


def read_quicklook_pixels(source: Path | bytes) -> tuple[NDArray[np.uint8], dict[int, tuple[int, ...]]]:
    """Return what a finished mask's quicklook shows: class values, uint8 ``[height, width]``, and their colours.

    Raises
    ------
    RasterioError
        If the mask cannot be read.
    """
    with _opened(source) as mask:
        sizes = [(mask.height, mask.width)]
        sizes += [(-(-mask.height // factor), -(-mask.width // factor)) for factor in mask.overviews(1)]
        colours = mask.colormap(1)
    level = shown_level(sizes)
    with _opened(source, **({"overview_level": level - 1} if level else {})) as shown:
        return shown.read(1), colours
