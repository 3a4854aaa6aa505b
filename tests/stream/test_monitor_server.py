"""The monitor over a real socket: what it answers, whom it refuses, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_metrics
from structlog.testing import capture_logs
from yarl import URL

from kappamask_stream.errors import UsageError
from kappamask_stream.monitor import Monitor
from kappamask_stream.monitor import readiness as readiness_module
from kappamask_stream.monitor.readiness import Readiness
from kappamask_stream.worker.types import WorkerState
from tests.stream.polling import until
from tests.unit.monitor_scene import Play, coloured, done, job_of, make_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

PATHS = ("/", "/status.json", "/metrics", "/healthz", "/readyz", "/quicklooks/1.png")


class FakeProbe:
    """Says what it is told to; counts how often it was asked."""

    def __init__(self) -> None:
        self.said: dict[str, str | None] = {"triton": None, "queue": None}
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def __call__(self) -> dict[str, str | None]:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.said


@pytest.fixture
async def probe() -> FakeProbe:
    return FakeProbe()


@pytest.fixture
async def monitor(probe: FakeProbe) -> AsyncIterator[Monitor]:
    async with Monitor("127.0.0.1:0", probe=probe, model="csmask") as opened:
        yield opened


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def got(
    web: aiohttp.ClientSession, monitor: Monitor, path: str, **rest: Any
) -> tuple[int, dict[str, str], bytes]:
    assert monitor.url is not None
    url = URL(monitor.url.rstrip("/") + path, encoded=True)  # a path is sent as it is written
    async with web.request(rest.pop("method", "GET"), url, **rest) as answer:
        return answer.status, dict(answer.headers), await answer.read()


def tell(monitor: Monitor, **state: Any) -> None:
    for observer in monitor.observers:
        observer.state_changed(WorkerState(**state))


async def test_port_0_gets_a_port_and_tells_it(monitor: Monitor, web: aiohttp.ClientSession) -> None:
    assert monitor.url is not None
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+/", monitor.url)
    assert (await got(web, monitor, "/"))[0] == 200


async def test_ipv6_works(probe: FakeProbe, web: aiohttp.ClientSession) -> None:
    try:
        with socket.socket(socket.AF_INET6) as there:
            there.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    async with Monitor("[::1]:0", probe=probe, model="m") as monitor:
        assert monitor.url is not None
        assert monitor.url.startswith("http://[::1]:")
        assert (await got(web, monitor, "/healthz"))[0] in (200, 503)


async def test_a_port_that_is_taken_is_said_with_the_remedy(monitor: Monitor, probe: FakeProbe) -> None:
    assert monitor.url is not None
    place = monitor.url.removeprefix("http://").rstrip("/")
    with pytest.raises(
        UsageError, match=rf"nothing can listen at {re.escape(place)} .*address already in use.*--listen"
    ):
        async with Monitor(place, probe=probe, model="m"):
            pass
    with pytest.raises(UsageError, match=r"nothing can listen at 192\.0\.2\.1:1 .*--listen"):
        async with Monitor("192.0.2.1:1", probe=probe, model="m"):
            pass


async def test_none_listens_nowhere_and_asks_nobody(probe: FakeProbe) -> None:
    async with Monitor("none", probe=probe, model="m") as monitor:
        assert (monitor.url, list(monitor.observers)) == (None, [])
        await asyncio.sleep(0)
    assert probe.asked == 0


async def test_nothing_is_left_behind(probe: FakeProbe, web: aiohttp.ClientSession) -> None:
    before = asyncio.all_tasks()
    async with Monitor("127.0.0.1:0", probe=probe, model="m") as monitor:
        await got(web, monitor, "/status.json")
        url = monitor.url
        probe.gate.clear()
        assert len(asyncio.all_tasks()) > len(before)
    assert asyncio.all_tasks() == before
    assert url is not None
    with pytest.raises(aiohttp.ClientConnectionError):
        await web.get(url)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_only_questions_are_answered(
    monitor: Monitor, web: aiohttp.ClientSession, path: str, method: str
) -> None:
    status, headers, _ = await got(web, monitor, path, method=method)
    assert status == 405
    assert headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("path", PATHS[:-1])
async def test_head_is_get_without_a_body(monitor: Monitor, web: aiohttp.ClientSession, path: str) -> None:
    tell(monitor, phase="taking")
    await until(lambda: monitor._lag.seen_at)
    _, expected, _ = await got(web, monitor, path)
    status, headers, body = await got(web, monitor, path, method="HEAD")
    assert (status, headers["Content-Type"], body) == (200, expected["Content-Type"], b"")


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/quicklooks/../metrics"])
async def test_every_answer_is_fenced(monitor: Monitor, web: aiohttp.ClientSession, path: str) -> None:
    _, headers, _ = await got(web, monitor, path)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Server"] == "kappamask-stream"
    assert not {name for name in headers if name.lower().startswith("access-control-")}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:9108", "127.0.0.1.evil.example", "10.0.0.1"])
async def test_another_hosts_name_is_refused(
    monitor: Monitor, web: aiohttp.ClientSession, path: str, host: str
) -> None:
    """DNS rebinding: a page of evil.example whose name now points here asks through the user's browser."""
    status, _, body = await got(web, monitor, path, headers={"Host": host})
    assert status == 421
    assert body == b"this server answers to localhost only\n"


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1", "[::1]:7"])
async def test_this_machines_names_are_answered(monitor: Monitor, web: aiohttp.ClientSession, host: str) -> None:
    assert (await got(web, monitor, "/status.json", headers={"Host": host}))[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/quicklooks/2.png", "/quicklooks/0.png", "/quicklooks/01.png", "/quicklooks/1", "/quicklooks/1.PNG", "/quicklooks/-1.png",
     "/quicklooks/1.png/..", "/quicklooks/..%2f..%2fetc%2fpasswd", "/quicklooks/%2e%2e/status.json", "/quicklooks/1%00.png",
     "/quicklooks/" + "9" * 400 + ".png", "/quicklooks/%D9%A1.png", "/quicklooks/", "/etc/passwd", "/page/status.html"],
)  # fmt: skip
async def test_only_pictures_that_are_there_are_given(monitor: Monitor, web: aiohttp.ClientSession, path: str) -> None:
    monitor._board.quicklooks.put(1, b"\x89PNG")
    status, headers, body = await got(web, monitor, "/quicklooks/1.png")
    assert (status, headers["Content-Type"], body) == (200, "image/png", b"\x89PNG")
    status, _, body = await got(web, monitor, path)
    assert status == 404
    assert b"PNG" not in body


