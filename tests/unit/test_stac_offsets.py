"""Which offset an Item's pixels need: the table of what catalogues say against what their pixels show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import ProductError
from kappamask_stream.sources.stac_offsets import DARK_DN, BandFloor, decide_offsets, verdict

BANDS = ("B01", "B02", "B12")
MINUS_1000 = dict.fromkeys(BANDS, -1000.0)
NONE = dict.fromkeys(BANDS, 0.0)


def floor(band: str, pixels: np.ndarray) -> BandFloor:
    """Describe pixels with numpy's own means."""
    valid = pixels[pixels > 0]
    return BandFloor(
        band=band,
        valid=valid.size,
        dark=int((valid < DARK_DN).sum()),
        percentile_1=float(np.percentile(valid, 1)) if valid.size else 0.0,
    )


def reflectances(low: float, high: float) -> np.ndarray:
    return np.random.default_rng(5).uniform(low, high, 100_000)


def floors(coastal: tuple[float, float], swir: tuple[float, float], offset_dn: int) -> list[BandFloor]:
    """Floors of two bands whose reflectances lie in the given ranges, as stored with an offset (0 or 1000)."""
    return [
        floor(band, np.maximum(np.round(reflectances(*span) * 10000), 1 - offset_dn) + offset_dn)
        for band, span in (("B01", coastal), ("B12", swir))
    ]


#: Vegetation and water; a desert without a shadow; a closed cloud.
LAND, DESERT, CLOUD = ((0.005, 0.4), (0.0, 0.3)), ((0.11, 0.25), (0.3, 0.7)), ((0.3, 1.0), (0.2, 0.6))
#: Dark water that the atmospheric correction overdoes: part of it below 0.
OVERDONE = ((-0.03, 0.1), (-0.015, 0.05))


@pytest.mark.parametrize(
    ("scene", "shift", "expected"),
    [
        (LAND, 1000, "inside"),
        (LAND, 0, "removed"),
        (OVERDONE, 1000, "inside"),
        (OVERDONE, 0, "removed"),
        (DESERT, 1000, "unclear"),
        (DESERT, 0, "unclear"),
        (CLOUD, 1000, "unclear"),
        (CLOUD, 0, "unclear"),
    ],
)
def test_what_pixels_show(scene: tuple[tuple[float, float], ...], shift: int, expected: str) -> None:
    assert verdict(floors(*scene, shift)) == expected


def test_one_band_is_not_enough_for_an_offset() -> None:
    assert verdict(floors(*LAND, 1000)[:1]) == "unclear"
    assert verdict(floors(*LAND, 0)[:1]) == "removed"


def test_a_handful_of_pixels_shows_nothing() -> None:
    assert verdict([BandFloor(band="B01", valid=999, dark=999, percentile_1=1.0)] * 2) == "unclear"
    assert verdict([]) == "unclear"


SHIFTED, UNSHIFTED, BRIGHT = floors(*LAND, 1000), floors(*LAND, 0), floors(*CLOUD, 0)


@pytest.mark.parametrize(
    ("baseline", "applied", "pixels", "expected", "believed", "told"),
    [
        # Before 04.00 there is no offset; a bright scene looks as if there were one.
        *(("02.09", applied, UNSHIFTED, NONE, "baseline", True) for applied in (True, False, None)),
        *(("02.09", applied, SHIFTED, NONE, "baseline", True) for applied in (True, False, None)),
        *(("03.01", applied, BRIGHT, NONE, "baseline", True) for applied in (True, False, None)),
        # Flag and pixels agree.
        ("04.00", True, UNSHIFTED, NONE, "flag", False),
        ("05.10", True, UNSHIFTED, NONE, "flag", False),
        ("04.00", False, SHIFTED, MINUS_1000, "metadata", False),
        ("05.10", False, SHIFTED, MINUS_1000, "metadata", False),
        ("04.00", None, SHIFTED, MINUS_1000, "metadata", False),
        ("05.10", None, SHIFTED, MINUS_1000, "metadata", False),
        # The flag says that the offset is inside, and it is gone: 2022 and 2025 at Earth Search.
        ("04.00", False, UNSHIFTED, NONE, "pixels", True),
        ("05.10", False, UNSHIFTED, NONE, "pixels", True),
        ("04.00", None, UNSHIFTED, NONE, "pixels", True),
        ("05.10", None, UNSHIFTED, NONE, "pixels", True),
        # The flag says that it is gone, and it is there.
        ("04.00", True, SHIFTED, MINUS_1000, "pixels", True),
        ("05.10", True, SHIFTED, MINUS_1000, "pixels", True),
        # Nothing to see: the flag, else the metadata, and it is said that nothing was seen.
        ("05.10", True, BRIGHT, NONE, "flag", True),
        ("05.10", False, BRIGHT, MINUS_1000, "metadata", True),
        ("05.10", None, BRIGHT, MINUS_1000, "metadata", True),
    ],
)  # fmt: skip
def test_offset_of_a_cog(
    *,
    baseline: str,
    applied: bool | None,
    pixels: list[BandFloor],
    expected: dict[str, float],
    believed: str,
    told: bool,
) -> None:
    """Earth Search says -0.1 in ``raster:bands`` whatever it did."""
    decision = decide_offsets(
        where="item.json", bands=BANDS, baseline=baseline, declared=MINUS_1000, applied=applied, floors=pixels
    )
    assert dict(decision.offsets) == expected
    assert decision.believed == believed
    assert (decision.note is not None) == told


