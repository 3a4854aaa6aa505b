"""Amazon's SQS as a `Queue`."""

from __future__ import annotations

import hashlib
import json
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import QueueError, QueueUnavailableError
from kappamask_stream.queues.addresses import parse_arn, place_of_queue
from kappamask_stream.queues.batching import call_batch
from kappamask_stream.queues.clients import Call
from kappamask_stream.queues.drafts import BATCH, attributes_of, batches, check, text_attributes
from kappamask_stream.queues.types import Message, QueueStats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kappamask_stream.queues.batching import BatchEnd
    from kappamask_stream.queues.clients import QueueClients
    from kappamask_stream.queues.types import Draft

_WAITING, _IN_WORK, _DELAYED = (f"ApproximateNumberOfMessages{end}" for end in ("", "NotVisible", "Delayed"))
_POLICY = "RedrivePolicy"
_MOST_NAMED = 3


class SqsQueue:
    """A standard queue of SQS; see `Queue` for what the calls promise.

    All of them try again where that may help, for as long as the options of `clients` say. They may be cancelled: a
    request that is on its way may still be carried out then. What a cancelled `receive` would have returned is given
    back, at the latest when `clients` are left.

    Parameters
    ----------
    url : as SQS gives it; region and endpoint are taken from it where the options name none.
    clients : whose connections are used.

    Raises
    ------
    UsageError
        If the URL is none of a standard queue.
    """

    def __init__(self, url: str, clients: QueueClients) -> None:
        self.url, self.clients = url, clients
        self._place = place_of_queue(url)
        self._what = f"queue {url}"
        self._dead_letter_queues: dict[str, str] = {}  # ARN -> URL

    def __repr__(self) -> str:
        return f"<SqsQueue {self.url}>"

    def _call(self, operation: str, *, waits_s: float = 0.0, what: str | None = None, **params: Any) -> Call:
        params = {"QueueUrl": self.url, **params}
        return Call(place=self._place, operation=operation, what=what or self._what, params=params, waits_s=waits_s)

    async def receive(self, most: int, *, wait_s: int, visibility_s: int) -> list[Message]:
        """Wait for messages and return them; see `Queue.receive`.

        A body that is not the one that was sent, by the digest that comes with it, might name another product: such a
        message is left to come back by itself.
        """
        call = self._call(
            "receive_message", waits_s=wait_s, MaxNumberOfMessages=min(most, BATCH), WaitTimeSeconds=wait_s,
            VisibilityTimeout=visibility_s, MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )  # fmt: skip

        async def give_back(answer: Mapping[str, Any]) -> None:
            await self.hide_each(_messages(answer, 0.0), 0)

        answer, asked = await self.clients.receive(call, give_back)
        messages, changed = _messages(answer, asked), _changed(answer)
        sound = [message for message in messages if message.id not in changed]
        if len(sound) < len(messages):
            count = f"{len(messages) - len(sound)} of {len(messages)}"
            text = f"{self._what}: {count} messages came with another body than was sent (MD5OfBody): received later"
            if not sound:
                raise QueueUnavailableError(text)
            self.clients.tell(QueueUnavailableError.__name__, text)
        return sound

    async def hide(self, message: Message, seconds: int) -> None:
        """Hide a message for so long from now, 12 hours from its delivery at most; 0 gives it back at once."""
        what = f"{self._what}: message {message.id}"
        call = self._call(
            "change_message_visibility", what=what, ReceiptHandle=message.receipt, VisibilityTimeout=seconds
        )
        await self.clients.call(call)

    async def delete(self, message: Message) -> None:
        """Delete a message for good."""
        what = f"{self._what}: message {message.id}"
        await self.clients.call(self._call("delete_message", what=what, ReceiptHandle=message.receipt))

    async def hide_each(self, messages: Sequence[Message], seconds: int) -> list[QueueError | None]:
        """Hide messages as `hide` does; returns for each None, or why it could not be."""
        handles = [{"ReceiptHandle": message.receipt, "VisibilityTimeout": seconds} for message in messages]
        return await self._each("change_message_visibility_batch", handles)

    async def delete_each(self, messages: Sequence[Message]) -> list[QueueError | None]:
        """Delete messages for good; returns for each None, or why it could not be."""
        return await self._each("delete_message_batch", [{"ReceiptHandle": message.receipt} for message in messages])

    async def _each(self, operation: str, handles: Sequence[Mapping[str, Any]]) -> list[QueueError | None]:
        errors: list[QueueError | None] = []
        for start in range(0, len(handles), BATCH):
            end = await self._batch(operation, dict(enumerate(handles[start : start + BATCH])))
            found = (end.outcomes[number] for number in range(len(end.outcomes)))
            errors += [outcome if isinstance(outcome, QueueError) else None for outcome in found]
        return errors

    async def _batch(self, operation: str, entries: Mapping[int, Mapping[str, Any]]) -> BatchEnd:
        return await call_batch(self.clients, self._call(operation), entries)

    async def send(self, drafts: Sequence[Draft]) -> list[str]:
        """Send messages, and return their ids; see `Queue.send`."""
        outcomes = await self.send_each(drafts)
        failed = {number: outcome for number, outcome in enumerate(outcomes, 1) if isinstance(outcome, QueueError)}
        if not failed:
            return [str(outcome) for outcome in outcomes]
        kinds = {type(error) for error in failed.values()}
        kind = kinds.pop() if len(kinds) == 1 else QueueError
        first = next(iter(failed.values()))
        if len(drafts) == 1:
            raise kind(str(first)) from first
        named = ", ".join(map(str, list(failed)[:_MOST_NAMED])) + (", …" if len(failed) > _MOST_NAMED else "")
        raise kind(
            f"{len(failed)} of {len(drafts)} messages were not sent (number {named}), the others were; {first}"
        ) from first

    async def send_each(self, drafts: Sequence[Draft]) -> list[str | QueueError]:
        """Send messages; returns for each its id, or why it was not sent.

        After a request that fails as a whole no further ones are tried: the messages of these get the same error.
        """
        outcomes: dict[int, str | QueueError] = {}
        good: dict[int, Draft] = {}
        for number, draft in enumerate(drafts):
            try:
                check(draft, self._what)
                good[number] = draft
            except QueueError as error:
                outcomes[number] = error
        for numbers in batches(good):
            end = await self._batch("send_message_batch", {number: _entry(good[number]) for number in numbers})
            for number, outcome in end.outcomes.items():
                outcomes[number] = outcome if isinstance(outcome, QueueError) else self._taken(outcome, good[number])
            if end.failed is not None:
                outcomes = {**dict.fromkeys(good, end.failed), **outcomes}
                break
        return [outcomes[number] for number in range(len(drafts))]

    def _taken(self, said: Mapping[str, Any], draft: Draft) -> str | QueueError:
        """Return a sent message's id, or that the queue has taken another text: its digest tells."""
        if _is_digest(said.get("MD5OfMessageBody"), draft.body):
            return str(said["MessageId"])
        return QueueUnavailableError(f"{self._what}: it has taken another text than was sent: see MD5OfMessageBody")

    async def stats(self) -> QueueStats:
        """Return the queue's counts, and its dead-letter queue.

        Raises
        ------
        QueueError, QueueUnavailableError
            Also if the queue that the redrive policy names is not there.
        """
        names = [_WAITING, _IN_WORK, _DELAYED, _POLICY]
        answer = await self.clients.call(self._call("get_queue_attributes", AttributeNames=names))
        said = answer.get("Attributes", {})
        try:
            policy = json.loads(said[_POLICY]) if said.get(_POLICY) else None
            return QueueStats(
                waiting=int(said[_WAITING]),
                in_work=int(said[_IN_WORK]),
                delayed=int(said[_DELAYED]),
                dead_letter_queue=await self._url_of(policy["deadLetterTargetArn"]) if policy else None,
                receives_before_dead=int(policy["maxReceiveCount"]) if policy else None,
                told_at=_told_at(answer),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise QueueError(f"{self._what}: what the service says of it is not understood ({error!r})") from error

    async def _url_of(self, arn: str) -> str:
        """Return the URL of the queue that the redrive policy names; asked for once."""
        if arn not in self._dead_letter_queues:
            named = parse_arn(arn)
            call = Call(
                place=self._place,
                operation="get_queue_url",
                what=f"{self._what}: its dead-letter queue {arn}",
                params={"QueueName": named.name, "QueueOwnerAWSAccountId": named.account},
            )
            self._dead_letter_queues[arn] = str((await self.clients.call(call))["QueueUrl"])
        return self._dead_letter_queues[arn]


def _entry(draft: Draft) -> dict[str, Any]:
    entry: dict[str, Any] = {"MessageBody": draft.body, "MessageAttributes": attributes_of(draft)}
    return {**entry, "DelaySeconds": draft.delay_s} if draft.delay_s else entry


def _is_digest(said: str | None, text: str) -> bool:
    """Tell whether this is the MD5 that SQS tells of a text; a service that tells none is believed."""
    digest = hashlib.md5(text.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
    return (said or digest).lower() == digest


def _changed(answer: Mapping[str, Any]) -> set[str]:
    """Return the ids of received messages whose bodies changed on their way."""
    return {
        said["MessageId"] for said in answer.get("Messages", []) if not _is_digest(said.get("MD5OfBody"), said["Body"])
    }


def _told_at(answer: Mapping[str, Any]) -> float | None:
    """Return the service's time of an answer: its header Date (RFC 9110, 6.6.1)."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, ValueError):
        return None


def _messages(answer: Mapping[str, Any], asked: float) -> list[Message]:
    """Read what was received; counts that a service other than Amazon's does not tell are those of a first delivery."""
    return [
        Message(
            id=said["MessageId"],
            receipt=said["ReceiptHandle"],
            body=said["Body"],
            attributes=text_attributes(said.get("MessageAttributes", {})),
            received=int(said.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            sent_at=int(said.get("Attributes", {}).get("SentTimestamp", 0)) / 1000,
            received_at=asked,
        )
        for said in answer.get("Messages", [])
    ]
