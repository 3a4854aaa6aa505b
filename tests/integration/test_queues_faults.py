"""What SQS, and the way to it, may do wrong: tried again and told, or said in words; and a receive that is cancelled."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from kappamask_stream.errors import QueueError, QueueUnavailableError
from kappamask_stream.queues import Draft, QueueClients, QueueOptions, SqsQueue, open_sink
from kappamask_stream.queues import clients as clients_module
from kappamask_stream.s3.retry import Patience
from tests.integration.faulty_queues import Fault, FaultyQueues
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.fault_table import Fault as InjectedFault
    from tests.integration.queue_servers import QueueServer, ServedQueue

pytestmark = pytest.mark.usefixtures("aws_environment")

QUICK = Patience(attempts=3, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.002)
SEND, RECEIVE, DELETE = "SendMessageBatch", "ReceiveMessage", "DeleteMessage"


class Setting:
    """A queue behind a faulty proxy, and what was told of retries."""

    def __init__(self, proxy: FaultyQueues, served: ServedQueue) -> None:
        self.proxy, self.served = proxy, served
        self.told: list[tuple[str, str]] = []

    def clients(self, patience: Patience = QUICK) -> QueueClients:
        options = QueueOptions(endpoint_url=self.proxy.endpoint, patience=patience)
        return QueueClients(options, on_retry=lambda cause, text: self.told.append((cause, text)))


@pytest.fixture
async def setting(queue_server: QueueServer, served_queue: ServedQueue) -> AsyncIterator[Setting]:
    async with FaultyQueues(queue_server.endpoint) as proxy:
        yield Setting(proxy, served_queue)


def own_tasks() -> set[asyncio.Task[Any]]:
    """Tasks but for the proxy's and the test's own."""
    mine = ("QueueClients", "SqsQueue", "redrive", "test_")
    return {t for t in asyncio.all_tasks() if any(name in repr(t.get_coro()) for name in mine)} - {
        asyncio.current_task()  # type: ignore[arg-type]
    }


# --- it fails for the moment ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        (Fault(operation=SEND, status=400, code="RequestThrottled"), "Throttling", "the service is overloaded, it answers 400 RequestThrottled"),
        (Fault(operation=SEND, status=400, code="ThrottlingException"), "Throttling", "is overloaded"),
        (Fault(operation=SEND, status=503, code="ServiceUnavailable"), "Throttling", "is overloaded"),
        (Fault(operation=SEND, status=500, code="InternalFailure"), "QueueUnavailableError", "answers 500 InternalFailure"),
        (Fault(operation=SEND, then="page"), "QueueUnavailableError", "does not name all messages"),
    ],
    ids=["throttled", "throttled too", "503", "500", "page"],
)  # fmt: skip
async def test_what_passes_is_tried_again_and_told(setting: Setting, fault: Fault, cause: str, words: str) -> None:
    setting.proxy.faults += [fault, fault]
    async with setting.clients() as clients:
        await SqsQueue(setting.served.url, clients).send([Draft(body="x")])
    assert [told for told, _ in setting.told] == [cause] * 2
    assert all(words in text and setting.served.url in text for _, text in setting.told)
    assert len(setting.proxy.of(SEND)) == 3


async def test_an_answer_that_breaks_off_is_asked_for_again(setting: Setting) -> None:
    """The service had carried it out: deleting twice is as good as once."""
    setting.served.put("x")
    setting.proxy.faults += [Fault(operation=DELETE, then="close")] * 2
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        (message,) = await queue.receive(1, wait_s=0, visibility_s=60)
        await queue.delete(message)
    assert len(setting.proxy.of(DELETE)) == 3
    assert setting.served.counts() == (0, 0)
    assert {cause for cause, _ in setting.told} == {"QueueUnavailableError"}


async def test_no_answer_in_time_is_tried_again(setting: Setting) -> None:
    held = asyncio.Event()
    setting.proxy.faults.append(Fault(operation="GetQueueAttributes", hold=held))
    async with setting.clients(replace(QUICK, attempts=30, read_s=0.3)) as clients:
        assert (await SqsQueue(setting.served.url, clients).stats()).waiting == 0
    held.set()
    assert "the service does not answer in time" in setting.told[0][1]


async def test_patience_ends(setting: Setting) -> None:
    setting.proxy.faults += [Fault(operation=RECEIVE, status=500, code="InternalFailure")] * 9
    async with setting.clients() as clients:
        with pytest.raises(
            QueueUnavailableError, match=rf"{setting.served.url}: .*given up after 3 attempts"
        ) as caught:
            await SqsQueue(setting.served.url, clients).receive(1, wait_s=0, visibility_s=60)
    assert caught.value.retryable
    assert len(setting.proxy.of(RECEIVE)) == 3


async def test_while_it_is_overloaded_only_time_counts(setting: Setting) -> None:
    setting.proxy.faults += [Fault(operation=RECEIVE, status=400, code="RequestThrottled")] * 12
    async with setting.clients() as clients:
        assert await SqsQueue(setting.served.url, clients).receive(1, wait_s=0, visibility_s=60) == []
    assert len(setting.proxy.of(RECEIVE)) == 13


async def test_a_topic_is_tried_again_as_well(setting: Setting, served_topic: str) -> None:
    setting.proxy.faults += [
        Fault(operation="Publish", then="page"),
        Fault(operation="Publish", then="close"),
    ]
    async with setting.clients() as clients:
        await open_sink(served_topic, clients).send(Draft(body="x"))
    assert [cause for cause, _ in setting.told] == ["QueueUnavailableError"] * 2
    assert "the answer is none of the service's" in setting.told[0][1]
    assert set(setting.served.bodies()) == {"x"}


async def test_a_message_that_the_queue_took_with_another_text_counts_as_not_sent(setting: Setting) -> None:
    """A bit flipped on the way there, or a proxy that knows better: its digest is not that of what was sent."""

    def other_text(answer: dict[str, Any]) -> None:
        answer["Successful"][1]["MD5OfMessageBody"] = "0" * 32

    setting.proxy.faults.append(Fault(operation=SEND, change=other_text))
    async with setting.clients() as clients:
        with pytest.raises(QueueUnavailableError, match=r"1 of 3 .*\(number 2\).* another text than was sent"):
            await SqsQueue(setting.served.url, clients).send([Draft(body=text) for text in "abc"])


@pytest.mark.parametrize("digest", [None, "", "upper"])
async def test_a_service_that_tells_no_digest_or_in_capitals_is_believed(setting: Setting, digest: str | None) -> None:
    def write(said: dict[str, Any], field: str) -> None:
        said[field] = said[field].upper() if digest == "upper" else digest

    setting.proxy.faults += [
        Fault(operation=SEND, change=lambda answer: write(answer["Successful"][0], "MD5OfMessageBody")),
        Fault(operation=RECEIVE, change=lambda answer: write(answer["Messages"][0], "MD5OfBody")),
    ]
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        await queue.send([Draft(body="a")])
        assert [message.body for message in await queue.receive(1, wait_s=1, visibility_s=60)] == ["a"]
    assert setting.told == []


async def test_of_messages_that_came_changed_the_others_are_received(setting: Setting) -> None:
    def change(answer: dict[str, Any]) -> None:
        answer["Messages"][0]["Body"] += "?"

    setting.served.put("a", "b", "é\U0001f6f0")
    setting.proxy.faults.append(Fault(operation=RECEIVE, change=change))
    async with setting.clients() as clients:
        messages = await SqsQueue(setting.served.url, clients).receive(10, wait_s=0, visibility_s=60)
    assert [message.body for message in messages] == ["b", "é\U0001f6f0"]
    ((cause, text),) = setting.told
    assert (cause, "1 of 3 messages came with another body" in text) == ("QueueUnavailableError", True)
    assert setting.served.counts() == (0, 3)


# --- a part of a batch fails ------------------------------------------------------------------------------------------


def failing(*numbers: int, fault_of_sender: bool) -> Callable[[dict[str, Any]], None]:
    """Make entries of an answer failed ones; the service has taken them, which does not matter here."""

    def change(answer: dict[str, Any]) -> None:
        for number in numbers:
            answer["Successful"] = [done for done in answer["Successful"] if done["Id"] != str(number)]
            code = "InvalidParameterValue" if fault_of_sender else "InternalError"
            answer.setdefault("Failed", []).append(
                {"Id": str(number), "SenderFault": fault_of_sender, "Code": code, "Message": "as told"}
            )

    return change


async def test_entries_that_fail_for_the_moment_are_sent_again_alone(setting: Setting) -> None:
    setting.proxy.faults += [
        Fault(operation=SEND, change=failing(2, 7, fault_of_sender=False)),
        Fault(operation=SEND, change=failing(7, fault_of_sender=False)),
    ]
    async with setting.clients() as clients:
        ids = await SqsQueue(setting.served.url, clients).send([Draft(body=str(number)) for number in range(10)])
    assert [len(request.params["Entries"]) for request in setting.proxy.of(SEND)] == [10, 2, 1]
    bodies = {seen.id: seen.body for seen in setting.served.take()}
    assert [bodies[message_id] for message_id in ids] == list("0123456789")


async def test_entries_that_are_refused_are_named_and_the_others_sent(setting: Setting) -> None:
    setting.proxy.faults.append(Fault(operation=SEND, change=failing(0, 4, fault_of_sender=True)))
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        with pytest.raises(
            QueueError, match=r"^2 of 12 messages were not sent \(number 1, 5\), the others were; queue .*as told"
        ):
            await queue.send([Draft(body=str(number)) for number in range(12)])
    assert setting.told == []
    assert len(setting.proxy.of(SEND)) == 2


async def test_entries_that_fail_again_and_again_are_given_up(setting: Setting) -> None:
    setting.proxy.faults += [Fault(operation=SEND, change=failing(1, fault_of_sender=False))] * 3
    async with setting.clients() as clients:
        with pytest.raises(
            QueueUnavailableError, match=r"^1 of 3 messages were not sent \(number 2\).*given up after 3"
        ):
            await SqsQueue(setting.served.url, clients).send([Draft(body=str(number)) for number in range(3)])


# --- credentials ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("Queue", "credentials expire")
async def test_credentials_that_expire_are_read_anew(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, fault: InjectedFault
) -> None:
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        await queue.stats()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ANOTHERKEY")
        setting.proxy.faults.append(Fault(operation=SEND, status=403, code="ExpiredTokenException"))
        await queue.send([Draft(body="x")])
    before, after = (request.headers["Authorization"] for request in setting.proxy.of(SEND))
    assert "KEYOFTESTS" in before
    assert "ANOTHERKEY" in after
    assert [cause for cause, _ in setting.told] == ["ExpiredCredentials"]
    fault.injected()
    fault.outcome("read anew, sent")


async def test_no_message_and_no_text_holds_secrets(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature that is refused is answered with all that was signed, the session's token among it."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "IQoJtoken")
    shown: list[str] = []
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        for code in ("SignatureDoesNotMatch", "IncompleteSignature"):
            quoted = (
                "The Canonical String was 'POST x-amz-security-token:IQoJtoken Credential=KEYOFTESTS Signature=5161'"
            )
            setting.proxy.faults.append(Fault(operation=SEND, status=403, code=code, message=quoted))
            with pytest.raises(QueueError, match=f"access is refused: 403 {code}") as caught:
                await queue.send([Draft(body="x")])
            shown += [str(caught.value), repr(caught.value)]
        shown += [repr(clients), repr(queue), repr(clients.options), repr(vars(queue)["_place"])]
    assert setting.proxy.requests[0].headers["X-Amz-Security-Token"] == "IQoJtoken"
    for secret in ("IQoJtoken", "KEYOFTESTS", os.environ["AWS_SECRET_ACCESS_KEY"], "5161"):
        assert not [text for text in shown if secret in text]


# --- many at once -----------------------------------------------------------------------------------------------------


async def test_a_worker_with_many_messages_waits_for_no_connection(setting: Setting) -> None:
    """botocore's own pool has 10 connections: heartbeats would wait for receives."""
    held = asyncio.Event()
    setting.proxy.faults += [Fault(operation=RECEIVE, hold=held)] * 24
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(24):
                tasks.create_task(queue.receive(1, wait_s=0, visibility_s=60))
            await until(lambda: setting.proxy.at_once == 24)
            held.set()


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_receive_that_is_cancelled_gives_back_what_arrives_after(setting: Setting) -> None:
    held = asyncio.Event()
    setting.served.put("a", "b")
    setting.proxy.faults.append(Fault(operation=RECEIVE, hold=held))
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        receiving = asyncio.create_task(queue.receive(10, wait_s=5, visibility_s=600))
        await until(lambda: setting.served.counts() == (0, 2))  # the service has given them to this request
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving  # does not wait for the answer
        assert setting.proxy.answered == 0
        held.set()
    assert setting.served.counts() == (2, 0)
    assert not own_tasks()


