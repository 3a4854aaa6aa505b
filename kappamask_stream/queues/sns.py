"""Amazon's SNS as a `Sink`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.errors import MessageRefusedError
from kappamask_stream.queues.addresses import place_of_topic
from kappamask_stream.queues.clients import Call
from kappamask_stream.queues.drafts import MOST_TOPIC_BYTES, attributes_of, check

if TYPE_CHECKING:
    from kappamask_stream.queues.clients import QueueClients
    from kappamask_stream.queues.types import Draft


class SnsTopic:
    """A standard topic of SNS.

    Parameters
    ----------
    arn : of the topic; the region is taken from it where the options name none.
    clients : whose connections are used.

    Raises
    ------
    UsageError
        If the ARN is none of a standard topic.
    """

    def __init__(self, arn: str, clients: QueueClients) -> None:
        self.target, self.clients = arn, clients
        self._place = place_of_topic(arn)

    def __repr__(self) -> str:
        return f"<SnsTopic {self.target}>"

    async def send(self, draft: Draft) -> str:
        """Publish a message, without a subject, and return its id.

        Raises
        ------
        MessageRefusedError
            If it is too large, delayed, or holds what topics do not take.
        QueueError, QueueUnavailableError
            If the topic refuses; if the service cannot be reached, or fails again and again.
        """
        what = f"topic {self.target}"
        check(draft, what, MOST_TOPIC_BYTES)
        if draft.delay_s:
            raise MessageRefusedError(f"{what}: a message is delayed by {draft.delay_s} s, but a topic knows no delay")
        params = {"TopicArn": self.target, "Message": draft.body, "MessageAttributes": attributes_of(draft)}
        answer = await self.clients.call(Call(place=self._place, operation="publish", what=what, params=params))
        return str(answer.get("MessageId", ""))
