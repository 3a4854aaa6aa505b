"""The decoder for GPUs: its batches, its errors and how it frames a tile are tested without one."""

from __future__ import annotations

import importlib.util
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from kappamask_stream.errors import CodestreamError, UsageError
from kappamask_stream.jp2.nvimgcodec import BatchingDecoder, NvImageCodecDecoder
from kappamask_stream.jp2.origin import framed, moved
from kappamask_stream.jp2.standalone import standalone_codestream
from tests.unit.jp2_files import (
    COD,
    Codestream,
    decode_by_tiles,
    esa_options,
    index_bytes,
    plain_read,
    scene,
    write_jp2,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

HAS_PACKAGES = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.nvimgcodec")


class Cpu:
    """Decodes batches with OpenJPEG, notes their sizes, and waits at each where told to."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, codestreams: Sequence[bytes]) -> list[NDArray[Any] | None]:
        self.sizes.append(len(codestreams))
        self.begun.set()
        assert self.go_on.wait(30)
        return [imagecodecs.jpeg2k_decode(each) for each in codestreams]


class Watched(list[Any]):
    """A list that tells when it has grown to a length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.reached = length, threading.Event()

    def append(self, each: Any) -> None:
        super().append(each)
        if len(self) == self.length:
            self.reached.set()


def codestream(value: int, size: int = 16) -> bytes:
    pixels = np.full((size, size), value, np.uint16)
    encoded: bytes = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0)
    return encoded


@pytest.mark.parametrize("gsd_m", [10, 20, 60])
def test_tile_in_its_frame_decodes_to_the_same_pixels(tmp_path: Path, gsd_m: int) -> None:
    """OpenJPEG reads the frame as a whole image and finds the tile at its region, whole tiles and cut ones."""
    size = {10: 1100, 20: 1000, 60: 500}[gsd_m]
    path = write_jp2(tmp_path / "band.jp2", scene(size, size - 30), **esa_options(gsd_m))
    data, whole = path.read_bytes(), plain_read(path)
    index = index_bytes(data)
    for tile in index.tiles:
        alone = standalone_codestream(index, tile, [data[o : o + n] for o, n in tile.parts])
        frame, (top, left, bottom, right) = framed(alone)
        assert (top, left) == (tile.window.row, tile.window.col)
        image = imagecodecs.jpeg2k_decode(frame)
        assert image.shape == (bottom, right)
        np.testing.assert_array_equal(image[top:, left:], whole[top:bottom, left:right])


@pytest.mark.parametrize(("gsd_m", "size"), [(10, 2100), (20, 1400), (60, 500)])
def test_tile_that_may_be_moved_decodes_to_the_same_pixels(tmp_path: Path, gsd_m: int, size: int) -> None:
    path = write_jp2(tmp_path / "band.jp2", scene(size, size), **esa_options(gsd_m))
    data, whole = path.read_bytes(), plain_read(path)
    index = index_bytes(data)
    found = []
    for tile in index.tiles:
        alone = moved(standalone_codestream(index, tile, [data[o : o + n] for o, n in tile.parts]))
        found.append(alone is not None)
        if alone is not None:
            place = slice(tile.window.row, tile.window.row_end), slice(tile.window.col, tile.window.col_end)
            np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(alone), whole[place])
    assert found[0]
    assert all(found) == (gsd_m == 10)


@pytest.mark.parametrize("tile", [32, 48, 64, 96, 128, 192])
@pytest.mark.parametrize("precinct", [16, 32, 128])
@pytest.mark.parametrize("block", [4, 16, 64])
def test_every_tile_that_is_moved_is_cut_as_before(tmp_path: Path, tile: int, precinct: int, block: int) -> None:
    """Whatever the layout: OpenJPEG decodes what was moved to the pixels that it had at its place."""
    options = {"BLOCKXSIZE": str(tile), "BLOCKYSIZE": str(tile), "RESOLUTIONS": "3"}
    options |= {"PRECINCTS": ",".join([f"{{{precinct},{precinct}}}"] * 3)}
    options |= {"CODEBLOCK_WIDTH": str(block), "CODEBLOCK_HEIGHT": str(block)}
    path = write_jp2(tmp_path / "band.jp2", scene(200, 230), **options)
    data, whole = path.read_bytes(), plain_read(path)
    index = index_bytes(data)
    for each in index.tiles:
        alone = moved(standalone_codestream(index, each, [data[o : o + n] for o, n in each.parts]))
        if alone is not None:
            window = each.window
            expected = whole[window.row : window.row_end, window.col : window.col_end]
            np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(alone), expected)


