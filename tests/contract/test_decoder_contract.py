"""What every `TileDecoder` must do. A new one is one more entry in `MAKERS`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from kappamask_stream.errors import CodestreamError, UsageError
from kappamask_stream.grid import Window
from kappamask_stream.jp2 import ImagecodecsDecoder, RasterioDecoder
from kappamask_stream.jp2.nvimgcodec import BatchingDecoder, NvImageCodecDecoder
from kappamask_stream.jp2.standalone import standalone_codestream
from tests.unit.fake_nvimgcodec import Codec
from tests.unit.jp2_files import decode_by_tiles, esa_options, index_bytes, plain_read, scene, write_jp2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.jp2 import TileDecoder

    Maker = Callable[[pytest.MonkeyPatch], TileDecoder]


def on_the_cpu(codestreams: Sequence[bytes]) -> list[NDArray[Any] | None]:
    """Decode a batch with OpenJPEG; None for what cannot be decoded."""
    found: list[NDArray[Any] | None] = []
    for each in codestreams:
        try:
            found.append(imagecodecs.jpeg2k_decode(each))
        except imagecodecs.Jpeg2kError:
            found.append(None)
    return found


def fake_gpu(patch: pytest.MonkeyPatch) -> TileDecoder:
    """NVIDIA's decoder with OpenJPEG in place of the GPU: framing, regions and batches are the package's own."""
    patch.setitem(sys.modules, "nvidia.nvimgcodec", Codec())  # type: ignore[arg-type] - what is called is there
    return NvImageCodecDecoder()


def gpu(_: pytest.MonkeyPatch) -> TileDecoder:
    try:
        return NvImageCodecDecoder()
    except UsageError as error:
        pytest.skip(str(error))


MAKERS: dict[str, Maker] = {
    "imagecodecs": lambda _: ImagecodecsDecoder(),
    "rasterio": lambda _: RasterioDecoder(),
    "batches": lambda _: BatchingDecoder(on_the_cpu, max_batch=3),
    "nvImageCodec": fake_gpu,
}


@pytest.fixture(params=[*MAKERS, pytest.param("GPU", marks=pytest.mark.gpu)])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TileDecoder:
    return {**MAKERS, "GPU": gpu}[request.param](monkeypatch)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A band of each resolution in ESA's layout, cut at the right and below."""
    folder = tmp_path_factory.mktemp("decoders")
    sizes = {10: (1100, 1290), 20: (790, 1300), 60: (305, 390)}
    return {
        gsd_m: write_jp2(folder / f"{gsd_m}.jp2", scene(*size), **esa_options(gsd_m)) for gsd_m, size in sizes.items()
    }


@pytest.mark.parametrize("gsd_m", [10, 20, 60])
def test_every_tile_is_a_plain_reads(decoder: TileDecoder, files: dict[int, Path], gsd_m: int) -> None:
    data = files[gsd_m].read_bytes()
    pixels = decode_by_tiles(data, index_bytes(data), decoder)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, plain_read(files[gsd_m]))


def test_eight_bits_become_sixteen(decoder: TileDecoder, tmp_path: Path) -> None:
    path = write_jp2(tmp_path / "a.jp2", scene(200, 210, dtype="uint8"), **esa_options(60))
    data = path.read_bytes()
    pixels = decode_by_tiles(data, index_bytes(data), decoder)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, plain_read(path))


def test_threads_get_their_own_tiles(decoder: TileDecoder, files: dict[int, Path]) -> None:
    data, plain = files[60].read_bytes(), plain_read(files[60])
    index = index_bytes(data)

    def one(number: int) -> bool:
        tile = index.tiles[number % len(index.tiles)]
        parts = [data[offset : offset + length] for offset, length in tile.parts]
        return bool(
            (index.decode_tile(tile, parts, decoder) == plain[tile.window.relative_to(Window(0, 0, 0, 0))]).all()
        )

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(one, range(3 * len(index.tiles))))


def test_what_is_corrupt_is_named(decoder: TileDecoder, files: dict[int, Path]) -> None:
    data = files[60].read_bytes()
    index = index_bytes(data)
    tile = index.tiles[0]
    whole = standalone_codestream(index, tile, [data[offset : offset + length] for offset, length in tile.parts])
    damaged = whole[:200] + bytes(len(whole) - 200)
    with pytest.raises(CodestreamError, match=r"codestream tile 0 of B01\.jp2"):
        decoder.decode(damaged[:90], height=192, width=192, name="codestream tile 0 of B01.jp2")
    with pytest.raises(CodestreamError, match=r"decodes to uint16 \[192, 192\], its header says unsigned \[192, 191\]"):
        decoder.decode(whole, height=192, width=191, name="B01.jp2")
    np.testing.assert_array_equal(
        decoder.decode(whole, height=192, width=192, name="B01.jp2"), plain_read(files[60])[:192, :192]
    )


def test_a_window_is_right_however_the_tile_is_decoded(decoder: TileDecoder, files: dict[int, Path]) -> None:
    data, plain = files[20].read_bytes(), plain_read(files[20])
    index = index_bytes(data)
    tile, needed = index.tiles[1], Window(300, 700, 40, 50)
    parts = [data[offset : offset + length] for offset, length in tile.parts]
    pixels = index.decode_tile(tile, parts, decoder, needed)
    assert pixels.shape == (tile.window.height, tile.window.width)
    np.testing.assert_array_equal(pixels[needed.relative_to(tile.window)], plain[300:340, 700:750])
