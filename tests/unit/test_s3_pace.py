"""An answer that drips is given up, and what came of it counts as nothing gained."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from kappamask_stream.errors import StoreUnavailableError
from kappamask_stream.s3.pace import LEAST_RATE, Pieces
from kappamask_stream.s3.retry import Patience, TryLaterError, persist

READ_S = 30.0
KB = 1024


class Dripping:
    """An answer whose pieces come at their times; with the clock that tells them.

    Parameters
    ----------
    pieces : seconds after the one before, and bytes.
    """

    def __init__(self, *pieces: tuple[float, int]) -> None:
        self._pieces, self.now_s, self.content = deque(pieces), 1000.0, self

    async def readany(self) -> bytes:
        if not self._pieces:
            return b""
        after_s, size = self._pieces.popleft()
        self.now_s += after_s
        return bytes(size)

    async def read(self) -> int:
        answer: Any = self
        pieces = Pieces(answer, Patience(read_s=READ_S), clock=lambda: self.now_s)
        return sum([len(piece) async for piece in pieces])


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([(29.0, 1)] * 9, r"^3 bytes came in 87 s, at least 2048 a second are needed$"),
        ([(1.0, 1 * KB)] * 900, r"^61440 bytes came in 60 s"),
        ([(0.1, 900 * KB)] + [(29.0, 1)] * 9, r"^2 bytes came in 58 s|^3 bytes came in 87 s"),
    ],
    ids=["a byte each 29 s", "1 KB/s", "a drip after much"],
)
async def test_an_answer_that_drips_ends_after_a_window(pieces: list[tuple[float, int]], said: str) -> None:
    answer = Dripping(*pieces)
    with pytest.raises(TryLaterError, match=said) as caught:
        await answer.read()
    assert 0 < caught.value.dripped_bytes < 3 * READ_S * LEAST_RATE
    assert answer.now_s - 1000.0 <= 7 * READ_S


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(29.0, 1), (29.0, 1)],
        [(1.0, LEAST_RATE)] * 900,
        [(29.0, 64 * KB)] * 30,
        [(0.0, 256 * KB)] * 30,
        [(20.0, 30 * KB), (20.0, 30 * KB), (20.0, 30 * KB)],
        [(1.0, 1 * KB), (3600.0, 1 * KB), (1.0, 1 * KB)],
    ],
    ids=["empty", "small and late", "just fast enough", "in bursts", "fast", "whole by then", "a lid that was closed"],
)
async def test_an_answer_that_is_fast_enough_or_soon_over_is_read_to_its_end(pieces: list[tuple[float, int]]) -> None:
    assert await Dripping(*pieces).read() == sum(size for _, size in pieces)


@pytest.mark.parametrize(("attempts", "wait_s", "tried"), [(7, 1e9, 7), (100, 120.0, 2)])
async def test_a_drip_is_no_gain_however_long_it_goes_on(attempts: int, wait_s: float, tried: int) -> None:
    """Seven attempts of a minute bring 400 KB at 1 KB/s, which would be new patience if it had not dripped."""
    store = SimpleNamespace(now_s=0.0, reached=0, tries=0)

    async def attempt() -> None:
        store.tries += 1
        assert store.tries < 100, "it goes on for ever"
        store.now_s += 60.0
        store.reached += 60 * KB
        raise TryLaterError("it drips", dripped_bytes=60 * KB)

    async def sleep(seconds: float) -> None:
        store.now_s += seconds

    with pytest.raises(StoreUnavailableError, match=f"it drips; given up after {tried} attempts"):
        await persist(
            attempt,
            what="s3://b/k",
            patience=Patience(attempts=attempts, wait_s=wait_s, rng=random.Random(0)),
            reached=lambda: store.reached,
            clock=lambda: store.now_s,
            sleep=sleep,
        )
    assert store.tries == tried


async def test_what_came_quickly_before_a_drip_is_a_gain() -> None:
    """Each attempt brings 300 KB at once and drips then: a failure now and then of a store that goes on."""
    store = SimpleNamespace(reached=0)

    async def attempt() -> int:
        if store.reached > 3_000_000:
            return int(store.reached)
        store.reached += 300 * KB + 100
        raise TryLaterError("it drips", dripped_bytes=100)

    async def no_sleep(_: float) -> None:
        pass

    patience = Patience(attempts=2, rng=random.Random(0))
    reached = await persist(attempt, what="s3://b/k", patience=patience, reached=lambda: store.reached, sleep=no_sleep)
    assert reached > 3_000_000
