"""The machine's clock jumps: what services make of it, and what is measured by it. Nothing is lost, nothing goes round.

What a worker waits for and hides messages by is the monotonic clock, which does not jump: `test_worker_loses_nothing`
has its workers' clock set back and forth in the middle of all else.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import QueueError, QueueUnavailableError
from kappamask_stream.queues import Moved, QueueClients, QueueOptions, SqsQueue, looking, redrive, redriving
from kappamask_stream.s3.retry import Patience
from kappamask_stream.worker.outcomes import fault_of
from tests.integration.faulty_queues import Fault as Befalls
from tests.integration.queue_servers import served_queue
from tests.stream.polling import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fault_table import Fault
    from tests.faults.queue_crew import Crew
    from tests.integration.queue_servers import QueueServer, ServedQueue

pytestmark = pytest.mark.integration

__all__ = ["served_queue"]

#: What SQS says to a signature of an hour ago, and to one that is an hour ahead.
SKEWED = {
    -1: "Signature expired: 20260701T110000Z is now earlier than 20260701T115500Z (20260701T120000Z - 5 min.)",
    1: "Signature not yet current: 20260701T130000Z is still later than 20260701T120500Z (20260701T120000Z + 5 min.)",
}


@pytest.mark.fault("Queue", "clock jumps by an hour: signatures are refused until it is set")
@pytest.mark.parametrize("hours", [-1, 1])
async def test_signatures_of_another_hour_are_refused_for_a_while_and_nothing_is_lost(
    crew: Crew, fault: Fault, hours: int
) -> None:
    skewed = Befalls(operation="", status=403, code="InvalidSignatureException", message=SKEWED[hours])
    await crew.start(visibility_s=60)
    crew.queue.put(*crew.names[:2])
    crew.proxy.always = lambda _: skewed
    await until(lambda: crew.proxy.befallen >= fault.amount(3, 8))
    fault.injected(crew.proxy.befallen)
    crew.proxy.always = None
    await crew.is_done()
    assert crew.seen.outcomes == ["done", "done"]
    words = "the service answers 403 InvalidSignatureException: its clock and this machine's differ: set this machine's"
    assert all(words in text for _, text in crew.seen.retries)
    crew.check_identical(fault, 0, 1)


async def test_a_clock_that_stays_wrong_is_named(crew: Crew) -> None:
    skewed = Befalls(operation="", status=403, code="SignatureDoesNotMatch", message=SKEWED[1])
    crew.proxy.always = lambda _: skewed
    options = QueueOptions(endpoint_url=crew.endpoint, patience=Patience(attempts=2, backoff_s=0.001))
    async with QueueClients(options) as clients:
        with pytest.raises(QueueUnavailableError, match="its clock and this machine's differ: set this machine's"):
            await SqsQueue(crew.queue.url, clients).stats()


@pytest.mark.fault("Queue", "clock jumps by an hour while dead letters go back")
@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.usefixtures("aws_environment")
async def test_what_fails_again_does_not_go_round_whatever_this_machines_clock_says(
    queue_server: QueueServer, served_queue: ServedQueue, fault: Fault, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Measured by a clock that is ahead everything is old, and whatever fails again would be moved again, for ever."""
    real = time.time
    monkeypatch.setattr(redriving.time, "time", lambda: real() + hours * 3600)
    monkeypatch.setattr(looking, "_WAIT_S", 0)
    assert served_queue.dead is not None
    dead = served_queue.dead
    dead.put(*(f"first {number}" for number in range(7)))
    rounds: list[Moved] = []

    def fail_again(moved: Moved) -> None:
        rounds.append(moved)
        assert len(rounds) < 5, "it goes round and round"
        dead.put(*(f"again {body}" for body in served_queue.bodies()))

    async with QueueClients(QueueOptions(endpoint_url=queue_server.endpoint)) as clients:
        moved = await redrive(SqsQueue(dead.url, clients), SqsQueue(served_queue.url, clients), on_progress=fail_again)
    fault.injected()
    assert moved == Moved(moved=7)
    assert dead.counts() == (7, 0)
    fault.outcome("each moved once")


#: Prints credentials of a role that end when a file says, as a company's own tool does.
ROLE = """import json, sys
print(json.dumps({"Version": 1, "AccessKeyId": "KEYOFROLE", "SecretAccessKey": "secret", "SessionToken": "token",
                  "Expiration": open(sys.argv[1]).read()}))
"""


@pytest.mark.fault("Queue", "clock jumps ahead: new credentials look expired")
@pytest.mark.usefixtures("aws_environment")
async def test_credentials_that_look_expired_when_they_come_are_no_fault_of_the_message(
    queue_server: QueueServer, served_queue: ServedQueue, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are good for half an hour by the service's clock, and this machine's is an hour ahead."""
    script, config, ends = tmp_path / "role.py", tmp_path / "config", tmp_path / "ends"
    script.write_text(ROLE)
    now = datetime.now(UTC)
    ends.write_text(f"{now - timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}")
    config.write_text(f"[default]\ncredential_process = {sys.executable} {script} {ends}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    async with QueueClients(QueueOptions(endpoint_url=queue_server.endpoint)) as clients:
        with pytest.raises(QueueError, match="is this machine's clock right") as caught:
            await SqsQueue(served_queue.url, clients).stats()
        fault.injected()
        assert fault_of(caught.value) == "surroundings", "else good products would become dead letters"
        ends.write_text(f"{now + timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}")  # as if the clock was set
        assert (await SqsQueue(served_queue.url, clients).stats()).waiting == 0
    fault.outcome("paused with the cause, then went on")


async def test_a_message_is_hidden_from_the_moment_it_was_asked_for(crew: Crew) -> None:
    """Its answer may be long on its way: who counts from its end takes a message for hidden that others have."""
    held = asyncio.Event()
    crew.queue.put("x")
    crew.proxy.faults.append(Befalls(operation="ReceiveMessage", hold=held))
    async with QueueClients(QueueOptions(endpoint_url=crew.endpoint)) as clients:
        receiving = asyncio.create_task(SqsQueue(crew.queue.url, clients).receive(1, wait_s=0, visibility_s=60))
        await until(lambda: crew.queue.counts() == (0, 1))
        given = time.monotonic()
        held.set()
        (message,) = await receiving
    assert message.received_at <= given
