"""Overviews made block by block equal those of the whole image."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.overviews import OverviewPyramid, average, decimate, overview_sizes
from tests.unit import naive_masks


def vote(four: tuple[int, ...], nodata: int) -> int:
    """The documented rule, for one pixel: nodata has no vote, the most votes win, then the lowest class."""
    votes = Counter(value for value in four if value != nodata)
    return min(votes, key=lambda value: (-votes[value], value)) if votes else nodata


@pytest.mark.parametrize("nodata", [5, 0, 2, 255])
def test_every_combination_of_four_pixels_follows_the_rule(nodata: int) -> None:
    combinations = list(itertools.product(sorted({0, 1, 2, 4, nodata}), repeat=4))
    pixels = np.array(combinations, np.uint8).reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1)
    expected = [vote(four, nodata) for four in combinations]
    np.testing.assert_array_equal(decimate(pixels, nodata)[0], expected)
    np.testing.assert_array_equal(naive_masks.overview(pixels, nodata)[0], expected)


def test_a_uniform_block_is_halved_into_an_array_of_its_own() -> None:
    pixels = np.full((8, 8), 4, np.uint8)
    half = decimate(pixels, 5)
    pixels[:] = 1
    assert (half == 4).all()
    assert half.shape == (4, 4)


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([2, 4, 16, 32]), st.integers(0, 2**32), st.sampled_from([5, 0])
)  # fmt: skip
def test_any_size_and_order_equals_the_naive_pyramid(
    height: int, width: int, block_size: int, seed: int, nodata: int
) -> None:
    mask = np.random.default_rng(seed).choice(np.array([0, 1, 4, 5], np.uint8), (height, width))
    expected = naive_masks.pyramid(mask, nodata, block_size)
    pyramid = OverviewPyramid(height, width, nodata=nodata, block_size=block_size)
    found = [made for block in naive_masks.blocks(mask, nodata, block_size, seed) for made in pyramid.add(block)]
    assert {made.level for made in found} == set(range(1, len(expected) + 1))
    assert overview_sizes(height, width, block_size) == [level.shape for level in expected]
    for number, level in enumerate(expected, 1):
        parts = [made.block for made in found if made.level == number]
        np.testing.assert_array_equal(naive_masks.joined(parts, *level.shape, nodata), level)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (1, []),
        (512, []),
        (513, [257]),
        (1830, [915, 458]),
        (10980, [5490, 2745, 1373, 687, 344]),
    ],
)
def test_overviews_go_down_to_the_first_that_fits_into_a_block(size: int, sizes: list[int]) -> None:
    assert overview_sizes(size, size, 512) == [(n, n) for n in sizes]
    assert overview_sizes(size, 1, 512) == [(n, 1) for n in sizes]


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_an_average_counts_pixels_with_data_and_rounds_halves_up(seed: int, bands: int) -> None:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (bands, 8, 6), np.uint8)
    pixels[:, draw.random((8, 6)) < 0.4] = 0
    halved = average(pixels)
    assert (halved.dtype, halved.shape) == (np.uint8, (bands, 4, 3))
    for row, col in np.ndindex(4, 3):
        four = pixels[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].reshape(bands, 4).astype(int)
        known = four[:, four.any(axis=0)]
        expected = np.floor(known.mean(axis=1) + 0.5) if known.size else np.zeros(bands)
        np.testing.assert_array_equal(halved[:, row, col], expected)
