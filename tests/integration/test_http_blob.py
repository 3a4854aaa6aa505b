"""Files on web servers, read in ranges: right bytes or a clear error, whatever the server does."""

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import pytest

from kappamask_stream.errors import ProductError, StoreError, StoreUnavailableError
from kappamask_stream.s3.retry import Patience
from kappamask_stream.sources.hrefs import shown_url
from kappamask_stream.sources.http import HttpStore
from tests.integration.ranged_server import Fault, RangedServer

CONTENT = random.Random(3).randbytes(3_000_000)
HEAD = 16 * 1024
UNPATIENT = Patience(attempts=4, wait_s=30.0, backoff_s=0.001, backoff_max_s=0.002, connect_s=5.0, read_s=5.0)


@pytest.fixture
async def server() -> AsyncIterator[RangedServer]:
    async with RangedServer({"B02.tif": CONTENT, "small.json": b'{"a": 1}', "empty": b""}) as server:
        yield server


@pytest.fixture
async def store() -> AsyncIterator[HttpStore]:
    async with HttpStore(patience=UNPATIENT) as store:
        yield store


async def test_size_and_header_are_one_request(server: RangedServer, store: HttpStore) -> None:
    blob = store.blob(server.url("B02.tif"))
    assert await blob.size() == len(CONTENT)
    assert await blob.read(100, HEAD - 100) == CONTENT[100:HEAD]
    assert server.sent_ranges == [f"bytes=0-{HEAD - 1}"]


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 0), (0, 1), (HEAD - 1, 2), (HEAD, 100), (1_000_000, 1_500_000), (2_999_999, 1), (0, 3_000_000)],
)
async def test_reads_exactly(server: RangedServer, store: HttpStore, start: int, length: int) -> None:
    assert await store.blob(server.url("B02.tif")).read(start, length) == CONTENT[start : start + length]


@pytest.mark.parametrize("etags", ["strong", "weak", "none"])
@pytest.mark.parametrize("ranges", ["yes", "as 200"])
async def test_servers_differ(server: RangedServer, store: HttpStore, etags: str, ranges: str) -> None:
    server.etags, server.ranges = etags, ranges
    assert await store.blob(server.url("B02.tif")).read(500_000, 1000) == CONTENT[500_000:501_000]


@pytest.mark.parametrize(("path", "size"), [("empty", 0), ("small.json", 8)])
@pytest.mark.parametrize("ranges", ["yes", "no"])
async def test_small_files(server: RangedServer, store: HttpStore, path: str, size: int, ranges: str) -> None:
    server.ranges = ranges
    blob = store.blob(server.url(path))
    assert await blob.size() == size
    assert await blob.read(0, size) == server.files[path]


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 3_000_001), (3_000_000, 1), (0, 2**62)])
async def test_beyond_the_file(server: RangedServer, store: HttpStore, start: int, length: int) -> None:
    with pytest.raises(ProductError, match=rf"has 3000000 bytes, bytes {start} to {start + length} are needed"):
        await store.blob(server.url("B02.tif")).read(start, length)


async def test_goes_on_from_the_byte_reached(server: RangedServer, store: HttpStore) -> None:
    """Cut twice: each time the rest is asked for, of the same version."""
    blob = store.blob(server.url("B02.tif"))
    await blob.size()
    server.faults = deque([Fault(after=700_000), Fault(after=600_000)])
    assert await blob.read(HEAD, 2_500_000) == CONTENT[HEAD : HEAD + 2_500_000]
    first, second, third = (int(r.removeprefix("bytes=").split("-")[0]) for r in server.sent_ranges[1:] if r)
    assert first == HEAD
    assert first < second <= HEAD + 700_000
    assert second < third <= second + 600_000


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
async def test_tries_again_when_told_later(server: RangedServer, store: HttpStore, status: int) -> None:
    server.faults = deque([Fault(status=status, headers={"Retry-After": "0"}), None, Fault(status=status)])
    blob = store.blob(server.url("B02.tif"))
    assert await blob.read(2_000_000, 10) == CONTENT[2_000_000:2_000_010]
    assert len(server.requests) == 4


async def test_gives_up_in_words(server: RangedServer, store: HttpStore) -> None:
    server.faults = deque([None, *[Fault(status=500)] * 9])
    blob = store.blob(server.url("B02.tif?sig=secret"))
    with pytest.raises(StoreUnavailableError, match=r"answers 500 .*; given up after 4 attempts in 0 s: try") as caught:
        await blob.read(100_000, 10)
    assert caught.value.retryable
    assert "secret" not in str(caught.value) + repr(blob)


async def test_bodies_that_end_early_and_say_so(server: RangedServer, store: HttpStore) -> None:
    blob = store.blob(server.url("B02.tif"))
    await blob.size()
    server.faults = deque([Fault(short=900), Fault(short=90)])
    assert await blob.read(20_000, 1000) == CONTENT[20_000:21_000]
    assert server.sent_ranges[1:] == ["bytes=20000-20999", "bytes=20100-20999", "bytes=20910-20999"]
    server.faults = deque([Fault(short=1000)] * 4)
    with pytest.raises(StoreUnavailableError, match="the answer ended at byte 20000 of 21000"):
        await blob.read(20_000, 1000)


