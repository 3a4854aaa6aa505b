"""The quicklook is a PNG of the mask in its classes' colours, drawn from the overview that fits a screen."""

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from kappamask_stream.cog.stream import shown_level
from kappamask_stream.overviews import overview_sizes
from kappamask_stream.quicklook import encode_quicklook

COLOURS = {1: (10, 20, 30), 4: (255, 254, 253), 5: (0, 0, 1)}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_every_pixel_has_its_classs_colour(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).choice(np.array([1, 4, 5], np.uint8), (height, width))
    with MemoryFile(encode_quicklook(pixels, COLOURS)) as file, file.open() as picture:
        assert (picture.driver, picture.dtypes) == ("PNG", ("uint8",) * 3)
        drawn = picture.read()
    for value, colour in COLOURS.items():
        assert (drawn[:, pixels == value] == np.array(colour)[:, np.newaxis]).all()
    assert drawn.shape == (3, height, width)


def test_a_value_without_a_colour_is_black_and_transparency_is_ignored() -> None:
    pixels = np.array([[0, 4]], np.uint8)
    assert encode_quicklook(pixels, COLOURS) == encode_quicklook(pixels, {4: (255, 254, 253, 0)})
    with MemoryFile(encode_quicklook(pixels, COLOURS)) as file, rasterio.open(file.name) as picture:
        np.testing.assert_array_equal(picture.read()[:, 0, 0], [0, 0, 0])


def test_the_same_mask_gives_the_same_bytes() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert encode_quicklook(pixels, COLOURS) == encode_quicklook(pixels.copy(), dict(reversed(COLOURS.items())))


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(1, 1, (1, 1)), (1100, 1100, (1100, 1100)), (1101, 3, (551, 2)), (5490, 5490, (687, 687)), (10980, 10980, (687, 687))],
)  # fmt: skip
def test_the_first_level_of_at_most_1100_pixels_a_side_is_shown(
    height: int, width: int, shown: tuple[int, int]
) -> None:
    sizes = [(height, width), *overview_sizes(height, width, 512)]
    assert sizes[shown_level(sizes)] == shown
