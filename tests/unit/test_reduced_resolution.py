"""Bands at half their file's resolution: what decoders make of the file, and what the wavelet makes of its pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import CodestreamError, ProductError
from kappamask_stream.grid import Window
from kappamask_stream.jp2 import CodestreamIndex, ImagecodecsDecoder, RasterioDecoder, ReducedBand
from kappamask_stream.jp2.reduced import reduced_codestream
from kappamask_stream.jp2.reduced_band import low_pass
from kappamask_stream.jp2.standalone import standalone_codestream
from tests.unit.jp2_files import (
    COD,
    Codestream,
    boxed,
    cropped_image,
    cut_into_parts,
    esa_options,
    index_bytes,
    moved_image,
    scene,
    with_ppm,
    with_ppt,
    write_jp2,
)
from tests.unit.test_band_choice import ArrayIndex
from tests.unit.test_precincts import SMALLEST, UNTOLD, with_plt

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.bands import BandIndex


class Counting(ImagecodecsDecoder):
    """Counts the pixels that are decoded."""

    def __init__(self) -> None:
        self.pixels = 0

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        self.pixels += height * width
        return super().decode(codestream, height=height, width=width, name=name)


def read_reduced(index: BandIndex, data: bytes, decoder: Any = None) -> NDArray[np.uint16]:
    """Decode a band at half its resolution; each pixel is filled exactly once."""
    band = ReducedBand(index)
    pixels, filled = np.zeros((band.height, band.width), np.uint16), np.zeros((band.height, band.width), np.uint8)
    for tile in band.tiles:
        place = tile.window.relative_to(Window(0, 0, band.height, band.width))
        parts = [data[offset : offset + length] for offset, length in tile.parts]
        pixels[place] = band.decode_tile(tile, parts, decoder or ImagecodecsDecoder())
        filled[place] += 1
    assert (filled == 1).all(), "the pieces do not partition the image"
    return pixels


def naive_low_pass(values: list[int], first: int) -> list[int]:
    """Lift as T.800 F.4.8.1 writes it, sample by sample, on positions of the reference grid."""
    last = first + len(values) - 1
    if first == last:
        return values if first % 2 == 0 else []

    def at(position: int) -> int:
        while not first <= position <= last:
            position = 2 * (first if position < first else last) - position
        return values[position - first]

    def high(position: int) -> int:
        return at(position) - (at(position - 1) + at(position + 1)) // 2

    return [at(p) + (high(p - 1) + high(p + 1) + 2) // 4 for p in range(first, last + 1) if p % 2 == 0]


def naive(pixels: NDArray[Any], row: int, col: int, most: int) -> NDArray[np.uint16]:
    columns = [naive_low_pass([int(v) for v in column], row) for column in pixels.T]
    lines = [naive_low_pass(list(line), col) for line in zip(*columns, strict=True)]
    return np.clip(np.array(lines), 0, most).astype(np.uint16)


def by_tiles(pixels: NDArray[np.uint16], index: CodestreamIndex) -> NDArray[np.uint16]:
    """Return the low-pass bands of an image's tiles; it begins at (0, 0) of the reference grid, tiles at even pixels."""
    found = np.zeros((-(-index.height // 2), -(-index.width // 2)), np.uint16)
    for tile in index.tiles:
        w = tile.window
        piece = low_pass(pixels[w.row : w.row_end, w.col : w.col_end], w.row, w.col, (1 << index.bit_depth) - 1)
        found[w.row // 2 : w.row // 2 + piece.shape[0], w.col // 2 : w.col // 2 + piece.shape[1]] = piece
    return found


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
def test_the_wavelet_of_pixels_is_that_of_the_standard(height: int, width: int, row: int, col: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 32768, (height, width)).astype(np.uint16)
    found = low_pass(pixels, row, col, 32767)
    expected = naive(pixels, row, col, 32767)
    assert found.size == expected.size
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found.ravel(), expected.ravel())


LAYOUTS = {
    "ESA 10 m": (1030, 1100, esa_options(10)),
    "ESA 20 m": (701, 655, esa_options(20)),
    "ESA 60 m": (401, 283, esa_options(60)),
    "small": (131, 70, {"PLT": "YES"}),
    "narrow": (17, 90, {"PLT": "YES"}),
    "one tile, one precinct": (50, 61, {"PLT": "YES", "PRECINCTS": "{32768,32768}", "BLOCKXSIZE": "64"}),
    "RLCP": (131, 70, {"PLT": "YES", "PROGRESSION": "RLCP"}),
    "RPCL": (131, 70, {"PLT": "YES", "PROGRESSION": "RPCL"}),
    "markers around packets": (131, 70, {"PLT": "YES", "SOP": "YES", "EPH": "YES"}),
    "two resolutions": (131, 70, {"PLT": "YES", "RESOLUTIONS": "2", "PRECINCTS": "{32,32},{32,32}"}),
    "layers": (131, 70, {"PLT": "YES", "QUALITY": "30,60,100"}),
    "tile-parts": (131, 70, {"PLT": "YES", "TILEPARTS": "RESOLUTIONS", "PRECINCTS": ""}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_wavelet_of_the_pixels_and_a_quarter_is_decoded(layout: str, tmp_path: Path) -> None:
    height, width, options = LAYOUTS[layout]
    pixels = scene(height, width)
    data = write_jp2(tmp_path / "B02.jp2", pixels, **options).read_bytes()
    index, counting = index_bytes(data), Counting()
    reduced = read_reduced(index, data, counting)
    np.testing.assert_array_equal(reduced, by_tiles(pixels, index))
    assert counting.pixels == reduced.size, "no tile is decoded in full"
    np.testing.assert_array_equal(reduced, read_reduced(index, data, RasterioDecoder()))


@pytest.mark.parametrize("layout", ["ESA 10 m", "ESA 20 m", "ESA 60 m"])
def test_two_readers_of_whole_files_make_the_same_of_them(layout: str, tmp_path: Path) -> None:
    """GDAL's first overview, and Pillow's reduction: each tells OpenJPEG to leave a resolution out."""
    image = pytest.importorskip("PIL.Image")
    height, width, options = LAYOUTS[layout]
    path = write_jp2(tmp_path / "B02.jp2", scene(height, width, seed=3), **options)
    data = path.read_bytes()
    reduced = read_reduced(index_bytes(data), data)
    with rasterio.open(path, OVERVIEW_LEVEL=0) as overview:
        # GDAL drops the last row or column of an odd size.
        theirs = overview.read(1)
    np.testing.assert_array_equal(reduced[: height // 2, : width // 2], theirs[: height // 2, : width // 2])
    with image.open(path) as opened:
        opened.reduce = 1
        opened.load()
        scaled = np.asarray(opened)  # 15 bits are moved up to 16
    np.testing.assert_array_equal(reduced, scaled >> 1)


def test_images_that_begin_inside_the_reference_grid(tmp_path: Path) -> None:
    pixels = scene(300, 270, seed=5)
    moved = boxed(moved_image(tmp_path, pixels, PLT="YES").encode())
    index, counting = index_bytes(moved), Counting()
    reduced = read_reduced(index, moved, counting)
    assert counting.pixels == reduced.size == 118 * 103
    first = index.tiles[0].window
    np.testing.assert_array_equal(
        reduced[: first.height // 2, : first.width // 2],
        naive(pixels[64 : 64 + first.height, 64 : 64 + first.width], 64, 64, 32767),
    )
    whole = Codestream.of(write_jp2(tmp_path / "B03.jp2", pixels, PLT="YES").read_bytes())
    cropped = boxed(cropped_image(whole, across=5, size=64).encode())
    other = read_reduced(index_bytes(cropped), cropped)
    whole_data = whole.encode()
    np.testing.assert_array_equal(other, read_reduced(index_bytes(whole_data), whole_data)[32:, 32:])


ODD = {
    "no PLT": {},
    "irreversible": {"PLT": "YES", "REVERSIBLE": "NO"},
    "positions lead": {"PLT": "YES", "PROGRESSION": "PCRL"},
    "one resolution": {"PLT": "YES", "RESOLUTIONS": "1", "PRECINCTS": "{32,32}"},
}


@pytest.mark.parametrize("layout", ODD)
def test_what_cannot_be_cut_out_is_computed_from_the_pixels(layout: str, tmp_path: Path) -> None:
    data = write_jp2(tmp_path / "B02.jp2", scene(131, 70), **ODD[layout]).read_bytes()
    index, counting = index_bytes(data), Counting()
    band = ReducedBand(index)
    whole = np.zeros((index.height, index.width), np.uint16)
    for tile in index.tiles:
        parts = [data[offset : offset + length] for offset, length in tile.parts]
        whole[tile.window.relative_to(Window(0, 0, *whole.shape))] = index.decode_tile(tile, parts, counting)
    counting.pixels = 0
    np.testing.assert_array_equal(read_reduced(index, data, counting), by_tiles(whole, index))
    assert counting.pixels == whole.size
    assert (band.height, band.width) == (66, 35)


def test_packet_headers_that_are_packed_apart(tmp_path: Path) -> None:
    """PPM: the whole image is one piece. PPT: a tile is decoded in full."""
    pixels = scene(131, 70)
    stream = Codestream.of(write_jp2(tmp_path / "B02.jp2", pixels, SOP="YES", EPH="YES", PLT="YES").read_bytes())
    for changed in (with_ppm(stream), with_ppt(stream)):
        data = boxed(changed.encode())
        index = index_bytes(data)
        np.testing.assert_array_equal(read_reduced(index, data), by_tiles(pixels, index))


#: Files that OpenJPEG does not decode at all.
DAMAGED = {"a packet too few", "lengths that end within one"}


@pytest.mark.parametrize("case", sorted(UNTOLD.keys() - DAMAGED))
def test_whatever_a_file_does_with_its_packets_the_pixels_are_the_same(case: str, tmp_path: Path) -> None:
    pixels = scene(100, 90)
    marked, plain = (
        Codestream.of(write_jp2(tmp_path / f"{number}.jp2", pixels, **options, **SMALLEST).read_bytes())
        for number, options in enumerate(({"SOP": "YES", "EPH": "YES"}, {"PLT": "YES"}))
    )
    data = UNTOLD[case](marked, plain).encode()
    index = index_bytes(data)
    np.testing.assert_array_equal(read_reduced(index, data), by_tiles(pixels, index))


def test_many_tile_parts_become_one(tmp_path: Path) -> None:
    pixels = scene(131, 70)
    stream = Codestream.of(write_jp2(tmp_path / "B02.jp2", pixels, SOP="YES", EPH="YES").read_bytes())
    data = boxed(with_plt(cut_into_parts(stream, 2), per_segment=1).encode())
    index, counting = index_bytes(data), Counting()
    assert max(len(tile.parts) for tile in index.tiles) > 3
    reduced = read_reduced(index, data, counting)
    np.testing.assert_array_equal(reduced, by_tiles(pixels, index))
    assert counting.pixels == reduced.size


def test_bytes_shrink_and_the_rest_is_a_codestream_of_half_the_grid(tmp_path: Path) -> None:
    data = write_jp2(tmp_path / "B02.jp2", scene(1030, 1100), **esa_options(10)).read_bytes()
    index = index_bytes(data)
    tile = index.tiles[-1]
    whole = standalone_codestream(index, tile, [data[o : o + n] for o, n in tile.parts])
    reduced = reduced_codestream(whole, "B02")
    assert reduced is not None
    assert len(reduced) < 0.6 * len(whole)
    again = index_bytes(reduced)
    assert (again.height, again.width) == (3, 38)
    assert "4 resolutions" in again.layout


def test_other_formats_are_read_too_and_zero_stays_away() -> None:
    pixels = scene(30, 26)
    index = ArrayIndex(pixels, 8)
    band = ReducedBand(index)  # type: ignore[arg-type]
    assert (band.height, band.width, band.tile_height) == (15, 13, 4)
    tile = band.tiles[5]
    found = band.decode_tile(tile, [b""], ImagecodecsDecoder())
    np.testing.assert_array_equal(found, naive(pixels[8:16, 8:16], 8, 8, 65535))
    assert band.identity(tile, []) == b"5"


def test_pieces_on_odd_pixels_are_refused() -> None:
    with pytest.raises(ProductError, match="7 x 7 pixels begin at odd ones; take a model that reads it in full"):
        ReducedBand(ArrayIndex(scene(30, 26), 7))  # type: ignore[arg-type]


@given(data=st.data())
def test_a_damaged_tile_ends_in_one_error_or_in_pixels(data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = write_jp2(folder / "B02.jp2", scene(64, 64), PLT="YES")
    content = path.read_bytes()
    index = index_bytes(content)
    tile = index.tiles[0]
    ((offset, length),) = tile.parts
    part = bytearray(content[offset : offset + length])
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(12, length - 1))] = data.draw(st.integers(0, 255))
    band = ReducedBand(index)
    try:
        pixels = band.decode_tile(band.tiles[0], [bytes(part)], ImagecodecsDecoder())
    except CodestreamError:
        return
    assert pixels.shape == (32, 32)


def test_a_hostile_number_of_resolutions_is_an_error(tmp_path: Path) -> None:
    stream = Codestream.of(write_jp2(tmp_path / "B02.jp2", scene(64, 64), PLT="YES").read_bytes())
    cod = stream.segment(COD)
    broken = replace(stream, segments=tuple((m, body[:5] + b"\x09" + body[6:] if m == COD else body)
                                            for m, body in stream.segments))  # fmt: skip
    assert cod[5] == 3
    with pytest.raises(CodestreamError):
        index_bytes(broken.encode())
