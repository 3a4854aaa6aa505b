"""What every `InferenceClient` must do: the fake that the stream's tests use, and the client of a real Triton.

Both call a pixel cloud (4) where the first band is above 3000, with OFFSET 0 and SCALE 1e-4.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.inference import InferenceClient, TileRequest, TritonClient
from tests.integration.counted import counted
from tests.stream.fakes import FakeInference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray


REAL = [pytest.param(transport, marks=pytest.mark.integration) for transport in ("gRPC", "shared memory")]


@pytest.fixture(params=["fake", *REAL])
async def client(request: pytest.FixtureRequest, csmask_contract: ModelContract) -> AsyncIterator[InferenceClient]:
    """One of the two, the real one over each of its transports; closed at the end."""
    made: InferenceClient
    if request.param == "fake":
        made = FakeInference(csmask_contract)
    else:
        server = request.getfixturevalue("session_server")
        made = await TritonClient.connect(
            f"grpc://{server.address}",
            "null_l2a",
            shared_memory=request.param == "shared memory",
            memory_key=server.memory_key,
        )
        assert made.transport.name == request.param
    yield made
    await made.aclose()


def pixels(client: InferenceClient, seed: int) -> dict[str, NDArray[np.uint16]]:
    """Bright blobs at random places; no pixel is near the threshold."""
    rng = np.random.default_rng(seed)
    group = client.contract.inputs[0]
    tile = rng.integers(200, 2500, (len(group.bands), group.tile, group.tile), np.uint16)
    for _ in range(6):
        row, col = rng.integers(0, group.tile - 40, 2)
        tile[:, row : row + 40, col : col + 40] += 4000
    return {group.tensor: tile}


def tile_request(client: InferenceClient, seed: int, *, probabilities: bool = False) -> TileRequest:
    channels = len(client.contract.channels)
    return TileRequest(
        name=f"tile {seed}",
        tensors=pixels(client, seed),
        offset=np.zeros(channels, np.float32),
        scale=np.full(channels, 1e-4, np.float32),
        probabilities=probabilities,
    )


def expected(request: TileRequest) -> NDArray[np.uint8]:
    (tile,) = request.tensors.values()
    return np.where(tile[0] > 3000, 4, 1).astype(np.uint8)


async def test_it_carries_the_contract_of_its_model(client: InferenceClient) -> None:
    contract = client.contract
    assert isinstance(contract, ModelContract)
    assert ModelContract.from_json(contract.to_json()) == contract
    assert (contract.tile_size, contract.max_batch, contract.instances) == (256, 8, 1)


async def test_labels_are_those_of_the_tile(client: InferenceClient) -> None:
    request = tile_request(client, 1)
    result = await client.infer(request)
    assert result.labels.dtype == np.uint8
    assert np.array_equal(result.labels, expected(request))
    assert set(np.unique(result.labels).tolist()) == {1, 4}


async def test_probabilities_come_only_when_asked_for(client: InferenceClient) -> None:
    assert (await client.infer(tile_request(client, 2))).probabilities is None
    result = await client.infer(tile_request(client, 2, probabilities=True))
    assert result.probabilities is not None
    assert result.probabilities.shape == (len(client.contract.probability_classes), 256, 256)
    assert result.probabilities.dtype == np.uint8
    values = np.array(client.contract.probability_classes, np.uint8)
    assert np.array_equal(values[result.probabilities.argmax(axis=0)], result.labels)


async def test_answers_find_the_tile_that_asked_however_many_are_in_flight(client: InferenceClient) -> None:
    requests = [tile_request(client, seed, probabilities=seed % 3 == 0) for seed in range(24)]
    results = await asyncio.gather(*(client.infer(request) for request in requests))
    for request, result in zip(requests, results, strict=True):
        assert np.array_equal(result.labels, expected(request)), request.name
        assert (result.probabilities is not None) == request.probabilities


async def test_a_tile_is_answered_alike_every_time(client: InferenceClient) -> None:
    request = tile_request(client, 5)
    before = {name: array.copy() for name, array in request.tensors.items()}
    first, second = await client.infer(request), await client.infer(request)
    assert np.array_equal(first.labels, second.labels)
    for name, array in request.tensors.items():
        assert np.array_equal(array, before[name]), "a request's pixels are the caller's"


async def test_answers_outlive_the_request_and_the_next_answer(client: InferenceClient) -> None:
    first = tile_request(client, 6)
    result = await client.infer(first)
    await client.infer(tile_request(client, 7))
    assert np.array_equal(result.labels, expected(first))


async def test_a_cancelled_tile_leaves_the_client_usable(client: InferenceClient) -> None:
    waiting = [asyncio.create_task(client.infer(tile_request(client, seed))) for seed in range(8)]
    await asyncio.sleep(0)  # each has begun
    for task in waiting[::2]:
        task.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    for seed, result in enumerate(ended):
        if seed % 2 == 0:
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert not isinstance(result, BaseException)
    request = tile_request(client, 9)
    assert np.array_equal((await client.infer(request)).labels, expected(request))


async def test_it_is_ready(client: InferenceClient) -> None:
    assert await client.is_ready() is True


async def test_batch_sizes_are_known_or_there_is_a_reason(client: InferenceClient) -> None:
    before = await client.batch_sizes()
    await asyncio.gather(*(client.infer(tile_request(client, seed)) for seed in range(5)))
    since = await counted(client, before, 5)
    assert (since.counts is None) == (since.reason is not None)
    if since.counts is not None:
        assert sum(size * count for size, count in since.counts.items()) == 5
        assert since.mean is not None
        assert 1 <= since.mean <= client.contract.max_batch


async def test_it_closes_twice(client: InferenceClient) -> None:
    await client.aclose()
    await client.aclose()
