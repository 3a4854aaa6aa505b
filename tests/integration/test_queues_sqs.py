"""SQS over a socket: what is sent arrives, what is hidden comes back, what is deleted does not; and what it refuses."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import MessageRefusedError, QueueError, QueueUnavailableError, UsageError
from kappamask_stream.queues import Draft, QueueClients, QueueOptions, SqsQueue
from kappamask_stream.s3.retry import Patience
from tests.integration.faulty_queues import FaultyQueues
from tests.integration.queue_servers import REGION, QueueServer, ServedQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("aws_environment")

QUICK = Patience(attempts=3, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.002)


@pytest.fixture
async def clients() -> AsyncIterator[QueueClients]:
    async with QueueClients(QueueOptions(patience=QUICK)) as running:
        yield running
    assert len(asyncio.all_tasks()) == 1


@pytest.fixture
def queue(clients: QueueClients, served_queue: ServedQueue) -> SqsQueue:
    return SqsQueue(served_queue.url, clients)


async def test_what_is_sent_arrives_with_attributes_and_times(queue: SqsQueue, served_queue: ServedQueue) -> None:
    body = '{"text": "ü \U0001f600 \\u0000"}\n\t'
    attributes = {"tile": "T29UNU", "cloud_cover": 12.5, "orbit": 23}
    before = time.time()
    (sent,) = await queue.send([Draft(body=body, attributes=attributes)])
    asked = time.monotonic()
    (message,) = await queue.receive(10, wait_s=0, visibility_s=60)
    assert (message.id, message.body, message.received) == (sent, body, 1)
    assert message.attributes == {"tile": "T29UNU", "cloud_cover": "12.5", "orbit": "23"}
    assert before - 2 <= message.sent_at <= time.time() + 2
    assert asked <= message.received_at <= time.monotonic()
    assert await queue.receive(10, wait_s=0, visibility_s=60) == []
    await queue.hide(message, 0)
    (again,) = await queue.receive(10, wait_s=0, visibility_s=60)
    assert (again.id, again.received) == (sent, 2)
    await queue.delete(again)
    assert served_queue.counts() == (0, 0)


async def test_numbers_are_numbers_to_others(queue: SqsQueue, served_queue: ServedQueue) -> None:
    await queue.send([Draft(body="x", attributes={"cloud_cover": 5, "tile": "29"})])
    (seen,) = served_queue.take()
    assert seen.types == {"cloud_cover": "Number", "tile": "String"}


async def test_bytes_among_the_attributes_do_no_harm(queue: SqsQueue, served_queue: ServedQueue) -> None:
    served_queue.server.sqs.send_message(
        QueueUrl=queue.url, MessageBody="x",
        MessageAttributes={"raw": {"DataType": "Binary", "BinaryValue": b"\x00"}, "a": {"DataType": "String", "StringValue": "b"}},
    )  # fmt: skip
    (message,) = await queue.receive(1, wait_s=0, visibility_s=60)
    assert message.attributes == {"a": "b"}


async def test_many_messages_go_in_batches_and_keep_their_order_of_ids(
    queue: SqsQueue, served_queue: ServedQueue
) -> None:
    ids = await queue.send([Draft(body=f"message {number}") for number in range(25)])
    assert len(set(ids)) == 25
    found = {seen.id: seen.body for seen in served_queue.take()}
    assert [found[message_id] for message_id in ids] == [f"message {number}" for number in range(25)]
    assert await queue.send([]) == []


async def test_a_request_holds_no_more_than_every_queue_takes(
    served_queue: ServedQueue, queue_server: QueueServer
) -> None:
    async with FaultyQueues(queue_server.endpoint) as proxy:
        options = QueueOptions(endpoint_url=proxy.endpoint, patience=QUICK)
        async with QueueClients(options) as clients:
            await SqsQueue(served_queue.url, clients).send([Draft(body=str(n) + "x" * 120_000) for n in range(5)])
        sent = [len(request.params["Entries"]) for request in proxy.of("SendMessageBatch")]
    assert sent == [2, 2, 1]
    assert [body[0] for body in served_queue.bodies()] == list("01234")


async def test_a_large_message_goes_and_one_that_is_too_large_is_named(
    queue: SqsQueue, served_queue: ServedQueue
) -> None:
    drafts = [Draft(body="a"), Draft(body="b" * (1024 * 1024 + 1)), Draft(body="c" * 900_000), Draft(body="")]
    with pytest.raises(QueueError) as caught:
        await queue.send(drafts)
    assert type(caught.value) is MessageRefusedError
    assert str(caught.value) == (
        f"2 of 4 messages were not sent (number 2, 4), the others were; queue {queue.url}: a message has 1048577 bytes "
        "with its attributes, 1048576 are the most: name what it holds instead of holding it"
    )
    assert [body[0] for body in served_queue.bodies()] == ["a", "c"]


async def test_a_queue_that_takes_less_says_so(queue_server: QueueServer, clients: QueueClients) -> None:
    small = queue_server.make_queue(MaximumMessageSize="1024")
    with pytest.raises(
        QueueError, match=r"the message is too large .*must be shorter than 1024 bytes.*MaximumMessageSize"
    ):
        await SqsQueue(small.url, clients).send([Draft(body="x" * 2000)])


async def test_receiving_waits_for_a_message(queue: SqsQueue, served_queue: ServedQueue) -> None:
    receiving = asyncio.create_task(queue.receive(10, wait_s=20, visibility_s=60))
    await asyncio.sleep(0)  # it is on its way, or will be: either way it gets the message
    await asyncio.to_thread(served_queue.put, "late")
    assert [message.body for message in await receiving] == ["late"]


async def test_no_more_than_asked_for_and_ten_at_most(queue: SqsQueue, served_queue: ServedQueue) -> None:
    served_queue.put(*map(str, range(12)))
    assert len(await queue.receive(3, wait_s=0, visibility_s=60)) == 3
    assert len(await queue.receive(50, wait_s=0, visibility_s=60)) <= 10


async def test_counts_of_a_queue_and_where_its_dead_letters_go(
    queue: SqsQueue, served_queue: ServedQueue, clients: QueueClients
) -> None:
    await queue.send([*(Draft(body=str(number)) for number in range(4)), Draft(body="later", delay_s=900)])
    await queue.receive(1, wait_s=0, visibility_s=60)
    stats = await queue.stats()
    assert (stats.waiting, stats.in_work, stats.delayed) == (3, 1, 1)
    assert served_queue.dead is not None
    assert (stats.dead_letter_queue, stats.receives_before_dead) == (served_queue.dead.url, 5)
    dead = await SqsQueue(served_queue.dead.url, clients).stats()
    assert (dead.waiting, dead.dead_letter_queue, dead.receives_before_dead) == (0, None, None)


async def test_a_redrive_policy_that_leads_nowhere_is_told(queue: SqsQueue, served_queue: ServedQueue) -> None:
    assert served_queue.dead is not None
    served_queue.server.sqs.delete_queue(QueueUrl=served_queue.dead.url)
    with pytest.raises(QueueError, match=rf"its dead-letter queue {served_queue.dead.arn}: there is no such queue"):
        await queue.stats()


async def test_each_call_to_a_queue_that_is_not_there_says_what_to_do(queue: SqsQueue, clients: QueueClients) -> None:
    await queue.send([Draft(body="x")])
    (message,) = await queue.receive(1, wait_s=0, visibility_s=60)
    absent = SqsQueue(f"{queue.url}-absent", clients)
    calls = (
        absent.receive(1, wait_s=0, visibility_s=60), absent.hide(message, 1), absent.delete(message), absent.stats(),
        absent.send([Draft(body="x"), Draft(body="y")]),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(
            QueueError, match=f"queue {absent.url}.*no such queue.*check its URL, and --queue-region"
        ) as caught:
            await call
        assert not caught.value.retryable


async def test_after_a_refusal_as_a_whole_nothing_more_is_sent(
    served_queue: ServedQueue, queue_server: QueueServer
) -> None:
    async with FaultyQueues(queue_server.endpoint) as proxy:
        options = QueueOptions(endpoint_url=proxy.endpoint, patience=QUICK)
        async with QueueClients(options) as clients:
            absent = SqsQueue(f"{served_queue.url}-absent", clients)
            with pytest.raises(QueueError, match=r"30 of 30 messages were not sent \(number 1, 2, 3, …\)"):
                await absent.send([Draft(body="x")] * 30)
        assert len(proxy.of("SendMessageBatch")) == 1


async def test_a_message_that_is_not_ours_any_more_is_told(queue: SqsQueue, served_queue: ServedQueue) -> None:
    served_queue.put("a", "b")
    first, second = await queue.receive(10, wait_s=0, visibility_s=60)
    await queue.delete(first)
    with pytest.raises(QueueError, match=f"message {first.id}: it is not in this program's hands any more") as caught:
        await queue.hide(first, 60)
    assert first.receipt not in str(caught.value)
    forged = replace(second, receipt="AQEBforged")
    assert [type(error) for error in await queue.delete_each([forged, second])] == [QueueError, type(None)]
    assert served_queue.counts() == (0, 0)


async def test_no_message_is_hidden_for_longer_than_half_a_day(queue: SqsQueue, served_queue: ServedQueue) -> None:
    served_queue.put("x")
    (message,) = await queue.receive(1, wait_s=0, visibility_s=60)
    with pytest.raises(QueueError, match="12 hours from its delivery are the longest"):
        await queue.hide(message, 43_200)


async def test_many_are_hidden_and_deleted_together(queue: SqsQueue, served_queue: ServedQueue) -> None:
    await queue.send([Draft(body=str(number)) for number in range(25)])
    held = [m for _ in range(3) for m in await queue.receive(10, wait_s=0, visibility_s=60)]
    assert len(held) == 25
    assert await queue.hide_each(held, 0) == [None] * 25
    assert served_queue.counts() == (25, 0)
    again = [m for _ in range(3) for m in await queue.receive(10, wait_s=0, visibility_s=60)]
    assert await queue.delete_each(again[:13]) == [None] * 13
    assert served_queue.counts() == (0, 12)
    assert await queue.delete_each([]) == []


# --- where requests go ------------------------------------------------------------------------------------------------


async def test_a_configured_endpoint_counts_more_than_the_urls_host(
    served_queue: ServedQueue, clients: QueueClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", served_queue.server.endpoint)
    elsewhere = "http://queue.invalid/" + "/".join(served_queue.url.split("/")[-2:])
    assert (await SqsQueue(elsewhere, clients).stats()).waiting == 0


async def test_the_signature_is_for_the_region_that_is_named(
    queue_server: QueueServer, served_queue: ServedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto keeps a queue per region, and looks for it in the one that was signed for."""
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    for region, found in ((None, False), (REGION, True)):
        async with QueueClients(QueueOptions(region=region, patience=QUICK)) as clients:
            queue = SqsQueue(served_queue.url, clients)
            if found:
                assert (await queue.stats()).waiting == 0
            else:
                with pytest.raises(QueueError, match="not in this region"):
                    await queue.stats()


