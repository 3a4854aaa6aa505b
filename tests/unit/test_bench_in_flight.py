"""Requests in flight over time, counted around any client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.bench.in_flight import CountedClient, Occupancy
from kappamask_stream.errors import ServerFaultError
from kappamask_stream.inference import TileRequest
from tests.stream.fakes import FakeInference

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_without_requests_does_not_count() -> None:
    clock = Clock()
    occupancy = Occupancy(clock)
    clock.now += 50  # idle
    occupancy.sent()
    clock.now += 2  # one
    occupancy.sent()
    clock.now += 4  # two
    occupancy.answered()
    clock.now += 2  # one
    occupancy.answered()
    clock.now += 50
    assert occupancy.mean == (2 * 1 + 4 * 2 + 2 * 1) / 8


def test_nothing_in_flight_is_none_at_all() -> None:
    assert Occupancy(Clock()).mean == 0


def test_what_is_in_flight_when_counting_begins_anew_is_counted_from_then_on() -> None:
    clock = Clock()
    occupancy = Occupancy(clock)
    occupancy.sent()
    occupancy.sent()
    clock.now += 10
    occupancy.answered()
    occupancy.begin()
    clock.now += 3
    assert occupancy.mean == 1
    assert "1 in flight" in repr(occupancy)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=20))
def test_the_mean_is_littles_law(requests: list[tuple[int, int]]) -> None:
    """Request-seconds by the seconds in which any request was there, counted second by second."""
    clock = Clock()
    occupancy = Occupancy(clock)
    events = sorted([(begin, 1) for begin, _ in requests] + [(begin + length, -1) for begin, length in requests])
    for at, change in events:
        clock.now = 100.0 + at
        occupancy.sent() if change > 0 else occupancy.answered()
    busy = len({second for begin, length in requests for second in range(begin, begin + length)})
    assert occupancy.mean == pytest.approx(sum(length for _, length in requests) / busy)
    assert occupancy.in_flight == 0


async def test_a_client_is_counted_also_where_it_fails_or_is_cancelled(csmask_contract: ModelContract) -> None:
    fake, occupancy = FakeInference(csmask_contract, delay_s=1000), Occupancy()
    client = CountedClient(fake, occupancy)
    six = np.ones(6, np.float32)
    request = TileRequest(name="t", tensors={"DN_20M": np.ones((6, 256, 256), np.uint16)}, offset=six, scale=six)
    waiting = asyncio.create_task(client.infer(request))
    await fake.started.wait()
    assert occupancy.in_flight == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert occupancy.in_flight == 0
    fake.delay_s, fake.failures = 0, type(fake.failures)([ServerFaultError("no memory")])
    with pytest.raises(ServerFaultError, match="no memory"):
        await client.infer(request)
    assert occupancy.in_flight == 0
    assert (await client.infer(request)).labels.shape == (256, 256)


async def test_in_all_else_it_is_the_other_client(csmask_contract: ModelContract) -> None:
    client = CountedClient(FakeInference(csmask_contract), Occupancy())
    assert client.contract is csmask_contract
    assert await client.is_ready()
    assert (await client.batch_sizes()).reason == "a fake forms no batches"
