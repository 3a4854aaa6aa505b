"""Tiles become blocks as km_predict mosaics them, whatever their order, and little is held meanwhile."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.grid import TileGrid, Window
from kappamask_stream.mosaic import Block, CropMosaic
from tests.unit import naive_masks

NODATA = 5


@st.composite
def grids(draw: st.DrawFn, largest: int = 90) -> TileGrid:
    margin = draw(st.integers(0, 6))
    tile_size = draw(st.integers(2 * margin + 1, 2 * margin + 40))
    # Sizes around multiples of the stride are where edges go wrong.
    stride = tile_size - 2 * margin
    at_edge = st.builds(
        lambda n, d: min(largest, max(1, n * stride + d)), st.integers(1, 3), st.integers(-2, margin + 2)
    )
    size = st.one_of(st.integers(1, largest), at_edge)
    if stride < 4:
        size = st.integers(1, 30)
    return TileGrid(draw(size), draw(size), tile_size, margin)


def labels_of(grid: TileGrid, seed: int) -> dict[int, np.ndarray]:
    """Random labels; every third tile has no data."""
    draw = np.random.default_rng(seed)
    shape = (grid.tile_size, grid.tile_size)
    return {
        tile.index: np.full(shape, NODATA, np.uint8) if tile.index % 3 == 2 else draw.integers(0, 6, shape, np.uint8)
        for tile in grid
    }


def add(mosaic: CropMosaic, tile, labels: np.ndarray) -> list[Block]:
    return mosaic.add_constant(tile, NODATA) if (labels == NODATA).all() else mosaic.add(tile, labels)


@given(grids(), st.sampled_from([4, 16, 32, 64]), st.integers(0, 2**32))
def test_any_size_and_order_equals_the_naive_mosaic(grid: TileGrid, block_size: int, seed: int) -> None:
    tiles = labels_of(grid, seed)
    mosaic = CropMosaic(grid, nodata=NODATA, block_size=block_size)
    arrivals = [tile for tile in grid if mosaic.shows(tile)]
    random.Random(seed).shuffle(arrivals)
    finished = [block for tile in arrivals for block in add(mosaic, tile, tiles[tile.index])]
    assert mosaic.missing == 0
    assert mosaic.pending_bytes == 0
    found = naive_masks.joined(finished, grid.height, grid.width, NODATA)
    np.testing.assert_array_equal(found, naive_masks.crop(grid, tiles))


@given(grids(), st.sampled_from([4, 16, 32]))
def test_in_order_no_more_is_held_than_one_row_of_tiles_meets(grid: TileGrid, block_size: int) -> None:
    mosaic = CropMosaic(grid, nodata=NODATA, block_size=block_size)
    tallest = max(tile.core.height for tile in grid)
    block_rows = (tallest - 1) // block_size + 2
    block_cols = -(-grid.width // block_size)
    for tile in grid:
        if mosaic.shows(tile):
            mosaic.add_constant(tile, 1)
        assert mosaic.pending_bytes <= block_rows * block_cols * block_size**2


def test_a_full_product_holds_at_most_two_rows_of_blocks() -> None:
    grid = TileGrid(10980, 10980, 512, 16)
    mosaic = CropMosaic(grid, nodata=NODATA)
    peak = blocks = 0
    for tile in grid:
        blocks += len(mosaic.add_constant(tile, 1))
        peak = max(peak, mosaic.pending_bytes)
    assert peak <= 2 * 22 * 512**2
    assert blocks == 22 * 22
    assert mosaic.pending_bytes == 0


def test_a_tile_added_twice_is_refused_and_changes_nothing() -> None:
    grid = TileGrid(40, 40, 24, 2)
    mosaic = CropMosaic(grid, nodata=NODATA, block_size=16)
    finished = mosaic.add_constant(grid.tile(0, 1), 1)
    before = (mosaic.missing, mosaic.pending_bytes)
    assert before[0] == len(grid) - 1
    with pytest.raises(ValueError, match="tile at row 0, column 1 was added before"):
        mosaic.add_constant(grid.tile(0, 1), 2)
    assert (mosaic.missing, mosaic.pending_bytes) == before
    finished += [b for tile in grid if tile.index != 1 for b in mosaic.add_constant(tile, 1)]
    found = naive_masks.joined(finished, 40, 40, NODATA)
    assert (found == 1).all()


def test_a_tile_whose_core_is_empty_is_no_part_of_the_mask() -> None:
    grid = TileGrid(42, 20, 24, 2)  # stride 20: the third tile starts at row 40, its core would start at row 42
    assert grid.tile(2, 0).core.is_empty
    mosaic = CropMosaic(grid, nodata=NODATA, block_size=16)
    assert not mosaic.shows(grid.tile(2, 0))
    with pytest.raises(ValueError, match="row 2, column 0"):
        mosaic.add_constant(grid.tile(2, 0), 3)
    finished = [b for row in (0, 1) for b in mosaic.add_constant(grid.tile(row, 0), 1)]
    assert (naive_masks.joined(finished, 42, 20, NODATA) == 1).all()
    assert mosaic.missing == 0


@st.composite
def framed(draw: st.DrawFn, largest: int = 40) -> tuple[TileGrid, Window]:
    grid = draw(grids(largest))
    row, col = draw(st.integers(0, grid.height - 1)), draw(st.integers(0, grid.width - 1))
    height, width = draw(st.integers(1, grid.height - row)), draw(st.integers(1, grid.width - col))
    return grid, Window(row, col, height, width)


@given(framed(), st.sampled_from([4, 16, 32]), st.integers(0, 2**32))
def test_a_frame_shows_exactly_its_part_of_the_whole_mask(
    case: tuple[TileGrid, Window], block_size: int, seed: int
) -> None:
    grid, frame = case
    tiles = labels_of(grid, seed)
    mosaic = CropMosaic(grid, nodata=NODATA, frame=frame, block_size=block_size)
    arrivals = [tile for tile in grid if mosaic.shows(tile)]
    random.Random(seed).shuffle(arrivals)
    finished = [block for tile in arrivals for block in add(mosaic, tile, tiles[tile.index])]
    assert (mosaic.missing, mosaic.pending_bytes) == (0, 0)
    found = naive_masks.joined(finished, frame.height, frame.width, NODATA)
    whole = naive_masks.crop(grid, tiles)
    np.testing.assert_array_equal(found, whole[frame.row : frame.row_end, frame.col : frame.col_end])


def test_only_tiles_that_decide_a_pixel_of_the_frame_are_taken() -> None:
    grid = TileGrid(100, 100, 24, 2)
    mosaic = CropMosaic(grid, nodata=NODATA, frame=Window(30, 30, 10, 10), block_size=16)
    assert [(t.row, t.col) for t in grid if mosaic.shows(t)] == [(1, 1)]
    with pytest.raises(ValueError, match="no part of the mask"):
        mosaic.add_constant(grid.tile(0, 0), 1)
