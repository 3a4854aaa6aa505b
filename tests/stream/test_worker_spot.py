"""The interruption notice of a spot instance, from an instance metadata service over a real socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from kappamask_stream.worker import spot
from kappamask_stream.worker.stop import Stop
from tests.stream.polling import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Metadata:
    """IMDSv2: a token by PUT, and nothing without it."""

    def __init__(self) -> None:
        self.notice: str | None = None
        self.tokens = 0
        self.asked = 0
        self.refuses = 0
        self.odd: list[bytes] = []
        self.url = ""
        self.clock_h = 0

    async def token(self, request: web.Request) -> web.Response:
        if not request.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            return web.Response(status=400)
        if self.odd:
            return web.Response(body=self.odd.pop(0))
        self.tokens += 1
        return web.Response(text=f"token-{self.tokens}\n")

    async def action(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.refuses:
            self.refuses -= 1
            return web.Response(status=503)
        if request.headers.get("X-aws-ec2-metadata-token") != f"token-{self.tokens}":
            return web.Response(status=401)
        now = datetime.now(UTC) + timedelta(hours=self.clock_h)
        headers = {"Date": format_datetime(now, usegmt=True)}
        return web.Response(status=404) if self.notice is None else web.Response(text=self.notice, headers=headers)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_put("/latest/api/token", self.token)
        app.router.add_get("/latest/meta-data/spot/instance-action", self.action)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    monkeypatch.setattr(spot, "_EACH_S", 0.01)


@pytest.mark.usefixtures("quick")
async def test_a_notice_stops_the_worker_with_the_time_that_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata, stop = Metadata(), Stop()
    async with metadata.served():
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{metadata.url}/")
        watch = asyncio.create_task(spot.watch_spot(stop, grace_s=100))
        await until(lambda: metadata.asked >= 3)
        assert not stop.is_asked
        assert metadata.tokens == 1
        metadata.tokens += 1  # the token has ended
        metadata.refuses = 2
        await until(lambda: metadata.tokens >= 3)
        at = datetime.now(UTC) + timedelta(seconds=90)
        metadata.notice = f'{{"action": "terminate", "time": "{at:%Y-%m-%dT%H:%M:%SZ}"}}'
        await watch
    assert stop.reason == f"spot interruption notice: terminate at {at:%H:%M:%S} UTC"
    assert 70 < stop.seconds_left <= 80


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_time_that_is_left_is_by_the_services_clock(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """By this machine's, which is an hour off, there would be none left, or more than the instance lives."""
    metadata, stop = Metadata(), Stop()
    metadata.clock_h = hours
    at = datetime.now(UTC) + timedelta(hours=hours, seconds=90)
    metadata.notice = f'{{"action": "terminate", "time": "{at:%Y-%m-%dT%H:%M:%SZ}"}}'
    async with metadata.served():
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        await spot.watch_spot(stop, grace_s=100)
    assert 70 < stop.seconds_left <= 81


@pytest.mark.usefixtures("quick")
async def test_a_metadata_service_that_goes_away_later_is_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata, stop = Metadata(), Stop()
    async with metadata.served():
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        watch = asyncio.create_task(spot.watch_spot(stop, grace_s=100))
        await until(lambda: metadata.asked >= 1)
        metadata.refuses = 20
        await until(lambda: metadata.refuses == 0)
        metadata.notice = "no JSON"
        seen = metadata.asked
        await until(lambda: metadata.asked >= seen + 5)
        assert not watch.done()
        metadata.notice = '{"action": "stop", "time": "2020-01-01T00:00:00Z"}'
        await watch
    assert stop.seconds_left == 0


@pytest.mark.usefixtures("quick")
async def test_tokens_that_are_none_do_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata, stop = Metadata(), Stop()
    metadata.notice = '{"action": "stop", "time": "2020-01-01T00:00:00Z"}'
    metadata.odd = [b"<html>\r\n<b>", b"\xff\xfe\xfa"]
    async with metadata.served():
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        async with asyncio.timeout(DEADLINE_S):
            await spot.watch_spot(stop, grace_s=100)
    assert stop.is_asked
    assert (metadata.odd, metadata.tokens) == ([], 1)


@pytest.mark.usefixtures("quick")
async def test_where_this_is_no_ec2_instance_it_gives_up_quietly(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = Stop()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{unused_tcp_port}")
    await spot.watch_spot(stop, grace_s=100)
    assert not stop.is_asked
    assert capsys.readouterr() == ("", "")


async def test_where_metadata_is_disabled_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Metadata()
    async with metadata.served():
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "True")
        await spot.watch_spot(Stop(), grace_s=100)
    assert (metadata.tokens, metadata.asked) == (0, 0)
