"""OFFSET and SCALE against the formulas of each radiometry, on every real baseline."""

import json
from pathlib import Path

import numpy as np
import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ProductError, UsageError
from kappamask_stream.metadata import product_metadata
from kappamask_stream.radiometry import offset_scale
from tests.conftest import make_contract
from tests.unit.test_metadata import REAL

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
TEN = {"B02", "B03", "B04", "B08", "AOT", "WVP"}
SIXTY = {"B01", "B09", "B10"}
DN = np.array([0, 1, 500, 999, 1000, 1001, 1500, 10000, 30000, 65535], np.uint16)


def kappamask(level: str, channels: tuple[str, ...], max_v: tuple[float, ...]) -> ModelContract:
    from kappamask_stream.contract import BandGroup

    groups = {gsd: tuple(b for b in channels if (b in TEN, b in SIXTY) == key) for gsd, key in (
        (10, (True, False)), (20, (False, False)), (60, (False, True)))}  # fmt: skip
    return make_contract(
        inputs=tuple(
            BandGroup(gsd_m=gsd, bands=bands, tile={10: 512, 20: 256, 60: 85}[gsd], stride=4800 // gsd)
            for gsd, bands in groups.items()
        ),
        gsd_m=10, tile_size=512, margin=16, family="kappamask", level=level, channels=channels, divisors=max_v,
        dn_unit="full_scale", name=f"kappamask_{level.lower()}",
    )  # fmt: skip


@pytest.fixture
def l1c() -> ModelContract:
    return kappamask("L1C", BANDS, tuple(0.2 + 0.01 * i for i in range(13)))


@pytest.fixture
def l2a() -> ModelContract:
    channels = ("AOT", *(b for b in BANDS if b != "B10"), "WVP")
    return kappamask("L2A", channels, (0.0107, *(0.25 + 0.01 * i for i in range(12)), 0.14))


@pytest.mark.parametrize("radiometry", ["km-predict", "", None])
def test_an_unknown_radiometry_is_refused(l2a: ModelContract, radiometry) -> None:
    with pytest.raises(UsageError, match=r"radiometry is .*: allowed is corrected or km_predict"):
        offset_scale(l2a, offsets={}, quantification={}, radiometry=radiometry)


def seen(offset: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What the network sees of `DN`, [channels, DN], in the served graph's arithmetic."""
    return np.maximum(DN.astype(np.float32) + offset[:, None], 0) * scale[:, None]


def test_arrays_are_float32_in_channel_order(l2a: ModelContract) -> None:
    offset, scale = offset_scale(l2a, offsets={"B02": -1000.0}, quantification={}, radiometry="corrected")
    assert offset.dtype == scale.dtype == np.float32
    assert offset.shape == scale.shape == (14,)
    assert offset.tolist() == [-1000.0 if band == "B02" else 0.0 for band in l2a.channels]


def test_corrected_full_scale(l2a: ModelContract) -> None:
    offsets = dict.fromkeys((*BANDS, "AOT", "WVP"), -1000.0)
    x = seen(*offset_scale(l2a, offsets=offsets, quantification={}, radiometry="corrected"))
    for channel, (band, max_v) in enumerate(zip(l2a.channels, l2a.divisors, strict=True)):
        shift = -1000 / 65535 if band.startswith("B") else 0.0
        expected = np.maximum(DN / 65535 + shift, 0) / max_v
        np.testing.assert_allclose(x[channel], expected, rtol=3e-7)
    assert (x[1, :5] == 0).all(), "nodata stays 0"


def test_corrected_quantification(csmask_contract: ModelContract) -> None:
    quantification = dict.fromkeys(csmask_contract.channels, 10000.0)
    offsets = dict.fromkeys(BANDS, -1000.0)
    x = seen(*offset_scale(csmask_contract, offsets=offsets, quantification=quantification, radiometry="corrected"))
    np.testing.assert_allclose(x[0], np.maximum(DN.astype(float) - 1000, 0) / 10000, rtol=3e-7)


def test_the_contract_may_refuse_offsets(l2a: ModelContract) -> None:
    contract = kappamask("L2A", l2a.channels, l2a.divisors)
    object.__setattr__(contract, "offset_rule", "none")
    offset, _ = offset_scale(contract, offsets=dict.fromkeys(BANDS, -1000.0), quantification={}, radiometry="corrected")
    assert not offset.any()


def test_km_predict_ignores_the_offsets_of_l2a(l2a: ModelContract) -> None:
    offsets = dict.fromkeys(BANDS, -1000.0)
    offset, scale = offset_scale(l2a, offsets=offsets, quantification={}, radiometry="km_predict")
    assert not offset.any()
    np.testing.assert_array_equal(scale, (1 / (65535 * np.array(l2a.divisors))).astype(np.float32))


def test_km_predict_moves_the_maximum_of_l1c_twice(l1c: ModelContract) -> None:
    offsets = {band: -1000.0 - i for i, band in enumerate(BANDS)}
    x = seen(*offset_scale(l1c, offsets=offsets, quantification={}, radiometry="km_predict"))
    for channel, (band, max_v) in enumerate(zip(l1c.channels, l1c.divisors, strict=True)):
        o = offsets[band] / 65535
        expected = np.maximum((DN / 65535 + o) / (max_v + 2 * o), 0)
        np.testing.assert_allclose(x[channel], expected, rtol=3e-7)


def test_without_offsets_both_radiometries_are_one(l1c: ModelContract) -> None:
    zero = dict.fromkeys(BANDS, 0.0)
    corrected = offset_scale(l1c, offsets=zero, quantification={}, radiometry="corrected")
    km_predict = offset_scale(l1c, offsets=zero, quantification={}, radiometry="km_predict")
    np.testing.assert_array_equal(corrected, km_predict)


def test_km_predict_is_for_kappamask(csmask_contract: ModelContract) -> None:
    with pytest.raises(UsageError, match=r"of family test: use --radiometry corrected"):
        offset_scale(csmask_contract, offsets={}, quantification={}, radiometry="km_predict")


def test_a_missing_quantification_value(csmask_contract: ModelContract) -> None:
    with pytest.raises(ProductError, match=r"no quantification value for B02, .* it gives them for \['B03'\]"):
        offset_scale(csmask_contract, offsets={}, quantification={"B03": 1e4}, radiometry="corrected")


@pytest.mark.parametrize("value", [0.0, -10000.0, float("inf"), float("nan")])
def test_scales_are_positive_numbers(csmask_contract: ModelContract, value: float) -> None:
    quantification = dict.fromkeys(csmask_contract.channels, value)
    with pytest.raises(ProductError, match="B02 would be divided by"):
        offset_scale(csmask_contract, offsets={}, quantification=quantification, radiometry="corrected")


def test_an_offset_that_eats_the_maximum(l1c: ModelContract) -> None:
    with pytest.raises(ProductError, match=r"B01 would be divided by -893 DN \(offset -7000 DN, divisor 0\.2, "):
        offset_scale(l1c, offsets=dict.fromkeys(BANDS, -7000.0), quantification={}, radiometry="km_predict")


@pytest.mark.shared
@pytest.mark.parametrize("folder", REAL)
def test_every_real_baseline(shared_dir: Path, folder: str, l1c: ModelContract, l2a: ModelContract) -> None:
    level, _, _, _, _, _, expected = REAL[folder]
    root = shared_dir / "data" / "metadata" / folder
    xml = next(root.glob("MTD_MSI*.xml"), root / "product_metadata.xml")
    product = product_metadata(xml.read_bytes(), xml.name)
    norm = json.loads((shared_dir / "data" / "kappamask" / "normalisation.json").read_text())
    for architecture in ("DeepLabv3Plus", "Unet"):
        network = norm[f"{level}_{architecture}"]
        contract = kappamask(level, tuple(network["bands"]), tuple(network["max_v"]))
        for radiometry in ("corrected", "km_predict"):
            offset, scale = offset_scale(
                contract, offsets=product.offsets, quantification=product.quantification, radiometry=radiometry
            )
            applied = expected if radiometry == "corrected" or level == "L1C" else 0
            assert offset.tolist() == [applied if band.startswith("B") else 0 for band in contract.channels]
            np.testing.assert_allclose(scale, 1 / (65535 * np.array(contract.divisors)), rtol=1e-6)


@pytest.mark.shared
def test_km_predict_on_l1c_of_baseline_4_with_real_maxima(shared_dir: Path) -> None:
    """The smallest maximum, of B10, is far enough from twice the offset for both networks."""
    norm = json.loads((shared_dir / "data" / "kappamask" / "normalisation.json").read_text())
    for architecture in ("DeepLabv3Plus", "Unet"):
        network = norm[f"L1C_{architecture}"]
        contract = kappamask("L1C", tuple(network["bands"]), tuple(network["max_v"]))
        _, scale = offset_scale(
            contract, offsets=dict.fromkeys(BANDS, -1000.0), quantification={}, radiometry="km_predict"
        )
        o = -1000 / 65535
        np.testing.assert_allclose(scale, 1 / (65535 * (np.array(network["max_v"]) + 2 * o)), rtol=1e-6)


@pytest.mark.parametrize("value", [1e-300, 1e-39, 1e39, 1e300])
def test_a_scale_that_float32_cannot_hold_is_refused(csmask_contract: ModelContract, value: float) -> None:
    """The network would see infinities, or nothing at all."""
    quantification = dict.fromkeys(BANDS, value)
    with pytest.raises(ProductError, match=r"B02 would be divided by 1e.* DN"):
        offset_scale(csmask_contract, offsets={}, quantification=quantification, radiometry="corrected")
