"""When another attempt is made, on a clock that the tests turn."""

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from kappamask_stream.errors import StoreError, StoreUnavailableError
from kappamask_stream.s3.retry import ExpiredError, Patience, TryLaterError, persist, retry_after_s


class Store:
    """Fails as it is told, and keeps the time."""

    def __init__(self, *outcomes: Exception | str, gains: int = 0) -> None:
        self.outcomes, self.gains = list(outcomes), gains
        self.now, self.reached, self.attempts, self.renewals = 0.0, 0, 0, 0
        self.pauses: list[float] = []

    async def attempt(self) -> str:
        self.attempts += 1
        self.reached += self.gains
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def renew(self) -> None:
        self.renewals += 1

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def persist(self, **patience: float) -> str:
        return await persist(
            self.attempt, what="s3://b/k", patience=Patience(rng=random.Random(0), **patience),  # type: ignore[arg-type]
            renew=self.renew, reached=lambda: self.reached, clock=lambda: self.now, sleep=self.sleep,
        )  # fmt: skip


LATER = TryLaterError("broke off")
BUSY = TryLaterError("overloaded", overloaded=True)


async def test_pauses_double_with_jitter_up_to_the_longest() -> None:
    store = Store(*[LATER] * 6, "done")
    assert await store.persist(attempts=7, backoff_s=1.0, backoff_max_s=8.0) == "done"
    for pause, whole in zip(store.pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= pause <= whole
    assert len({pause / whole for pause, whole in zip(store.pauses, [1, 2, 4, 8, 8, 8], strict=True)}) == 6


async def test_attempts_end() -> None:
    store = Store(*[LATER] * 9)
    with pytest.raises(StoreUnavailableError, match=r"s3://b/k: broke off; given up after 3 attempts in \d s: try"):
        await store.persist(attempts=3)
    assert store.attempts == 3


async def test_time_ends_for_an_overloaded_store_however_many_attempts() -> None:
    store = Store(*[BUSY] * 999)
    with pytest.raises(StoreUnavailableError):
        await store.persist(attempts=2, wait_s=60, backoff_s=0.5, backoff_max_s=2.0)
    assert 58 <= store.now <= 60
    assert store.attempts > 30


async def test_the_store_says_how_long_and_is_heard() -> None:
    store = Store(TryLaterError("busy", overloaded=True, retry_after_s=17.0), "done")
    await store.persist()
    assert store.pauses == [17.0]


async def test_waiting_in_our_own_queue_is_not_the_stores_failure() -> None:
    """A slot comes after 100 s each time; of the 60 s of patience only pauses and attempts take some."""
    store, held = Store(*[LATER] * 3, "done"), []

    @asynccontextmanager
    async def slot() -> AsyncIterator[None]:
        store.now += 100.0
        held.append(store.attempts)
        yield

    found = await persist(
        store.attempt, what="s3://b/k", patience=Patience(rng=random.Random(0), wait_s=60.0),
        clock=lambda: store.now, sleep=store.sleep, slot=slot,
    )  # fmt: skip
    assert found == "done"
    assert held == [0, 1, 2, 3]
    assert store.now >= 400.0


async def test_each_further_attempt_is_told() -> None:
    told: list[tuple[str, str]] = []
    store = Store(LATER, ExpiredError("expired"), BUSY, "done")
    await persist(
        store.attempt, what="s3://b/k", patience=Patience(rng=random.Random(0)), renew=store.renew,
        clock=lambda: store.now, sleep=store.sleep, on_retry=lambda *said: told.append(said),
    )  # fmt: skip
    first, second = store.pauses
    assert told == [
        ("StoreUnavailableError", f"s3://b/k: broke off; attempt 1 failed, the next one comes in {first:.1f} s"),
        ("ExpiredCredentials", "s3://b/k: expired; they are read anew"),
        ("SlowDown", f"s3://b/k: overloaded; attempt 2 failed, the next one comes in {second:.1f} s"),
    ]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0", 0), ("120", 120), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None), ("-5", None), ("", None),
     (None, None), ("9" * 400, math.inf)],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(said: str | None, seconds: float | None) -> None:
    assert retry_after_s(said, None) == seconds


@pytest.mark.parametrize("jump_h", [-1, 0, 1])
def test_a_date_counts_from_the_servers_clock_not_from_this_machines(jump_h: int) -> None:
    """Measured by a clock that is an hour behind it would be an hour's wait, which ends all patience."""
    servers = datetime.now(UTC) + timedelta(hours=jump_h)
    until = format_datetime(servers + timedelta(seconds=30), usegmt=True)
    assert retry_after_s(until, format_datetime(servers, usegmt=True)) == 30


async def test_a_gain_gives_new_patience_a_trickle_does_not() -> None:
    store = Store(*[LATER] * 20, "done", gains=300_000)
    assert await store.persist(attempts=2) == "done"
    trickle = Store(*[LATER] * 20, "done", gains=1)
    with pytest.raises(StoreUnavailableError, match="after 2 attempts"):
        await trickle.persist(attempts=2)


async def test_credentials_are_renewed_once_and_once_more_after_a_gain() -> None:
    expired = ExpiredError("expired")
    store = Store(expired, "done")
    assert await store.persist() == "done"
    assert (store.renewals, store.pauses) == (1, [])
    store = Store(expired, expired)
    with pytest.raises(StoreError, match="s3://b/k: expired, also after they were read anew"):
        await store.persist()
    assert store.renewals == 1
    store = Store(*[expired] * 5, "done", gains=300_000)
    assert await store.persist() == "done"
    assert store.renewals == 5


async def test_other_errors_are_not_tried_again() -> None:
    store = Store(StoreError("no"), "done")
    with pytest.raises(StoreError, match="no"):
        await store.persist()
    assert store.attempts == 1


async def test_credentials_that_cannot_be_renewed_are_an_error_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(ExpiredError("expired"), "done")

    async def refuse() -> None:
        raise LATER

    monkeypatch.setattr(store, "renew", refuse)
    with pytest.raises(StoreUnavailableError, match="s3://b/k: new credentials cannot be had: broke off"):
        await store.persist()