@pytest.mark.parametrize("applied", [True, False, None])
@pytest.mark.parametrize("baseline", ["02.09", "04.00", "05.10"])
@pytest.mark.parametrize("pixels", [SHIFTED, UNSHIFTED, BRIGHT, []])
@pytest.mark.parametrize("declared", [MINUS_1000, NONE, {}])
def test_never_twice(
    *, applied: bool | None, baseline: str, pixels: list[BandFloor], declared: dict[str, float]
) -> None:
    decision = decide_offsets(
        where="item.json", bands=BANDS, baseline=baseline, declared=declared, applied=applied, floors=pixels
    )
    assert set(decision.offsets.values()) in ({0.0}, {-1000.0})
    if pixels is UNSHIFTED:
        assert dict(decision.offsets) == NONE, "dark pixels have no offset left to take off"


def test_notes_say_what_was_believed_and_why() -> None:
    decision = decide_offsets(
        where="item.json", bands=BANDS, baseline="04.00", declared=MINUS_1000, applied=False, floors=UNSHIFTED
    )
    assert decision.note is not None
    assert "offset of -1000 DN (boa_offset_applied is false)" in decision.note
    assert "the pixels are believed, none is applied" in decision.note
    assert f"B01: {100 * UNSHIFTED[0].dark / UNSHIFTED[0].valid:.2f} % below 500 DN" in decision.note


def test_pixels_of_jpeg_2000_are_not_asked() -> None:
    decision = decide_offsets(where="item.json", bands=BANDS, baseline="05.10", declared={}, applied=None)
    assert dict(decision.offsets) == MINUS_1000
    assert decision.note is None


def test_metadata_of_each_band_counts() -> None:
    declared = {"B01": -1000.0, "B02": -900.0, "B12": -1000.0}
    decision = decide_offsets(where="item.json", bands=BANDS, baseline="06.00", declared=declared, applied=None)
    assert dict(decision.offsets) == declared


@pytest.mark.parametrize("baseline", [None, "05.10"])
@pytest.mark.parametrize("offset", [-1000.0, 0.0])
def test_bands_without_a_word_are_given_what_the_others_have(baseline: str | None, offset: float) -> None:
    """Never two offsets in one product by guess."""
    decision = decide_offsets(
        where="item.json", bands=BANDS, baseline=baseline, declared={"B02": offset}, applied=None, floors=BRIGHT
    )
    assert dict(decision.offsets) == dict.fromkeys(BANDS, offset)
    assert decision.note is not None
    assert f"the Item says the offset of B02 only: B01, B12 are given the same, {offset:g} DN" in decision.note


@pytest.mark.parametrize("baseline", [None, "05.10"])
def test_bands_without_a_word_beside_different_offsets_are_refused(baseline: str | None) -> None:
    declared = {"B01": -1000.0, "B02": 0.0}
    with pytest.raises(ProductError, match="offsets of -1000 to 0 DN for B01, B02 and none for B12"):
        decide_offsets(where="item.json", bands=BANDS, baseline=baseline, declared=declared, applied=None)


def test_offsets_of_other_bands_say_nothing() -> None:
    with pytest.raises(ProductError, match="says nothing about the offset"):
        decide_offsets(where="item.json", bands=BANDS, baseline=None, declared={"B09": 0.0}, applied=None)


def test_no_offset_where_esa_has_one_is_told_if_nothing_can_check_it() -> None:
    decision = decide_offsets(where="item.json", bands=BANDS, baseline="05.10", declared=NONE, applied=None)
    assert dict(decision.offsets) == NONE
    assert decision.note is not None
    assert "ESA's products of baseline 05.10 need -1000 DN: the Item is believed" in decision.note


def test_nothing_says_anything() -> None:
    for applied in (None, False):
        with pytest.raises(ProductError, match=r"item\.json says nothing about the offset .* no processing baseline"):
            decide_offsets(where="item.json", bands=BANDS, baseline=None, declared={}, applied=applied)


@given(st.integers(1, 65535), st.integers(1000, 10_000))
def test_a_constant_scene_is_judged_without_a_crash(value: int, count: int) -> None:
    constant = [floor(band, np.full(count, value)) for band in ("B01", "B12")]
    assert verdict(constant) == ("removed" if value < DARK_DN else "inside" if 600 <= value <= 1400 else "unclear")