@pytest.mark.parametrize("etags", ["strong", "weak", "none"])
async def test_ranges_are_asked_of_one_version(server: RangedServer, store: HttpStore, etags: str) -> None:
    """Only a strong ETag may stand in If-Range."""
    server.etags = etags
    blob = store.blob(server.url("B02.tif"))
    await blob.read(20_000, 1)
    first, second = server.versions
    assert first is None
    assert (second is not None) == (etags == "strong")


async def test_time_ends_for_an_overloaded_server_however_many_attempts(server: RangedServer) -> None:
    """A catalogue that answers 503 for a while is waited for as a store is: docs/retries.md."""
    async with HttpStore(patience=UNPATIENT) as store:
        server.faults = deque([Fault(status=503)] * 20)
        assert await store.blob(server.url("B02.tif")).size() == len(CONTENT)
        assert len(server.requests) == 21
        server.faults = deque([Fault(status=503, headers={"Retry-After": "31"})])
        with pytest.raises(StoreUnavailableError, match=r"503 .*; given up after 1 attempts"):
            await store.blob(server.url("B02.tif")).size()


async def test_retries_are_told(server: RangedServer) -> None:
    told: list[str] = []
    async with HttpStore(patience=UNPATIENT, on_retry=lambda _, text: told.append(text)) as store:
        blob = store.blob(server.url("B02.tif?sig=secret"))
        await blob.size()
        server.faults = deque([Fault(status=502), Fault(short=90)])
        await blob.read(20_000, 1000)
    assert [text.partition("; ")[0] for text in told] == [
        f"{server.url('B02.tif')}: the server answers 502 Bad Gateway",
        f"{server.url('B02.tif')}: the answer ended at byte 20910 of 21000",
    ]


async def test_streams_that_nobody_reads_on_hold_no_connection(server: RangedServer) -> None:
    """Who takes their bytes may be waiting for those of a third one."""
    server.files["B02.tif"] = bytes(20_000_000)  # more than sockets buffer
    async with HttpStore(connections=2, patience=UNPATIENT) as store, AsyncExitStack() as stack:
        blobs = [store.blob(server.url("B02.tif")) for _ in range(3)]
        for blob in blobs:
            await blob.size()
        for blob in blobs[:2]:
            pieces = await stack.enter_async_context(aclosing(blob.stream(100_000, 19_000_000)))
            await anext(pieces)
        assert await blobs[2].read(100_000, 10) == bytes(10)


async def test_progress_begins_the_count_anew(server: RangedServer, store: HttpStore) -> None:
    """Cut after each MiB, more often than attempts are allowed in a row."""
    small = HttpStore(patience=replace(UNPATIENT, attempts=2))
    async with small:
        blob = small.blob(server.url("B02.tif"))
        await blob.size()
        server.faults = deque([Fault(after=1 << 20), Fault(after=1 << 20)])
        assert await blob.read(0, len(CONTENT)) == CONTENT


async def test_nobody_is_there(store: HttpStore) -> None:
    async with RangedServer({}) as gone:
        url = gone.url("B02.tif")
    with pytest.raises(StoreUnavailableError, match="given up after 4 attempts"):
        await store.blob(url).size()


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, ProductError, r"is not there \(the server answers 404"),
        (410, ProductError, "410"),
        (403, StoreError, "403 Forbidden; it needs other credentials, or the URL's signature has run out"),
        (401, StoreError, "credentials are needed"),
        (409, StoreError, "sign the Item"),
        (400, StoreError, "400 Bad Request; check the URL"),
        (204, StoreError, "204"),
    ],
)
async def test_refusals(server: RangedServer, store: HttpStore, status: int, kind: type[Exception], said: str) -> None:
    server.faults = deque([Fault(status=status), None, Fault(status=status)])
    with pytest.raises(kind, match=said) as caught:
        await store.blob(server.url("B02.tif")).size()
    assert not isinstance(caught.value, StoreUnavailableError)
    blob = store.blob(server.url("B02.tif"))
    assert await blob.size() == len(CONTENT)
    with pytest.raises(kind, match=said):
        await blob.read(100_000, 1)


async def test_a_server_without_ranges(server: RangedServer, store: HttpStore) -> None:
    server.ranges = "no"
    blob = store.blob(server.url("B02.tif"))
    assert await blob.size() == len(CONTENT)
    assert await blob.read(0, 100) == CONTENT[:100]
    with pytest.raises(StoreError, match=r"gives whole files only \(3000000 bytes\), bytes 20000 to 20001 are needed"):
        await blob.read(20_000, 1)