async def test_nonsense_on_the_wire_is_refused_and_the_next_one_is_answered(
    monitor: Monitor, web: aiohttp.ClientSession
) -> None:
    assert monitor.url is not None
    port = int(monitor.url.rstrip("/").rpartition(":")[2])
    for sent in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"x" * 100_000,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        with suppress(ConnectionError):
            await writer.drain()
            writer.write_eof()
            assert b" 200 " not in await reader.read()
        writer.close()
    assert (await got(web, monitor, "/healthz"))[0] in (200, 503)


async def test_metrics_come_in_the_form_that_is_asked_for(monitor: Monitor, web: aiohttp.ClientSession) -> None:
    for observer in monitor.observers:
        observer.message_ended(make_message(), "done", None, 1.0)
    _, headers, body = await got(web, monitor, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {
        s.name: s.value for f in plain_metrics(body.decode()) for s in f.samples if s.labels == {"outcome": "done"}
    }
    assert samples["kappamask_messages_total"] == 1.0
    accept = {"Accept": "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"}
    _, headers, body = await got(web, monitor, "/metrics", headers=accept)
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family.type for family in open_metrics(body.decode())}
    assert families["kappamask_messages"] == "counter"
    assert families["kappamask_server_batch_size"] == "histogram"
    assert families["kappamask_phase_seconds"] == "counter"
    for accept in (
        "",
        "*/*",
        "text/plain;version=1.0.0;escaping=allow-utf-8",
        "application/openmetrics-text; version=2.x, x/y",
    ):
        status, _, body = await got(web, monitor, "/metrics", headers={"Accept": accept})
        assert status == 200, accept
        assert b"kappamask_messages_total" in body


