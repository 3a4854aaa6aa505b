"""Which file a band is read from where the product has it at another resolution, and what becomes of its pixels."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.bands import (
    AveragedIndex,
    BandFile,
    BandTile,
    ReplicatedIndex,
    choose_files,
    fitted,
    provenance,
)
from kappamask_stream.contract import BandGroup
from kappamask_stream.errors import ProductError
from kappamask_stream.grid import Window
from tests.conftest import make_contract
from tests.unit.cog_files import decode_whole


@dataclass
class FakeProduct:
    """Has the bands of `files`; those of `lost` are listed in its metadata and are not there."""

    files: dict[tuple[str, int], str]
    lost: tuple[tuple[str, int], ...] = ()
    source: Any = field(default_factory=type("Named", (), {"label": "X.SAFE"}))

    def __post_init__(self) -> None:
        self.listing = {path: 1 for key, path in self.files.items() if key not in self.lost}

    def band_path(self, band: str, gsd_m: int) -> str:
        path = self.files.get((band, gsd_m))
        if path in self.listing:
            return path
        raise ProductError(f"X.SAFE has no file of {band} at {gsd_m} m")


def has(*keys: tuple[str, int], lost: tuple[tuple[str, int], ...] = ()) -> FakeProduct:
    return FakeProduct({(band, gsd): f"{band}_{gsd}m.tif" for band, gsd in (*keys, *lost)}, lost)


def wants(gsd_m: int, *bands: str) -> Any:
    group = BandGroup(gsd_m=gsd_m, bands=bands, tile=60, stride=48)
    return make_contract(inputs=(group,), gsd_m=gsd_m, tile_size=60, margin=6)


@pytest.mark.parametrize(
    ("there", "gsd_m", "allow_coarser", "chosen"),
    [
        ([10, 20, 60], 20, False, 20),
        ([10], 20, False, 10),
        ([10, 20], 60, False, 20),
        ([60], 20, True, 60),
        ([20, 60], 10, True, 20),
        ([10, 60], 20, True, 10),
    ],
)
def test_the_nearest_is_chosen_finer_ones_first(
    there: list[int], gsd_m: int, *, allow_coarser: bool, chosen: int
) -> None:
    product = has(*(("B02", gsd) for gsd in there))
    files = choose_files(product, wants(gsd_m, "B02"), allow_coarser=allow_coarser)
    assert files == {("B02", gsd_m): BandFile(path=f"B02_{chosen}m.tif", gsd_m=chosen)}


def test_a_coarser_band_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        ProductError, match=r"X\.SAFE has AOT at 20 m only, test_l2a needs it at 10 m: .* or give --allow-coarser,"
    ):
        choose_files(has(("AOT", 20), ("AOT", 60)), wants(10, "AOT"), allow_coarser=False)


@pytest.mark.parametrize("allow_coarser", [True, False])
def test_a_missing_band_is_missing(*, allow_coarser: bool) -> None:
    with pytest.raises(ProductError, match="no file of B10 at 60 m"):
        choose_files(has(("B02", 10)), wants(60, "B10"), allow_coarser=allow_coarser)


def test_what_was_lost_is_not_made_up() -> None:
    """An incomplete download is no product of other resolutions."""
    for product, gsd_m in ((has(("B02", 10), lost=(("B02", 20),)), 20), (has(("B02", 20), lost=(("B02", 10),)), 10)):
        with pytest.raises(ProductError, match=f"no file of B02 at {gsd_m} m"):
            choose_files(product, wants(gsd_m, "B02"), allow_coarser=False)
    lost = has(("B02", 20), lost=(("B02", 10),))
    assert choose_files(lost, wants(10, "B02"), allow_coarser=True)["B02", 10].gsd_m == 20


def test_provenance_names_what_is_not_the_files() -> None:
    files = choose_files(has(("AOT", 20), ("B02", 10), ("B03", 10)), wants(10, "AOT", "B02", "B03"), allow_coarser=True)
    assert provenance(files) == ("AOT is read at 20 m and replicated to 10 m",)
    files = choose_files(has(("B02", 10), ("B11", 20)), wants(20, "B02", "B11"), allow_coarser=False)
    assert provenance(files) == ("B02 is read at 10 m and averaged to 20 m",)


def test_half_resolution_is_read_where_the_contract_says_so_only() -> None:
    """Even where there is a file of the pixels' own size: the served graph is made for the low-pass band."""
    group = BandGroup(gsd_m=20, file_gsd_m=10, bands=("B02",), tile=60, stride=48)
    reduced = make_contract(inputs=(group,), gsd_m=20, tile_size=60, margin=6)
    for product in (has(("B02", 10)), has(("B02", 10), ("B02", 20))):
        files = choose_files(product, reduced, allow_coarser=False)
        assert files == {("B02", 20): BandFile(path="B02_10m.tif", gsd_m=10, is_reduced=True)}
        assert provenance(files) == ("B02 is read at half the resolution of its 10 m file, as the model asks",)
        assert not choose_files(product, wants(20, "B02"), allow_coarser=False)["B02", 20].is_reduced
    for allow_coarser in (True, False):
        with pytest.raises(ProductError, match="no file of B02 at 10 m"):
            choose_files(has(("B02", 20)), reduced, allow_coarser=allow_coarser)


