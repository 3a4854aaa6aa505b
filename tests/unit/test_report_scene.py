"""The scene's picture against a plain decimation of the whole image; the network's confidence against plain counts."""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kappamask_stream.contract import BandGroup, ModelContract
from kappamask_stream.extras import TileAnswer
from kappamask_stream.frame import MaskFrame
from kappamask_stream.grid import TileGrid, Window, source_window
from kappamask_stream.report.confidence import Confidence
from kappamask_stream.report.scene import MOST_PIXELS, ScenePicture, picture_channels
from tests.conftest import make_contract

FINE = BandGroup(gsd_m=10, bands=("B02", "B03", "B04"), tile=48, stride=32)
COARSE = BandGroup(gsd_m=20, bands=("B11",), tile=24, stride=16)
AT_10 = make_contract(inputs=(FINE, COARSE), gsd_m=10, tile_size=48, margin=8)
AT_20 = make_contract(inputs=(FINE, COARSE), gsd_m=20, tile_size=24, margin=4)


def frame(contract: ModelContract, window: Window) -> MaskFrame:
    return MaskFrame(window=window, ulx=0, uly=0, gsd_m=contract.gsd_m, epsg=32632)


def tiles_of(
    contract: ModelContract, grid: TileGrid, bands: dict[str, NDArray[np.uint16]], shown: MaskFrame
) -> Iterator[TileAnswer]:
    """Cut the tiles that meet the frame out of whole bands, zeros beyond, as the stream does."""
    for tile in grid:
        if tile.core.intersection(shown.window).is_empty:
            continue
        tensors = {}
        for group in contract.inputs:
            window = source_window(tile, group)
            tensor = np.zeros((len(group.bands), group.tile, group.tile), np.uint16)
            for index, band in enumerate(group.bands):
                cut = bands[band][window.row : window.row_end, window.col : window.col_end]
                tensor[index, : cut.shape[0], : cut.shape[1]] = cut
            tensors[group.tensor] = tensor
        yield TileAnswer(tile=tile, tensors=tensors)


