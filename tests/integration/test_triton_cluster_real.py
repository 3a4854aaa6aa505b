"""Real Tritons behind one name: two share the work, another takes the place of one, one is killed."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.inference import InFlightWindow, RetryPolicy, TritonClient, infer_with_retry
from tests.integration.dns_server import name_server
from tests.integration.tiles import tile_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import PrivateTriton, Start

pytestmark = pytest.mark.integration

#: As docs/triton.md says, but for seconds in the place of minutes.
OF_AGE = ["--grpc-max-connection-age=500", "--grpc-max-connection-age-grace=60000"]


def counted(server: PrivateTriton) -> int:
    """Tiles that a server has answered, by its own metrics."""
    return server.answered("null_l2a")


async def send(client: TritonClient, tiles: int) -> None:
    """All are answered, whoever dies meanwhile."""
    window, policy = InFlightWindow(8), RetryPolicy(attempts=1, server_wait_s=60.0, backoff_s=0.01, backoff_max_s=0.2)
    tile = tile_for(client, 4000)
    results = await asyncio.gather(
        *(infer_with_retry(client, tile, window=window, policy=policy) for _ in range(tiles))
    )
    assert all((result.labels == 4).all() for result in results)


async def test_two_tritons_share_the_work_and_are_replaced(
    null_repository: Path, private_triton: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kappamask_stream.inference.channel._RESOLVE_MS", 100)

    def start(address: str, port: int = 0) -> PrivateTriton:
        return private_triton(null_repository, ["null_l2a"], address=address, port=port, flags=OF_AGE)

    one = await asyncio.to_thread(start, "127.0.0.1")
    other = await asyncio.to_thread(start, "127.0.0.2", one.port)
    with name_server("127.0.0.1", "127.0.0.2") as names:
        async with await TritonClient.connect(names.endpoint(one.port), "null_l2a") as client:
            async with asyncio.timeout(60):
                while not (counted(one) > 20 and counted(other) > 20):
                    await send(client, 40)

            # Nobody has died: the age of connections alone has the name looked up again.
            new = await asyncio.to_thread(start, "127.0.0.3", one.port)
            names.addresses = ["127.0.0.2", "127.0.0.3"]
            async with asyncio.timeout(60):
                while counted(new) <= 20:
                    await send(client, 40)

            sending = asyncio.create_task(send(client, 200))
            await asyncio.sleep(0)
            os.kill(other.pid, 9)
            await sending
            before = counted(new)
            await send(client, 40)
            assert 40 <= counted(new) - before <= 50, "the tiles, and canaries after lost connections"
