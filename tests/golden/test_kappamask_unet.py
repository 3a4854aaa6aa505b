"""The U-Net with 8 instead of 64 filters on km_predict's golden tile: the same graph, widths out of the file.

The margins of these weights are small (below 0.01 on half of the pixels), so whole DN that round the other way in the
enlargement show: what is asked from native pixels is less than from what km_predict's network saw, and says nothing of
probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream.inference import TritonClient
from tests.golden.golden_tiles import GoldenTile, Output, agreement, difference

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from tests.golden.conftest import Answers, GoldenModels

pytestmark = [pytest.mark.shared, pytest.mark.integration]

MODEL, TILE = "kappamask_l2a_unet", "8_7"
ENGINES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def contract(golden_models: GoldenModels) -> ModelContract:
    golden_models.served(MODEL)  # so that it is built as a run builds it
    return golden_models.built(MODEL)


@pytest.fixture(scope="module")
def golden_tile(golden_dir: Path) -> GoldenTile:
    return GoldenTile(golden_dir, TILE)


@pytest.fixture(scope="module")
def golden(golden_tile: GoldenTile) -> Output:
    return golden_tile.output("l2a_unet_8filters_golden.npz")


def whole_graph(golden_models: GoldenModels, tile: GoldenTile, engine: str, name: str, folder: Path) -> Answers:
    inputs = tile.inputs(golden_models.built(name))
    tensors = ("normalised", "probabilities", "LABELS", "PROBABILITIES")
    return golden_models.run(engine, name, {TILE: inputs}, tensors, folder)


@pytest.fixture(scope="module")
def native(
    golden_models: GoldenModels, contract: ModelContract, golden_tile: GoldenTile, results_dir: Path
) -> dict[str, Answers]:
    """From a product's pixels through the whole graph in float32, per engine."""
    return {
        engine: whole_graph(golden_models, golden_tile, engine, MODEL, results_dir / f"unet-{engine}")
        for engine in ENGINES
    }


def test_the_contract_has_the_constants_of_km_predict(
    contract: ModelContract, divisors: dict[str, dict[str, float]]
) -> None:
    expected = divisors["L2A_Unet"]
    assert dict(zip(contract.channels, contract.divisors, strict=True)) == expected
    assert contract.channels == tuple(expected)
    assert "B07" not in contract.channels


@pytest.mark.parametrize("engine", ENGINES)
def test_the_network_alone_answers_as_km_predict(
    golden_models: GoldenModels, contract: ModelContract, golden_tile: GoldenTile, golden: Output, results_dir: Path,
    engine: str,
) -> None:  # fmt: skip
    inputs = {"normalised": golden_tile.x(contract), "input_magnitude": np.zeros((1, 1, 1), np.float32)}
    tensors = ("probabilities", "LABELS")
    answers = golden_models.run(engine, MODEL, {TILE: inputs}, tensors, results_dir / f"unet-alone-{engine}")
    same = agreement(answers(TILE, "LABELS"), golden.labels)
    worst = difference(answers(TILE, "probabilities"), golden.probabilities)
    print(f"U-Net, {engine}, from km_predict's quanta: argmax equal for {same:.6f}, probabilities within {worst:.5f}")
    assert worst <= 2e-3
    assert same >= 0.9995


@pytest.mark.parametrize("engine", ENGINES)
def test_the_whole_graph_answers_as_km_predict_from_native_pixels(
    native: dict[str, Answers], contract: ModelContract, golden_tile: GoldenTile, golden: Output, engine: str
) -> None:
    answers = native[engine]
    x, divisors = answers(TILE, "normalised").astype(np.float64), np.array(contract.divisors)[:, None, None]
    dn = np.abs(np.rint(x * divisors * 65535) - golden_tile.quanta(contract))
    same = agreement(answers(TILE, "LABELS"), golden.labels)
    worst = difference(answers(TILE, "probabilities"), golden.probabilities)
    print(
        f"U-Net, {engine}, from native pixels: x equal for {(dn == 0).mean():.6f}, argmax equal for {same:.6f}, "
        f"probabilities within {worst:.5f}"
    )
    assert dn.max() <= 2
    assert (dn == 0).mean() >= 0.999
    assert same >= 0.995


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "bf16"), ("half", "fp16")])
def test_a_lower_precision_keeps_the_share_of_classes_that_its_contract_says(
    golden_models: GoldenModels, native: dict[str, Answers], golden_tile: GoldenTile, results_dir: Path, engine: str,
    precision: str,
) -> None:  # fmt: skip
    name = f"{MODEL}_{precision}"
    answers = whole_graph(golden_models, golden_tile, engine, name, results_dir / f"unet-{precision}")
    contract = golden_models.built(name)
    limit, measured = contract.min_agreement, contract.measured_agreement
    same = agreement(answers(TILE, "LABELS"), native["openvino"](TILE, "LABELS"))
    print(f"U-Net, {engine}-{precision}: argmax equals float32's for {same:.6f}, contract {limit}")
    assert same >= limit
    assert measured is not None
    assert same == pytest.approx(measured, abs=0.1 * (1 - measured) + 5e-5)
    for engine_f32 in ENGINES:  # the pre-processing is float32 all the same
        dn = answers(TILE, "normalised") - native[engine_f32](TILE, "normalised")
        assert np.mean(dn == 0) >= 0.999


async def test_triton_answers_as_km_predict(
    golden_models: GoldenModels, native: dict[str, Answers], golden_tile: GoldenTile, golden: Output
) -> None:
    async with await TritonClient.connect(f"grpc://{golden_models.served(MODEL)}", MODEL) as client:
        answer = await client.infer(golden_tile.request(client.contract))
    assert answer.probabilities is not None
    same = agreement(answer.labels, golden.labels)
    worst = difference(answer.probabilities.astype(np.float64) / 255, golden.probabilities)
    print(f"U-Net, Triton, from native pixels: argmax equal for {same:.6f}, probabilities within {worst:.5f}")
    assert same >= 0.995
    assert agreement(answer.labels, native["openvino"](TILE, "LABELS")) >= 0.9999
    assert difference(answer.probabilities, native["openvino"](TILE, "PROBABILITIES")) <= 1
