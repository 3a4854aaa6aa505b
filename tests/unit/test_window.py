"""The in-flight window: never over its limit, fair, gives way to overload, survives cancellation."""

import asyncio

import pytest

from kappamask_stream.errors import ServerOverloadedError
from kappamask_stream.inference import InFlightWindow


async def test_never_more_than_the_limit_in_flight() -> None:
    window = InFlightWindow(3)
    peak = 0

    async def work() -> None:
        nonlocal peak
        async with window.slot():
            peak = max(peak, window.in_flight)
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(20)))
    assert peak == 3
    assert window.in_flight == 0


async def test_waiters_are_served_in_order() -> None:
    window = InFlightWindow(1)
    order: list[int] = []

    async def work(number: int) -> None:
        async with window.slot():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(n) for n in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_overload_lowers_and_answers_restore() -> None:
    window = InFlightWindow(10)
    for _ in range(10):
        await window.acquire()
    window.overloaded()
    assert window.limit == 7
    for _ in range(10):
        window.release()
    for _ in range(100):
        window.answered()
    assert window.limit == 10


async def test_who_had_few_in_flight_is_soon_back_at_seven_tenths_of_what_it_may() -> None:
    """Else a queue that others have filled costs it a round trip of a full queue for each request more."""
    window = InFlightWindow(32)
    await window.acquire()
    for _ in range(3):  # the first tries again find the queue as full as it was
        window.overloaded()
    limits = [window.limit]
    for _ in range(6):
        for _ in range(window.limit):  # a round trip
            window.answered()
        limits.append(window.limit)
    assert limits == [1, 2, 4, 8, 16, 23, 24]


async def test_one_full_queue_lowers_the_limit_once_however_many_it_turns_away() -> None:
    window, full = InFlightWindow(100), asyncio.Event()

    async def work() -> None:
        async with window.slot():
            await full.wait()
            raise ServerOverloadedError("full")

    async def all_of_them() -> None:
        full.clear()
        sent = [asyncio.create_task(work()) for _ in range(window.limit)]
        await asyncio.sleep(0)
        full.set()
        await asyncio.gather(*sent, return_exceptions=True)

    await all_of_them()
    assert window.limit == 70
    await all_of_them()  # these were sent after it
    assert window.limit == 49


async def test_limit_never_falls_below_one() -> None:
    window = InFlightWindow(2)
    for _ in range(10):
        window.overloaded()
    assert window.limit == 1
    async with window.slot():
        assert window.in_flight == 1


async def test_lowered_limit_holds_back_new_requests() -> None:
    window = InFlightWindow(2)
    await window.acquire()
    await window.acquire()
    window.overloaded()
    waiter = asyncio.create_task(window.acquire())
    window.release()
    await asyncio.sleep(0)
    assert not waiter.done()
    window.release()
    await waiter
    assert window.in_flight == 1


@pytest.mark.parametrize("given_first", [False, True])
async def test_a_cancelled_waiter_leaves_no_slot_behind(given_first) -> None:
    window = InFlightWindow(1)
    await window.acquire()
    waiter = asyncio.create_task(window.acquire())
    await asyncio.sleep(0)
    if given_first:
        window.release()  # the slot is the waiter's already, but it has not run
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    if not given_first:
        window.release()
    assert window.in_flight == 0
    await asyncio.wait_for(window.acquire(), 1)


def test_repr_tells_the_state() -> None:
    assert repr(InFlightWindow(4)) == "<InFlightWindow 0/4 in flight, 0 waiting>"