class ArrayIndex:
    """A band in memory, in pieces of `side` pixels; the bytes of a piece are its pixels."""

    name, layout, decode_bytes = "B02.tif", "in memory", 1000

    def __init__(self, pixels: np.ndarray, side: int) -> None:
        self.pixels, self.tile_height, self.tile_width = pixels, side, side
        self.height, self.width = pixels.shape
        windows = [
            Window(row, col, min(side, self.height - row), min(side, self.width - col))
            for row in range(0, self.height, side)
            for col in range(0, self.width, side)
        ]
        self.tiles = tuple(BandTile(index=i, window=w, parts=((i, 1),)) for i, w in enumerate(windows))

    def decode_tile(self, tile: BandTile, parts: list[bytes], _: Any, needed: Window | None = None, /) -> np.ndarray:
        assert tile == self.tiles[tile.index], "the file's own piece is asked for"
        window = tile.window
        return self.pixels[window.row : window.row_end, window.col : window.col_end]

    def identity(self, tile: BandTile, parts: list[bytes], /) -> bytes:
        assert tile == self.tiles[tile.index]
        return b"%d" % tile.index


@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 2, 3]), st.sampled_from([2, 3, 6]), st.integers(0, 99))
def test_replicated_and_averaged_pixels(rows: int, cols: int, side: int, factor: int, seed: int) -> None:
    """Every pixel is that of numpy; averaging undoes replicating."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (rows, cols)).astype(np.uint16) * rng.integers(1, 65536, (rows, cols)).astype(np.uint16)
    index = fitted(ArrayIndex(coarse, side), BandFile(path="x", gsd_m=10 * factor), 10)
    assert isinstance(index, ReplicatedIndex)
    whole = decode_whole(index, bytes(100))
    np.testing.assert_array_equal(whole, np.kron(coarse, np.ones((factor, factor), np.uint16)))
    back = fitted(ArrayIndex(whole, side * factor), BandFile(path="x", gsd_m=10), 10 * factor)
    assert isinstance(back, AveragedIndex)
    np.testing.assert_array_equal(decode_whole(back, bytes(100)), coarse)
    assert index.identity(index.tiles[-1], []) == b"%d" % (len(index.tiles) - 1)
    assert (index.height, index.width) == whole.shape
    assert (back.height, back.width) == coarse.shape


def test_zeros_are_left_out_of_means() -> None:
    pixels = np.array([[0, 1000, 0, 0], [1001, 0, 0, 7], [65535, 65535, 1, 2], [65535, 65535, 2, 2]], np.uint16)
    averaged = AveragedIndex(ArrayIndex(pixels, 2), 2)
    np.testing.assert_array_equal(decode_whole(averaged, bytes(9)), [[1001, 7], [65535, 2]])


@pytest.mark.parametrize(("shape", "side"), [((6, 8), 3), ((7, 8), 4), ((6, 7), 2)])
def test_pieces_that_split_pixels_are_refused(shape: tuple[int, int], side: int) -> None:
    with pytest.raises(ProductError, match=r"B02\.tif cannot be averaged 2 to 1"):
        AveragedIndex(ArrayIndex(np.zeros(shape, np.uint16), side), 2)


def test_the_contracts_own_resolution_is_left_alone() -> None:
    index = ArrayIndex(np.zeros((4, 4), np.uint16), 2)
    assert fitted(index, BandFile(path="x", gsd_m=20), 20) is index