async def test_the_worker_is_live_once_the_loop_was_seen(
    monitor: Monitor, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: monitor._lag.seen_at)
    status, headers, body = await got(web, monitor, "/healthz")
    assert (status, json.loads(body)) == (200, {"live": True, "reason": None})
    assert headers["Content-Type"].startswith("application/json")
    monkeypatch.setattr("kappamask_stream.monitor.server._LIVE_S", -1.0)
    status, _, body = await got(web, monitor, "/healthz")
    assert (status, json.loads(body)["live"]) == (503, False)


async def test_a_loop_that_was_held_shows_in_the_histogram(monitor: Monitor) -> None:
    await until(lambda: monitor._lag.seen_at)
    time.sleep(0.3)  # noqa: ASYNC251 - what must not happen

    def late() -> float:
        value = monitor._metrics.registry.get_sample_value
        quick = value("kappamask_event_loop_lag_seconds_bucket", {"le": "0.1"}) or 0.0
        return (value("kappamask_event_loop_lag_seconds_count") or 0.0) - quick

    await until(lambda: late() >= 3)  # one sample each 50 ms of it, less the last 100 ms


async def test_the_worker_is_ready_where_all_answer_and_it_works(
    monitor: Monitor, probe: FakeProbe, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness_module, "_FRESH_S", 0.0)
    status, _, body = await got(web, monitor, "/readyz")
    assert (status, json.loads(body)) == (
        503,
        {"ready": False, "parts": {"triton": None, "queue": None, "worker": "starting"}},
    )
    tell(monitor, phase="taking")
    status, _, body = await got(web, monitor, "/readyz")
    assert (status, json.loads(body)) == (
        200,
        {"ready": True, "parts": {"triton": None, "queue": None, "worker": None}},
    )
    tell(monitor, phase="paused", reason="the inference server is full")
    assert (await got(web, monitor, "/readyz"))[0] == 200
    probe.said = {"triton": None, "queue": None, "worker": "20 in a row failed, https://u:pw@h/?sig=1 was the last"}
    status, _, body = await got(web, monitor, "/readyz")
    assert (status, json.loads(body)["parts"]["worker"]) == (503, "20 in a row failed, https://h/ was the last")
    probe.said["worker"] = None
    tell(monitor, phase="draining", reason="SIGTERM")
    status, _, body = await got(web, monitor, "/readyz")
    assert (status, json.loads(body)["parts"]["worker"]) == (503, "draining: SIGTERM")