@given(data=st.data())
@pytest.mark.parametrize("contract", [AT_10, AT_20], ids=["10m", "20m"])
def test_samples_are_those_of_a_plain_decimation(contract: ModelContract, data: st.DataObject) -> None:
    """Of the whole image or a part of it, with tiles in any order."""
    height, width = data.draw(st.integers(20, 150)), data.draw(st.integers(20, 150))
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    shown = frame(contract, Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col))))  # fmt: skip
    scale = contract.gsd_m // 10
    rng = np.random.default_rng(1)
    bands = {b: rng.integers(1, 9999, (height * scale, width * scale), np.uint16) for b in FINE.bands}
    bands["B11"] = rng.integers(1, 9999, (-(-height * scale // 2), -(-width * scale // 2)), np.uint16)
    picture = ScenePicture(contract, shown)
    answers = list(tiles_of(contract, TileGrid.of(contract, height, width), bands, shown))
    random.Random(data.draw(st.integers(0, 9))).shuffle(answers)
    for answer in answers:
        picture.add(answer)
    step = picture.step
    for channel, band in enumerate(("B04", "B03", "B02")):
        whole = bands[band][::scale, ::scale][row : row + shown.height, col : col + shown.width]
        centre = np.minimum(np.arange(0, shown.height, step) + step // 2, shown.height - 1)
        across = np.minimum(np.arange(0, shown.width, step) + step // 2, shown.width - 1)
        assert np.array_equal(picture.samples[..., channel], whole[np.ix_(centre, across)])


@pytest.mark.parametrize(("size", "step"), [(1100, 1), (1101, 2), (5490, 5), (10980, 10)])
def test_a_picture_is_bounded(size: int, step: int) -> None:
    picture = ScenePicture(AT_10, frame(AT_10, Window(0, 0, size, size // 3)))
    assert picture.step == step
    assert max(picture.samples.shape) <= MOST_PIXELS
    assert picture.samples.nbytes <= 6 * MOST_PIXELS**2


def test_steps_take_every_nth_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a picture smaller than its image: most pixels are left out."""
    monkeypatch.setattr("kappamask_stream.report.scene.MOST_PIXELS", 13)
    test_samples_are_those_of_a_plain_decimation.hypothesis.inner_test(AT_10, Drawn([90, 77, 5, 9, 71, 60, 3]))
    test_samples_are_those_of_a_plain_decimation.hypothesis.inner_test(AT_20, Drawn([61, 70, 0, 0, 61, 70, 4]))


class Drawn:
    """Gives values that are known beforehand."""

    def __init__(self, values: list[int]) -> None:
        self._values = iter(values)

    def draw(self, _: object) -> int:
        return next(self._values)


def test_a_model_without_visible_bands_is_grey(coarse: ModelContract) -> None:
    picture = ScenePicture(coarse, frame(coarse, Window(0, 0, 60, 60)))
    assert not picture.is_true_colour
    assert {channel.band for channel in picture_channels(coarse)} == {"B11"}


@pytest.fixture
def coarse() -> ModelContract:
    return make_contract(inputs=(COARSE,), gsd_m=20, tile_size=24, margin=4)


def test_the_tone_curve_knows_offset_and_quantification() -> None:
    """Baseline 04.00 adds 1000 DN: the picture is the same as without. No data is black, dark ground is not."""
    old, new = (ScenePicture(AT_10, frame(AT_10, Window(0, 0, 2, 2))) for _ in range(2))
    old.samples[...] = np.array([[[0] * 3, [1] * 3], [[500] * 3, [9000] * 3]])
    new.samples[...] = np.where(old.samples > 0, old.samples + 1000, 0)
    quantification = dict.fromkeys(("B02", "B03", "B04"), 10000.0)
    plain = old.render({}, quantification)
    assert np.array_equal(plain, new.render(dict.fromkeys(("B02", "B03", "B04"), -1000.0), quantification))
    assert plain[0, 0].tolist() == [0, 0, 0]
    assert plain[1, 0, 0] == round(255 * (1 - np.exp(-8 * 0.05)))
    assert 240 < plain[1, 1, 0] <= 255


def test_confidence_counts_the_largest_probability_once_per_pixel() -> None:
    contract, size = AT_10, 100
    shown = frame(contract, Window(10, 20, 70, 61))
    rng = np.random.default_rng(2)
    whole = rng.integers(0, 256, (3, size + 48, size + 48), np.uint8)
    labels = rng.choice(np.array([1, 2, 4, 5], np.uint8), (size + 48, size + 48))
    confidence = Confidence(contract, shown)
    for tile in TileGrid.of(contract, size, size):
        rows, cols = slice(tile.window.row, tile.window.row_end), slice(tile.window.col, tile.window.col_end)
        confidence.add(TileAnswer(tile=tile, labels=labels[rows, cols], probabilities=whole[:, rows, cols]))
    seen = (slice(10, 80), slice(20, 81))
    largest, classes = whole[:, *seen].max(axis=0), labels[seen]
    assert confidence.pixels == int((classes != 5).sum())
    assert confidence.mean() == pytest.approx(largest[classes != 5].mean() / 255)
    assert confidence.mean(2) == pytest.approx(largest[classes == 2].mean() / 255)
    assert confidence.mean(0) is None
    values = largest[classes != 5] / 255
    expected = [((values >= low / 10) & ((values < (low + 1) / 10) | (low == 9))).mean() for low in range(10)]
    assert confidence.histogram(10) == pytest.approx(expected)


def test_without_probabilities_nothing_is_counted() -> None:
    confidence = Confidence(AT_10, frame(AT_10, Window(0, 0, 50, 50)))
    tile = TileGrid.of(AT_10, 50, 50).tile(0, 0)
    confidence.add(TileAnswer(tile=tile, labels=np.ones((48, 48), np.uint8)))
    confidence.add(TileAnswer(tile=tile))
    assert confidence.pixels == 0
    assert confidence.mean() is None
    assert list(itertools.chain(confidence.histogram(4))) == [0, 0, 0, 0]
