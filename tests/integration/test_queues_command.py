"""`kappamask-stream queue stats`, `peek` and `redrive`: what people see, on a real queue."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import cli
from kappamask_stream.queues import looking
from tests.integration.faulty_queues import Fault, FaultyQueues
from tests.stream.polling import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.queue_servers import ServedQueue

pytestmark = pytest.mark.usefixtures("aws_environment")

NAME = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
OTHER = "S2B_MSIL1C_20230115T133829_N0510_R124_T21HWD_20240728T040848"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Ended]]:
    """Run the command line in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for name in [name for name in os.environ if name.startswith("KAPPAMASK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(looking, "_WAIT_S", 0)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["kappamask-stream", "queue", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(ended.value.code, captured.out, captured.err)  # type: ignore[arg-type]

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def dead(served_queue: ServedQueue) -> ServedQueue:
    assert served_queue.dead is not None
    return served_queue.dead


def reasons(reason: str, error: str = "ProductError", product: str = NAME) -> dict[str, str]:
    return {"kappamask_reason": reason, "kappamask_error": error, "kappamask_product": product, "source": "topic"}


def test_stats_are_lines_or_one_object(
    command: Callable[..., Ended], served_queue: ServedQueue, dead: ServedQueue
) -> None:
    served_queue.put("a", "b", "c")
    served_queue.hold(1)
    dead.put("d")
    shown = command("stats", "--queue", served_queue.url)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines() == [
        f"queue         {served_queue.url}", "  waiting     2", "  in work     1", "  delayed     0",
        f"dead letters  {dead.url} (also after 5 deliveries)", "  waiting     1", "  in work     0", "  delayed     0",
    ]  # fmt: skip
    assert command("stats", "--queue", served_queue.url, "--json").documents == [
        {
            "queue": {"url": served_queue.url, "waiting": 2, "in_work": 1, "delayed": 0},
            "dead_letter_queue": {"url": dead.url, "waiting": 1, "in_work": 0, "delayed": 0},
            "receives_before_dead": 5,
        }
    ]


def test_stats_of_a_queue_without_dead_letters(
    command: Callable[..., Ended], served_queue: ServedQueue, dead: ServedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAPPAMASK_QUEUE", dead.url)
    assert "dead letters  none" in command("stats").out
    assert command("stats", "--json").documents[0]["dead_letter_queue"] is None
    shown = command("stats", "--dead-letter-queue", served_queue.url)
    assert f"dead letters  {served_queue.url}\n" in shown.out
    for words in (("peek", "--dead-letters"), ("redrive",)):
        ended = command(*words)
        assert ended.code == 2
        assert ended.err == (
            f"error: {dead.url} has no redrive policy that names a dead-letter queue: give --dead-letter-queue\n"
        )


def test_peek_says_what_each_message_asks_for_and_takes_none(
    command: Callable[..., Ended], served_queue: ServedQueue, shared_dir: Path
) -> None:
    topic = (shared_dir / "data/messages/NewSentinel2Product_event_2019.json").read_text()
    ids = served_queue.put(NAME, topic, '{"hello": 1}')
    shown = command("peek", "--queue", served_queue.url)
    assert (shown.code, shown.err) == (0, "")
    for message_id in ids:
        assert f"{message_id}  sent " in shown.out
    assert "s ago, received once\n" in shown.out
    assert f"  name: {NAME}\n" in shown.out
    assert "  sentinel2-topic: S2A_MSIL1C_20190115T145721_N0207_R039_T19MBP_20190115T164135\n" in shown.out
    assert "  the message cannot be read: " in shown.out
    assert served_queue.counts() == (3, 0)


def test_peek_as_json_is_one_object_per_message(command: Callable[..., Ended], served_queue: ServedQueue) -> None:
    (known,) = served_queue.put(NAME, attributes={"a": "b"})
    (unknown,) = served_queue.put("?")
    shown = {found["id"]: found for found in command("peek", "--queue", served_queue.url, "--json", "--body").documents}
    sent_at = shown[known].pop("sent_at")
    assert shown[known] == {
        "id": known, "received": 1, "kind": "name", "products": [NAME], "problem": None, "error": None,
        "reason": None, "attributes": {"a": "b"}, "body": NAME,
    }  # fmt: skip
    assert sent_at.endswith("+00:00")
    assert shown[unknown]["products"] == []
    assert "cannot be read" in shown[unknown]["problem"]
    (one,) = command("peek", "--queue", served_queue.url, "--json", "--count", "1").documents
    assert "body" not in one


def test_peek_at_dead_letters_tells_the_reasons_and_nothing_to_the_terminal(
    command: Callable[..., Ended], served_queue: ServedQueue, dead: ServedQueue
) -> None:
    dead.put(NAME, attributes=reasons("band B02\nis \x9b31m missing"))
    dead.put("two\nlines")
    shown = command("peek", "--dead-letters", "--queue", served_queue.url, "--body")
    assert f"  name: {NAME}\n  ProductError: band B02 is \ufffd31m missing\n  | {NAME}\n" in shown.out
    assert "  | two\n  | lines\n" in shown.out
    documents = command("peek", "--dead-letters", "--queue", served_queue.url, "--json").documents
    (told,) = [found for found in documents if found["products"]]
    assert (told["error"], told["attributes"]) == ("ProductError", {"source": "topic"})
    assert command("peek", "--queue", served_queue.url).err == "there is no message that could be received now\n"


@pytest.mark.parametrize(
    ("filters", "bodies"),
    [
        ((), 3),
        (("--reason-contains", "NO SPACE"), 1),
        (("--reason-contains", "producterror"), 2),
        (("--product", "_T29UNU_"), 2),
        (("--product", OTHER), 1),
        (("--product", "_T29UNU_", "--reason-contains", "missing"), 1),
        (("--reason-contains", "nothing of the kind"), 0),
        (("--max", "1"), 1),
    ],
    ids=str,
)
def test_redrive_moves_what_is_chosen(
    command: Callable[..., Ended], served_queue: ServedQueue, dead: ServedQueue, filters: tuple[str, ...], bodies: int
) -> None:
    dead.put(NAME, attributes=reasons("band B02 is missing"))
    dead.put(OTHER, attributes=reasons("band B03 is missing", product=OTHER))
    dead.put("unknown", attributes=reasons("no space left", error="OutputError"))  # the product is told by its burial
    would = command("redrive", "--queue", served_queue.url, *filters, "--dry-run", "--json")
    assert would.documents[0]["moved"] == bodies
    assert (served_queue.counts(), dead.counts()) == ((0, 0), (3, 0))
    shown = command("redrive", "--queue", served_queue.url, *filters)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"{bodies} moved, ")
    assert (served_queue.counts(), dead.counts()) == ((bodies, 0), (3 - bodies, 0))
    assert all(seen.attributes == {"source": "topic"} for seen in served_queue.take())


def test_redrive_as_json_is_one_object(
    command: Callable[..., Ended], served_queue: ServedQueue, dead: ServedQueue
) -> None:
    dead.put(*map(str, range(3)))
    shown = command("redrive", "--queue", served_queue.url, "--json")
    assert shown.documents == [{"moved": 3, "kept": 0, "refused": 0, "reason": None, "dry_run": False}]
    assert shown.err == ""


def test_what_cannot_be_moved_is_exit_code_6(
    command: Callable[..., Ended], served_queue: ServedQueue, dead: ServedQueue
) -> None:
    dead.put("x" * 2000)
    served_queue.server.sqs.set_queue_attributes(QueueUrl=served_queue.url, Attributes={"MaximumMessageSize": "1024"})
    ended = command("redrive", "--queue", served_queue.url)
    assert ended.code == 6
    told, error = ended.err.splitlines()
    assert told == "broken off: 0 moved, 0 stay, 1 refused until now"
    assert error.startswith(f"error: queue {served_queue.url}: the message is too large")
    assert dead.counts() == (1, 0)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("stats",), 2, "no queue is named: give --queue URL, or set KAPPAMASK_QUEUE"),
        (("peek", "--queue", "products"), 2, "'products' is no URL of a queue"),
        (("stats", "--queue", "http://127.0.0.1:9/1/q", "--queue-endpoint", "x"), 2, "of --queue-endpoint is not of"),
        (("peek", "--count", "0"), 2, "greater than or equal to 1"),
    ],
)
def test_mistakes_are_told_in_one_line(
    command: Callable[..., Ended], words: tuple[str, ...], code: int, says: str
) -> None:
    ended = command(*words)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_a_queue_that_is_not_there_is_exit_code_6(command: Callable[..., Ended], served_queue: ServedQueue) -> None:
    ended = command("stats", "--queue", f"{served_queue.url}-absent")
    assert (ended.code, ended.out) == (6, "")
    assert "there is no such queue, or not in this region and account" in ended.err