async def test_however_many_ask_the_probe_runs_once(probe: FakeProbe, web: aiohttp.ClientSession) -> None:
    probe.gate.clear()
    async with Monitor("127.0.0.1:0", probe=probe, model="m") as monitor:
        tell(monitor, phase="taking")
        asking = [asyncio.create_task(got(web, monitor, "/readyz")) for _ in range(40)]
        await until(lambda: probe.asked)
        asking[0].cancel()  # who goes away takes the answer from nobody
        probe.gate.set()
        answers = await asyncio.gather(*asking[1:])
        assert {status for status, _, _ in answers} == {200}
        assert (await got(web, monitor, "/readyz"))[0] == 200
        assert probe.asked == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("https://u:pw@sqs/q?X-Amz-Signature=abc: no such queue"),
            "RuntimeError: https://sqs/q: no such queue",
        ),
        (TimeoutError(), "no answer within 8 s"),
    ],
)
async def test_a_probe_that_fails_is_an_answer(
    probe: FakeProbe, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(readiness_module, "_FRESH_S", 0.0)
    probe.error = error
    async with Monitor("127.0.0.1:0", probe=probe, model="m") as monitor:
        tell(monitor, phase="taking")
        status, _, body = await got(web, monitor, "/readyz")
        assert (status, json.loads(body)["parts"]) == (503, {"probe": reason, "worker": None})
        probe.error = None
        assert (await got(web, monitor, "/readyz"))[0] == 200
        probe.error = error
        _, _, body = await got(web, monitor, "/readyz")
        assert json.loads(body)["parts"] == {"triton": reason, "queue": reason, "worker": None}


async def test_a_probe_that_hangs_is_given_up(probe: FakeProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness_module, "_PATIENCE_S", 0.01)
    probe.gate.clear()
    told: list[Any] = []
    readiness = Readiness(probe, tell=told.append)
    assert await readiness.parts() == {"probe": "no answer within 0.01 s"}
    assert told == [readiness.last]
    await readiness.aclose()


async def test_who_asks_while_all_is_being_closed_begins_nothing(probe: FakeProbe) -> None:
    before, readiness = asyncio.all_tasks(), Readiness(probe)
    await readiness.aclose()
    assert await readiness.parts() == {}
    assert (probe.asked, asyncio.all_tasks()) == (0, before)


async def test_the_probe_is_run_without_being_asked(monkeypatch: pytest.MonkeyPatch, probe: FakeProbe) -> None:
    """Or the metric would say what was true when somebody last asked."""
    monkeypatch.setattr(readiness_module, "_PERIOD_S", 0.0)
    monkeypatch.setattr(readiness_module, "_FRESH_S", 0.0)
    probe.said = {"triton": "gone", "queue": None}
    async with Monitor("127.0.0.1:0", probe=probe, model="m") as monitor:
        await until(lambda: probe.asked > 2)
        value = monitor._metrics.registry.get_sample_value
        assert value("kappamask_ready", {"part": "triton"}) == 0.0
        assert value("kappamask_ready", {"part": "queue"}) == 1.0


async def test_the_status_is_put_together_seldom_however_many_ask(
    monitor: Monitor, web: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kappamask_stream.monitor.server._STATUS_FRESH_S", 3600.0)
    first = await got(web, monitor, "/status.json")
    tell(monitor, phase="draining")
    assert (await got(web, monitor, "/status.json"))[2] == first[2]
    monkeypatch.setattr("kappamask_stream.monitor.server._STATUS_FRESH_S", 0.0)
    assert json.loads((await got(web, monitor, "/status.json"))[2])["worker"]["phase"] == "draining"


async def test_what_observers_see_is_served(
    monitor: Monitor, web: aiohttp.ClientSession, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    tell(monitor, phase="taking", slots=1, busy=1)
    play = Play.of(monitor.observers, job_of(make_message()), coloured(csmask_contract), tmp_path, 600)
    await play.begin()
    await play.finish(done())
    seen = json.loads((await got(web, monitor, "/status.json"))[2])
    assert (seen["model"], seen["worker"]["busy"], seen["ready"]) == ("csmask", 1, {"triton": None, "queue": None})
    (result,) = seen["results"]
    status, headers, body = await got(web, monitor, f"/{result['quicklook']}")
    assert (status, headers["Content-Type"], body[:4]) == (200, "image/png", b"\x89PNG")
    tiles = monitor._metrics.registry.get_sample_value
    assert tiles("kappamask_tiles_total", {"kind": "inferred"}) == sum(play.classes != 5)
    assert tiles("kappamask_tiles_total", {"kind": "empty"}) == sum(play.classes == 5)


async def test_a_part_that_fails_is_told_and_the_others_go_on(probe: FakeProbe, web: aiohttp.ClientSession) -> None:
    async def sample() -> Any:
        raise ZeroDivisionError("a fault of ours")

    with capture_logs() as lines:
        async with Monitor("127.0.0.1:0", probe=probe, model="m", sample_batches=sample) as monitor:
            await until(lambda: lines and monitor._lag.seen_at)
            assert (await got(web, monitor, "/healthz"))[0] == 200
    (line,) = lines
    assert (line["log_level"], line["part"], repr(line["exc_info"])) == (
        "error", "batch sizes", "ZeroDivisionError('a fault of ours')",
    )  # fmt: skip


async def test_cancelling_at_the_begin_leaves_nothing(probe: FakeProbe) -> None:
    before = asyncio.all_tasks()

    async def run() -> None:
        async with Monitor("127.0.0.1:0", probe=probe, model="m"):
            await asyncio.Event().wait()

    for steps in range(12):
        task = asyncio.create_task(run())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == before
