"""Move dead letters back to the queue that they came from."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.errors import QueueError, UsageError
from kappamask_stream.queues.burial import is_letter_of, without_burial
from kappamask_stream.queues.looking import Look
from kappamask_stream.queues.types import Draft

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from kappamask_stream.queues.sqs import SqsQueue
    from kappamask_stream.queues.types import Message

#: Nobody works on dead letters, so they may be hidden for as long as a long move takes.
_HIDDEN_S = 300
#: Seconds for what was begun when the move is cancelled.
_FINISH_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far a move is.

    Attributes
    ----------
    moved : messages that are in the queue again (or would be, in a dry run).
    kept : messages that stay where they are: not wanted, or they came while the move was going on.
    refused : messages that the queue did not take, or that could not be deleted after it had taken them.
    reason : why the first of them was refused.
    """

    moved: int = 0
    kept: int = 0
    refused: int = 0
    reason: str | None = None

    @property
    def seen(self) -> int:
        """Messages that were looked at."""
        return self.moved + self.kept + self.refused


async def redrive(
    dead_letter_queue: SqsQueue,
    queue: SqsQueue,
    *,
    wanted: Callable[[Message], bool] = lambda _: True,
    all_queues: bool = False,
    most: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Moved], None] = lambda _: None,
) -> Moved:
    """Send dead letters to the queue, bodies unchanged and without what `burial.dead_letter_of` added, and delete them.

    Each is sent before it is deleted. Where this ends in between, by force, up to ten are in both queues.

    Parameters
    ----------
    wanted : chooses messages.
    all_queues : True also moves what came from other queues; else that stays.
    most : messages to move; None: all that are there now. What is sent there while this goes on stays.
    dry_run : look only.
    on_progress : told after each ten messages; the last time before an error is raised or this is cancelled.

    Raises
    ------
    UsageError
        If both are the same queue.
    QueueError, QueueUnavailableError
        If either refuses or cannot be reached; what was moved until then stays moved.
    """
    if dead_letter_queue.url == queue.url:
        raise UsageError(f"{queue.url} is the queue and its dead-letter queue: there is nothing to move")
    now = await dead_letter_queue.stats()
    # Messages tell when they were sent by the service's clock: this machine's may be another.
    began, there = time.time() if now.told_at is None else now.told_at, now.waiting
    async with Look(dead_letter_queue, hidden_s=_HIDDEN_S) as look:
        move = _Move(dead_letter_queue, queue, look, on_progress)
        while (most is None or move.count.moved < most) and (batch := await look.next()):
            # What fails again comes back under another id: without an end it would go round for ever.
            old = [message for message in batch if message.sent_at <= began or move.count.seen < there]
            if not old:
                break
            chosen = [message for message in old if (all_queues or is_letter_of(message, queue)) and wanted(message)]
            del chosen[len(chosen) if most is None else most - move.count.moved :]
            await _finished(move.next(batch, chosen, dry_run=dry_run))
    return move.count


class _Move:
    """State: the counts."""

    def __init__(
        self, dead_letter_queue: SqsQueue, queue: SqsQueue, look: Look, on_progress: Callable[[Moved], None]
    ) -> None:
        self._from, self._to, self._look, self._on_progress = dead_letter_queue, queue, look, on_progress
        self.count = Moved()

    async def next(self, batch: Sequence[Message], chosen: Sequence[Message], *, dry_run: bool) -> None:
        """Move what is chosen of a batch, and count it.

        Raises
        ------
        QueueError, QueueUnavailableError
            If nothing of it could be moved: the next ones would fare no better.
        """
        errors = [] if dry_run else await self._move(chosen)
        moved = len(chosen) - len(errors)
        count = self.count
        self.count = Moved(
            moved=count.moved + moved,
            kept=count.kept + len(batch) - len(chosen),
            refused=count.refused + len(errors),
            reason=count.reason or next(map(str, errors), None),
        )
        self._on_progress(self.count)
        if errors and not moved:
            raise errors[0]

    async def _move(self, chosen: Sequence[Message]) -> list[QueueError]:
        drafts = [Draft(body=message.body, attributes=without_burial(message.attributes)) for message in chosen]
        sent = await self._to.send_each(drafts)
        taken = [message for message, outcome in zip(chosen, sent, strict=True) if not isinstance(outcome, QueueError)]
        deleted = await self._from.delete_each(taken)
        self._look.release([message for message, error in zip(taken, deleted, strict=True) if error is None])
        return [outcome for outcome in (*sent, *deleted) if isinstance(outcome, QueueError)]


async def _finished(work: Coroutine[object, object, None]) -> None:
    """Wait for work that should not be broken off in the middle: when this is cancelled it has a while to end."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([task], timeout=_FINISH_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        raise
