"""Pictures name the program that made them, and are the same pictures."""

import struct
import zlib

import numpy as np
import pytest
from rasterio.io import MemoryFile

from kappamask_stream import __version__
from kappamask_stream.extras.grey_png import encode_grey
from kappamask_stream.png import encode_png
from kappamask_stream.quicklook import encode_quicklook


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Read chunks as the PNG specification has them; a wrong checksum fails."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + content),)
        chunks.append((kind, content))
        at += 12 + length
    return chunks


@pytest.mark.parametrize("shape", [(1, 1), (40, 30), (40, 30, 3)])
@pytest.mark.parametrize("level", [None, 3])
def test_the_text_is_a_chunk_of_its_own_and_the_pixels_are_the_same(shape: tuple[int, ...], level: int | None) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    data = encode_png(pixels, level)
    chunks = chunks_of(data)
    assert (chunks[0][0], chunks[-1][0]) == (b"IHDR", b"IEND")
    assert chunks[1] == (b"tEXt", f"Software\0kappamask-stream {__version__}".encode())
    with MemoryFile(data) as file, file.open() as picture:
        np.testing.assert_array_equal(np.moveaxis(picture.read(), 0, -1).reshape(shape), pixels)
        assert picture.tags()["Software"] == f"kappamask-stream {__version__}"


def test_grey_pictures_and_quicklooks_have_it() -> None:
    labels = np.zeros((3, 2), np.uint8)
    for data in (encode_grey(labels), encode_quicklook(labels, {})):
        assert b"tEXt" in dict(chunks_of(data))
