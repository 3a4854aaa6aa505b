"""Bands in tiled TIFFs: what is read equals rasterio's pixels; what cannot be read is refused in words."""

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.shutil import copy as copy_dataset

from kappamask_stream.bands import index_cog_steps
from kappamask_stream.errors import InputError, ProductError
from kappamask_stream.grid import Window
from kappamask_stream.jp2 import ImagecodecsDecoder
from tests.unit.cog_files import ULX, ULY, decode_whole, index_file, tiff, write_cog

HEIGHT, WIDTH = 150, 170


def scene(dtype: str = "uint16", most: int = 30000) -> NDArray[Any]:
    """Structure, noise, a dark corner and a swath edge of zeros."""
    rng = np.random.default_rng(7)
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    pixels = (rows * 37 + cols * 11) % (most // 2) + rng.integers(1, most // 2, (HEIGHT, WIDTH))
    pixels[cols - rows > 60] = 0
    pixels[-70:, :70] = 0
    return np.minimum(pixels, most).astype(dtype)


LAYOUTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "deflate": ({}, "uint16", 65535),
    "deflate, differences": ({"predictor": 2}, "uint16", 65535),
    "lzw": ({"compress": "lzw"}, "uint16", 65535),
    "lzw, differences": ({"compress": "lzw", "predictor": 2}, "uint16", 65535),
    "zstd": ({"compress": "zstd"}, "uint16", 65535),
    "zstd, differences": ({"compress": "zstd", "predictor": 2}, "uint16", 65535),
    "plain": ({"compress": "none"}, "uint16", 65535),
    "15 bits": ({"nbits": 15}, "uint16", 32767),
    "15 bits, odd rows": ({"nbits": 15, "compress": "lzw", "blockxsize": 48, "blockysize": 32}, "uint16", 32767),
    "12 bits, plain": ({"nbits": 12, "compress": "none"}, "uint16", 4095),
    "8 bits": ({}, "uint8", 255),
    "8 bits, differences": ({"predictor": 2}, "uint8", 255),
    "4 bits": ({"nbits": 4}, "uint8", 15),
    "big endian": ({"ENDIANNESS": "BIG"}, "uint16", 65535),
    "big endian, differences": ({"ENDIANNESS": "BIG", "predictor": 2}, "uint16", 65535),
    "big endian, 15 bits": ({"ENDIANNESS": "BIG", "nbits": 15}, "uint16", 32767),
    "BigTIFF": ({"BIGTIFF": "YES", "predictor": 2}, "uint16", 65535),
    "BigTIFF, big endian": ({"BIGTIFF": "YES", "ENDIANNESS": "BIG"}, "uint16", 65535),
    "sparse": ({"SPARSE_OK": True, "nodata": 0}, "uint16", 65535),
    "one block": ({"blockxsize": 256, "blockysize": 256}, "uint16", 65535),
}