async def test_a_region_that_is_none_is_a_usage_error(served_queue: ServedQueue) -> None:
    async with QueueClients(QueueOptions(region="no region!", patience=QUICK)) as clients:
        with pytest.raises(UsageError, match="correct --queue-endpoint or --queue-region"):
            await SqsQueue(served_queue.url, clients).stats()


async def test_nobody_listens() -> None:
    told: list[tuple[str, str]] = []
    options = QueueOptions(patience=QUICK)
    async with QueueClients(options, on_retry=lambda cause, text: told.append((cause, text))) as clients:
        queue = SqsQueue("http://127.0.0.1:9/1/q", clients)
        for call in (queue.stats(), queue.receive(1, wait_s=20, visibility_s=60), queue.send([Draft(body="x")])):
            with pytest.raises(
                QueueUnavailableError,
                match=r":9/1/q: the service at 127\.0\.0\.1:9 cannot be reached: .*; given up after 3",
            ):
                await call
    assert [cause for cause, _ in told] == ["QueueUnavailableError"] * 6
    assert all("attempt 1 failed" in text or "attempt 2 failed" in text for _, text in told)


async def test_without_credentials_it_says_what_to_do(
    served_queue: ServedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with QueueClients(QueueOptions(patience=QUICK)) as clients:
        with pytest.raises(QueueError, match=r"Unable to locate credentials: log in, set AWS_ACCESS_KEY_ID"):
            await SqsQueue(served_queue.url, clients).stats()
    async with QueueClients(QueueOptions(profile="absent", patience=QUICK)) as clients:
        with pytest.raises(QueueError, match=r"\(absent\) could not be found.*--queue-profile"):
            await SqsQueue(served_queue.url, clients).stats()
