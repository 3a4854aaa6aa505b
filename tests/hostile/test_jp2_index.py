"""JPEG 2000 files that lie are refused in words, or decode to their pixels: never another error, nor much memory."""

from __future__ import annotations

import os
import re
import tracemalloc
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream.errors import CodestreamError
from kappamask_stream.grid import Window
from kappamask_stream.jp2 import ImagecodecsDecoder, index_bands
from kappamask_stream.sources import DirectorySource
from tests.hostile.jp2_corpus import SIDE, Hostile, corpus, valid, written
from tests.unit.jp2_files import Codestream, index_bytes, scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NAME = "T32ZZZ_20240823T101031_B8A_20m.jp2"
_MOST_BYTES = 64 * 2**20
REMEDIES = ("fetch it again", "give a single-band file", "this layout is not read")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Codestream:
    return valid(tmp_path_factory.mktemp("valid"))


@pytest.fixture(scope="module")
def files(stream: Codestream) -> dict[str, Hostile]:
    return corpus(stream)


def decoded(data: bytes) -> NDArray[np.uint16]:
    """Index a file and decode all of its tiles."""
    index = index_bytes(data, _NAME)
    pixels = np.zeros((index.height, index.width), np.uint16)
    for tile in index.tiles:
        parts = [data[offset : offset + length] for offset, length in tile.parts]
        pixels[tile.window.relative_to(Window(0, 0, index.height, index.width))] = index.decode_tile(
            tile, parts, ImagecodecsDecoder()
        )
    return pixels


def test_each_is_refused_in_words_that_name_it_or_has_its_pixels(files: dict[str, Hostile]) -> None:
    right = scene(SIDE, SIDE)
    assert len(files) > 70
    for what, hostile in files.items():
        tracemalloc.start()
        try:
            pixels, said = decoded(hostile.data), None
        except CodestreamError as error:
            said = str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1] - len(hostile.data)
            tracemalloc.stop()
        if hostile.said is None:
            assert said is None, f"{what}: {said}"
            np.testing.assert_array_equal(pixels, right, what)
        else:
            assert said is not None, f"{what}: it was decoded"
            assert re.search(hostile.said, said), f"{what}: {said}"
            assert _NAME in said, what
            assert said.endswith(REMEDIES), f"{what}: {said}"
            assert len(said) < 500, what
        assert peak < _MOST_BYTES, f"{what} took {peak >> 20} MB"


async def test_a_file_that_says_10_gb_is_read_by_ranges_and_given_up(tmp_path: Path, stream: Codestream) -> None:
    whole = stream.encode()
    endless = stream.encode(open_end=True, eoc=b"")
    for what, data, said in (
        ("a hole behind the codestream", whole, None),
        ("a hole in its last tile-part", endless, r"says 1\d{10} bytes for 120 x 120 pixels, at most"),
    ):
        path = tmp_path / _NAME
        path.write_bytes(data)
        with path.open("r+b") as file:
            file.truncate(10 * 2**30)
            file.seek(-2, os.SEEK_END)
            file.write(b"\xff\xd9")
        tracemalloc.start()
        async with aclosing(DirectorySource(tmp_path)) as source:
            if said is None:
                indexes = await index_bands(source, [_NAME])
                assert len(indexes[_NAME].tiles) == 9, what
            else:
                with pytest.raises(CodestreamError, match=said):
                    await index_bands(source, [_NAME])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < _MOST_BYTES, what


def test_holes_of_a_file_written_in_part_are_noticed_where_it_lists_its_packets(tmp_path: Path) -> None:
    """Zeros in the place of packets are valid packets without data: pixels of half the range, which look like clouds."""
    pixels = scene(SIDE, SIDE)
    told = bytearray(written(tmp_path, PLT="YES").read_bytes())
    untold = bytearray(written(tmp_path).read_bytes())
    for data in (told, untold):
        (part,) = index_bytes(bytes(data)).tiles[4].parts
        start = data.index(b"\xff\x93", part[0]) + 2
        data[start : sum(part)] = bytes(sum(part) - start)
    with pytest.raises(CodestreamError, match=r"tile-part of tile 4 at byte \d+ has zeros where it lists packets"):
        decoded(bytes(told))
    made = decoded(bytes(untold))
    assert (made[40:80, 40:80] == 1 << 14).all(), "without a list of packets nobody can tell: manifest checksums do"
    assert np.array_equal(made[:40], pixels[:40])