async def test_retries_are_told_and_a_signal_ends_a_move_without_loss(
    served_queue: ServedQueue, dead: ServedQueue
) -> None:
    """As it is used: a process of its own, which is interrupted while ten messages are between the queues."""
    bodies = sorted(str(number) for number in range(25))
    dead.put(*bodies)
    async with FaultyQueues(served_queue.server.endpoint) as proxy:
        proxy.faults.append(Fault(operation="ReceiveMessage", status=400, code="RequestThrottled"))
        held = Fault(operation="DeleteMessageBatch", hold=asyncio.Event())
        proxy.faults.append(held)
        words = ["queue", "redrive", "--queue", served_queue.url, "--queue-endpoint", proxy.endpoint]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kappamask_stream", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=Path(cli.__file__).parents[2],
        )  # fmt: skip
        await until(lambda: proxy.of("DeleteMessageBatch"))
        process.send_signal(signal.SIGINT)
        assert held.hold is not None
        held.hold.set()
        out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert b"the service is overloaded, it answers 400 RequestThrottled" in err
    assert b"broken off: 10 moved, 0 stay until now" in err
    assert b"Traceback" not in err
    assert (served_queue.counts(), dead.counts()) == ((10, 0), (15, 0))
    assert sorted([*served_queue.bodies(), *dead.bodies()]) == bodies
