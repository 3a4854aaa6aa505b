"""Tiles of an area: of a codestream tile only what they take is decoded and kept, and they are what they were."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappamask_stream.bands import BandFile, fitted
from kappamask_stream.contract import BandGroup
from kappamask_stream.grid import TileGrid, Window, source_window
from kappamask_stream.jp2 import BandInput, DecodePlan, ImagecodecsDecoder, TileStream
from tests.stream.test_tile_stream import MemorySource, SpyDecoder, check_tile
from tests.unit.jp2_files import esa_options, index_bytes, scene, write_jp2
from tests.unit.test_decode_plan import indexes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.grid import Tile
    from kappamask_stream.jp2 import CodestreamIndex

GROUP = BandGroup(gsd_m=20, bands=("B05", "B06"), tile=96, stride=80)
HEIGHT, WIDTH = 790, 1300
#: Positions in the grid of the tiles that are read.
AREAS = {
    "one": [(5, 6)],
    "a corner": [(0, 0)],
    "near the last corner": [(8, 15)],
    "two far apart": [(1, 1), (8, 15)],
    "a row": [(7, col) for col in range(17)],
    "a square": [(row, col) for row in range(3, 9) for col in range(2, 8)],
}


class Sizes(SpyDecoder):
    """Notes the bytes of the codestreams that it decodes, too."""

    def __init__(self, *, takes_thinned: bool) -> None:
        super().__init__(takes_thinned=takes_thinned)
        self.nbytes = 0

    def decode(self, codestream: bytes, *, height: int, width: int, name: str) -> NDArray[np.uint16]:
        self.nbytes += len(codestream)
        return super().decode(codestream, height=height, width=width, name=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("thinned")
    return {
        band: write_jp2(folder / f"{band}.jp2", scene(HEIGHT, WIDTH, seed=seed), **esa_options(20)).read_bytes()
        for seed, band in enumerate(GROUP.bands)
    }


def inputs(files: dict[str, bytes], group: BandGroup = GROUP) -> list[BandInput]:
    return [
        BandInput(path=band, index=index_bytes(files[band], f"{band}.jp2"), group=group, channel=channel)
        for channel, band in enumerate(group.bands)
    ]


def area_plan(files: dict[str, bytes], places: Iterable[tuple[int, int]]) -> DecodePlan:
    grid = TileGrid(HEIGHT, WIDTH, GROUP.tile, (GROUP.tile - GROUP.stride) // 2)
    return DecodePlan.of(inputs(files), [grid.tile(*place) for place in places])


@pytest.mark.parametrize("takes_thinned", [True, False])
@pytest.mark.parametrize("area", AREAS)
async def test_tiles_of_an_area_equal_a_plain_read(files: dict[str, bytes], area: str, *, takes_thinned: bool) -> None:
    plan, source, decoder = area_plan(files, AREAS[area]), MemorySource(files), Sizes(takes_thinned=takes_thinned)
    images = {20: {band: scene(HEIGHT, WIDTH, seed=seed) for seed, band in enumerate(GROUP.bands)}}
    with ThreadPoolExecutor(2) as threads:
        async with TileStream(source, plan, executor=threads, workers=2, decoder=decoder) as stream:
            tiles = [pixels async for pixels in stream]
    for pixels in tiles:
        check_tile(pixels, (GROUP,), images)
    assert len(tiles) == len(AREAS[area])
    assert stream.stats.bytes_read == source.bytes
    assert (decoder.nbytes < 0.8 * source.bytes) == takes_thinned
    assert stream.stats.peak_held_bytes <= plan.required_bytes
    whole = sum(unit.tile.window.height * unit.tile.window.width * 2 for unit in plan.units)
    assert plan.required_bytes - plan.kept_bytes <= sum(unit.nbytes for unit in plan.units) < whole


#: Of codestream tiles of 64 x 64 in a row, all of the same bytes.
ALIKE = BandGroup(gsd_m=20, bands=("B05",), tile=32, stride=32)


def noisy() -> NDArray[np.uint16]:
    return np.random.default_rng(7).integers(1, 20_000, (64, 64), dtype=np.uint16)


def faint() -> NDArray[np.uint16]:
    """Ones so far apart that only the finest resolution has them: without its packets all is 0."""
    piece = np.zeros((64, 64), np.uint16)
    piece[1::4, 1::4] = np.random.default_rng(7).integers(0, 2, (16, 16))
    return piece


def alike(folder: Path, piece: NDArray[np.uint16]) -> dict[str, bytes]:
    """Three tiles of the same bytes, of which the first 32 x 32 pixels and some around them are 0."""
    piece[:48, :48] = 0
    options = {"PLT": "YES", "PRECINCTS": "{16,16},{16,16},{16,16},{16,16}", "CODEBLOCK_WIDTH": "8"}
    return {"B05": write_jp2(folder / "B05.jp2", np.tile(piece, (1, 3)), **options).read_bytes()}


async def streamed(plan: DecodePlan, files: dict[str, bytes]) -> tuple[list[bool], TileStream]:
    """Read tiles one after the other; tells of each whether it is empty."""
    with ThreadPoolExecutor(1) as threads:
        source = MemorySource(files)
        async with TileStream(source, plan, executor=threads, workers=1, read_ahead=0) as stream:
            return [pixels.is_empty async for pixels in stream], stream


@pytest.mark.parametrize("made", [noisy, faint])
async def test_a_tile_whose_window_is_zero_is_not_taken_for_a_tile_of_zeros(
    tmp_path: Path, made: Callable[[], NDArray[np.uint16]]
) -> None:
    files = alike(tmp_path, made())
    grid = TileGrid(64, 192, 32, 0)
    # Of the first codestream tile only zeros are taken, of the second, of the same bytes, all.
    plan = DecodePlan.of(inputs(files, ALIKE), [grid.tile(0, 0), *(grid.tile(r, c) for r in (0, 1) for c in (2, 3))])
    first, second = plan.units
    index = plan.bands[0].index
    parts = [[files["B05"][o : o + n] for o, n in unit.tile.parts] for unit in plan.units]
    assert index.identity(first.tile, parts[0]) == index.identity(second.tile, parts[1])
    assert (first.is_thinned, second.is_thinned) == (True, False)
    empty, stream = await streamed(plan, files)
    assert empty == [True, True, False, False, False]
    assert stream.stats.codestream_tiles_decoded == 2


async def test_a_window_of_zeros_is_not_a_tile_of_zeros_where_it_is_decoded_whole(tmp_path: Path) -> None:
    """The same of tiles of so few bytes that they are decoded whole."""
    folder = tmp_path
    pixels = np.zeros((256, 768), np.uint16)
    pixels[200:210, 200::256] = 9
    options = {"BLOCKXSIZE": "256", "BLOCKYSIZE": "256", "PLT": "YES"}
    files = {"B05": write_jp2(folder / "B05.jp2", pixels, **options).read_bytes()}
    grid = TileGrid(256, 768, 32, 0)
    plan = DecodePlan.of(inputs(files, ALIKE), [grid.tile(0, 0), grid.tile(0, 8), grid.tile(6, 14), grid.tile(6, 15)])
    assert [unit.is_thinned for unit in plan.units] == [False, False]
    assert all(unit.needed != unit.tile.window for unit in plan.units)
    empty, stream = await streamed(plan, files)
    assert empty == [True, True, False, True]
    assert stream.stats.codestream_tiles_decoded == 2


async def test_tiles_of_zeros_are_known_in_an_area_too(tmp_path: Path) -> None:
    options = {"BLOCKXSIZE": "256", "BLOCKYSIZE": "256", "PLT": "YES"}
    files = {"B05": write_jp2(tmp_path / "B05.jp2", np.zeros((256, 1024), np.uint16), **options).read_bytes()}
    grid = TileGrid(256, 1024, 32, 0)
    empty, stream = await streamed(
        DecodePlan.of(inputs(files, ALIKE), [grid.tile(3, c) for c in (1, 9, 17, 25)]), files
    )
    assert empty == [True] * 4
    assert (stream.stats.codestream_tiles_decoded, stream.stats.codestream_tiles_empty) == (1, 3)


@given(index=indexes(), picks=st.lists(st.integers(0, 10**6), min_size=1, max_size=4), drawn=st.data())
def test_needed_is_the_least_window_around_what_tiles_take(
    index: CodestreamIndex, picks: list[int], drawn: st.DataObject
) -> None:
    stride = drawn.draw(st.integers(3, 40))
    margin = drawn.draw(st.integers(0, 9))
    group = BandGroup(gsd_m=20, bands=("B05",), tile=stride + 2 * margin, stride=stride)
    grid = TileGrid(index.height, index.width, group.tile, margin)
    everything = list(grid)
    band = BandInput(path="x", index=index, group=group, channel=0)
    assert all(unit.needed == unit.tile.window for unit in DecodePlan.of([band], everything).units)
    tiles: list[Tile] = [everything[pick % len(everything)] for pick in picks]
    plan = DecodePlan.of([band], tiles)
    for unit in plan.units:
        taken = [source_window(tile, group).intersection(unit.tile.window) for tile in tiles]
        cells = {(r, c) for w in taken for r in range(w.row, w.row_end) for c in range(w.col, w.col_end)}
        rows, cols = {r for r, _ in cells}, {c for _, c in cells}
        least = Window(min(rows), min(cols), max(rows) - min(rows) + 1, max(cols) - min(cols) + 1)
        assert unit.needed == least


@pytest.mark.parametrize("gsd_m", [10, 40])
def test_bands_that_are_resampled_take_what_they_need(files: dict[str, bytes], gsd_m: int) -> None:
    data = files["B05"]
    index = fitted(index_bytes(data, "B05.jp2"), BandFile(path="B05", gsd_m=20), gsd_m)
    decoder = Sizes(takes_thinned=True)
    tile = index.tiles[1]
    parts = [data[offset : offset + length] for offset, length in tile.parts]
    whole = index.decode_tile(tile, parts, ImagecodecsDecoder())

    @settings(max_examples=10, deadline=None)
    @given(st.integers(0, tile.window.height - 9), st.integers(0, tile.window.width - 9), st.integers(1, 9))
    def compare(row: int, col: int, side: int) -> None:
        decoder.nbytes = 0
        needed = Window(tile.window.row + row, tile.window.col + col, side, side + 1 if side < 9 else 9)
        place = needed.relative_to(tile.window)
        found = index.decode_tile(tile, parts, decoder, needed)
        np.testing.assert_array_equal(found[place], whole[place])
        assert decoder.nbytes < 0.5 * sum(map(len, parts))

    compare()
