"""Look at a queue's messages without taking them away from anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from kappamask_stream.queues.sqs import SqsQueue
    from kappamask_stream.queues.types import Message

#: SQS asks all of its servers, and not only some, where it may wait a little.
_WAIT_S = 1
_MOST = 10
#: So many answers in a row without anything new, and all was seen.
_ALL_SEEN = 2
_PEEK_S = 30


class Look:
    """Receives each message of a queue once; an async context manager that gives back at its end what is still there.

    SQS counts this as a delivery: a redrive policy that allows few of them is nearer to its end.

    Parameters
    ----------
    hidden_s : seconds for which messages are hidden from others, at most: longer than looking takes, or they are
        received again and again.

    State: ids that were seen, messages that are held.
    """

    def __init__(self, queue: SqsQueue, *, hidden_s: int) -> None:
        self._queue, self._hidden_s = queue, hidden_s
        self._seen: set[str] = set()
        self._held: dict[str, Message] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Those that cannot be given back come back by themselves.
        await self._queue.hide_each(list(self._held.values()), 0)

    async def next(self, most: int = _MOST) -> list[Message]:
        """Return messages that were not seen before; none when all were seen."""
        for _ in range(_ALL_SEEN):
            batch = await self._queue.receive(min(most, _MOST), wait_s=_WAIT_S, visibility_s=self._hidden_s)
            self._held |= {message.id: message for message in batch}
            fresh = [message for message in batch if message.id not in self._seen]
            self._seen |= {message.id for message in batch}
            if fresh:
                return fresh
        return []

    def release(self, messages: Sequence[Message]) -> None:
        """Forget messages that were deleted: there is nothing to give back."""
        for message in messages:
            self._held.pop(message.id, None)


async def peek(queue: SqsQueue, count: int) -> list[Message]:
    """Return up to `count` messages, which others can receive again when this returns, or at the latest after 30 s.

    Raises
    ------
    QueueError, QueueUnavailableError
        If the queue refuses, or cannot be reached.
    """
    found: list[Message] = []
    async with Look(queue, hidden_s=_PEEK_S) as look:
        while len(found) < count and (batch := await look.next(count - len(found))):
            found += batch
    return found
