"""Topics and queues that finished masks are told to, as subscribers see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import QueueError, UsageError
from kappamask_stream.queues import Draft, QueueClients, QueueOptions, SnsTopic, open_sink
from kappamask_stream.s3.retry import Patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.queue_servers import QueueServer, ServedQueue

pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture
async def clients(queue_server: QueueServer) -> AsyncIterator[QueueClients]:
    patience = Patience(attempts=3, backoff_s=0.001, backoff_max_s=0.002)
    async with QueueClients(QueueOptions(endpoint_url=queue_server.endpoint, patience=patience)) as running:
        yield running


@pytest.mark.parametrize("kind", ["topic", "queue"])
async def test_what_is_sent_arrives_at_either(
    kind: str, clients: QueueClients, served_queue: ServedQueue, served_topic: str
) -> None:
    sink = open_sink(served_topic if kind == "topic" else served_queue.url, clients)
    assert sink.target in repr(sink)
    item = json.dumps({"type": "Feature", "id": "L2A_T29UNU_ü"})
    sent = await sink.send(Draft(body=item, attributes={"tile": "29UNU", "cloud_cover": 12.5}))
    (seen,) = served_queue.take()
    assert seen.body == item
    assert seen.attributes == {"tile": "29UNU", "cloud_cover": "12.5"}
    assert seen.types == {"tile": "String", "cloud_cover": "Number"}
    assert sent
    assert (seen.id == sent) == (kind == "queue")


async def test_subscribers_filter_by_ranges_of_numbers(clients: QueueClients, queue_server: QueueServer) -> None:
    """What a filter policy compares must be a Number: a String of the same digits never matches."""
    clear, queue = {"cloud_cover": [{"numeric": ["<", 20]}], "level": ["L2A"]}, queue_server.make_queue()
    topic = open_sink(queue_server.make_topic(queue, raw=True, filters=clear), clients)
    for body, cover, level in (("clear", 5.5, "L2A"), ("cloudy", 80, "L2A"), ("other", 3, "L1C"), ("text", "5", "L2A")):
        await topic.send(Draft(body=body, attributes={"cloud_cover": cover, "level": level}))
    assert queue.bodies() == ["clear"]


async def test_a_message_that_comes_wrapped_has_no_subject(
    clients: QueueClients, queue_server: QueueServer, served_queue: ServedQueue
) -> None:
    await open_sink(queue_server.make_topic(served_queue), clients).send(Draft(body="x"))
    (seen,) = served_queue.take()
    envelope = json.loads(seen.body)
    assert (envelope["Type"], envelope["Message"], envelope.get("Subject")) == ("Notification", "x", None)


async def test_a_topic_that_is_not_there_is_named(clients: QueueClients, served_topic: str) -> None:
    with pytest.raises(QueueError, match=rf"topic {served_topic}-absent: there is no such topic: check its ARN"):
        await SnsTopic(f"{served_topic}-absent", clients).send(Draft(body="x"))


async def test_a_topic_takes_less_than_a_queue_and_knows_no_delay(clients: QueueClients, served_topic: str) -> None:
    topic = open_sink(served_topic, clients)
    with pytest.raises(QueueError, match="has 262145 bytes with its attributes, 262144 are the most"):
        await topic.send(Draft(body="x" * 262_145))
    with pytest.raises(QueueError, match="is delayed by 5 s, but a topic knows no delay"):
        await topic.send(Draft(body="x", delay_s=5))


@pytest.mark.parametrize("target", ["", "topic", "arn:aws:sqs:eu-west-1:1:q", "arn:aws:s3:::b", "https://host/q"])
async def test_what_is_neither_is_refused(target: str, clients: QueueClients) -> None:
    with pytest.raises(UsageError):
        open_sink(target, clients)