def test_frame_of_several_tile_parts(tmp_path: Path) -> None:
    # One precinct a resolution: all that GDAL can write in several tile-parts.
    path = write_jp2(tmp_path / "band.jp2", scene(150, 200), TILEPARTS="RESOLUTIONS", PRECINCTS="")
    data = path.read_bytes()
    index = index_bytes(data)
    assert max(len(tile.parts) for tile in index.tiles) > 1

    class Framing:
        takes_thinned = False

        def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
            frame, (top, left, bottom, right) = framed(codestream)
            pixels: NDArray[np.uint16] = imagecodecs.jpeg2k_decode(frame)[top:bottom, left:right]
            return pixels

    np.testing.assert_array_equal(decode_by_tiles(data, index, Framing()), plain_read(path))


def test_tile_off_the_grid_is_refused() -> None:
    code = bytearray(codestream(5))
    struct.pack_into(">6I", code, 8, 26, 26, 10, 10, 16, 16)
    with pytest.raises(CodestreamError, match="row 10, column 10"):
        framed(bytes(code))


@pytest.mark.parametrize("where", ["component", "tile"])
def test_tile_with_coding_parameters_of_its_own_is_left_to_the_cpu(tmp_path: Path, where: str) -> None:
    """nvJPEG2000's frame and place are worked out from the main header's COD: they would be wrong without a word."""
    stream = Codestream.of(write_jp2(tmp_path / "band.jp2", scene(100, 120)).read_bytes())
    cod = stream.segment(COD)
    if where == "component":
        stream = stream.with_segment(b"\xff\x53", b"\0" + cod[:1] + cod[5:])
    else:
        own = COD + (len(cod) + 2).to_bytes(2, "big") + cod
        stream = replace(stream, parts=tuple(replace(part, segments=own) for part in stream.parts))
    data = stream.encode()
    index = index_bytes(data)
    alone = standalone_codestream(index, index.tiles[1], [data[o : o + n] for o, n in index.tiles[1].parts])
    for put in (framed, moved):
        with pytest.raises(CodestreamError, match="coding parameters of its own: decode it on the CPU"):
            put(alone)


def test_frame_that_would_take_the_memory_is_refused(tmp_path: Path) -> None:
    """A tile may say that it lies anywhere: all before it would be written."""
    stream = Codestream.of(write_jp2(tmp_path / "band.jp2", scene(64, 64)).read_bytes())
    far = stream.with_siz(x0=2**31 - 64, y0=2**31 - 64, x1=2**31, y1=2**31, tile_x0=2**31 - 64, tile_y0=2**31 - 64)
    data = far.encode()
    index = index_bytes(data)
    alone = standalone_codestream(index, index.tiles[0], [data[o : o + n] for o, n in index.tiles[0].parts])
    with pytest.raises(
        CodestreamError, match=r"before a tile would stand \d+ tiles, 16384 at most: decode it on the CPU"
    ):
        framed(alone)
    layers = bytearray(stream.segment(COD))
    layers[2:4] = b"\xff\xff"
    many = replace(stream, segments=tuple((m, bytes(layers) if m == COD else b) for m, b in stream.segments))
    data = many.with_siz(x0=6400, y0=0, x1=6464, y1=64, tile_x0=6400).encode()
    index = index_bytes(data)
    alone = standalone_codestream(index, index.tiles[0], [data[o : o + n] for o, n in index.tiles[0].parts])
    with pytest.raises(CodestreamError, match="packets of more than 4194304 bytes"):
        framed(alone)


def test_what_waits_while_a_batch_is_decoded_is_the_next_batch() -> None:
    cpu = Cpu()
    decoder = BatchingDecoder(cpu, max_batch=5)
    waiting = Watched(7)
    cpu.go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(decoder.decode, codestream(1), height=16, width=16, name="first")
        assert cpu.begun.wait(30)
        decoder._queue.waiting = waiting
        others = [pool.submit(decoder.decode, codestream(v), height=16, width=16, name=str(v)) for v in range(2, 9)]
        assert waiting.reached.wait(30)
        assert repr(decoder) == "<BatchingDecoder decoding, 7 waiting>"
        cpu.go_on.set()
        assert [int(job.result()[3, 3]) for job in (first, *others)] == list(range(1, 9))
    assert cpu.sizes == [1, 5, 2]
    assert repr(decoder) == "<BatchingDecoder idle, 0 waiting>"


