"""PNG pictures that say which program made them. Pure."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import imagecodecs

from kappamask_stream import __version__
from kappamask_stream.disk import most_compressed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Bytes of the signature and of IHDR, which is always the first chunk.
_HEAD = 33
#: PNG specification, 11.3.3.1: a keyword that readers know, a zero byte, Latin-1 text.
_SOFTWARE = b"Software\0kappamask-stream " + __version__.encode("latin-1")


def encode_png(pixels: NDArray[np.uint8], level: int | None = None) -> bytes:
    """Write a picture whose tEXt chunk ``Software`` names this program and its version.

    Parameters
    ----------
    pixels : uint8 ``[height, width]`` grey, or ``[height, width, 3]`` red, green, blue.
    level : of zlib, 0 to 9; None: imagecodecs' own.
    """
    # imagecodecs' own guess leaves no room for the rows' filter bytes: a narrow picture of noise would not fit.
    room = _most_bytes(pixels.shape[0], pixels[0].size)
    picture = imagecodecs.png_encode(pixels, level=level, out=room)
    return bytes(b"".join((picture[:_HEAD], _chunk(b"tEXt", _SOFTWARE), memoryview(picture)[_HEAD:])))


def most_png_bytes(height: int, width: int, samples: int = 1) -> int:
    """Return the most bytes that `encode_png` makes of a picture of so many samples (1: grey, 3: colours) a pixel."""
    return _most_bytes(height, width * samples) + len(_SOFTWARE) + 12


def _most_bytes(rows: int, row_bytes: int) -> int:
    return most_compressed(rows * (row_bytes + 1))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
