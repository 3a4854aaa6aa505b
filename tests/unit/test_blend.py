"""Overlapping tiles are weighed in integers: equal to the plain sum over the whole image, whatever the order."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.blend import BlendMosaic, largest_sum, ramp
from kappamask_stream.errors import ContractError
from kappamask_stream.grid import Tile, TileGrid, Window
from kappamask_stream.mosaic import Block
from tests.unit import naive_masks
from tests.unit.test_mosaic import framed, grids

NODATA = 5
CLASSES = (1, 2, 4)


class Answer:
    """What is known of one tile: probabilities uint8 [classes, tile, tile], and where it holds no data."""

    def __init__(self, grid: TileGrid, seed: int, kind: str) -> None:
        draw = np.random.default_rng(seed)
        shape = (grid.tile_size, grid.tile_size)
        # Few values, so that ties are common.
        self.probabilities = draw.choice(np.array([0, 85, 170, 255], np.uint8), (len(CLASSES), *shape))
        self.has_data = {
            "full": np.ones(shape, bool), "partial": draw.random(shape) < 0.5, "empty": np.zeros(shape, bool)
        }[kind]  # fmt: skip
        self.kind = kind

    def add_to(self, mosaic: BlendMosaic, tile: Tile) -> list[Block]:
        if self.kind == "empty":
            return mosaic.add_constant(tile, NODATA)
        return mosaic.add(tile, self.probabilities, None if self.kind == "full" else ~self.has_data)


def naive_blend(grid: TileGrid, answers: dict[int, Answer]) -> np.ndarray:
    """Sum over all tiles on a canvas that reaches beyond the image, in Python's own integers; then the largest."""
    height, width = (n * grid.stride + grid.tile_size for n in (grid.rows, grid.cols))
    sums = np.zeros((len(CLASSES), height, width), object)
    seen = np.zeros((height, width), bool)
    line = [min(i + 1, grid.tile_size - i, max(1, 2 * grid.margin)) for i in range(grid.tile_size)]
    weights = np.array([[a * b for b in line] for a in line], object)
    for tile in grid:
        answer = answers[tile.index]
        at = tile.window.relative_to(Window(0, 0, 0, 0))
        sums[(slice(None), *at)] += np.where(answer.has_data, answer.probabilities * weights, 0)
        seen[at] |= answer.has_data
    best = np.zeros((height, width), np.uint8)
    for row in range(grid.height):
        for col in range(grid.width):
            votes = list(sums[:, row, col])
            best[row, col] = CLASSES[votes.index(max(votes))] if seen[row, col] else NODATA
    return best[: grid.height, : grid.width]


@given(grids(largest=40), st.sampled_from([4, 16, 32]), st.integers(0, 2**32))
def test_any_size_and_order_equals_the_naive_sum(grid: TileGrid, block_size: int, seed: int) -> None:
    arrivals = list(grid)
    kinds = {tile.index: ("full", "partial", "empty")[(seed + tile.index * 7) % 3] for tile in arrivals}
    answers = {tile.index: Answer(grid, seed + tile.index, kinds[tile.index]) for tile in arrivals}
    mosaic = BlendMosaic(grid, class_values=CLASSES, nodata=NODATA, block_size=block_size)
    random.Random(seed).shuffle(arrivals)
    finished = [block for tile in arrivals for block in answers[tile.index].add_to(mosaic, tile)]
    assert mosaic.missing == 0
    assert mosaic.pending_bytes == 0
    found = naive_masks.joined(finished, grid.height, grid.width, NODATA)
    np.testing.assert_array_equal(found, naive_blend(grid, answers))


def test_a_tie_goes_to_the_lower_class() -> None:
    grid = TileGrid(8, 8, 8, 0)
    mosaic = BlendMosaic(grid, class_values=CLASSES, nodata=NODATA, block_size=16)
    probabilities = np.full((3, 8, 8), 100, np.uint8)
    probabilities[0] = 99
    (block,) = mosaic.add(grid.tile(0, 0), probabilities)
    assert (block.pixels[:8, :8] == 2).all()