@pytest.mark.parametrize(("options", "dtype", "most"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_pixels_are_rasterios(tmp_path: Path, options: dict[str, Any], dtype: str, most: int) -> None:
    path = write_cog(tmp_path / "B02.tif", scene(dtype, most), **options)
    index, _ = index_file(path.read_bytes())
    with rasterio.open(path) as file:
        expected = file.read(1)
        assert (index.height, index.width) == file.shape
        assert (index.tile_height, index.tile_width) == file.block_shapes[0]
    pixels = decode_whole(index, path.read_bytes())
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, expected)
    assert index.bits == options.get("nbits", np.dtype(dtype).itemsize * 8)


@pytest.mark.parametrize("options", [{"predictor": "yes"}, {"sparse_ok": "true"}, {"bigtiff": "yes"}])
def test_gdals_own_cogs(tmp_path: Path, options: dict[str, str]) -> None:
    """Overviews lie before the full image, blocks carry leaders and trailers."""
    plain = write_cog(tmp_path / "plain.tif", np.kron(scene(), np.ones((8, 8), np.uint16)), nodata=0)
    copy_dataset(plain, tmp_path / "cog.tif", driver="COG", compress="deflate", blocksize="256", **options)
    with rasterio.open(tmp_path / "cog.tif") as file:
        assert file.overviews(1)
        expected = file.read(1)
    data = (tmp_path / "cog.tif").read_bytes()
    index, reads = index_file(data)
    np.testing.assert_array_equal(decode_whole(index, data), expected)
    assert len(reads) == 1, "the header of a COG is one read"


def test_keeps_the_15_bits_of_jpeg_2000(tmp_path: Path) -> None:
    """GDAL hands NBITS on from ESA's files, so COGs made of them are packed (OSGeo/gdal issue 11457)."""
    pixels = scene(most=32767)
    with rasterio.open(
        tmp_path / "B02.jp2", "w", driver="JP2OpenJPEG", height=HEIGHT, width=WIDTH, count=1, dtype="uint16",
        NBITS=15, QUALITY=100, REVERSIBLE="YES",
    ) as file:  # fmt: skip
        file.write(pixels, 1)
    copy_dataset(tmp_path / "B02.jp2", tmp_path / "B02.tif", driver="COG", compress="deflate")
    data = (tmp_path / "B02.tif").read_bytes()
    index, _ = index_file(data)
    assert index.bits == 15
    np.testing.assert_array_equal(decode_whole(index, data), pixels)


def test_blocks_of_4096_pixels_are_read_and_what_they_take_is_counted(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "B02.tif", scene(), blockxsize=4096, blockysize=4096, predictor=2)
    data = path.read_bytes()
    index, _ = index_file(data)
    tracemalloc.start()
    try:
        pixels = decode_whole(index, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(pixels, scene())
    assert 2 * 2 * 4096**2 <= peak <= index.decode_bytes + len(data) + 2**20


def test_sparse_blocks_are_zero_without_bytes(tmp_path: Path) -> None:
    path = write_cog(tmp_path / "B02.tif", scene(), SPARSE_OK=True, nodata=0)
    index, _ = index_file(path.read_bytes())
    absent = [tile for tile in index.tiles if tile.is_zero]
    assert absent
    assert all(tile.parts == () for tile in absent)
    assert all(len(tile.parts) == 1 for tile in index.tiles if not tile.is_zero)


def test_sparse_blocks_of_another_nodata_are_refused(tmp_path: Path) -> None:
    pixels = scene()
    pixels[:64, :64] = 65535
    path = write_cog(tmp_path / "B02.tif", pixels, SPARSE_OK=True, nodata=65535)
    with pytest.raises(ProductError, match=r"leaves block 0 out, which then holds '65535'; 0 is read"):
        index_file(path.read_bytes())


def test_blocks_end_at_the_images_edge(tmp_path: Path) -> None:
    index, _ = index_file(write_cog(tmp_path / "B02.tif", scene()).read_bytes())
    assert [tile.window for tile in index.tiles[::4]] == [
        Window(0, 0, 64, 64),
        Window(64, 64, 64, 64),
        Window(128, 128, 22, 42),
    ]
    assert [tile.index for tile in index.tiles] == list(range(9))


def test_says_where_it_lies(tmp_path: Path) -> None:
    place = index_file(write_cog(tmp_path / "B05.tif", scene(), gsd_m=20, epsg=32733).read_bytes())[0].georeference
    assert place is not None
    assert (place.epsg, place.gsd_m, place.ulx, place.uly) == (32733, 20.0, ULX, ULY)


def test_equal_bytes_in_blocks_of_one_size_are_equal_pixels(tmp_path: Path) -> None:
    data = write_cog(tmp_path / "B02.tif", np.zeros((128, 170), np.uint16)).read_bytes()
    index, _ = index_file(data)
    names = [index.identity(tile, [data[o : o + n] for o, n in tile.parts]) for tile in index.tiles]
    assert names[0] == names[1] == names[3]
    assert names[2] != names[0], "it is cut at the image's edge"


# What is refused. A TIFF of 2 x 2 blocks of 16 x 16 pixels, 8 bits, stored plainly, in the given tags.
BLOCKS = bytes(range(256)) * 4
PLAIN: dict[int, tuple[int, tuple[int, ...]]] = {
    256: (3, (32,)), 257: (3, (32,)), 258: (3, (8,)), 259: (3, (1,)), 262: (3, (1,)), 277: (3, (1,)),
    322: (3, (16,)), 323: (3, (16,)), 324: (4, (1000, 1256, 1512, 1768)), 325: (4, (256,) * 4), 339: (3, (1,)),
}  # fmt: skip


def plain(change: dict[int, tuple[int, tuple[int, ...]] | None], **form: Any) -> bytes:
    tags = {code: value for code, value in {**PLAIN, **change}.items() if value is not None}
    data = tiff(tags, **form)
    return data.ljust(1000, b"\0") + BLOCKS


@pytest.mark.parametrize("form", [{}, {"order": ">"}, {"big": True}, {"order": ">", "big": True}])
def test_reads_what_is_written_by_hand(form: dict[str, Any]) -> None:
    data = plain({}, **form)
    index, _ = index_file(data)
    expected = np.frombuffer(BLOCKS, np.uint8).reshape(2, 2, 16, 16).swapaxes(1, 2).reshape(32, 32)
    np.testing.assert_array_equal(decode_whole(index, data), expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({277: (3, (3,)), 258: (3, (8, 8, 8))}, "has 3 bands; one is read"),
        ({339: (3, (3,)), 258: (3, (32,))}, "floating-point samples of 32 bits"),
        ({339: (3, (2,))}, "signed samples of 8 bits"),
        ({258: (3, (32,))}, "unsigned samples of 32 bits"),
        ({258: (3, (8, 8))}, r"tag 258 \(bits\) is \[8, 8\], one whole number"),
        ({259: (3, (7,))}, "compressed by TIFF's method 7; no compression, LZW, Deflate, Zstandard are read"),
        ({259: (3, (8,)), 317: (3, (3,))}, "predictor 3 on samples of 8 bits"),
        ({259: (3, (8,)), 317: (3, (2,)), 258: (3, (15,))}, "predictor 2 on samples of 15 bits"),
        ({266: (3, (2,))}, "FillOrder 2"),
        ({254: (4, (1,))}, "begins with an overview or a mask"),
        ({322: None, 323: None}, "is stored in strips"),
        ({257: None}, r"tag 257 \(height\) is missing"),
        ({256: (4, (0,))}, "32 x 0 pixels, 1 to 131072"),
        ({256: (4, (2**31,))}, "32 x 2147483648 pixels"),
        ({322: (4, (2**20,))}, "has blocks of 16 x 1048576 pixels; 1 to 4096"),
        (
            {322: (4, (4112,)), 323: (4, (4112,))},
            "has blocks of 4112 x 4112 pixels; 1 to 4096 on a side are read, this layout is not$",
        ),
        ({322: (4, (0,))}, "its blocks have 16 x 0 pixels"),
        (
            {256: (4, (100000,)), 257: (4, (100000,))},
            "has 6250 x 6250 blocks; at most 32768 are read, this layout is not$",
        ),
        ({324: (4, (1000, 1256, 1512))}, r"tag 324 \(offsets\) has 3 values, 4 are needed"),
        ({324: (4, (1000, 1256, 1512, 1999))}, "block 3 is said to lie at bytes 1999 to 2255, the file has 2024"),
        ({324: (4, (1000, 1256, 1512, 0))}, "block 3 is said to lie at bytes 0 to 256"),
        ({325: (4, (256, 256, 256, 2**31))}, "block 3 is said to lie"),
        ({256: (12, (32.0,))}, "tag 256 is of type 12 with 1 values"),
        ({257: (12, (float("nan"),))}, "tag 257 is of type 12"),
        ({33550: (12, (10.0, float("inf"), 0.0))}, "tag 33550 holds a number that is not finite"),
        ({42113: (3, (999,))}, "tag 42113 is of type 3"),
        ({34735: (3, (1,) * 2000)}, "tag 34735 is of type 3 with 2000 values"),
        ({259: (2, (1,))}, "struct"),
        ({259: (11, (1,))}, "tag 259 is of type 11"),
    ],
)
def test_what_cannot_be_read_is_refused(change: dict[int, Any], said: str) -> None:
    if change.get(259, (3,))[0] in {2, 11}:
        data = plain({}).replace(struct.pack("<HH", 259, 3), struct.pack("<HH", 259, 11))
        change, said = {}, "tag 259 is of type 11"
    else:
        data = plain(change)
    with pytest.raises(ProductError, match=said):
        index_file(data)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"<html>not found</html>", bytes(40), b"\x89PNG" * 10])
