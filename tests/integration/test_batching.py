"""Dynamic batching, seen in the server's own statistics: what waits while an instance works becomes one batch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kappamask_stream.inference import (
    BatchSizes,
    InFlightWindow,
    RetryPolicy,
    TileRequest,
    TritonClient,
    infer_with_retry,
)
from tests.integration.counted import counted, quiet

if TYPE_CHECKING:
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration


def request_for(client: TritonClient, seed: int) -> TileRequest:
    rng = np.random.default_rng(seed)
    tensors = {
        g.tensor: rng.integers(1000, 6000, (len(g.bands), g.tile, g.tile), np.uint16) for g in client.contract.inputs
    }
    zeros = np.zeros(len(client.contract.channels), np.float32)
    return TileRequest(name=f"tile {seed}", tensors=tensors, offset=zeros, scale=zeros + np.float32(1e-4))


async def closed_loop(client: TritonClient, tiles: int) -> BatchSizes:
    """Send tiles as a product does: as many in flight as the window lets, each as soon as another is answered."""
    window = InFlightWindow.for_contract(client.contract)
    before = await quiet(client)
    prepared = [request_for(client, seed) for seed in range(8)]
    await asyncio.gather(
        *(
            infer_with_retry(client, prepared[i % len(prepared)], window=window, policy=RetryPolicy())
            for i in range(tiles)
        )
    )
    assert window.in_flight == 0
    assert window.limit == window.maximum, "nothing was turned away"
    return await counted(client, before, tiles)


@pytest.mark.parametrize(("model", "tiles"), [("null_l2a", 160), ("csmask_l2a", 48)])
async def test_concurrent_tiles_are_served_in_batches(
    session_server: SessionServer, csmask_address: str, model: str, tiles: int
) -> None:
    async with await TritonClient.connect(f"grpc://{session_server.address}", model) as client:
        sizes = await closed_loop(client, tiles)
    assert sizes.reason is None
    assert sizes.counts is not None
    assert sum(size * count for size, count in sizes.counts.items()) == tiles
    assert max(sizes.counts) <= client.contract.max_batch
    assert sizes.mean is not None
    assert sizes.mean > 2, sizes.counts


async def test_one_tile_at_a_time_is_one_batch_each(session_server: SessionServer) -> None:
    async with await TritonClient.connect(f"grpc://{session_server.address}", "null_l2a") as client:
        before = await quiet(client)
        for seed in range(5):
            await client.infer(request_for(client, seed))
        assert await counted(client, before, 5) == BatchSizes(counts={1: 5})
