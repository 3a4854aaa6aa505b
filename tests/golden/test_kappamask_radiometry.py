"""Both radiometries on the served graph: what the network sees, against km_predict's formulas in float64.

L1C's pixels are a real product's, of 2017 and without an offset: -1000 pushes many of them below 0, which is what the
clamp is for. Weights do not matter here; the graphs are the U-Net's, whose pre-processing is DeepLabv3+'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from kappamask_stream.radiometry import offset_scale
from tests.golden.golden_tiles import GoldenTile, per_channel

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.mask_options import Radiometry
    from tests.golden.conftest import Answers, GoldenModels

pytestmark = [pytest.mark.shared, pytest.mark.integration]

OFFSET = -1000.0
RADIOMETRIES: tuple[Radiometry, ...] = ("corrected", "km_predict")
#: Network and radiometry of each run.
CASES = [(f"{level}_{a}", r) for level, a in (("L1C", "DeepLabv3Plus"), ("L1C", "Unet"), ("L2A", "Unet")) for r in RADIOMETRIES]  # fmt: skip
#: SCALE is rounded to float32, and so is the product.
TOLERANCE = 2 * float(np.finfo(np.float32).eps)


def real_pixels(level: str, contract: ModelContract, shared_dir: Path) -> dict[str, NDArray[np.uint16]]:
    """A tile with nodata ``[bands, height, width]`` per input; L1C's first rows are made nodata."""
    if level == "L2A":
        return GoldenTile(shared_dir / "data" / "kappamask", "12_14").native(contract)
    found = {}
    for group in contract.inputs:
        bands = []
        for band in group.bands:
            with rasterio.open(shared_dir / f"data/l1c_t33uuu/IMG_DATA/T33UUU_20170216T102101_{band}.jp2") as file:
                bands.append(file.read(1, window=Window(0, 0, group.tile, group.tile)))
        found[group.tensor] = np.stack(bands)
        found[group.tensor][:, : group.tile // 4] = 0
    return found


@pytest.fixture(scope="module")
def contracts(golden_models: GoldenModels, divisors: dict[str, dict[str, float]]) -> dict[str, ModelContract]:
    """Per network; DeepLabv3+ for L1C reads what the U-Net reads and divides by other values."""
    made = {f"{level}_Unet": golden_models.built(f"kappamask_{level.lower()}_unet") for level in ("L1C", "L2A")}
    assert made["L1C_Unet"].channels == tuple(divisors["L1C_DeepLabv3Plus"])
    other = tuple(divisors["L1C_DeepLabv3Plus"].values())
    return {**made, "L1C_DeepLabv3Plus": replace(made["L1C_Unet"], divisors=other)}


@pytest.fixture(scope="module")
def levels(
    golden_models: GoldenModels, contracts: dict[str, ModelContract], shared_dir: Path, results_dir: Path
) -> dict[str, Answers]:
    """Per level what the network sees, by case; ``quanta`` is what it sees without OFFSET and SCALE."""
    found = {}
    for level in ("L1C", "L2A"):
        contract = contracts[f"{level}_Unet"]
        tile, ones = real_pixels(level, contract, shared_dir), np.ones(len(contract.channels), np.float32)
        runs: dict[str, dict[str, NDArray[Any]]] = {"quanta": {**tile, "OFFSET": 0 * ones, "SCALE": ones}}
        for network, radiometry in CASES:
            if network.startswith(level):
                offset, scale = offset_scale(
                    contracts[network],
                    offsets=dict.fromkeys(contract.channels, OFFSET),
                    quantification={},
                    radiometry=radiometry,
                )
                runs[f"{network}-{radiometry}"] = {**tile, "OFFSET": offset, "SCALE": scale}
        folder = results_dir / f"radiometry-{level}"
        found[level] = golden_models.run("openvino", contract.name, runs, ("normalised",), folder)
    return found


def test_contracts_of_l1c_have_the_constants_of_km_predict(
    contracts: dict[str, ModelContract], divisors: dict[str, dict[str, float]]
) -> None:
    contract = contracts["L1C_Unet"]
    assert contract.channels == tuple(divisors["L1C_Unet"])
    assert contract.divisors == tuple(divisors["L1C_Unet"].values())


def enlarged(q: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """GraphicsMagick's Blackman-windowed sinc in float64, rows first, pixel by pixel of the answer."""
    for _ in range(2):
        factor, rows = size / len(q), []
        for k in range(size):
            centre = (k + 0.5) / factor
            taps = np.arange(int(max(centre - 4 + 0.5, 0)), int(min(centre + 4 + 0.5, len(q))))
            x = taps - centre + 0.5
            weights = (0.42 + 0.5 * np.cos(np.pi * x / 4) + 0.08 * np.cos(np.pi * x / 2)) * np.sinc(x)
            rows.append(weights @ q[taps] / weights.sum())
        q = np.floor(np.clip(np.stack(rows), 0, 65535) + 0.5).T
    return q


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_every_channel_holds_its_bands_quanta(
    contracts: dict[str, ModelContract], levels: dict[str, Answers], shared_dir: Path, level: str
) -> None:
    """Bands in the network's order, each lost quantum, each enlargement: against a second writing of cm_vsm's rules."""
    contract = contracts[f"{level}_Unet"]
    seen, tile = levels[level]("quanta", "normalised"), real_pixels(level, contract, shared_dir)
    for group in contract.inputs:
        for band, dn in zip(group.bands, tile[group.tensor], strict=True):
            q = np.trunc((dn * np.float32(1 / 65535)).astype(np.float64) * 65535.0)
            expected = q if group.tile == contract.tile_size else enlarged(q, contract.tile_size)
            differences = np.abs(seen[contract.channels.index(band)] - expected)
            assert differences.max() <= 2, band
            assert (differences == 0).mean() >= 0.998, band


@pytest.mark.parametrize(("network", "radiometry"), CASES)
def test_the_network_sees_the_radiometry_that_was_asked_for(
    contracts: dict[str, ModelContract], levels: dict[str, Answers], network: str, radiometry: Radiometry
) -> None:
    contract, answers = contracts[network], levels[network[:3]]
    v = answers("quanta", "normalised").astype(np.float64) / 65535
    max_v = per_channel(contract.divisors)
    reflectance = per_channel([band.startswith("B") for band in contract.channels])
    o = OFFSET / 65535 * reflectance
    if radiometry == "corrected":
        expected = np.maximum(v + o, 0) / max_v
    elif network.startswith("L1C"):
        expected = np.maximum((v + o) / (max_v + 2 * o), 0)
    else:
        expected = v / max_v  # km_predict does not look at L2A's offsets
    seen = answers(f"{network}-{radiometry}", "normalised")
    np.testing.assert_allclose(seen, expected, rtol=TOLERANCE, atol=0)

    nodata = v == 0
    assert nodata.mean() > 0.2
    assert (seen[nodata] == 0).all()
    if radiometry == "corrected" or network.startswith("L1C"):
        below = (v > 0) & (v + o < 0)
        assert below.any(), "the clamp is not put to the test"
        assert (seen[below] == 0).all()
    if network.startswith("L2A"):
        aerosol = contract.channels.index("AOT")
        assert seen[aerosol].max() > 0
