"""The byte budget: never above its total, first come first served, and a cancellation leaves nothing reserved."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.budget import ByteBudget
from kappamask_stream.errors import UsageError

MB = 1024 * 1024


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Holder:
    """A task that holds a reservation until it is told to let go."""

    def __init__(self, budget: ByteBudget, nbytes: int) -> None:
        self.nbytes = nbytes
        self.holds = False
        self._let_go = asyncio.Event()
        self.task = asyncio.create_task(self._run(budget))

    async def _run(self, budget: ByteBudget) -> None:
        async with budget.reserve(self.nbytes):
            self.holds = True
            try:
                await self._let_go.wait()
            finally:
                self.holds = False

    async def let_go(self) -> None:
        self._let_go.set()
        await self.task


async def test_waiters_are_served_in_order_and_a_small_one_does_not_overtake() -> None:
    budget = ByteBudget(100)
    first = Holder(budget, 60)
    await settle()
    large, small = Holder(budget, 80), Holder(budget, 10)
    await settle()
    assert (first.holds, large.holds, small.holds) == (True, False, False)
    await first.let_go()
    await settle()
    assert (large.holds, small.holds) == (True, True)
    assert budget.free == 10
    await large.let_go()
    await small.let_go()
    assert budget.free == 100


async def test_a_newcomer_does_not_overtake_one_that_was_given_its_share_but_has_not_run() -> None:
    budget = ByteBudget(10)
    first = Holder(budget, 10)
    await settle()
    waiter = Holder(budget, 10)
    await settle()
    await first.let_go()  # the bytes are the waiter's from here on
    assert budget.free == 0
    newcomer = Holder(budget, 10)
    await settle()
    assert (waiter.holds, newcomer.holds) == (True, False)
    await waiter.let_go()
    await newcomer.let_go()


async def test_all_of_the_budget_can_be_had_and_an_error_gives_it_back() -> None:
    budget = ByteBudget(100)

    async def fail() -> None:
        async with budget.reserve(100):
            assert budget.free == 0
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert budget.free == 100


async def test_too_large_is_refused_at_once_with_both_numbers_even_while_others_wait() -> None:
    budget = ByteBudget(100 * MB)
    holder, waiter = Holder(budget, 100 * MB), Holder(budget, MB)
    await settle()
    with pytest.raises(UsageError, match=r"S2A_X needs 101 MB .* the budget is 100 MB: .*--memory-budget-mb 101"):
        async with budget.reserve(100 * MB + 1, what="S2A_X"):
            pass
    assert not waiter.holds
    await holder.let_go()
    await waiter.let_go()
    assert budget.free == 100 * MB


@pytest.mark.parametrize("given_first", [False, True])
async def test_a_cancelled_waiter_leaves_nothing_and_lets_the_next_pass(given_first) -> None:
    budget = ByteBudget(10)
    holder = Holder(budget, 10)
    await settle()
    waiter, following = Holder(budget, 10), Holder(budget, 4)
    await settle()
    if given_first:
        holder._let_go.set()
        await asyncio.sleep(0)  # the holder ends and gives its bytes to the waiter, which has not run yet
        assert budget.free == 0
        assert not waiter.holds
    waiter.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter.task
    await holder.let_go()
    await settle()
    assert following.holds
    assert budget.free == 6
    await following.let_go()
    assert budget.free == 10
    assert repr(budget) == "<ByteBudget 10/10 bytes free, 0 waiting>"


async def test_cancelling_the_head_of_the_line_wakes_those_that_fit_behind_it() -> None:
    budget = ByteBudget(10)
    holder = Holder(budget, 4)
    await settle()
    large, small = Holder(budget, 10), Holder(budget, 6)
    await settle()
    assert not small.holds
    large.task.cancel()
    await settle()
    assert small.holds
    await holder.let_go()
    await small.let_go()


async def test_cancelling_a_holder_gives_its_bytes_back() -> None:
    budget = ByteBudget(10)
    holder = Holder(budget, 10)
    await settle()
    holder.task.cancel()
    await asyncio.wait([holder.task])
    assert budget.free == 10


@given(st.lists(st.integers(0, 10), min_size=1, max_size=12), st.integers(0, 2**32))
def test_no_order_of_events_passes_the_total_or_loses_bytes(sizes: list[int], seed: int) -> None:
    choices = random.Random(seed)

    async def scenario() -> None:
        budget = ByteBudget(10)
        holders = [Holder(budget, size) for size in sizes]
        started: list[int] = []
        while not all(holder.task.done() for holder in holders):
            for _ in range(choices.randrange(4)):
                await asyncio.sleep(0)
            held = sum(holder.nbytes for holder in holders if holder.holds)
            assert 0 <= budget.free <= 10 - held
            started += [i for i, holder in enumerate(holders) if holder.holds and i not in started]
            holder = choices.choice(holders)
            if choices.random() < 0.3:
                holder.task.cancel()
            elif holder.holds:
                holder._let_go.set()
        assert budget.free == 10
        assert started == sorted(started)

    asyncio.run(scenario())
