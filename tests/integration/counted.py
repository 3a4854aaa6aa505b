"""Counts of executions, once the server has told of them all: it counts an execution after it has answered it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.stream.polling import DEADLINE_S

if TYPE_CHECKING:
    from kappamask_stream.inference import BatchSizes
    from kappamask_stream.inference.types import InferenceClient


async def quiet(client: InferenceClient) -> BatchSizes:
    """Batch sizes once they stand still: the canary of the connection is counted after it was answered, too."""
    async with asyncio.timeout(DEADLINE_S):
        found = await client.batch_sizes()
        while True:
            await asyncio.sleep(0.02)
            if (later := await client.batch_sizes()) == found:
                return found
            found = later


async def counted(client: InferenceClient, before: BatchSizes, tiles: int) -> BatchSizes:
    """Batch sizes since `before`, as soon as they hold this many tiles, or a reason why there are none."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            since = (await client.batch_sizes()).since(before)
            if since.counts is None or sum(size * count for size, count in since.counts.items()) >= tiles:
                return since
            await asyncio.sleep(0.01)
