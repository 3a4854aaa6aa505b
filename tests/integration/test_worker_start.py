"""What must be there before a worker takes a message, each part that is not; and an end before the beginning."""

from __future__ import annotations

import asyncio
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import (
    ContractError,
    KappaMaskError,
    OutputError,
    QueueAccessError,
    QueueError,
    QueueUnavailableError,
    ServerUnavailableError,
    UsageError,
)
from kappamask_stream.feed import FeedFilter
from kappamask_stream.models import ModelChoice
from kappamask_stream.queues import queue_options
from kappamask_stream.s3 import Patience
from kappamask_stream.settings import Settings
from kappamask_stream.worker import service as assembly
from kappamask_stream.worker.service import Service, serve
from kappamask_stream.worker.stop import Stop
from tests.integration.queue_servers import QueueServer, ServedQueue, queue_server, served_queue
from tests.integration.worker_process import WorkerProcess
from tests.stream.polling import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.s3_servers import MotoStore
    from tests.integration.session import SessionServer

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

__all__ = ["queue_server", "served_queue"]


@pytest.fixture
def service(
    session_server: SessionServer, served_queue: ServedQueue, moto_store: MotoStore, tmp_path: Path
) -> dict[str, Any]:
    """Settings with which a worker would start."""
    return {
        "queue": served_queue.url, "queue_endpoint": moto_store.endpoint, "s3_endpoint": moto_store.endpoint,
        "output": tmp_path / "masks", "triton": f"grpc://{session_server.address}", "listen": "none", "spot": False,
        "queue_wait_s": 1, "server_wait_s": 0.0, "s3_wait_s": 0.0,
    }  # fmt: skip


