"""A STAC API that wants others asked, or memory filled: over real sockets."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import StoreError
from kappamask_stream.feed.stac_search import StacSearch
from kappamask_stream.s3 import Patience
from tests.integration.stac_api import SEARCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENT = Patience(attempts=2, backoff_s=0.001)
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def server(answer: Callable[[str, str], Answer], address: str = "127.0.0.1") -> Iterator[tuple[str, list[str]]]:
    """Answer each request as the function says; yields the URL and what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(f"{self.command} {self.path}")
            status, headers, body = answer(self.command, self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:
                return

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    made = ThreadingHTTPServer((address, 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://{address}:{made.server_address[1]}", asked
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def landing(url: str, **search: Any) -> Answer:
    link = {"rel": "search", "href": f"{url}/search", "method": "GET", **search}
    catalogue = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "x", "conformsTo": [SEARCH],
        "links": [{"rel": "self", "href": url}, link],
    }  # fmt: skip
    return 200, {}, json.dumps(catalogue).encode()


def page(**following: Any) -> Answer:
    links = [{"rel": "next", **following}] if following else []
    feature = {"type": "Feature", "id": "none", "properties": {"platform": "sentinel-1a"}}
    return 200, {}, json.dumps({"type": "FeatureCollection", "features": [feature], "links": links}).encode()


async def searched(url: str) -> int:
    search = StacSearch(url=url, collections=("sentinel-2-l2a",), parameters={"datetime": "2026-01-01T00:00:00Z/.."})
    count = 0
    async for _ in search.pages(PATIENT):
        count += 1
    return count


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_a_next_page_elsewhere_is_not_asked_for(method: str) -> None:
    """Such as the token of an instance's metadata service, which is had by PUT with a header of one's own."""
    with server(lambda *_: page(), "127.0.0.2") as (inside, asked):
        urls: list[str] = []
        following = {
            "href": f"{inside}/latest/api/token",
            "method": method,
            "headers": {"X-aws-ec2-metadata-token-ttl-seconds": "9"},
        }
        with server(lambda _, path: landing(urls[0]) if path == "/" else page(**following)) as (url, _):
            urls.append(url)
            with pytest.raises(
                StoreError, match=r"it leads to 'http://127\.0\.0\.2:\d+/latest/api/token', another host"
            ):
                await searched(url)
        assert asked == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "post", "GET\r\nX: y", 5, None])
async def test_a_next_page_is_asked_for_and_nothing_else_is_done(method: Any) -> None:
    urls: list[str] = []
    with server(lambda _, path: landing(urls[0]) if path == "/" else page(href=f"{urls[0]}/x", method=method)) as (
        url,
        asked,
    ):
        urls.append(url)
        with pytest.raises(StoreError, match="GET or POST is expected"):
            await searched(url)
    assert [line.partition("?")[0] for line in asked] == ["GET /", "GET /search"]


@pytest.mark.parametrize(
    "href",
    ["file:///etc/passwd", "ftp://x.example/a", "//127.0.0.2/x", "http://[::1/x", "http://127.0.0.1.x.example/", ""],
)
async def test_a_next_page_that_is_no_page_of_the_api(href: str) -> None:
    urls: list[str] = []
    with server(lambda _, path: landing(urls[0]) if path == "/" else page(href=href)) as (url, asked):
        urls.append(url)
        with pytest.raises(StoreError):
            await searched(url)
    assert len(asked) <= 4


@pytest.mark.parametrize("href", ["http://127.0.0.2:1/search", "file:///etc/passwd", "/etc/passwd/../x"])
async def test_a_search_elsewhere_is_not_begun(href: str) -> None:
    urls: list[str] = []
    with server(lambda _, path: landing(urls[0], href=href) if path == "/" else page()) as (url, _):
        urls.append(url)
        if href.startswith("/"):  # of the API's own host
            assert await searched(url) == 1
            return
        with pytest.raises(StoreError, match="another host"):
            await searched(url)


async def test_a_redirect_elsewhere_is_not_followed() -> None:
    with server(lambda *_: page(), "127.0.0.2") as (inside, asked):
        urls: list[str] = []
        elsewhere = (302, {"Location": f"{inside}/x"}, b"")
        with server(lambda _, path: landing(urls[0]) if path == "/" else elsewhere) as (url, _):
            urls.append(url)
            with pytest.raises(StoreError, match="another host"):
                await searched(url)
        assert asked == []


async def test_a_redirect_on_the_api_s_host_is_followed() -> None:
    urls: list[str] = []

    def answer(_: str, path: str) -> Answer:
        if path == "/":
            return landing(urls[0])
        return (302, {"Location": "/moved"}, b"") if path.startswith("/search") else page()

    with server(answer) as (url, _):
        urls.append(url)
        assert await searched(url) == 1


async def test_a_page_that_unpacks_to_a_gigabyte_is_not_read() -> None:
    bomb = gzip.compress(b" " * (1 << 27), 9) * 8  # 128 MB each, of 128 KB; members of one file
    urls: list[str] = []
    packed = (200, {"Content-Encoding": "gzip"}, bomb)
    with server(lambda _, path: landing(urls[0]) if path == "/" else packed) as (url, _):
        urls.append(url)
        with pytest.raises(StoreError, match="an answer has more than 67108864 bytes"):
            await searched(url)