def test_a_tile_has_no_say_in_pixels_without_data_where_another_saw_data() -> None:
    grid = TileGrid(16, 28, 16, 2)
    left, right, beyond = (grid.tile(0, col) for col in range(3))
    mosaic = BlendMosaic(grid, class_values=CLASSES, nodata=NODATA, block_size=32)
    cloud, clear = np.zeros((2, 3, 16, 16), np.uint8)
    cloud[2], clear[0] = 255, 3
    mosaic.add(left, cloud, nodata_mask=np.ones((16, 16), bool))
    mosaic.add_constant(beyond, NODATA)
    mosaic.add_constant(grid.tile(1, 0), NODATA)
    for col in (1, 2):
        mosaic.add_constant(grid.tile(1, col), NODATA)
    (block,) = mosaic.add(right, clear)
    assert (block.pixels[:16, 12:28] == 1).all()
    assert (block.pixels[:16, :12] == NODATA).all()


def test_the_weight_rises_over_the_overlap_and_is_level_between() -> None:
    np.testing.assert_array_equal(ramp(12, 2), [1, 2, 3, 4, 4, 4, 4, 4, 4, 3, 2, 1])
    np.testing.assert_array_equal(ramp(5, 0), [1] * 5)


@pytest.mark.parametrize(("tile_size", "margin", "true_sum"), [(512, 16, 255 * 33**2), (256, 26, 255 * 53**2)])
def test_the_sums_of_both_models_stay_far_below_32_bits(tile_size: int, margin: int, true_sum: int) -> None:
    """The weights of neighbours add up to 2 * margin + 1 a side: 277,695 for KappaMask, 716,295 for csmask."""
    assert largest_weighted_sum(tile_size, margin) == true_sum
    assert true_sum <= largest_sum(tile_size, margin) < 2**32 / 1000


@given(st.integers(0, 60), st.integers(1, 120))
def test_no_sum_passes_the_bound(margin: int, stride: int) -> None:
    assert largest_weighted_sum(stride + 2 * margin, margin) <= largest_sum(stride + 2 * margin, margin)


def largest_weighted_sum(tile_size: int, margin: int) -> int:
    """Largest sum of weights over an axis of many tiles, squared for two axes, times 1.0."""
    stride = tile_size - 2 * margin
    count = 2 * -(-tile_size // stride) + 1
    axis = np.zeros(stride * count + tile_size, int)
    for position in range(count):
        axis[position * stride : position * stride + tile_size] += ramp(tile_size, margin)
    return int(255 * axis.max() ** 2)


def test_tiles_that_could_overflow_are_refused_at_once() -> None:
    with pytest.raises(ContractError, match=r"tiles of 8192 pixels with a margin of 2048 .* use --mosaic crop"):
        BlendMosaic(TileGrid(100, 100, 8192, 2048), class_values=CLASSES, nodata=NODATA)


def test_only_tiles_without_data_are_constant() -> None:
    grid = TileGrid(8, 8, 8, 0)
    mosaic = BlendMosaic(grid, class_values=CLASSES, nodata=NODATA)
    with pytest.raises(ValueError, match="not 1"):
        mosaic.add_constant(grid.tile(0, 0), 1)
    assert mosaic.missing == 1


def test_a_tile_added_twice_is_refused() -> None:
    grid = TileGrid(8, 8, 8, 0)
    mosaic = BlendMosaic(grid, class_values=CLASSES, nodata=NODATA)
    mosaic.add_constant(grid.tile(0, 0), NODATA)
    with pytest.raises(ValueError, match="was added before"):
        mosaic.add_constant(grid.tile(0, 0), NODATA)


@given(framed(), st.sampled_from([4, 16, 32]), st.integers(0, 2**32))
def test_a_frame_shows_exactly_its_part_of_the_whole_blend(
    case: tuple[TileGrid, Window], block_size: int, seed: int
) -> None:
    grid, frame = case
    answers = {
        tile.index: Answer(grid, seed + tile.index, ("full", "partial", "empty")[tile.index % 3]) for tile in grid
    }
    mosaic = BlendMosaic(grid, class_values=CLASSES, nodata=NODATA, frame=frame, block_size=block_size)
    arrivals = [tile for tile in grid if mosaic.shows(tile)]
    random.Random(seed).shuffle(arrivals)
    finished = [block for tile in arrivals for block in answers[tile.index].add_to(mosaic, tile)]
    assert (mosaic.missing, mosaic.pending_bytes) == (0, 0)
    found = naive_masks.joined(finished, frame.height, frame.width, NODATA)
    whole = naive_blend(grid, answers)
    np.testing.assert_array_equal(found, whole[frame.row : frame.row_end, frame.col : frame.col_end])
