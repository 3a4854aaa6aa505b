"""DeepLabv3+ on km_predict's golden tiles: from a product's pixels to classes, in the engines and through Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream.inference import BatchSizes, InferResult, TritonClient
from tests.golden.conftest import Answers, GoldenModels
from tests.golden.golden_tiles import TILES, GoldenTile, agreement, difference, per_channel
from tests.integration.counted import counted, quiet

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

pytestmark = [pytest.mark.shared, pytest.mark.integration]

MODEL = "kappamask_l2a_deeplabv3plus"
#: Engine and precision of everything that is looked at.
FLAVOURS = ("openvino-f32", "onnxruntime-f32", "openvino-bf16", "half-fp16")
FLOAT32 = FLAVOURS[:2]
TENSORS = ("normalised", "probabilities", "LABELS", "PROBABILITIES")

Run = Callable[[str], Answers]


def name_of(flavour: str) -> str:
    precision = flavour.partition("-")[2]
    return MODEL if precision == "f32" else f"{MODEL}_{precision}"


@pytest.fixture(scope="module")
def contract(golden_models: GoldenModels) -> ModelContract:
    golden_models.served(MODEL)  # so that it is built as a run builds it
    return golden_models.built(MODEL)


@pytest.fixture(scope="module")
def run(golden_models: GoldenModels, golden_dir: Path, contract: ModelContract, results_dir: Path) -> Run:
    """All tiles through one engine in one precision, once."""
    done: dict[str, Answers] = {}
    tiles = {name: GoldenTile(golden_dir, name).inputs(contract) for name in TILES}

    def answers(flavour: str) -> Answers:
        if flavour not in done:
            folder = results_dir / f"deeplab-{flavour}"
            done[flavour] = golden_models.run(flavour.partition("-")[0], name_of(flavour), tiles, TENSORS, folder)
        return done[flavour]

    return answers


def test_the_contract_has_the_constants_of_km_predict(
    contract: ModelContract, divisors: dict[str, dict[str, float]]
) -> None:
    expected = divisors["L2A_DeepLabv3Plus"]
    assert dict(zip(contract.channels, contract.divisors, strict=True)) == expected
    assert contract.channels == tuple(expected)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_network_sees_what_km_predicts_saw(
    run: Run, contract: ModelContract, tile: GoldenTile, flavour: str
) -> None:
    """In every precision: bfloat16 would be off by hundreds of DN, and lost quanta change half of all values."""
    x = run(flavour)(tile.name, "normalised")
    assert x.dtype == np.float32
    dn = x.astype(np.float64) * per_channel(contract.divisors) * 65535
    whole = np.rint(dn)
    assert np.abs(dn - whole).max() <= 0.01, "more than what float32 rounds off"
    differences = np.abs(whole - tile.quanta(contract))
    equal = float((differences == 0).mean())
    print(f"{flavour}, tile {tile.name}: x equal for {equal:.6f}, largest difference {differences.max():g} DN")
    assert differences.max() <= 2
    assert equal >= 0.999


@pytest.mark.parametrize("flavour", FLOAT32)
def test_float32_answers_as_km_predict(run: Run, tile: GoldenTile, flavour: str) -> None:
    answers, golden = run(flavour), tile.output()
    labels, probabilities = answers(tile.name, "LABELS"), answers(tile.name, "probabilities")
    worst, same = difference(probabilities, golden.probabilities), agreement(labels, golden.labels)
    print(f"{flavour}, tile {tile.name}: argmax equal for {same:.6f}, probabilities within {worst:.5f}")
    assert worst <= 2e-3
    assert same >= 0.9995


@pytest.mark.parametrize("flavour", FLAVOURS[2:])
def test_a_lower_precision_keeps_the_share_of_classes_that_its_contract_says(
    run: Run, golden_models: GoldenModels, tile: GoldenTile, flavour: str
) -> None:
    contract = golden_models.built(name_of(flavour))
    same = agreement(run(flavour)(tile.name, "LABELS"), run(FLOAT32[0])(tile.name, "LABELS"))
    print(f"{flavour}, tile {tile.name}: argmax equals float32's for {same:.6f}, contract {contract.min_agreement}")
    assert same >= contract.min_agreement
    assert contract.min_agreement >= 0.98


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_worst_tile_is_about_as_its_contract_says(
    run: Run, golden_models: GoldenModels, golden_dir: Path, flavour: str
) -> None:
    """Neither worse nor better: float32 in disguise would pass any floor.

    bfloat16 depends on the CPU's instructions: 0.9881 with AVX-512's, 0.9889 with AMX's.
    """
    float32 = {name: run(FLOAT32[0])(name, "LABELS") for name in TILES}
    golden = {name: GoldenTile(golden_dir, name).output().labels for name in TILES}
    reference = golden if flavour in FLOAT32 else float32
    worst = min(agreement(run(flavour)(name, "LABELS"), reference[name]) for name in TILES)
    measured = golden_models.built(name_of(flavour)).measured_agreement
    print(f"{flavour}: {worst:.6f} on the worst tile, its contract says {measured}")
    assert measured is not None
    assert worst == pytest.approx(measured, abs=0.1 * (1 - measured) + 5e-5)


@pytest.fixture(scope="module")
def address(golden_models: GoldenModels) -> str:
    return f"grpc://{golden_models.served(MODEL)}"


@pytest.fixture(scope="module")
def single(address: str, golden_dir: Path) -> dict[str, InferResult]:
    """All tiles through Triton, one after the other."""

    async def infer() -> dict[str, InferResult]:
        async with await TritonClient.connect(address, MODEL) as client:
            return {name: await client.infer(GoldenTile(golden_dir, name).request(client.contract)) for name in TILES}

    return asyncio.run(infer())


def test_triton_answers_as_km_predict(single: dict[str, InferResult], tile: GoldenTile) -> None:
    answer, golden = single[tile.name], tile.output()
    assert answer.probabilities is not None
    worst = difference(answer.probabilities.astype(np.float64) / 255, golden.probabilities)
    same = agreement(answer.labels, golden.labels)
    print(f"Triton, tile {tile.name}: argmax equal for {same:.6f}, probabilities within {worst:.5f}")
    assert worst <= 3e-3
    assert same >= 0.9995


def test_triton_serves_what_was_looked_at(run: Run, single: dict[str, InferResult], tile: GoldenTile) -> None:
    """The inner tensors above came out of an engine that was told to show them: it computes the same."""
    answers, answer = run("openvino-f32"), single[tile.name]
    assert answer.probabilities is not None
    assert agreement(answer.labels, answers(tile.name, "LABELS")) >= 0.9999
    assert difference(answer.probabilities, answers(tile.name, "PROBABILITIES")) <= 1


def test_tiles_in_a_batch_are_answered_as_alone_bit_for_bit(
    address: str, single: dict[str, InferResult], golden_dir: Path
) -> None:
    async def infer() -> tuple[list[InferResult], BatchSizes]:
        async with await TritonClient.connect(address, MODEL) as client:
            before = await quiet(client)
            requests = [GoldenTile(golden_dir, name).request(client.contract) for name in TILES]
            answers = await asyncio.gather(*(client.infer(request) for request in requests))
            return answers, await counted(client, before, len(TILES))

    together, sizes = asyncio.run(infer())
    print(f"batches of six tiles: {sizes.counts}")
    assert sizes.counts is not None
    assert max(sizes.counts) > 1, "no batch was formed"
    for name, answer in zip(TILES, together, strict=True):
        alone = single[name]
        assert answer.probabilities is not None
        assert alone.probabilities is not None
        assert answer.labels.tobytes() == alone.labels.tobytes(), name
        assert answer.probabilities.tobytes() == alone.probabilities.tobytes(), name