def test_many_threads_get_their_own_pixels() -> None:
    cpu = Cpu()
    decoder = BatchingDecoder(cpu, max_batch=4)
    values = list(range(1, 97))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda v: decoder.decode(codestream(v), height=16, width=16, name=str(v)), values))
    assert [int(pixels[0, 0]) for pixels in found] == values
    assert sum(cpu.sizes) == len(values)
    assert max(cpu.sizes) <= 4


def answers(*found: Any) -> BatchingDecoder:
    return BatchingDecoder(lambda _: list(found))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (answers(None), "band 3 cannot be decoded on the GPU: the file is truncated or corrupt"),
        (answers(np.zeros((4, 5), np.uint16)), r"uint16 \[4, 5\], its header says unsigned \[16, 16\]"),
        (answers(np.zeros((16, 16), np.int16)), "int16"),
        (answers(), "0 answers for 1 codestreams"),
    ],
)
def test_answers_that_are_none_name_the_tile(decoder: BatchingDecoder, message: str) -> None:
    with pytest.raises(CodestreamError, match=message):
        decoder.decode(b"", height=16, width=16, name="band 3")


def test_error_of_a_batch_reaches_every_thread_and_the_next_batch_is_decoded() -> None:
    cpu = Cpu()

    def fails_once(codestreams: Sequence[bytes]) -> list[NDArray[Any] | None]:
        if not cpu.sizes:
            cpu.sizes.append(len(codestreams))
            raise RuntimeError("out of memory")
        return cpu(codestreams)

    decoder = BatchingDecoder(fails_once)
    with pytest.raises(CodestreamError, match="band 1 cannot be decoded on the GPU: out of memory"):
        decoder.decode(codestream(1), height=16, width=16, name="band 1")
    assert decoder.decode(codestream(2), height=16, width=16, name="band 2")[0, 0] == 2


def test_what_cannot_be_decoded_fails_alone() -> None:
    """A batch may hold tiles of several products."""
    cpu = Cpu()
    decoder = BatchingDecoder(cpu)
    waiting = Watched(3)
    cpu.go_on.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(decoder.decode, codestream(1), height=16, width=16, name="first")
        assert cpu.begun.wait(30)
        decoder._queue.waiting = waiting
        good = [pool.submit(decoder.decode, codestream(v), height=16, width=16, name=str(v)) for v in (2, 3)]
        bad = pool.submit(decoder.decode, b"no codestream", height=16, width=16, name="tile 0 of B02.jp2")
        assert waiting.reached.wait(30)
        cpu.go_on.set()
        assert [int(job.result()[0, 0]) for job in (first, *good)] == [1, 2, 3]
        with pytest.raises(CodestreamError, match=r"tile 0 of B02\.jp2 cannot be decoded on the GPU"):
            bad.result()
    assert cpu.sizes == [1, 3, 1, 1, 1]


def test_interrupted_thread_leaves_nobody_waiting() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def interrupted(codestreams: Sequence[bytes]) -> list[NDArray[Any] | None]:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(30)
            raise KeyboardInterrupt
        return [imagecodecs.jpeg2k_decode(each) for each in codestreams]

    decoder = BatchingDecoder(interrupted)
    waiting = Watched(1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(decoder.decode, codestream(1), height=16, width=16, name="first")
        assert begun.wait(30)
        decoder._queue.waiting = waiting
        second = pool.submit(decoder.decode, codestream(2), height=16, width=16, name="second")
        assert waiting.reached.wait(30)
        go_on.set()
        with pytest.raises(KeyboardInterrupt):
            first.result()
        assert second.result(30)[0, 0] == 2


@pytest.mark.skipif(bool(HAS_PACKAGES), reason="nvImageCodec is installed here")
def test_without_the_packages_it_says_what_is_missing() -> None:
    with pytest.raises(UsageError, match="nvidia-nvimgcodec-cu13 and nvidia-nvjpeg2k-cu13"):
        NvImageCodecDecoder()


@pytest.mark.gpu
@pytest.mark.parametrize("gsd_m", [10, 20, 60])
def test_gpu_decodes_what_openjpeg_decodes(tmp_path: Path, gsd_m: int) -> None:
    try:
        decoder = NvImageCodecDecoder()
    except UsageError as error:
        pytest.skip(str(error))
    path = write_jp2(tmp_path / "band.jp2", scene(1400, 1300), **esa_options(gsd_m))
    data = path.read_bytes()
    np.testing.assert_array_equal(decode_by_tiles(data, index_bytes(data), decoder), plain_read(path))
