"""Dead letters: nothing is lost on the way there or back, and looking takes nothing away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import __version__
from kappamask_stream.errors import QueueError, UsageError
from kappamask_stream.queues import (
    Draft,
    Message,
    Moved,
    QueueClients,
    QueueOptions,
    SqsQueue,
    dead_letter_of,
    dead_letter_queue_of,
    looking,
    peek,
    redrive,
    send_dead_letter,
)
from kappamask_stream.queues.drafts import check
from kappamask_stream.s3.retry import Patience
from tests.integration.faulty_queues import Fault, FaultyQueues
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.integration.queue_servers import QueueServer, ServedQueue

pytestmark = pytest.mark.usefixtures("aws_environment")

QUICK = Patience(attempts=3, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.002)


@pytest.fixture(autouse=True)
def _no_waiting_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto has one server, which is asked at once."""
    monkeypatch.setattr(looking, "_WAIT_S", 0)


@pytest.fixture
async def proxy(queue_server: QueueServer) -> AsyncIterator[FaultyQueues]:
    async with FaultyQueues(queue_server.endpoint) as running:
        yield running


@pytest.fixture
async def clients(proxy: FaultyQueues) -> AsyncIterator[QueueClients]:
    async with QueueClients(QueueOptions(endpoint_url=proxy.endpoint, patience=QUICK)) as running:
        yield running


@pytest.fixture
def queue(served_queue: ServedQueue, clients: QueueClients) -> SqsQueue:
    return SqsQueue(served_queue.url, clients)


@pytest.fixture
def dead_served(served_queue: ServedQueue) -> ServedQueue:
    assert served_queue.dead is not None
    return served_queue.dead


@pytest.fixture
def dead(dead_served: ServedQueue, clients: QueueClients) -> SqsQueue:
    return SqsQueue(dead_served.url, clients)


async def received(queue: SqsQueue) -> Message:
    (message,) = await queue.receive(1, wait_s=0, visibility_s=600)
    return message


def buried(reason: str, product: str = "", **more: str) -> dict[str, str]:
    """Attributes as a dead letter has them."""
    names = {"kappamask_reason": reason, "kappamask_error": "ProductError", "kappamask_product": product}
    return {name: text for name, text in {**names, **more}.items() if text}


# --- there ------------------------------------------------------------------------------------------------------------


async def bury(
    queue: SqsQueue, dead: SqsQueue, message: Message, *, reason: str, kind: str, product: str | None = None
) -> None:
    """Do what the worker does, one step after the other."""
    await send_dead_letter(dead, dead_letter_of(queue, message, reason=reason, kind=kind, product=product))
    await queue.delete(message)


async def test_the_dead_letter_queue_is_that_of_the_policy_or_the_one_named(
    queue: SqsQueue, dead: SqsQueue, queue_server: QueueServer, clients: QueueClients
) -> None:
    found = await dead_letter_queue_of(queue)
    assert found is not None
    assert found.url == dead.url
    named = await dead_letter_queue_of(queue, f"{queue.url}-other")
    assert named is not None
    assert named.url == f"{queue.url}-other"
    assert await dead_letter_queue_of(SqsQueue(queue_server.make_queue().url, clients)) is None
    with pytest.raises(UsageError, match="is the queue and its dead-letter queue"):
        await dead_letter_queue_of(queue, queue.url)