@pytest.mark.parametrize("etags", ["strong", "weak", "none"])
async def test_a_file_that_is_replaced(server: RangedServer, store: HttpStore, etags: str) -> None:
    """Bytes of two versions are never joined; without an ETag the length gives it away."""
    server.etags = etags
    blob = store.blob(server.url("B02.tif"))
    await blob.size()
    server.faults = deque([Fault(after=100_000), Fault(replace=CONTENT[::-1] + b"!")])
    with pytest.raises(StoreError, match="was replaced while it was read: run the product again"):
        await blob.read(HEAD, 2_000_000)


async def test_a_file_that_shrinks(server: RangedServer, store: HttpStore) -> None:
    blob = store.blob(server.url("B02.tif"))
    await blob.size()
    server.etags = "none"
    server.faults = deque([Fault(replace=b"short")])
    with pytest.raises(StoreError, match="was replaced"):
        await blob.read(2_000_000, 10)


async def test_another_range_than_asked_for(server: RangedServer, store: HttpStore) -> None:
    blob = store.blob(server.url("B02.tif"))
    await blob.size()
    server.faults = deque([Fault(shift=1)])
    assert await blob.read(50_000, 10) == CONTENT[50_000:50_010]
    server.faults = deque([Fault(shift=-1)] * 4)
    with pytest.raises(StoreUnavailableError, match=r"bytes 50000 to 50010 with 'bytes 49999-50008/3000000'"):
        await blob.read(50_000, 10)


async def test_a_proxy_that_ignores_one_range(server: RangedServer, store: HttpStore) -> None:
    blob = store.blob(server.url("B02.tif"))
    await blob.size()
    server.faults = deque([Fault(whole=True)])
    assert await blob.read(50_000, 10) == CONTENT[50_000:50_010]


async def test_encoded_bodies_are_refused(server: RangedServer, store: HttpStore) -> None:
    server.faults = deque([Fault(encoding="gzip")])
    with pytest.raises(StoreError, match=r"encoded \(gzip\)"):
        await store.blob(server.url("B02.tif")).size()


async def test_no_length(server: RangedServer, store: HttpStore) -> None:
    server.ranges, server.length = "no", False
    with pytest.raises(StoreError, match="does not say how long it is"):
        await store.blob(server.url("B02.tif")).size()


async def test_fetches_documents_made_on_demand(server: RangedServer, store: HttpStore) -> None:
    server.ranges, server.length = "no", False
    server.redirects["item"] = server.url("small.json")
    server.faults = deque([Fault(status=502)])
    data, came_from = await store.fetch(server.url("item"), limit=8)
    assert (data, came_from) == (b'{"a": 1}', server.url("small.json"))
    with pytest.raises(ProductError, match="longer than 7 bytes"):
        await store.fetch(server.url("item"), limit=7)


async def test_streams_pieces_as_they_come(server: RangedServer, store: HttpStore) -> None:
    blob = store.blob(server.url("B02.tif"))
    async with aclosing(blob.stream(0, 2_000_000)) as pieces:
        first = await anext(pieces)
        assert CONTENT.startswith(first)
        assert len(first) == HEAD
    assert await blob.read(5, 5) == CONTENT[5:10], "it is usable after a stream that was left"


async def test_no_url(store: HttpStore) -> None:
    with pytest.raises(StoreError, match="cannot be read, it is no URL"):
        await store.blob("http://user:pw@/x").size()


async def test_what_loops(server: RangedServer, store: HttpStore) -> None:
    server.redirects["loop"] = server.url("loop")
    with pytest.raises(StoreError, match=r"/loop is redirected in a circle, or too often: check the URL$"):
        await store.blob(server.url("loop")).size()


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://127.0.0.1/_x"]
)
async def test_redirects_off_the_web_are_refused_at_once(server: RangedServer, store: HttpStore, target: str) -> None:
    server.redirects["away"] = target
    for read in (store.blob(server.url("away")).size(), store.fetch(server.url("away"), limit=100)):
        with pytest.raises(ProductError, match="redirected to what is no web address"):
            await read
    assert [path for path, _ in server.requests] == ["away", "away"]


async def test_closes_twice(server: RangedServer) -> None:
    store = HttpStore()
    await store.blob(server.url("small.json")).size()
    await store.aclose()
    await store.aclose()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@x.example/a/B02.tif?sig=s#f", "https://x.example/a/B02.tif"),
        ("https://user:pw@[::1/a?sig=s", "[::1/a"),
        ("https://[::1/a?sig=s@t", "a URL that is none"),
        ("https://user:p?w@x.example/a", "a URL that is none"),
        ("//user:pw@x.example/a?sig=s", "//x.example/a"),
        ("ftp://user:pw@x.example/a", "ftp://x.example/a"),
        ("s3://user:pw@bucket/a?b#c@d", "s3://bucket/a?b#c@d"),
        ("a/b@c?d#e", "a/b@c?d#e"),
    ],
)
def test_secrets_are_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
