"""gRPC connects again by itself, between two tiles: whoever answers then is asked for the canary before anything else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kappamask_stream.canary import canary_tile, known_answer
from kappamask_stream.errors import CanaryError
from kappamask_stream.inference.triton import TritonClient
from tests.integration.kserve_servers import Replica, serving
from tests.stream.polling import until
from tests.stream.test_canary_watch import PLAIN, SIZE, tile

#: One loop after the other, as `mask_product_sync` and notebooks have them; gRPC's own thread outlives them all.
LOOPS = """
import asyncio, grpc
from tritonclient.utils import InferenceServerException
from kappamask_stream.inference.channel import Connection
from kappamask_stream.inference.endpoint import parse_endpoint

kept = []

async def keep():
    kept.append(grpc.aio.insecure_channel("127.0.0.1:1"))

async def open_and_close(ends):
    connection = Connection.open(parse_endpoint("grpc://127.0.0.1:1"))
    connection.expect(1)
    try:
        if ends == "fails":
            await connection.infer(b"", timeout_s=0.05)
        await asyncio.sleep(0.01 if ends == "closed" else 60)
    finally:
        await connection.aclose()

async def cancelled():
    task = asyncio.create_task(open_and_close("cancelled"))
    await asyncio.sleep(0.05)
    task.cancel()
    await task

asyncio.run(keep())
for _ in range(50):
    asyncio.run(open_and_close("closed"))
for loop in (lambda: open_and_close("fails"), cancelled):
    for _ in range(20):
        try:
            asyncio.run(loop())
        except (InferenceServerException, asyncio.CancelledError):
            pass
        else:
            raise AssertionError(loop)
"""
RIGHT = np.full((SIZE, SIZE), 4 if canary_tile(PLAIN).tensors["DN_20M"].flat[0] > 3000 else 1, np.uint8)
SURE = np.stack([np.where(value == RIGHT, 255, 0) for value in PLAIN.probability_classes]).astype(np.uint8)
CONTRACT = replace(PLAIN, min_agreement=0.9995, canary=known_answer(PLAIN, RIGHT, SURE))


class Server(Replica):
    """Counts; answers garbage where told.

    Attributes
    ----------
    looks : how often it was asked for the model's configuration.
    garbage : True answers another class everywhere.
    """

    def __init__(self, *, garbage: bool = False) -> None:
        super().__init__(CONTRACT)
        self.looks, self.garbage = 0, garbage

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.looks += 1
        return await super().ModelConfig(request, context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = await super().ModelInfer(request, context)
        if self.garbage:
            answer.raw_output_contents[0] = bytes([2]) * SIZE * SIZE
        return answer


@pytest.mark.parametrize("canary_s", [0.0, 600.0])
async def test_a_server_that_is_another_after_a_silent_reconnect_is_found_out(canary_s: float) -> None:
    """The old one ends and the new one is there before the next tile: no request is lost."""
    new = Server(garbage=True)
    async with (
        serving(Server()) as (old, port),
        await TritonClient.connect(f"grpc://127.0.0.1:{port}", CONTRACT.name, canary_s=canary_s) as client,
    ):
        await client.infer(tile())
        await old.stop(0)
        async with serving(new, f"127.0.0.1:{port}"):
            await until(lambda: client.connection.reconnects.count)
            async with asyncio.timeout(20):
                while not await client.is_ready():  # noqa: ASYNC110 - gRPC has no event for it
                    await asyncio.sleep(0.05)
            assert client.is_doubtful
            with pytest.raises(CanaryError):
                await client.infer(tile())
            assert (new.looks, new.tiles) == (1, 1), "the contract and the canary, no tile"
            with pytest.raises(CanaryError):
                await client.confirm()


async def test_connections_of_limited_age_cost_one_canary_each() -> None:
    """`--grpc-max-connection-age`: the same server says that it is time to connect again, and no tile fails."""
    server, ages = Server(), [("grpc.max_connection_age_ms", 200), ("grpc.max_connection_age_grace_ms", 5000)]
    async with (
        serving(server, options=ages) as (_, port),
        await TritonClient.connect(f"grpc://127.0.0.1:{port}", CONTRACT.name) as client,
    ):
        tiles = 0
        while client.connection.reconnects.count < 4:
            await asyncio.gather(*(client.infer(tile()) for _ in range(8)))
            tiles += 8
            await asyncio.sleep(0.02)
        await client.confirm()
        assert 3 <= server.tiles - tiles <= 2 + client.connection.reconnects.count


async def test_nothing_is_left_of_a_client_that_is_closed() -> None:
    async with serving(Server()) as (_, port):
        before = asyncio.all_tasks()
        for _ in range(3):
            async with await TritonClient.connect(f"grpc://127.0.0.1:{port}", CONTRACT.name) as client:
                await client.infer(tile())
                assert any(task.get_name() == "watches a connection" for task in asyncio.all_tasks())
        left = asyncio.all_tasks() - before
        assert not [task for task in left if task.get_name() == "watches a connection"]


def test_one_event_loop_after_the_other_says_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", LOOPS], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