async def test_a_buried_message_has_its_body_and_the_reason(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    body = '{"Message": "ü \U0001f600"}'
    (sent,) = served_queue.put(body, attributes={"source": "topic"})
    message = await received(queue)
    await bury(queue, dead, message, reason="band B02 is missing", kind="ProductError", product="S2A_MSIL2A_X")
    (seen,) = dead_served.take()
    assert seen.body == body
    assert seen.attributes == {
        "source": "topic", "kappamask_reason": "band B02 is missing", "kappamask_error": "ProductError",
        "kappamask_product": "S2A_MSIL2A_X", "kappamask_queue": queue.url, "kappamask_message_id": sent,
        "kappamask_received": "1", "kappamask_version": __version__,
    }  # fmt: skip
    assert seen.types["kappamask_received"] == "Number"
    assert served_queue.counts() == (0, 0)


async def test_a_reason_is_cut_and_cleaned_and_tells_no_secrets(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    served_queue.put("x")
    reason = (
        "cannot read https://me:word@host/a.tif?X-Amz-Signature=5161&X-Amz-Credential=KEYOFTESTS and "
        "'s3://b/k?versionId=secret': \x1b[31m\udcff\x00 " + "ü" * 5000
    )
    await bury(queue, dead, await received(queue), reason=reason, kind="Product\x00Error")
    (seen,) = dead_served.take()
    said = seen.attributes["kappamask_reason"]
    assert said.startswith("cannot read https://host/a.tif?… and 's3://b/k?…': \ufffd[31m\ufffd\ufffd üü")
    assert (len(said), said[-1]) == (2000, "…")
    assert seen.attributes["kappamask_error"] == "Product\ufffdError"
    assert "kappamask_product" not in seen.attributes


async def test_an_empty_reason_is_left_out(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    served_queue.put("x")
    await bury(queue, dead, await received(queue), reason=" \n", kind="E")
    assert "kappamask_reason" not in dead_served.take()[0].attributes


async def test_attributes_of_the_sender_stay_as_far_as_ten_go(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    served_queue.put("x", attributes={f"a{number}": str(number) for number in range(10)})
    await bury(queue, dead, await received(queue), reason="r", kind="E", product="p")
    (seen,) = dead_served.take()
    assert len(seen.attributes) == 10
    assert len([name for name in seen.attributes if name.startswith("a")]) == 3
    assert seen.attributes["kappamask_reason"] == "r"


async def test_the_largest_body_is_buried_too(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    """It leaves no room for attributes, and would come back for ever."""
    body = "x" * 256 * 1024
    served_queue.put(body)
    await bury(queue, dead, await received(queue), reason="r", kind="E")
    (seen,) = dead_served.take()
    assert (seen.body, seen.attributes) == (body, {})
    assert served_queue.counts() == (0, 0)


async def test_where_the_dead_letter_queue_takes_less_the_message_does_not_come_back_for_ever(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    served_queue.put("x" * 2000, attributes={"source": "topic"})
    dead_served.server.sqs.set_queue_attributes(QueueUrl=dead_served.url, Attributes={"MaximumMessageSize": "1024"})
    await bury(queue, dead, await received(queue), reason="r" * 5000, kind="E")
    (seen,) = dead_served.take()
    assert seen.attributes == {"kappamask_reason": "r" * 199 + "…"}
    assert seen.body == "x" * (1024 - 202 - len("kappamask_reasonString"))
    assert served_queue.counts() == (0, 0)


async def test_what_a_queue_would_not_take_is_buried_cleaned() -> None:
    """Queues other than Amazon's deliver what it refuses."""
    sent: list[Draft] = []

    class Strict:
        async def send(self, drafts: Sequence[Draft]) -> list[str]:
            for draft in drafts:
                check(draft, "queue", 1024)
                sent.append(draft)
            return ["id"]

    letter = Draft(body="a\x00b", attributes={"a..b": "x", "kappamask_reason": "why"})
    await send_dead_letter(Strict(), letter)
    assert sent == [Draft(body="a\ufffdb", attributes={"kappamask_reason": "why"})]
    await send_dead_letter(Strict(), Draft(body=""))
    assert sent[1:] == [Draft(body="-")]
    await send_dead_letter(Strict(), replace(letter, body="ü" * 1000))
    assert sent[2] == Draft(body="ü" * 499, attributes={"kappamask_reason": "why"})


# --- looking ----------------------------------------------------------------------------------------------------------


async def test_a_look_takes_nothing(queue: SqsQueue, served_queue: ServedQueue) -> None:
    served_queue.put(*(str(number) for number in range(25)), attributes={"a": "b"})
    shown = await peek(queue, 100)
    assert sorted(int(message.body) for message in shown) == list(range(25))
    assert {message.received for message in shown} == {1}
    assert shown[0].attributes == {"a": "b"}
    assert served_queue.counts() == (25, 0)
    assert {message.received for message in await peek(queue, 100)} == {2}  # SQS counts a look as a delivery
    assert sorted(served_queue.bodies(), key=int) == [str(number) for number in range(25)]


async def test_a_look_shows_no_more_than_asked_for(queue: SqsQueue, served_queue: ServedQueue) -> None:
    assert await peek(queue, 5) == []
    served_queue.put(*map(str, range(25)))
    assert len({message.id for message in await peek(queue, 12)}) == 12
    assert served_queue.counts() == (25, 0)


async def test_a_look_that_is_cancelled_or_fails_gives_back(
    queue: SqsQueue, served_queue: ServedQueue, proxy: FaultyQueues
) -> None:
    served_queue.put(*map(str, range(25)))
    held = asyncio.Event()
    as_it_is = Fault(operation="ReceiveMessage")
    proxy.faults += [as_it_is, replace(as_it_is, hold=held)]
    looking_at = asyncio.create_task(peek(queue, 25))
    await until(lambda: served_queue.counts()[1] == 20)  # ten are in hand, ten on their way
    looking_at.cancel()
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await looking_at
    await until(lambda: served_queue.counts() == (25, 0))
    proxy.faults += [as_it_is, replace(as_it_is, status=403, code="AccessDenied")]
    with pytest.raises(QueueError, match="access is refused"):
        await peek(queue, 25)
    assert served_queue.counts() == (25, 0)


# --- back -------------------------------------------------------------------------------------------------------------


async def test_dead_letters_go_back_as_they_came(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    bodies = sorted(str(number) for number in range(25))
    dead_served.put(*bodies, attributes={"source": "topic", **buried("no space", kappamask_version="0.1")})
    told: list[Moved] = []
    moved = await redrive(dead, queue, on_progress=told.append)
    assert moved == Moved(moved=25)
    assert [step.moved for step in told] == [10, 20, 25]
    back = served_queue.take()
    assert sorted(seen.body for seen in back) == bodies
    assert {tuple(seen.attributes.items()) for seen in back} == {(("source", "topic"),)}
    assert {seen.received for seen in back} == {1}
    assert dead_served.counts() == (0, 0)


@pytest.mark.parametrize("dry_run", [False, True])
async def test_some_go_back_and_the_others_stay_to_be_received(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue, *, dry_run: bool
) -> None:
    dead_served.put(*(f"a{number}" for number in range(12)), attributes=buried("no space"))
    dead_served.put(*(f"b{number}" for number in range(12)), attributes=buried("B02 is missing"))

    def wanted(message: Message) -> bool:
        return message.attributes["kappamask_reason"] == "no space"

    moved = await redrive(dead, queue, wanted=wanted, dry_run=dry_run)
    assert moved == Moved(moved=12, kept=12)
    assert served_queue.counts() == ((0, 0) if dry_run else (12, 0))
    assert dead_served.counts() == ((24, 0) if dry_run else (12, 0))
    assert {body[0] for body in dead_served.bodies()} == ({"a", "b"} if dry_run else {"b"})


@pytest.mark.parametrize("all_queues", [False, True])
async def test_what_came_from_another_queue_stays(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue, *, all_queues: bool
) -> None:
    dead_served.put("own", attributes=buried("r", kappamask_queue=queue.url))
    dead_served.put("moved by SQS")
    dead_served.put("other", attributes=buried("r", kappamask_queue=f"{queue.url}-other"))
    dead_served.put("odd", attributes=buried("r", kappamask_queue="nonsense"))
    moved = await redrive(dead, queue, all_queues=all_queues)
    assert moved == (Moved(moved=4) if all_queues else Moved(moved=2, kept=2))
    assert sorted(dead_served.bodies()) == ([] if all_queues else ["odd", "other"])


async def test_no_more_than_asked_for_go_back(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    dead_served.put(*map(str, range(25)))
    assert (await redrive(dead, queue, most=13)).moved == 13
    assert (served_queue.counts(), dead_served.counts()) == ((13, 0), (12, 0))


async def test_what_fails_again_at_once_does_not_go_round_for_ever(
    queue: SqsQueue, dead: SqsQueue, served_queue: ServedQueue, dead_served: ServedQueue
) -> None:
    dead_served.put(*(f"first {number}" for number in range(7)))

    def fail_again(_: Moved) -> None:
        dead_served.put(*(f"again {body}" for body in served_queue.bodies()))

    assert await redrive(dead, queue, on_progress=fail_again) == Moved(moved=7)
    assert dead_served.counts() == (7, 0)


async def test_what_the_queue_does_not_take_stays_a_dead_letter(
    queue_server: QueueServer, dead: SqsQueue, dead_served: ServedQueue, clients: QueueClients, proxy: FaultyQueues
) -> None:
    served = queue_server.make_queue()
    dead_served.put("a", "b", "c")

    def refuse_one(answer: dict[str, Any]) -> None:
        answer["Successful"] = [done for done in answer["Successful"] if done["Id"] != "1"]
        answer["Failed"] = [{"Id": "1", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "as told"}]

    proxy.faults.append(Fault(operation="SendMessageBatch", change=refuse_one))
    moved = await redrive(dead, SqsQueue(served.url, clients))
    assert (moved.moved, moved.refused) == (2, 1)
    assert "InvalidMessageContents (as told)" in str(moved.reason)
    assert dead_served.counts() == (1, 0)


async def test_where_nothing_can_be_sent_nothing_is_deleted_and_it_ends(
    dead: SqsQueue, dead_served: ServedQueue, clients: QueueClients, proxy: FaultyQueues
) -> None:
    dead_served.put(*map(str, range(25)))
    absent = SqsQueue(f"{dead.url}-absent", clients)
    told: list[Moved] = []
    with pytest.raises(QueueError, match="no such queue"):
        await redrive(dead, absent, on_progress=told.append)
    assert told[-1].refused == 10
    assert not proxy.of("DeleteMessageBatch")
    assert dead_served.counts() == (25, 0)
    with pytest.raises(UsageError, match="there is nothing to move"):
        await redrive(dead, dead)


@pytest.mark.parametrize("operation", ["SendMessageBatch", "DeleteMessageBatch"])
async def test_a_move_that_is_cancelled_ends_what_it_began(
    operation: str,
    queue: SqsQueue,
    dead: SqsQueue,
    served_queue: ServedQueue,
    dead_served: ServedQueue,
    proxy: FaultyQueues,
) -> None:
    """The ten in hand are moved as a whole: none is lost, none is in both queues; the others stay."""
    dead_served.put(*map(str, range(25)))
    held = asyncio.Event()
    proxy.faults.append(Fault(operation=operation, hold=held))
    told: list[Moved] = []
    moving = asyncio.create_task(redrive(dead, queue, on_progress=told.append))
    await until(lambda: len(proxy.of(operation)) == 1)
    moving.cancel()
    await asyncio.sleep(0)
    assert not moving.done()
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert told == [Moved(moved=10)]
    assert (served_queue.counts(), dead_served.counts()) == ((10, 0), (15, 0))
    assert sorted([*served_queue.bodies(), *dead_served.bodies()], key=int) == [str(number) for number in range(25)]


@pytest.mark.parametrize("how", ["twice", "patience"])
async def test_a_move_whose_queue_does_not_answer_can_be_ended(
    how: str,
    queue: SqsQueue,
    dead: SqsQueue,
    dead_served: ServedQueue,
    proxy: FaultyQueues,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kappamask_stream.queues.redriving._FINISH_S", 60.0 if how == "twice" else 0.01)
    dead_served.put("x")
    proxy.faults.append(Fault(operation="SendMessageBatch", hold=asyncio.Event()))
    moving = asyncio.create_task(redrive(dead, queue))
    await until(lambda: proxy.of("SendMessageBatch"))
    moving.cancel()
    await asyncio.sleep(0)
    if how == "twice":
        moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert [task for task in asyncio.all_tasks() if "redrive" in repr(task) or "_Move" in repr(task)] == []


@pytest.mark.parametrize("how", ["own", "native"])
async def test_the_queues_own_dead_letters_go_back_too(
    how: str, queue_server: QueueServer, clients: QueueClients
) -> None:
    """Those that its redrive policy moved have no reason."""
    served = queue_server.make_pair(receives=1)
    queue = SqsQueue(served.url, clients)
    served.put("x")
    (message,) = await queue.receive(1, wait_s=0, visibility_s=0)
    dead = await dead_letter_queue_of(queue)
    assert dead is not None
    if how == "own":
        await bury(queue, dead, message, reason="r", kind="E")
    assert await queue.receive(1, wait_s=0, visibility_s=0) == []  # moto's own policy has moved it
    assert await redrive(dead, queue) == Moved(moved=1)
    assert served.bodies() == ["x"]
