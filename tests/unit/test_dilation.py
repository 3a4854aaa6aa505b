"""Classes grow by a disc of metres, never over nodata, the first named first; blocks in any order give one image."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.contract import ModelContract
from kappamask_stream.dilation import Dilation, Growth, growths, parse_dilation
from kappamask_stream.errors import UsageError
from kappamask_stream.frame import MaskFrame
from kappamask_stream.grid import Window
from tests.unit import naive_masks

NODATA = 5


def frame_of(height: int, width: int) -> MaskFrame:
    return MaskFrame(window=Window(0, 0, height, width), ulx=0.0, uly=0.0, gsd_m=10, epsg=32629)


def naive(mask: np.ndarray, classes: list[Growth]) -> np.ndarray:
    """For every pixel, class by class: is the centre of a pixel of that class within the radius?"""
    grown = mask.copy()
    for row, col in itertools.product(*map(range, mask.shape)):
        if mask[row, col] == NODATA:
            continue
        for growth in classes:
            seeds = np.argwhere(mask == growth.value)
            if len(seeds) and ((seeds - [row, col]) ** 2).sum(axis=1).min() <= growth.radius**2:
                grown[row, col] = growth.value
                break
    return grown


def dilated(mask: np.ndarray, classes: list[Growth], size: int, seed: int | None = None) -> np.ndarray:
    dilation = Dilation(frame_of(*mask.shape), classes, nodata=NODATA, block_size=size)
    given_back = [grown for block in naive_masks.blocks(mask, NODATA, size, seed=seed) for grown in dilation.add(block)]
    assert not dilation._held
    return naive_masks.joined(given_back, *mask.shape, NODATA)


@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32), st.integers(0, 100),
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 4]), st.floats(1, 8)), min_size=1, max_size=3, unique_by=lambda c: c[0]),
)  # fmt: skip
def test_any_order_of_blocks_gives_the_whole_images_dilation(
    height: int, width: int, seed: int, order: int, classes: list[tuple[int, float]]
) -> None:
    draw = np.random.default_rng(seed)
    mask = draw.choice(
        np.array([0, 1, 2, 3, 4, NODATA], np.uint8), (height, width), p=[0.1, 0.7, 0.05, 0.05, 0.05, 0.05]
    )
    grow = [Growth(value=value, radius=radius) for value, radius in classes]
    np.testing.assert_array_equal(dilated(mask, grow, 8, seed=order), naive(mask, grow))


@pytest.mark.parametrize("radius_m", [10.0, 14.0, 15.0, 20.0, 22.36, 22.37, 50.0, 160.0])
def test_a_single_pixel_becomes_the_disc_of_pixel_centres_within_the_metres(
    radius_m: float, csmask_contract: ModelContract
) -> None:
    mask = np.ones((48, 48), np.uint8)
    mask[25, 22] = 4
    grown = dilated(mask, [Growth(value=4, radius=radius_m / 10)], 16)
    rows, cols = np.ogrid[:48, :48]
    metres = 10 * np.hypot(rows - 25, cols - 22)
    np.testing.assert_array_equal(grown == 4, metres <= radius_m)


def test_the_first_named_class_has_what_several_reach_and_keeps_its_own_pixels() -> None:
    mask = np.full((1, 8), 1, np.uint8)
    mask[0, 2], mask[0, 5] = 4, 2
    cloud, shadow = Growth(value=4, radius=2.0), Growth(value=2, radius=4.0)
    np.testing.assert_array_equal(dilated(mask, [cloud, shadow], 8)[0], [4, 4, 4, 4, 4, 2, 2, 2])
    np.testing.assert_array_equal(dilated(mask, [shadow, cloud], 8)[0], [4, 2, 2, 2, 2, 2, 2, 2])


def test_a_class_grows_from_where_the_network_saw_it_not_from_what_another_left_of_it() -> None:
    mask = np.array([[4, 2, 1, 1]], np.uint8)
    grown = dilated(mask, [Growth(value=4, radius=1.0), Growth(value=2, radius=1.0)], 4)
    np.testing.assert_array_equal(grown[0], [4, 4, 2, 1])


def test_pixels_without_data_are_neither_covered_nor_a_barrier() -> None:
    mask = np.array([[4, NODATA, 1, 1]], np.uint8)
    np.testing.assert_array_equal(dilated(mask, [Growth(value=4, radius=2.0)], 4)[0], [4, NODATA, 4, 1])


def test_a_block_is_given_as_soon_as_its_neighbours_are_there_and_three_rows_are_held_at_most() -> None:
    mask = naive_masks.blobs(80, 64, seed=1)
    dilation = Dilation(frame_of(80, 64), [Growth(value=4, radius=3.0)], nodata=NODATA, block_size=16)
    given_back, held = [], 0
    for block in naive_masks.blocks(mask, NODATA, 16):
        given_back.append([(b.row, b.col) for b in dilation.add(block)])
        held = max(held, len(dilation._held))
    # Row-major: a block waits for the one at its lower right.
    assert given_back[:5] == [[], [], [], [], []]
    assert given_back[5:9] == [[(0, 0)], [(0, 1)], [(0, 2), (0, 3)], []]
    assert given_back[-1] == [(3, 2), (3, 3), (4, 2), (4, 3)]
    assert held <= 3 * 4
    assert repr(dilation) == "<Dilation 20/20 blocks given, 0 held>"


def test_without_the_class_a_block_is_passed_on_as_it_is() -> None:
    mask = np.ones((16, 16), np.uint8)
    (block,) = naive_masks.blocks(mask, NODATA, 16)
    dilation = Dilation(frame_of(16, 16), [Growth(value=4, radius=3.0)], nodata=NODATA, block_size=16)
    assert dilation.add(block)[0].pixels is block.pixels
    with pytest.raises(ValueError, match="row 0, column 0 was added before"):
        dilation.add(block)


def test_a_radius_beyond_the_neighbouring_block_is_an_error_of_the_program() -> None:
    with pytest.raises(ValueError, match=r"16\.5 pixels, at most 16"):
        Dilation(frame_of(16, 16), [Growth(value=4, radius=16.5)], nodata=NODATA, block_size=16)


def test_large_radii_reach_as_far_as_they_say() -> None:
    mask = np.ones((600, 1000), np.uint8)
    mask[300, 500] = 4
    rows, cols = np.ogrid[:600, :1000]
    near = np.hypot(rows - 300, cols - 500) <= 254
    order = random.Random(3).randrange(1000)
    np.testing.assert_array_equal(dilated(mask, [Growth(value=4, radius=254.0)], 512, seed=order) == 4, near)


def test_what_people_write_becomes_name_and_metres() -> None:
    assert parse_dilation("CLOUD=60") == ("CLOUD", 60.0)
    assert parse_dilation(" cloud_shadow =35.5") == ("CLOUD_SHADOW", 35.5)


@pytest.mark.parametrize(
    "text", ["CLOUD", "CLOUD=", "=60", "CLOUD=far", "CLOUD=nan", "CLOUD=inf", "CLOUD=-5", "CLOUD=0", ""]
)
def test_what_is_no_dilation_says_how_to_write_one(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"--dilate .*: give CLASS=METRES with a positive number of metres, e\.g\. CLOUD"
    ):
        parse_dilation(text)


def test_metres_become_pixels_of_the_models_masks(csmask_contract: ModelContract) -> None:
    grown = growths([("CLOUD", 60.0), ("cloud_shadow", 30.0)], csmask_contract)
    assert grown == (Growth(value=4, radius=3.0), Growth(value=2, radius=1.5))
    assert growths([], csmask_contract) == ()


@pytest.mark.parametrize(
    ("dilate", "said"),
    [
        (
            [("FOG", 60.0)],
            r"--dilate FOG=60: test_l2a has no such class to grow; there are UNDEFINED, CLEAR, CLOUD_SHADOW",
        ),
        ([("MISSING", 60.0)], r"no such class to grow; there are [A-Z_, ]*, CLOUD$"),
        ([("CLOUD", 60.0), ("cloud", 80.0)], r"cloud=80: the class is named twice"),
        ([("CLOUD", 19.9)], r"CLOUD=19\.9: masks of test_l2a have pixels of 20 m: give 20 to 5080 m"),
        ([("CLOUD", 5081.0)], r"CLOUD=5081: masks of test_l2a have pixels of 20 m: give 20 to 5080 m"),
    ],
)
def test_what_the_model_cannot_grow_is_refused_in_words(
    dilate: list[tuple[str, float]], said: str, csmask_contract: ModelContract
) -> None:
    with pytest.raises(UsageError, match=said):
        growths(dilate, csmask_contract)


def test_half_widths_are_those_of_a_disc() -> None:
    growth = Growth(value=4, radius=math.sqrt(5))
    assert [growth.half_width(rows) for rows in range(4)] == [2, 2, 1, None]
