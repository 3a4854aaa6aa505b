"""Tiles' probabilities become blocks: cores exactly, overlaps by weighted means, windows of any frame, any order."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.blend import BlendMosaic, ramp
from kappamask_stream.extras.probability_mosaic import ProbabilityMosaic
from kappamask_stream.grid import TileGrid, Window
from tests.unit import naive_masks

CLASSES = 3


def tiles_of(grid: TileGrid, seed: int) -> dict[int, tuple[np.ndarray | None, np.ndarray | None]]:
    """Per tile probabilities and where data is missing; some tiles hold none."""
    draw = np.random.default_rng(seed)
    made: dict[int, tuple[np.ndarray | None, np.ndarray | None]] = {}
    for tile in grid:
        shape = (grid.tile_size, grid.tile_size)
        missing = None if draw.random() < 0.5 else draw.random(shape) < 0.2
        probabilities = draw.integers(0, 256, (CLASSES, *shape), np.uint8)
        made[tile.index] = (None, None) if draw.random() < 0.15 else (probabilities, missing)
    return made


def joined(mosaic: ProbabilityMosaic, grid: TileGrid, tiles, frame: Window, order: int, size: int) -> np.ndarray:
    rows, cols = -(-frame.height // size), -(-frame.width // size)
    image = np.zeros((CLASSES, rows * size, cols * size), np.uint8)
    shown, given_back = list(grid), set()
    random.Random(order).shuffle(shown)
    for tile in shown:
        for block in mosaic.add(tile, *tiles[tile.index]):
            assert (block.row, block.col) not in given_back
            given_back.add((block.row, block.col))
            image[:, block.row * size : (block.row + 1) * size, block.col * size : (block.col + 1) * size] = (
                block.pixels
            )
    assert len(given_back) == rows * cols
    assert not mosaic._pending
    assert not image[:, frame.height :].any()
    assert not image[:, :, frame.width :].any()
    return image[:, : frame.height, : frame.width]


@st.composite
def settings(draw):
    height, width = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    grid = TileGrid(height, width, 16, draw(st.sampled_from([0, 2, 4])))
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    frame = Window(row, col, draw(st.integers(1, height - row)), draw(st.integers(1, width - col)))
    return grid, frame


@given(settings(), st.integers(0, 2**32), st.integers(0, 99))
def test_crop_keeps_each_tiles_core(setting: tuple[TileGrid, Window], seed: int, order: int) -> None:
    grid, frame = setting
    tiles = tiles_of(grid, seed)
    mosaic = ProbabilityMosaic(grid, frame, classes=CLASSES, kind="crop", block_size=16)
    image = joined(mosaic, grid, tiles, frame, order, 16)
    empty = np.zeros((CLASSES, grid.tile_size, grid.tile_size), np.uint8)
    for number in range(CLASSES):
        whole = naive_masks.crop(grid, {i: (empty if p is None else p)[number] for i, (p, _) in tiles.items()})
        expected = whole[frame.row : frame.row_end, frame.col : frame.col_end]
        np.testing.assert_array_equal(image[number], expected)


def naive_mean(grid: TileGrid, tiles, row: int, col: int) -> list[int]:
    """Weighted mean of one pixel, exactly, halves rounded up."""
    weights = ramp(grid.tile_size, grid.margin)
    sums, total = [0] * CLASSES, 0
    for tile in grid:
        probabilities, missing = tiles[tile.index]
        r, c = row - tile.window.row, col - tile.window.col
        if probabilities is None or not (0 <= r < grid.tile_size and 0 <= c < grid.tile_size):
            continue
        if missing is not None and missing[r, c]:
            continue
        weight = int(weights[r]) * int(weights[c])
        total += weight
        sums = [s + weight * int(p) for s, p in zip(sums, probabilities[:, r, c], strict=True)]
    return [int(Fraction(s, total) + Fraction(1, 2)) if total else 0 for s in sums]


@given(settings(), st.integers(0, 2**32), st.integers(0, 99))
def test_blend_is_the_weighted_mean_in_any_order(setting: tuple[TileGrid, Window], seed: int, order: int) -> None:
    grid, frame = setting
    tiles = tiles_of(grid, seed)
    mosaic = ProbabilityMosaic(grid, frame, classes=CLASSES, kind="blend", block_size=16)
    image = joined(mosaic, grid, tiles, frame, order, 16)
    draw = random.Random(seed)
    for _ in range(40):
        row, col = draw.randrange(frame.height), draw.randrange(frame.width)
        assert list(image[:, row, col]) == naive_mean(grid, tiles, frame.row + row, frame.col + col)


def test_the_likeliest_class_of_a_blend_is_the_masks() -> None:
    grid, frame = TileGrid(100, 90, 32, 4), Window(13, 7, 70, 61)
    draw = np.random.default_rng(5)
    labels = BlendMosaic(grid, class_values=(1, 2, 4), nodata=5, frame=frame, block_size=16)
    mosaic = ProbabilityMosaic(grid, frame, classes=CLASSES, kind="blend", block_size=16)
    for tile in grid:
        probabilities = draw.integers(0, 256, (CLASSES, 32, 32), np.uint8)
        made = mosaic.add(tile, probabilities)
        shown = labels.add(tile, probabilities) if labels.shows(tile) else []
        assert [(b.row, b.col) for b in made] == [(b.row, b.col) for b in shown]
        for block, mask in zip(made, shown, strict=True):
            chosen = np.take_along_axis(block.pixels, np.searchsorted([1, 2, 4], mask.pixels % 5)[None], axis=0)
            inside = mask.pixels != 5
            # Rounding may make two classes equal; the mask's is never the smaller one.
            assert (chosen[0] == block.pixels.max(axis=0))[inside].all()


@pytest.mark.parametrize("kind", ["crop", "blend"])
def test_tiles_beside_the_frame_are_no_part_of_it(kind) -> None:
    grid, frame = TileGrid(100, 100, 32, 4), Window(0, 0, 16, 16)
    mosaic = ProbabilityMosaic(grid, frame, classes=1, kind=kind, block_size=16)
    assert mosaic.add(grid.tile(3, 3), np.ones((1, 32, 32), np.uint8)) == []
    assert len(mosaic.add(grid.tile(0, 0), np.ones((1, 32, 32), np.uint8))) == 1
