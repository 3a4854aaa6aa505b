"""Requests at once and in a minute, on a clock that the tests turn."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.s3.limits import RequestLimits


class Clock:
    """Time passes only where somebody waits for it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        await asyncio.sleep(0)


async def test_slots_are_no_more_than_connections() -> None:
    limits = RequestLimits(3)
    held, most = 0, 0
    go_on = asyncio.Event()

    async def request() -> None:
        nonlocal held, most
        async with limits.slot():
            held += 1
            most = max(most, held)
            await go_on.wait()
            held -= 1

    tasks = [asyncio.create_task(request()) for _ in range(10)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert repr(limits) == "<RequestLimits 3 of 3 in use>"
    go_on.set()
    await asyncio.gather(*tasks)
    assert most == 3
    assert repr(limits) == "<RequestLimits 0 of 3 in use>"


@given(
    rate=st.integers(1, 5),
    connections=st.integers(1, 4),
    pauses=st.lists(st.floats(0, 40), max_size=30),
)
def test_never_more_than_so_many_begin_within_any_minute(rate: int, connections: int, pauses: list[float]) -> None:
    clock = Clock()
    limits = RequestLimits(connections, rate, clock=clock, sleep=clock.sleep)
    begun: list[float] = []

    async def request() -> None:
        async with limits.slot():
            begun.append(clock.now)

    async def scenario() -> None:
        tasks = []
        for pause in pauses:
            clock.now += pause
            tasks.append(asyncio.create_task(request()))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert len(begun) == len(pauses)
    for first in begun:
        assert sum(first <= at < first + 60 for at in begun) <= rate


async def test_up_to_the_limit_nobody_waits() -> None:
    clock = Clock()
    limits = RequestLimits(4, 5, clock=clock, sleep=clock.sleep)
    for _ in range(5):
        async with limits.slot():
            pass
    assert clock.now == 1000.0
    async with limits.slot():
        assert clock.now > 1060.0


async def test_a_request_that_is_cancelled_while_it_waits_takes_nothing() -> None:
    waiting = asyncio.Event()

    async def for_ever(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    limits = RequestLimits(1, 1, clock=lambda: 0.0, sleep=for_ever)
    async with limits.slot():
        pass

    async def request() -> None:
        async with limits.slot():
            pytest.fail("the minute is full")

    task = asyncio.create_task(request())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "0 of 1 in use" in repr(limits)
    assert len(limits._begun) == 1
