"""Messages that come twice, in any order, again in the middle of the work, changed, or lie: one mask of each product."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.fault_proxy import FaultProxy
from tests.integration.faulty_queues import Fault as Befalls
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fault_table import Fault
    from tests.faults.queue_crew import Crew
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

RECEIVE, HIDE = "ReceiveMessage", "ChangeMessageVisibility"


@pytest.fixture
def line(session_server: SessionServer) -> Iterator[FaultProxy]:
    """A way to Triton that can be held up: so work takes as long as a test wants."""
    with FaultProxy(session_server.address) as proxy:
        yield proxy


@pytest.mark.fault("Queue", "duplicates in two forms, out of order, at two workers at once")
async def test_duplicates_in_two_forms_at_two_workers_at_once_give_one_mask_each(crew: Crew, fault: Fault) -> None:
    rounds = fault.amount(2, 25)
    bodies = [text for number in range(4) for text in (crew.names[number], crew.message(number))] * rounds
    random.Random(7).shuffle(bodies)
    ids = crew.queue.put(*bodies)
    fault.injected(len(bodies) - 4)
    await crew.start(2, products_at_once=3, visibility_s=60)
    await crew.is_done()
    assert sorted(crew.seen.ended) == sorted((id_, "done", None) for id_ in ids)
    assert [status for _, status in crew.seen.jobs].count("done") <= 2 * 4, "each worker makes a mask once at most"
    assert crew.queue.dead.counts() == (0, 0)  # type: ignore[union-attr]
    crew.check_identical(fault, 0, 1, 2, 3)


@pytest.mark.fault("Queue", "message shown to another worker in the middle of masking")
async def test_a_message_that_comes_again_in_the_middle_of_masking_gives_one_mask(
    crew: Crew, fault: Fault, line: FaultProxy
) -> None:
    receipts: list[str] = []
    note = Befalls(
        operation=RECEIVE, change=lambda said: receipts.extend(m["ReceiptHandle"] for m in said.get("Messages", []))
    )
    crew.proxy.always = lambda asked: note if asked.operation == RECEIVE and not receipts else None
    await crew.start(visibility_s=600, products_at_once=1, triton=f"grpc://{line.address}")
    line.stall()
    (id_,) = crew.queue.put(crew.message(0))
    await until(lambda: crew.seen.taken)
    crew.proxy.always = None
    crew.queue.server.sqs.change_message_visibility(
        QueueUrl=crew.queue.url, ReceiptHandle=receipts[0], VisibilityTimeout=0
    )
    fault.injected()
    await crew.start()
    await until(lambda: crew.seen.ended)
    assert crew.seen.taken == [id_, id_]
    first = {name: path.read_bytes() for name, path in crew.masks().items()}
    line.go_on()
    await until(lambda: len(crew.seen.ended) == 2)
    assert crew.seen.outcomes[0] == "done"
    assert {name: path.read_bytes() for name, path in crew.masks().items()} == first
    await crew.is_done()
    crew.check_identical(fault, 0)


@pytest.mark.fault("Queue", "visibility lost: the extension is refused, or its answer is late")
@pytest.mark.parametrize("how", ["refused", "late"])
async def test_work_whose_message_is_not_surely_its_own_is_stopped_and_done_later(
    crew: Crew, fault: Fault, line: FaultProxy, how: str
) -> None:
    """The receipt is not valid any more, or the service does not answer while the message is surely hidden."""
    lost = Befalls(operation=HIDE, status=400, code="ReceiptHandleIsInvalid")
    if how == "late":
        lost = Befalls(operation=HIDE, hold=(never := asyncio.Event()))
    crew.proxy.always = lambda asked: lost if asked.operation == HIDE else None
    await crew.start(triton=f"grpc://{line.address}")
    line.stall()
    crew.queue.put(crew.message(1))
    await until(lambda: crew.seen.outcomes)
    ((_, outcome, reason),) = crew.seen.ended
    assert outcome == "lost"
    assert "the queue could not be told that the message is still in work" in str(reason)
    assert crew.masks() == {}, "nothing was published, nothing is acknowledged"
    assert sum(crew.queue.counts()) == 1
    fault.injected(crew.proxy.befallen)
    crew.proxy.always = None
    if how == "late":
        never.set()
    line.go_on()
    await crew.is_done()
    crew.check_identical(fault, 1)


@pytest.mark.fault("Queue", "bytes of a message flipped on their way")
async def test_a_message_that_changed_on_its_way_is_left_to_come_back(crew: Crew, fault: Fault) -> None:
    """A flipped digit names another product, which is there: the one that was asked for would be lost."""
    flips = fault.amount(1, 5)
    asked, other = crew.names[0], crew.names[1]
    receipts: list[str] = []

    def flip(said: dict[str, Any]) -> None:
        for message in said.get("Messages", []):
            message["Body"] = message["Body"].replace(asked, other)
            receipts.append(message["ReceiptHandle"])

    crew.proxy.always = lambda request: (
        Befalls(operation=RECEIVE, change=flip) if request.operation == RECEIVE and len(receipts) < flips else None
    )

    def told() -> list[str]:
        return [text for _, text in crew.seen.retries if "with another body than was sent (MD5OfBody)" in text]

    crew.queue.put(asked)
    await crew.start(visibility_s=60)
    for number in range(1, flips + 1):
        await until(lambda number=number: len(told()) == number)
        crew.queue.server.sqs.change_message_visibility(  # its time is over
            QueueUrl=crew.queue.url, ReceiptHandle=receipts[-1], VisibilityTimeout=0
        )
    await crew.is_done()
    fault.injected(len(told()))
    assert len(told()) == flips
    assert crew.seen.outcomes == ["done"]
    crew.check_identical(fault, 0)


@pytest.mark.fault("Queue", "attributes that say another thing than the body")
async def test_the_body_counts_whatever_the_attributes_say(crew: Crew, fault: Fault) -> None:
    lies = {"product": crew.names[3], "level": "L1C", "kappamask_reason": "poison", "kappamask_queue": "elsewhere"}
    crew.queue.put(crew.names[2], attributes=lies)
    fault.injected(len(lies))
    await crew.start(visibility_s=60)
    await crew.is_done()
    assert crew.seen.outcomes == ["done"]
    crew.check_identical(fault, 2)