async def test_a_receive_that_is_cancelled_just_when_messages_arrive_gives_them_back(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.served.put("a", "b", "c")
    async with setting.clients() as clients:
        queue = SqsQueue(setting.served.url, clients)
        attempt = clients.attempt

        async def attempt_and_cancel(call: Any) -> Any:
            answer = await attempt(call)
            if call.operation == "receive_message":
                receiving.cancel()  # the answer is there, and nobody has seen it
            return answer

        monkeypatch.setattr(clients, "attempt", attempt_and_cancel)
        receiving = asyncio.create_task(queue.receive(10, wait_s=0, visibility_s=600))
        with pytest.raises(asyncio.CancelledError):
            await receiving
    assert setting.served.counts() == (3, 0)
    assert not own_tasks()


async def test_a_receive_that_is_cancelled_while_nothing_is_there_ends_with_its_wait(setting: Setting) -> None:
    async with setting.clients() as clients:
        receiving = asyncio.create_task(SqsQueue(setting.served.url, clients).receive(10, wait_s=1, visibility_s=600))
        await until(lambda: setting.proxy.at_once == 1)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await asyncio.to_thread(setting.served.put, "late")  # the service gives it to the request that nobody waits for
    assert setting.proxy.at_once == 0
    assert setting.served.counts() == (1, 0)
    assert not own_tasks()


async def test_a_service_that_never_answers_does_not_hold_up_the_end(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "_GIVE_BACK_S", 0.05)
    setting.proxy.faults.append(Fault(operation=RECEIVE, hold=asyncio.Event()))
    async with setting.clients() as clients:
        receiving = asyncio.create_task(SqsQueue(setting.served.url, clients).receive(10, wait_s=0, visibility_s=600))
        await until(lambda: setting.proxy.at_once == 1)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
    assert setting.proxy.answered == 0
    assert not own_tasks()


async def test_leaving_that_is_cancelled_leaves_nothing(setting: Setting) -> None:
    setting.proxy.faults.append(Fault(operation=RECEIVE, hold=asyncio.Event()))

    async def worker() -> None:
        async with setting.clients() as clients:
            receiving = asyncio.create_task(
                SqsQueue(setting.served.url, clients).receive(10, wait_s=20, visibility_s=9)
            )
            await until(lambda: setting.proxy.at_once == 1)
            receiving.cancel()
            await asyncio.wait([receiving])
            leaving.set()

    leaving = asyncio.Event()
    working = asyncio.create_task(worker())
    await leaving.wait()
    await asyncio.sleep(0)  # it waits for the request now
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert not own_tasks()


@pytest.mark.parametrize("operation", [SEND, DELETE, "ChangeMessageVisibility", "GetQueueAttributes"])
@pytest.mark.parametrize("when", ["asked", "pausing"])
async def test_other_calls_that_are_cancelled_leave_nothing(
    setting: Setting, operation: str, when: Literal["asked", "pausing"]
) -> None:
    setting.served.put("x")
    fault = Fault(operation=operation, hold=asyncio.Event())
    if when == "pausing":
        fault = Fault(operation=operation, status=500, code="InternalFailure")
    setting.proxy.faults.append(fault)
    async with setting.clients(Patience(backoff_s=60.0, backoff_max_s=60.0)) as clients:
        queue = SqsQueue(setting.served.url, clients)
        (message,) = await queue.receive(1, wait_s=0, visibility_s=60)
        calls: dict[str, Callable[[], Any]] = {
            SEND: lambda: queue.send([Draft(body="x")]), DELETE: lambda: queue.delete(message),
            "ChangeMessageVisibility": lambda: queue.hide(message, 60), "GetQueueAttributes": queue.stats,
        }  # fmt: skip
        calling = asyncio.create_task(calls[operation]())
        await until(lambda: setting.told if when == "pausing" else len(setting.proxy.of(operation)) == 1)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert not own_tasks()
