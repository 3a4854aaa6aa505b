"""STAC Items that are made to break the reader, or to have it read what is not theirs.

Links to places inside a network: test_stac_addresses.py. Single fields: tests/unit/test_stac_items.py, test_hrefs.py.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import InputError, KappaMaskError, ProductError, StoreError, StoreUnavailableError
from kappamask_stream.jp2 import index_bands
from kappamask_stream.s3 import Patience, S3Options, Stores
from kappamask_stream.sources.locate import open_source
from kappamask_stream.sources.stac_bands import parse_item
from tests.integration.ranged_server import Fault, RangedServer
from tests.unit.stac_items import earth_search

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CONTENT = bytes(1000)


@pytest.fixture
async def server() -> AsyncIterator[RangedServer]:
    async with RangedServer({"B02.tif": CONTENT}) as found:
        yield found


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    async with Stores(S3Options(patience=Patience(attempts=3, backoff_s=0.001))) as found:
        yield found


async def read(where: str, stores: Stores) -> bytes:
    source = await open_source(where, stores=stores)
    return await source.read("B02_10m.tif", 0, 10)


def item(**assets: Any) -> dict[str, Any]:
    found = earth_search()
    return {**found, "assets": {"blue": found["assets"]["blue"] | assets}}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe" + "{}".encode("utf-16-le"), b"[" * 10**5, b'{"a":' * 10**5, b"9" * 10**5, b'"' + b"\\" * 1001,
        b"{}", b"[]", b"null", b"NaN", b'{"type": "Feature"}', b"\x00" * 10**5, b"II*\x00" + bytes(5000), b"<html>" * 1000,
        json.dumps({**earth_search(), "type": ["Feature"]}).encode(),
        json.dumps({**earth_search(), "assets": []}).encode(),
        json.dumps({**earth_search(), "assets": {str(n): {} for n in range(10_000)}}).encode(),
        json.dumps({**earth_search(), "properties": None, "id": "x" * 10**5}).encode(),
    ],
)  # fmt: skip
async def test_what_is_no_item_is_refused_in_words(server: RangedServer, stores: Stores, content: bytes) -> None:
    server.files["item.json"] = content
    with pytest.raises(ProductError) as caught:
        await open_source(server.url("item.json"), stores=stores)
    assert len(str(caught.value)) < 1500


async def test_an_item_of_a_hundred_megabytes_is_not_read(server: RangedServer, stores: Stores) -> None:
    server.files["item.json"] = b" " * (100 << 20)
    with pytest.raises(ProductError, match="longer than 4194304 bytes: it is not what is expected"):
        await open_source(server.url("item.json"), stores=stores)


async def test_an_item_of_a_terabyte_in_a_file_is_not_read(stores: Stores, tmp_path: Path) -> None:
    path = tmp_path / "item.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ProductError, match=f"{1 << 40} bytes, an Item at most 4194304"):
        await open_source(str(path), stores=stores)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path)], ids=["fifo", "loop"])
async def test_a_place_that_is_no_file_is_refused(stores: Stores, tmp_path: Path, make: Any) -> None:
    path = tmp_path / "item.json"
    make(path)
    source = await open_source(str(path), stores=stores)
    with pytest.raises(InputError):
        await source.files()


async def test_an_item_that_links_itself_as_a_band_is_refused(server: RangedServer, stores: Stores) -> None:
    server.files["item.json"] = json.dumps(item(href="item.json")).encode()
    source = await open_source(server.url("item.json"), stores=stores)
    with pytest.raises(ProductError):
        await index_bands(source, ["B02_10m.tif"])


async def test_redirects_that_lead_on_and_on_have_an_end(server: RangedServer, stores: Stores) -> None:
    server.redirects |= {f"{n}.json": f"/{n + 1}.json" for n in range(1000)}
    with pytest.raises(StoreError, match="redirected in a circle, or too often"):
        await open_source(server.url("0.json"), stores=stores)
    assert len(server.requests) <= 11


@pytest.mark.parametrize(
    "said",
    [
        "bytes 0-16383/" + "9" * 5000,
        "bytes 0-" + "9" * 5000 + "/9",
        "bytes 0-16383/\u0669",
        "bytes */" + "9" * 5000,
        "x" * 7000,
    ],
)
async def test_a_size_of_five_thousand_digits_is_none(server: RangedServer, stores: Stores, said: str) -> None:
    server.files["item.json"] = json.dumps(item(href=server.url("B02.tif"))).encode()
    source = await open_source(server.url("item.json"), stores=stores)
    server.faults += [
        Fault(status=206, headers={"Content-Range": said.encode("latin-1", "replace").decode("latin-1")})
    ] * 8
    with pytest.raises(KappaMaskError, match="does not say how long it is"):
        await source.read("B02_10m.tif", 0, 10)


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd", "ftp://x.example/B02.tif", "data:image/tiff;base64,SUkqAA==", "gopher://x.example/B02.tif",
        "vsicurl/http://x.example/B02.tif", "javascript:0", "s3://bucket/../B02.tif", "https://", "https:///B02.tif",
        "http://u:p@/B02.tif", "https://x.example\\@y.example/B02.tif", "http://x.example:0x50/B02.tif", "http://[::1/B02.tif",
        "http://\u2100.example/\nB02.tif", "B02.tif\x00", " ", "a" * 5000,
    ],
)  # fmt: skip
async def test_links_that_are_not_followed(server: RangedServer, stores: Stores, href: str) -> None:
    server.files["item.json"] = json.dumps(item(href=href)).encode()
    with pytest.raises((ProductError, StoreError)):
        await read(server.url("item.json"), stores)
    assert {path for path, _ in server.requests} <= {"item.json", "vsicurl/http://x.example/B02.tif"}


@pytest.mark.parametrize(
    "code",
    ["EPSG:" + "9" * 400, "EPSG:" + "0" * 400 + "32629", "EPSG:\u0663\u0662\u0666\u0662\u0669", "EPSG:1e5", "EPSG:"],
)
def test_a_code_of_a_projection_that_is_none_says_nothing(code: str) -> None:
    found = earth_search(properties={"proj:code": code, "proj:epsg": None})
    assert parse_item(json.dumps(found).encode(), "item", "https://x.example/item.json").epsg is None


@asynccontextmanager
async def dripping() -> AsyncIterator[str]:
    """A server that sends one byte after the other, each well within what counts as silence, and never ends."""
    answering: list[asyncio.Task[None]] = []

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())  # type: ignore[arg-type]
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/item.json"
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


async def test_an_item_that_comes_a_byte_at_a_time_for_ever_is_given_up() -> None:
    options = S3Options(patience=Patience(attempts=2, backoff_s=0.001, read_s=0.05))
    async with dripping() as url, Stores(options) as stores:
        with pytest.raises(StoreUnavailableError, match=r"does not answer in time|a second are needed"):
            await open_source(url, stores=stores)
