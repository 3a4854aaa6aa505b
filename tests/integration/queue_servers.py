"""SQS and SNS over a real socket: moto's server of `s3_servers`, looked at with botocore's own client, not with ours."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
from botocore.config import Config

from tests.integration.s3_servers import KEY_ID, SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.integration.s3_servers import MotoStore

REGION = "us-east-1"


@dataclass(frozen=True)
class Seen:
    """A message as it lay in a queue."""

    id: str
    body: str
    attributes: dict[str, str]
    types: dict[str, str]
    received: int


class ServedQueue:
    """A queue behind the program's back.

    Attributes
    ----------
    url, arn : of the queue.
    dead : the queue of its redrive policy.
    """

    def __init__(self, server: QueueServer, url: str, dead: ServedQueue | None = None) -> None:
        self.server, self.url, self.dead = server, url, dead
        self._sqs = server.sqs

    @property
    def arn(self) -> str:
        return f"arn:aws:sqs:{REGION}:{self.url.split('/')[-2]}:{self.url.split('/')[-1]}"

    def put(self, *bodies: str, attributes: Mapping[str, str] | None = None, delay_s: int = 0) -> list[str]:
        """Send messages; returns their ids."""
        texts = {name: {"DataType": "String", "StringValue": text} for name, text in (attributes or {}).items()}
        entries = [
            {"Id": str(number), "MessageBody": body, "MessageAttributes": texts, "DelaySeconds": delay_s}
            for number, body in enumerate(bodies)
        ]
        ids: dict[str, str] = {}
        for start in range(0, len(entries), 10):
            sent = self._sqs.send_message_batch(QueueUrl=self.url, Entries=entries[start : start + 10])
            ids |= {done["Id"]: done["MessageId"] for done in sent["Successful"]}
        return [ids[entry["Id"]] for entry in entries]

    def counts(self) -> tuple[int, int]:
        """Messages that wait, and that a delivery hides."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(said[names[0]]), int(said[names[1]])

    def hold(self, most: int = 10, visibility_s: int = 600) -> list[Any]:
        """Receive as another worker would, and keep hidden; as botocore returns them."""
        return self._receive(most, visibility_s)

    def take(self) -> list[Seen]:
        """Receive and delete all that wait."""
        found: list[Seen] = []
        while batch := self._receive(10, 60):
            for message in batch:
                said = message.get("MessageAttributes", {})
                found.append(
                    Seen(
                        id=message["MessageId"], body=message["Body"],
                        attributes={name: value["StringValue"] for name, value in said.items()},
                        types={name: value["DataType"] for name, value in said.items()},
                        received=int(message["Attributes"]["ApproximateReceiveCount"]),
                    )
                )  # fmt: skip
                self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return found

    def bodies(self) -> list[str]:
        """Receive and delete all that wait, and return the bodies in order of the alphabet."""
        return sorted(seen.body for seen in self.take())

    def _receive(self, most: int, visibility_s: int) -> list[Any]:
        answer = self._sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=most, VisibilityTimeout=visibility_s, WaitTimeSeconds=0,
            MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"],
        )  # fmt: skip
        found: list[Any] = answer.get("Messages", [])
        return found


class QueueServer:
    """Makes queues and topics on a moto server.

    Attributes
    ----------
    endpoint : URL for ``--queue-endpoint``.
    sqs, sns : botocore's clients.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        session = botocore.session.Session()
        rest: dict[str, Any] = {
            "region_name": REGION, "endpoint_url": endpoint, "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET, "config": Config(connect_timeout=30, read_timeout=60),
        }  # fmt: skip
        self.sqs, self.sns = session.create_client("sqs", **rest), session.create_client("sns", **rest)

    def make_queue(self, **attributes: str) -> ServedQueue:
        """Make a queue with attributes as SQS names them."""
        name = f"q{uuid.uuid4().hex[:12]}" + (".fifo" if attributes.get("FifoQueue") else "")
        return ServedQueue(self, self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def make_pair(self, *, receives: int = 5, **attributes: str) -> ServedQueue:
        """Make a queue and a dead-letter queue that its redrive policy names."""
        dead = self.make_queue()
        policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": receives})
        queue = self.make_queue(RedrivePolicy=policy, **attributes)
        return ServedQueue(self, queue.url, dead)

    def make_topic(
        self, subscriber: ServedQueue | None = None, *, raw: bool = False, filters: Mapping[str, Any] | None = None
    ) -> str:
        """Make a topic, with a subscribed queue; returns its ARN."""
        arn: str = self.sns.create_topic(Name=f"t{uuid.uuid4().hex[:12]}")["TopicArn"]
        if subscriber is not None:
            attributes = {"RawMessageDelivery": str(raw).lower()}
            if filters is not None:
                attributes["FilterPolicy"] = json.dumps(filters)
            self.sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=subscriber.arn, Attributes=attributes)
        return arn

    def close(self) -> None:
        self.sqs.close()
        self.sns.close()


@pytest.fixture(scope="session")
def queue_server(moto_store: MotoStore) -> Any:
    """Where tests make their queues and topics."""
    server = QueueServer(moto_store.endpoint)
    yield server
    server.close()


@pytest.fixture
def served_queue(queue_server: QueueServer) -> ServedQueue:
    """A fresh queue with a dead-letter queue; after 5 deliveries the queue itself moves a message there."""
    return queue_server.make_pair()


@pytest.fixture
def served_topic(queue_server: QueueServer, served_queue: ServedQueue) -> str:
    """ARN of a topic whose messages arrive raw in `served_queue`."""
    return queue_server.make_topic(served_queue, raw=True)
