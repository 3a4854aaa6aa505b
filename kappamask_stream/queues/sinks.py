"""Where messages go that are sent one by one: a topic or a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.queues.addresses import is_arn
from kappamask_stream.queues.sns import SnsTopic
from kappamask_stream.queues.sqs import SqsQueue

if TYPE_CHECKING:
    from kappamask_stream.queues.clients import QueueClients
    from kappamask_stream.queues.types import Draft, Sink


class _QueueSink:
    def __init__(self, queue: SqsQueue) -> None:
        self.target, self._queue = queue.url, queue

    def __repr__(self) -> str:
        return f"<Sink {self._queue!r}>"

    async def send(self, draft: Draft) -> str:
        (sent,) = await self._queue.send([draft])
        return sent


def open_sink(target: str, clients: QueueClients) -> Sink:
    """Return what sends messages to a target; nothing is connected before the first one.

    Parameters
    ----------
    target : ARN of an SNS topic, or URL of an SQS queue.

    Raises
    ------
    UsageError
        If it is neither, or FIFO.
    """
    return SnsTopic(target, clients) if is_arn(target) else _QueueSink(SqsQueue(target, clients))