def test_what_is_no_tiff(data: bytes) -> None:
    with pytest.raises(ProductError, match=f"{len(data)} bytes"):
        index_file(data)


def test_a_directory_beyond_the_file() -> None:
    with pytest.raises(ProductError, match=r"bytes 999999 to 1000001 are needed, the file has 2024"):
        index_file(b"II*\0" + struct.pack("<I", 999999) + plain({})[8:])


def test_a_length_that_claims_everything_is_not_allocated() -> None:
    data = plain({324: (4, (1000, 1256, 1512, 1768))})
    entry = struct.pack("<HHI", 324, 4, 4)
    with pytest.raises(ProductError, match="tag 324 is of type 4 with 4294967295 values"):
        index_file(data.replace(entry, struct.pack("<HHI", 324, 4, 2**32 - 1)))


def test_a_block_is_not_read_beyond_what_it_can_have() -> None:
    data = plain({325: (4, (256, 256, 256, 9000))}) + bytes(20_000)
    with pytest.raises(ProductError, match=r"block 3 is said to lie at bytes 1768 to 10768, .* a block at most 4608"):
        index_file(data)


def test_short_reads_are_noticed() -> None:
    data = plain({})
    steps = index_cog_steps("B02.tif", len(data))
    _, length = next(steps)
    with pytest.raises(ProductError, match=f"{length - 1} of {length} bytes"):
        steps.send(data[: length - 1])


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (zlib.compress(bytes(64 * 64 * 2 - 2)), "gives 8190 bytes by Deflate, 8192 are needed"),
        (zlib.compress(bytes(10_000_000)), "block 0 of B02.tif cannot be decoded"),
        (zlib.compress(bytes(8192))[:-6], "block 0 of B02.tif cannot be decoded"),
        (b"\xff" * 30, "block 0 of B02.tif cannot be decoded"),
        (b"", "block 0 of B02.tif cannot be decoded"),
    ],
    ids=["short", "bomb", "truncated", "noise", "nothing"],
)
def test_corrupt_blocks(tmp_path: Path, block: bytes, said: str) -> None:
    index, _ = index_file(write_cog(tmp_path / "B02.tif", scene()).read_bytes())
    with pytest.raises(ProductError, match=said):
        index.decode_tile(index.tiles[0], [block], ImagecodecsDecoder())


@given(st.data())
def test_no_damage_to_the_directory_gets_out_as_another_error(data: st.DataObject) -> None:
    original = bytearray(plain({317: (3, (1,))}, big=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, 320))] = data.draw(st.integers(0, 255))
    damaged = bytes(original[: data.draw(st.integers(0, len(original)))] if data.draw(st.booleans()) else original)
    try:
        index, reads = index_file(damaged)
        assert sum(length for _, length in reads) < 10 * len(damaged)
        for tile in index.tiles:
            if not tile.is_zero:
                parts = [damaged[offset : offset + length] for offset, length in tile.parts]
                pixels = index.decode_tile(tile, parts, ImagecodecsDecoder())
                assert pixels.shape == (tile.window.height, tile.window.width)
    except InputError:
        pass
