"""The network that answers at once: valid answers that follow the pixels, for any contract."""

from __future__ import annotations

import numpy as np
import pytest

from kappamask_stream.bench.null_client import NullClient
from kappamask_stream.contract import ModelContract
from kappamask_stream.inference import TileRequest


def request(contract: ModelContract, *, probabilities: bool = False, seed: int = 0) -> TileRequest:
    rng = np.random.default_rng(seed)
    channels = np.ones(len(contract.channels), np.float32)
    return TileRequest(
        name="tile",
        tensors={g.tensor: rng.integers(1, 6000, (len(g.bands), g.tile, g.tile), np.uint16) for g in contract.inputs},
        offset=channels,
        scale=channels,
        probabilities=probabilities,
    )


@pytest.fixture(params=["csmask_contract", "l1c_csmask_contract", "kappamask_contract"])
def contract(request: pytest.FixtureRequest) -> ModelContract:
    found: ModelContract = request.getfixturevalue(request.param)
    return found


async def test_answers_are_those_that_the_contract_allows(contract: ModelContract) -> None:
    answer = await NullClient(contract).infer(request(contract))
    assert answer.labels.dtype == np.uint8
    assert answer.labels.shape == (contract.tile_size, contract.tile_size)
    found = set(np.unique(answer.labels).tolist())
    assert found == set(contract.probability_classes) - {contract.nodata_class}
    assert answer.probabilities is None


async def test_probabilities_are_certain_of_the_label(contract: ModelContract) -> None:
    answer = await NullClient(contract).infer(request(contract, probabilities=True))
    assert answer.probabilities is not None
    assert answer.probabilities.dtype == np.uint8
    np.testing.assert_array_equal(np.array(contract.probability_classes)[answer.probabilities.argmax(0)], answer.labels)
    assert (answer.probabilities.astype(int).sum(axis=0) == 255).all()


async def test_other_pixels_give_another_answer(contract: ModelContract) -> None:
    client = NullClient(contract)
    first, second = [await client.infer(request(contract, seed=seed)) for seed in (1, 2)]
    assert (first.labels != second.labels).any()


async def test_it_is_a_reflectance_that_decides(kappamask_contract: ModelContract) -> None:
    """The first band of KappaMask's tiles is AOT, whose few hundred DN would give a mask of one class."""
    asked = request(kappamask_contract)
    answer = await NullClient(kappamask_contract).infer(asked)
    blue = asked.tensors["DN_10M"][kappamask_contract.inputs[0].bands.index("B02")]
    expected = np.array([0, 1, 2, 3, 4])[blue[::4, ::4] // 1024 % 5]
    np.testing.assert_array_equal(answer.labels, np.kron(expected, np.ones((4, 4), int)))


async def test_a_band_of_another_resolution_is_spread_over_the_mask(l1c_csmask_contract: ModelContract) -> None:
    """None of this model's bands has the mask's 40 m, and tiles have an odd size: nothing of that matters."""
    sized = {"gsd_m": 40, "tile_size": 127, "margin": 12.5}
    contract = ModelContract(**{**vars(l1c_csmask_contract), **sized})
    asked = request(contract)
    answer = await NullClient(contract).infer(asked)
    assert answer.labels.shape == (127, 127)
    deciding = asked.tensors["DN_20M"][0, 124 * 256 // 127, 8 * 256 // 127]
    assert answer.labels[126, 10] == (1, 2, 4)[deciding // 1024 % 3]