async def served(settings: dict[str, Any], *, level: str | None = "L2A", model: str = "null_l2a") -> None:
    order = Service(
        settings=Settings(**settings), choice=ModelChoice(model=model), wanted=FeedFilter(level=level),
        until_empty=True,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        await serve(order, Stop())


async def test_with_all_of_it_there_it_works(service: dict[str, Any], queue_server: QueueServer) -> None:
    topic, queue = queue_server.make_topic(), queue_server.make_queue()
    for emit in (topic, queue.url):
        await served({**service, "emit": emit, "dead_letter_queue": queue_server.make_queue().url})


_QUEUE, _TOPIC = "http://127.0.0.1:{port}/123456789012/absent", "arn:aws:sns:us-east-1:123456789012:absent"


@pytest.mark.parametrize(
    ("changed", "kind", "says"),
    [
        ({"queue": None}, UsageError, "no queue is named: give --queue URL"),
        ({"queue": _QUEUE}, QueueError, "there is no such queue"),
        ({"queue_endpoint": "http://127.0.0.1:1"}, QueueUnavailableError, "cannot be reached"),
        ({"dead_letter_queue": _QUEUE}, QueueError, "there is no such queue"),
        ({"dead_letter_queue": "{queue}"}, UsageError, "is the queue and its dead-letter queue"),
        ({"emit": _TOPIC}, QueueError, "there is no such topic"),
        ({"emit": _QUEUE}, QueueError, "there is no such queue"),
        ({"emit": "nonsense"}, UsageError, "nonsense"),
        ({"emit": "{queue}"}, UsageError, "is the queue that products come from: what is told of masks needs"),
        ({"dead_letter_queue": "{other}", "emit": "{other}"}, UsageError, "is the dead-letter queue: what is told"),
        ({"output": "/proc/masks"}, OutputError, "/proc/masks"),
        ({"output": "s3://there-is-no-such-bucket/masks"}, OutputError, "there is no bucket there-is-no-such-bucket"),
        ({"triton": "grpc://127.0.0.1:1"}, ServerUnavailableError, "no server answers at grpc://127.0.0.1:1"),
        ({"allow": ("ftp://x",)}, UsageError, "--allow names 'ftp://x'"),
        ({"listen": "everywhere"}, UsageError, "--listen is 'everywhere'"),
    ],
)
async def test_what_is_not_there_is_named_before_a_message_is_taken(
    service: dict[str, Any],
    served_queue: ServedQueue,
    moto_store: MotoStore,
    changed: dict[str, Any],
    kind: type[KappaMaskError],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasty = Patience(attempts=1)
    monkeypatch.setattr(assembly, "queue_options", lambda settings: replace(queue_options(settings), patience=hasty))
    port = moto_store.endpoint.rpartition(":")[2]
    fill = {"queue": served_queue.url, "other": served_queue.server.make_queue().url, "port": port}
    changed = {name: value.format(**fill) if isinstance(value, str) else value for name, value in changed.items()}
    served_queue.put("a message")
    with pytest.raises(kind) as caught:
        await served({**service, **changed})
    assert says in str(caught.value)
    assert served_queue.counts() == (1, 0)


@pytest.mark.parametrize(
    ("level", "model", "kind", "says"),
    [
        (None, "null_l2a", UsageError, "the model null_l2a is for L2A products, and L1C ones are wanted, too: give --level L2A"),
        ("L1C", "null_l2a", UsageError, "give --level L2A"),
        (None, "kappamask", ContractError, "does not serve kappamask_l1c_deeplabv3plus"),
    ],
)  # fmt: skip
async def test_a_model_for_one_level_only_asks_for_a_filter(
    service: dict[str, Any], level: str | None, model: str, kind: type[KappaMaskError], says: str
) -> None:
    with pytest.raises(kind) as caught:
        await served(service, level=level, model=model)
    assert says in str(caught.value)
    assert "--level" in str(caught.value)


async def test_who_may_only_publish_may_begin(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Least privilege: a worker's role need not be allowed to look at the topic."""
    from kappamask_stream.queues.clients import Call, QueueClients

    real = QueueClients.call

    async def call(self: QueueClients, call: Call) -> dict[str, Any]:
        if call.operation == "get_topic_attributes":
            raise QueueAccessError(f"{call.what}: access is refused")
        return await real(self, call)

    monkeypatch.setattr(QueueClients, "call", call)
    await served({**service, "emit": _TOPIC})


async def test_told_to_stop_while_it_starts_it_ends_at_once(
    service: dict[str, Any], session_server: SessionServer
) -> None:
    """A server that accepts a connection and answers nothing is not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stop, address = Stop(), f"127.0.0.1:{silent.getsockname()[1]}"
        order = Service(
            settings=Settings(**{**service, "triton": f"grpc://{address}", "server_wait_s": 100.0}),
            choice=ModelChoice(model="null_l2a"), wanted=FeedFilter(level="L2A"),
        )  # fmt: skip
        asyncio.get_running_loop().call_later(0.5, lambda: stop.ask("SIGTERM", grace_s=100))
        async with asyncio.timeout(DEADLINE_S):
            await serve(order, stop)
    assert stop.seconds_left > 90


def test_signals_end_an_idle_worker_with_0_once_or_twice_and_a_failing_start_with_its_own_code(
    service: dict[str, Any], moto_store: MotoStore
) -> None:
    arguments = [
        "--queue", service["queue"], "--queue-endpoint", moto_store.endpoint, "--output", str(service["output"]),
        "--level", "L2A", "--model", "null_l2a", "--triton", service["triton"], "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    with WorkerProcess(*arguments, "--grace-s", "0", settings={"queue_wait_s": "20"}) as worker:
        worker.wait_for("worker", phase="taking")
        worker.process.send_signal(signal.SIGINT)
        worker.wait_for("worker", phase="ended")
        # Ended, but for its long poll, which would be waited for: once more, and it is not.
        worker.process.send_signal(signal.SIGINT)
        assert worker.process.wait(15) == 0
    with WorkerProcess(*arguments, "--level", "L1C") as worker:
        assert worker.ended() == 2
        (line,) = worker.other
        assert line.startswith("error: the model null_l2a is for L2A products")
