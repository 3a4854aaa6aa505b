"""Filling a queue: batches, what is remembered, what happens when it is refused or stopped."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import QueueError, QueueUnavailableError, UsageError
from kappamask_stream.feed import FeedFilter, ProductRef, parse_message
from kappamask_stream.feed.backfill import Submitted, submit
from kappamask_stream.feed.sent import SentProducts
from kappamask_stream.names import parse_product_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from kappamask_stream.queues.types import Draft

URL = "https://sqs.eu-central-1.amazonaws.com/1234/products"


def name(number: int) -> str:
    return f"S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_{number:015d}"


def refs(*numbers: int) -> list[ProductRef]:
    return [ProductRef(name=parse_product_name(name(number)), kind="name") for number in numbers]


async def pages_of(*pages: Sequence[ProductRef]) -> AsyncIterator[Sequence[ProductRef]]:
    for page in pages:
        yield page


@dataclass
class FakeQueue:
    """Takes messages, but for those that `refuses` says; `before` is awaited first."""

    refuses: Callable[[str], QueueError | None] = lambda _: None
    before: Callable[[], AsyncIterator[None]] | None = None
    taken: list[str] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    async def send_each(self, drafts: Sequence[Draft]) -> list[str | QueueError]:
        self.calls.append(len(drafts))
        outcomes: list[str | QueueError] = []
        for draft in drafts:
            (ref,) = parse_message(draft.body)
            error = self.refuses(ref.name.text)
            if error is None:
                self.taken.append(ref.name.text)
            outcomes.append(error or f"id-{len(self.taken)}")
        await asyncio.sleep(0)
        return outcomes


async def fill(
    queue: FakeQueue | None, state: Path | None, *pages: Sequence[ProductRef], keep: bool = True
) -> list[Submitted]:
    told: list[Submitted] = []
    async with SentProducts(state, URL, keep=keep) as sent:
        await submit(pages_of(*pages), queue, wanted=FeedFilter(), sent=sent, tell=told.append)
    return told


def statuses(told: list[Submitted]) -> list[str]:
    return [one.status for one in told]


async def test_pages_are_sent_in_batches_each_product_once(tmp_path: Path) -> None:
    queue = FakeQueue()
    told = await fill(queue, tmp_path / "sent", refs(*range(250)), refs(249, 250, 250))
    assert queue.taken == [name(number) for number in range(251)]
    assert queue.calls == [100, 100, 50, 1]
    assert statuses(told) == ["sent"] * 250 + ["known", "sent", "known"]
    assert [one.ref.name.text for one in told[:250]] == queue.taken[:250]


async def test_state_remembers_per_queue(tmp_path: Path) -> None:
    state = tmp_path / "sent"
    await fill(FakeQueue(), state, refs(1, 2))
    again = FakeQueue()
    assert statuses(await fill(again, state, refs(1, 2, 3))) == ["known", "known", "sent"]
    assert again.taken == [name(3)]
    async with SentProducts(state, f"{URL}-other") as sent:
        assert await sent.unknown([name(1), name(4)]) == {name(1), name(4)}


async def test_dry_run_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    state = tmp_path / "sent"
    assert statuses(await fill(None, state, refs(1, 1), keep=False)) == ["wanted", "known"]
    assert not state.exists()
    await fill(FakeQueue(), state, refs(1))
    before = state.read_bytes()
    assert statuses(await fill(None, state, refs(1, 2, 2), refs(2), keep=False)) == [
        "known",
        "wanted",
        "known",
        "known",
    ]
    assert state.read_bytes() == before


async def test_what_is_refused_is_told_and_sent_the_next_time(tmp_path: Path) -> None:
    def refuses(product: str) -> QueueError | None:
        return QueueError("too large") if product == name(2) else None

    told = await fill(FakeQueue(refuses), tmp_path / "sent", refs(1, 2, 3))
    assert statuses(told) == ["sent", "refused", "sent"]
    assert told[1].reason == "too large"
    again = FakeQueue()
    assert statuses(await fill(again, tmp_path / "sent", refs(1, 2, 3))) == ["known", "sent", "known"]


async def test_what_is_refused_and_named_twice_is_refused_twice(tmp_path: Path) -> None:
    def refuses(product: str) -> QueueError | None:
        return QueueError("too large") if product == name(2) else None

    told = await fill(FakeQueue(refuses), tmp_path / "sent", refs(2, 1, 2, 1), refs(2, 3))
    assert statuses(told) == ["refused", "sent", "refused", "known", "refused", "sent"]


async def test_queue_that_takes_nothing_ends_it_and_keeps_what_was_taken(tmp_path: Path) -> None:
    def refuses(product: str) -> QueueError | None:
        return QueueUnavailableError("gone") if int(product[-3:]) >= 100 else None

    queue = FakeQueue(refuses)
    with pytest.raises(QueueUnavailableError, match="gone"):
        await fill(queue, tmp_path / "sent", refs(*range(300)))
    assert queue.calls == [100, 100]
    assert statuses(await fill(FakeQueue(), tmp_path / "sent", refs(99, 100))) == ["known", "sent"]


async def test_stopped_between_batches_it_has_remembered_all_that_was_sent(tmp_path: Path) -> None:
    """A cancellation waits for what is being written."""
    queue, state = FakeQueue(), tmp_path / "sent"
    async with SentProducts(state, URL) as sent:

        async def pages() -> AsyncIterator[Sequence[ProductRef]]:
            yield refs(1, 2)
            task.cancel()
            await asyncio.sleep(0)
            yield refs(3)

        task = asyncio.ensure_future(submit(pages(), queue, wanted=FeedFilter(), sent=sent, tell=lambda _: None))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert queue.taken == [name(1), name(2)]
    assert statuses(await fill(FakeQueue(), state, refs(1, 2, 3))) == ["known", "known", "sent"]


async def test_two_submissions_may_share_a_state(tmp_path: Path) -> None:
    state = tmp_path / "sent"
    queues = FakeQueue(), FakeQueue()
    halves = refs(*range(500)), refs(*range(500, 1000))
    async with asyncio.TaskGroup() as tasks:
        for queue, half in zip(queues, halves, strict=True):
            tasks.create_task(fill(queue, state, half))
    async with SentProducts(state, URL) as sent:
        assert await sent.unknown([name(number) for number in range(1001)]) == {name(1000)}


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"{}"])
async def test_file_that_is_no_state_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "sent"
    state.write_bytes(content)
    with pytest.raises(UsageError, match="name another file"):
        await fill(FakeQueue(), state, refs(1))
    assert state.read_bytes() == content


async def test_database_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "sent"
    with closing(sqlite3.connect(state)) as connection:
        connection.execute("CREATE TABLE sent (x TEXT)")
        connection.commit()
    before = state.read_bytes()
    for keep in (True, False):
        with pytest.raises(UsageError, match="none that this version of `submit` wrote"):
            await fill(FakeQueue(), state, refs(1), keep=keep)
    assert state.read_bytes() == before


async def test_state_in_no_folder_or_in_a_folder_s_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        await fill(FakeQueue(), tmp_path / "nowhere" / "sent", refs(1))
    with pytest.raises(UsageError, match="cannot be used"):
        await fill(FakeQueue(), tmp_path, refs(1))


async def test_state_that_is_locked_for_good_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kappamask_stream.feed.sent._BUSY_S", 0.01)
    state = tmp_path / "sent"
    await fill(FakeQueue(), state, refs(1))
    with closing(sqlite3.connect(state, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UsageError, match="database is locked"):
            await fill(FakeQueue(), state, refs(2))


async def test_outside_its_block_it_says_how_it_is_used() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await SentProducts(None, URL).unknown(["x"])
