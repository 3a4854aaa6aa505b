"""Stores that send a byte now and then: never silent, and given up all the same, or resumed at the byte reached."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import StoreUnavailableError
from kappamask_stream.s3 import S3Client, S3Object, S3Options
from kappamask_stream.s3.retry import Patience
from kappamask_stream.sources.http import HttpStore
from tests.integration import faulty_s3, ranged_server
from tests.integration.faulty_s3 import FaultyS3
from tests.integration.ranged_server import RangedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.usefixtures("aws_environment")

DATA = random.Random(5).randbytes(300_000)
#: A drip is told after 1.2 s, silence after 0.6; the fakes send a byte each 0.05 s.
PATIENCE = Patience(attempts=2, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.002, connect_s=0.2, read_s=0.6)
PATIENT = Patience(attempts=9, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.002, connect_s=0.2, read_s=0.6)
#: Seconds within which all is over; the fakes drip for longer.
SOON_S = 30.0
DRIP = r"\d+ bytes came in \d s, at least 2048 a second are needed"
GIVEN_UP = DRIP + "; given up after 2 attempts"
WHOLE = S3Object(bucket="bucket", key="B02.jp2", size=len(DATA))


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3({"bucket/B02.jp2": DATA}) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[RangedServer]:
    async with RangedServer({"B02.tif": DATA}) as running:
        yield running


def client_of(endpoint: str, patience: Patience) -> S3Client:
    return S3Client(S3Options(endpoint_url=endpoint, region="us-east-1", patience=patience))


@asynccontextmanager
async def dripping_server(head: bytes) -> AsyncIterator[str]:
    """Yield the URL of a server that answers everything with `head`, and then a byte each 0.05 s without an end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"


# S3


async def test_a_range_that_drips_is_resumed_at_the_byte_reached(store: FaultyS3) -> None:
    store.faults.append(faulty_s3.Fault(after=100_000, then="drip"))
    async with asyncio.timeout(SOON_S), client_of(store.endpoint, PATIENT) as client:
        assert await client.read(WHOLE, 0, len(DATA)) == DATA
    first, *_, last = store.ranges
    assert first == "bytes=0-299999"
    reached = int(str(last).removeprefix("bytes=").partition("-")[0])
    assert reached >= 100_000


async def test_a_range_that_always_drips_is_given_up(store: FaultyS3) -> None:
    store.faults += [faulty_s3.Fault(after=10, then="drip")] * 9
    async with asyncio.timeout(SOON_S), client_of(store.endpoint, PATIENCE) as client:
        with pytest.raises(StoreUnavailableError, match=GIVEN_UP):
            await client.read(WHOLE, 0, len(DATA))
    assert len(store.ranges) == 2


async def test_a_whole_object_that_always_drips_is_given_up(store: FaultyS3) -> None:
    store.faults += [faulty_s3.Fault(after=10, then="drip")] * 9
    async with asyncio.timeout(SOON_S), client_of(store.endpoint, PATIENCE) as client:
        with pytest.raises(StoreUnavailableError, match=GIVEN_UP):
            await client.get("bucket", "B02.jp2", limit=10**6)


HEADERS = b"HTTP/1.1 200 OK\r\nx-long: "
LISTING = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: 100000\r\n\r\n<ListBucketResult>"


async def test_headers_that_drip_are_given_up() -> None:
    async with dripping_server(HEADERS) as url, asyncio.timeout(SOON_S), client_of(url, PATIENCE) as client:
        with pytest.raises(StoreUnavailableError, match="does not answer in time; given up after 2 attempts"):
            await client.read(WHOLE, 0, 10)


async def test_a_listing_that_drips_is_given_up() -> None:
    async with dripping_server(LISTING) as url, asyncio.timeout(SOON_S), client_of(url, PATIENCE) as client:
        with pytest.raises(StoreUnavailableError, match="does not answer in time; given up after 2 attempts"):
            await client.list("bucket", "", most=10)


# Web servers


async def test_a_range_of_a_web_server_that_drips_is_resumed_at_the_byte_reached(server: RangedServer) -> None:
    async with asyncio.timeout(SOON_S), HttpStore(patience=PATIENT) as store:
        blob = store.blob(server.url("B02.tif"))
        await blob.size()
        server.faults.append(ranged_server.Fault(after=100_000, drips=True))
        assert await blob.read(100_000, 200_000) == DATA[100_000:]
    _, first, *_, last = server.sent_ranges
    assert first == "bytes=100000-299999"
    assert int(str(last).removeprefix("bytes=").partition("-")[0]) >= 200_000


async def test_a_web_server_that_always_drips_is_given_up(server: RangedServer) -> None:
    async with asyncio.timeout(SOON_S), HttpStore(patience=PATIENCE) as store:
        blob = store.blob(server.url("B02.tif"))
        server.faults += [ranged_server.Fault(after=10, drips=True)] * 2
        with pytest.raises(StoreUnavailableError, match=GIVEN_UP):
            await blob.size()
        await blob.size()
        server.faults += [ranged_server.Fault(after=10, drips=True)] * 2
        with pytest.raises(StoreUnavailableError, match=GIVEN_UP):
            await blob.read(100_000, 200_000)
        server.faults += [ranged_server.Fault(after=10, drips=True)] * 2
        with pytest.raises(StoreUnavailableError, match=GIVEN_UP):
            await store.fetch(server.url("B02.tif"), limit=10**6)


async def test_headers_of_a_web_server_that_drip_are_given_up() -> None:
    async with dripping_server(HEADERS) as url, asyncio.timeout(SOON_S), HttpStore(patience=PATIENCE) as store:
        with pytest.raises(StoreUnavailableError, match="does not answer in time; given up after 2 attempts"):
            await store.blob(url).size()
