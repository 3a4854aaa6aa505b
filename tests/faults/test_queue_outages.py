"""The queue, or its dead-letter queue, is away, full, changed or cut off: nothing is lost, and it goes on by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import QueueUnavailableError
from tests.integration.fault_proxy import FaultProxy
from tests.integration.faulty_queues import Fault as Befalls
from tests.stream.polling import until

if TYPE_CHECKING:
    from tests.fault_table import Fault
    from tests.faults.queue_crew import Crew

pytestmark = pytest.mark.integration

GONE = "AWS.SimpleQueueService.NonExistentQueue"


@pytest.mark.fault("Queue", "throttles every request")
async def test_throttled_for_a_while_all_is_done(crew: Crew, fault: Fault) -> None:
    """Receives, extensions and deletions alike; the client waits longer each time."""
    crew.queue.put(*crew.names[:2])
    await crew.start(2)
    crew.proxy.always = lambda asked: Befalls(operation=asked.operation, status=400, code="RequestThrottled")
    await asyncio.sleep(fault.amount(1.0, 60.0))
    fault.injected(crew.proxy.befallen)
    crew.proxy.always = None
    await crew.is_done()
    assert {cause for cause, _ in crew.seen.retries} <= {"Throttling", "QueueUnavailableError"}
    crew.check_identical(fault, 0, 1)


@pytest.mark.fault("Queue", "answers are pages of something else, or break off")
async def test_answers_that_are_none_of_the_queues_are_asked_for_again(crew: Crew, fault: Fault) -> None:
    """The service has carried out what it was asked: it has given messages away that nobody got."""
    kinds = [
        ("page", "ReceiveMessage"),
        ("close", "ReceiveMessage"),
        ("page", "DeleteMessage"),
        ("close", "DeleteMessage"),
    ]
    for then, operation in kinds * fault.amount(1, 10):
        crew.proxy.faults.append(Befalls(operation=operation, then=then))  # type: ignore[arg-type]
    crew.queue.put(*crew.names)
    await crew.start()
    await crew.is_done()
    fault.injected(crew.proxy.befallen)
    assert crew.proxy.befallen >= len(kinds)
    crew.check_identical(fault, 0, 1, 2, 3)


@pytest.mark.fault("Queue", "connections cut in the middle of answers")
async def test_answers_that_are_cut_off_lose_nothing(crew: Crew, fault: Fault) -> None:
    """After so few bytes that no answer comes whole; what was given away comes back when its time is over."""
    with FaultProxy(crew.queue.server.endpoint.removeprefix("http://")) as cuts:
        crew.endpoint = f"http://{cuts.address}"
        await crew.start()
        cuts.cut_after = 120
        crew.queue.put(*crew.names[:3])
        await until(lambda: cuts.cuts >= fault.amount(3, 12))
        fault.injected(cuts.cuts)
        cuts.cut_after = None
        await crew.is_done()
        await crew.end()
    crew.check_identical(fault, 0, 1, 2)


@pytest.mark.fault("Queue", "queue deleted and made again")
async def test_a_queue_that_is_gone_and_back_is_worked_on(crew: Crew, fault: Fault) -> None:
    """What lay in it is gone with it; the worker stays, and takes what comes to the new one."""
    sqs, name = crew.queue.server.sqs, crew.queue.url.rpartition("/")[2]
    crew.queue.put(crew.names[1])
    await crew.start(visibility_s=60)
    await crew.is_done()
    sqs.delete_queue(QueueUrl=crew.queue.url)
    fault.injected()
    await until(lambda: any("there is no such queue" in text for _, text in crew.seen.retries))
    assert not crew.tasks[0].done()
    assert sqs.create_queue(QueueName=name)["QueueUrl"] == crew.queue.url
    crew.queue.put(crew.names[0])
    await crew.is_done()
    assert crew.seen.outcomes == ["done", "done"]
    crew.check_identical(fault, 0, 1)


@pytest.mark.fault("Queue", "dead-letter queue unreachable, or gone")
@pytest.mark.parametrize("how", ["unreachable", "gone"])
async def test_poison_stays_until_it_can_be_buried_and_is_buried_once(crew: Crew, fault: Fault, how: str) -> None:
    status, code = {"unreachable": (500, "InternalFailure"), "gone": (400, GONE)}[how]
    away = Befalls(operation="SendMessageBatch", status=status, code=code)
    crew.proxy.always = lambda asked: away if asked.operation == "SendMessageBatch" else None
    poison, good = crew.queue.put("what is this?", crew.names[0])
    await crew.start()
    await until(lambda: (poison, "retry") in [ended[:2] for ended in crew.seen.ended])
    (reason,) = {str(reason) for id_, _, reason in crew.seen.ended[:9] if id_ == poison}
    assert "it could not be sent to the dead-letter queue" in reason
    assert sum(crew.queue.counts()) >= 1, "it is not deleted"
    fault.injected(crew.proxy.befallen)
    crew.proxy.always = None
    await crew.is_done()
    assert (good, "done", None) in crew.seen.ended
    assert crew.queue.dead is not None
    (letter,) = crew.queue.dead.take()
    assert (letter.body, letter.attributes["kappamask_message_id"]) == ("what is this?", poison)
    fault.outcome("recovered, one dead letter")
    crew.check_identical(fault, 0)


@pytest.mark.fault("Queue", "away before a worker's first message")
async def test_a_worker_that_never_reached_its_queue_says_so_and_ends(crew: Crew, fault: Fault) -> None:
    crew.proxy.always = lambda asked: Befalls(operation=asked.operation, status=400, code=GONE)
    with pytest.raises(Exception, match="there is no such queue") as caught:
        await crew.start()
    fault.injected(crew.proxy.befallen)
    assert not isinstance(caught.value, QueueUnavailableError)
    fault.refused(caught.value, crew.output, crew.queue.url, "check its URL")
    crew.tasks.clear()
