"""What an S3 store may do wrong: the bytes are right all the same, and asked for from the byte reached; or it is said."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from kappamask_stream.errors import (
    ProductError,
    StoreChangedError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from kappamask_stream.s3 import S3Client, S3Object, S3Options, Stores
from kappamask_stream.s3.limits import RequestLimits
from kappamask_stream.s3.retry import Patience
from kappamask_stream.sources.s3 import S3Blob, S3Source
from tests.integration.faulty_s3 import Fault, FaultyS3, Request, etag
from tests.stream.polling import until

pytestmark = pytest.mark.usefixtures("aws_environment")

DATA = random.Random(4).randbytes(300_000)
KEY = "X.SAFE/B02.jp2"
QUICK = Patience(attempts=3, wait_s=60.0, backoff_s=0.001, backoff_max_s=0.002)
#: Soon tired of a silent store; a busy machine may look like one, so there are many attempts.
IMPATIENT = replace(QUICK, attempts=30, read_s=0.5)


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3({f"bucket/{KEY}": DATA}) as running:
        yield running


@pytest.fixture
async def client(store: FaultyS3) -> AsyncIterator[S3Client]:
    async with S3Client(S3Options(endpoint_url=store.endpoint, patience=QUICK)) as running:
        yield running


def object_of(data: bytes = DATA) -> S3Object:
    return S3Object(bucket="bucket", key=KEY, size=len(data), etag=etag(data).strip('"'))


async def collect(client: S3Client, got: bytearray, start: int = 0, length: int = len(DATA)) -> None:
    async with aclosing(client.stream(object_of(), start, length)) as pieces:
        async for piece in pieces:
            got += piece


# --- it breaks off: resumed from the byte reached ---------------------------------------------------------------------


@pytest.mark.parametrize("then", ["close", "reset", "stall"])
@pytest.mark.parametrize("start", [0, 1234])
async def test_an_answer_that_stops_is_resumed_from_the_byte_reached(
    then: Literal["close", "reset", "stall"], start: int, store: FaultyS3
) -> None:
    got = bytearray()
    store.faults += [
        Fault(after=100_000, until=lambda: len(got) == 100_000, then=then),
        Fault(after=50_000, until=lambda: len(got) == 150_000, then=then),
    ]
    options = S3Options(endpoint_url=store.endpoint, patience=IMPATIENT if then == "stall" else QUICK)
    async with S3Client(options) as client:
        await collect(client, got, start, 200_000)
    assert bytes(got) == DATA[start : start + 200_000]
    end = start + 199_999
    different = list(dict.fromkeys(store.ranges))
    assert different == [f"bytes={start + reached}-{end}" for reached in (0, 100_000, 150_000)]
    assert then == "stall" or store.ranges == different
    assert {request.headers["if-match"] for request in store.of("GET")} == {etag(DATA)}


async def test_a_read_is_resumed_too(store: FaultyS3, client: S3Client) -> None:
    store.faults.append(Fault(after=1000, then="close"))
    assert await client.read(object_of(), 500, 5000) == DATA[500:5500]
    assert store.ranges == ["bytes=500-5499", "bytes=1500-5499"]
    assert (client.requests, client.received_bytes) == (2, 5000)
    assert len(await client.get("bucket", KEY, limit=10**6)) + 5000 == client.received_bytes
    assert await client.head("bucket", KEY)
    assert client.requests == 4


async def test_a_store_that_breaks_off_again_and_again_is_given_up(store: FaultyS3, client: S3Client) -> None:
    store.faults += [Fault(after=10, then="close")] * 9
    with pytest.raises(
        StoreUnavailableError, match=rf"s3://bucket/{KEY}: .*given up after 3 attempts .*try again later"
    ):
        await client.read(object_of(), 0, 5000)
    assert store.ranges == ["bytes=0-4999", "bytes=10-4999", "bytes=20-4999"]


async def test_getting_further_gives_new_patience(store: FaultyS3) -> None:
    data = random.Random(5).randbytes(2_000_000)
    store.objects[f"bucket/{KEY}"] = data
    store.faults += [Fault(after=300_000, then="close")] * 6
    async with S3Client(S3Options(endpoint_url=store.endpoint, patience=QUICK)) as client:
        assert await client.read(object_of(data), 0, len(data)) == data
    assert len(store.ranges) == 7


async def test_nobody_listens(client: S3Client, store: FaultyS3) -> None:
    options = S3Options(endpoint_url="http://127.0.0.1:9", patience=QUICK)
    async with S3Client(options) as nobody:
        for attempt in (nobody.read(object_of(), 0, 10), nobody.list("bucket", "", most=10)):
            with pytest.raises(
                StoreUnavailableError,
                match=r"s3://bucket/.*the store at 127\.0\.0\.1:9 cannot be reached: connection refused; given up after 3",
            ):
                await attempt


# --- it refuses for the moment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError"), (502, ""), (503, "ServiceUnavailable"), (504, ""), (408, "")],
)  # fmt: skip
async def test_what_passes_is_waited_for(status: int, code: str, store: FaultyS3, client: S3Client) -> None:
    refusals = [Fault(status=status, code=code)] * 2
    store.faults += refusals
    assert await client.read(object_of(), 7, 100) == DATA[7:107]
    assert store.ranges == ["bytes=7-106"] * 3
    store.faults += refusals
    assert await client.head("bucket", KEY) == object_of()
    store.faults += refusals
    assert await client.get("bucket", KEY, limit=len(DATA)) == DATA
    store.faults += refusals
    await client.put("bucket", "mask.tif", b"mask", content_type="image/tiff")
    assert store.objects["bucket/mask.tif"] == b"mask"


async def test_an_overloaded_store_is_waited_for_in_time_not_in_attempts(store: FaultyS3, client: S3Client) -> None:
    store.faults += [Fault(status=503, code="SlowDown")] * 12
    assert await client.read(object_of(), 0, 10) == DATA[:10]
    store.faults += [Fault(status=500, code="InternalError")] * 12
    with pytest.raises(StoreUnavailableError, match=r"500 InternalError \(as told\); given up after 3 attempts"):
        await client.read(object_of(), 0, 10)


async def test_a_store_says_how_long_to_wait(store: FaultyS3, client: S3Client) -> None:
    store.faults.append(Fault(status=503, code="SlowDown", headers={"Retry-After": "1"}))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await client.read(object_of(), 0, 10)
    assert loop.time() - begun >= 1.0
    store.faults.append(Fault(status=503, code="SlowDown", headers={"Retry-After": "3600"}))
    with pytest.raises(StoreUnavailableError, match="overloaded"):  # longer than anybody waits: said at once
        await client.read(object_of(), 0, 10)


# --- it lies ----------------------------------------------------------------------------------------------------------


async def test_a_length_that_is_not_the_ranges_is_not_believed(store: FaultyS3, client: S3Client) -> None:
    got = bytearray()
    store.faults += [Fault(announce=99), Fault(announce=101, then="close"), Fault()]
    await collect(client, got, 0, 100)
    assert bytes(got) == DATA[:100]


async def test_a_store_without_ranges_is_found_out(store: FaultyS3, client: S3Client) -> None:
    store.faults += [Fault(whole=True)] * 9
    with pytest.raises(StoreUnavailableError, match=r"asked for 100 bytes, the store announces 300000"):
        await client.read(object_of(), 0, 100)
    assert await client.read(object_of(), 0, len(DATA)) == DATA  # where the whole is meant, it will do


# --- the object is replaced -------------------------------------------------------------------------------------------


async def test_an_object_replaced_between_two_reads_is_an_error(store: FaultyS3, client: S3Client) -> None:
    source = S3Source.at_prefix(client, "bucket", "X.SAFE")
    assert await source.read("B02.jp2", 0, 10) == DATA[:10]
    store.objects[f"bucket/{KEY}"] = DATA[::-1]
    for attempt in (source.read("B02.jp2", 10, 10), source.read_all("B02.jp2", limit=10**6)):
        with pytest.raises(StoreError, match=rf"s3://bucket/{KEY} was replaced since it was listed .*run again"):
            await attempt


async def test_an_object_replaced_in_the_middle_of_a_stream_is_never_mixed(store: FaultyS3, client: S3Client) -> None:
    got = bytearray()

    def replaced() -> None:
        store.objects[f"bucket/{KEY}"] = DATA[::-1]

    store.faults += [Fault(after=100_000, until=lambda: len(got) == 100_000, then="close"), Fault(first=replaced)]
    with pytest.raises(StoreError, match="replaced"):
        await collect(client, got)
    assert bytes(got) == DATA[:100_000]


async def test_versions_that_the_listing_lacks_are_those_of_the_first_answer(
    store: FaultyS3, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some stores list no ETags; then the first answer's holds, between requests of one stream and between reads."""
    store.objects[f"bucket/{KEY}"] = old = random.Random(5).randbytes(5 << 20)
    unversioned = replace(object_of(old), etag=None)
    monkeypatch.setattr(client, "list", lambda *_, **__: asyncio.sleep(0, [unversioned]))
    source, got = S3Source.at_prefix(client, "bucket", "X.SAFE"), bytearray()

    async def read_on() -> None:
        async with aclosing(source.stream("B02.jp2", 0, len(old))) as pieces:
            async for piece in pieces:
                got.extend(piece)
                if len(got) == 4 << 20:
                    store.objects[f"bucket/{KEY}"] = old[::-1]

    with pytest.raises(StoreError, match="replaced"):
        await read_on()
    assert bytes(got) == old[: 4 << 20]
    for attempt in (source.read("B02.jp2", 0, 10), source.read_all("B02.jp2", limit=10**8)):
        with pytest.raises(StoreError, match="replaced"):
            await attempt


async def test_the_stores_of_a_process_tell_each_retry_of_objects_and_web_servers(store: FaultyS3) -> None:
    told: list[tuple[str, str]] = []
    options = S3Options(endpoint_url=store.endpoint, patience=QUICK)
    async with Stores(options, on_retry=lambda *said: told.append(said)) as stores:
        assert stores.http is stores.http
        client = await stores.client()
        await client.head("bucket", KEY)
        store.faults += [Fault(status=500, code="InternalError"), Fault(), Fault(status=502), Fault(status=503)]
        assert await client.read(object_of(), 0, 10) == DATA[:10]
        data, _ = await stores.http.fetch(f"{store.endpoint}/bucket/{KEY}", limit=len(DATA))
        assert data == DATA
    assert [cause for cause, _ in told] == ["StoreUnavailableError", "StoreUnavailableError", "SlowDown"]
    first, second, _ = (text for _, text in told)
    assert first.startswith(f"s3://bucket/{KEY}: the store answers 500 InternalError (as told); attempt 1 failed, ")
    assert second.startswith(f"{store.endpoint}/bucket/{KEY}: the server answers 502 Bad Gateway; attempt 1 failed, ")


async def test_waiting_for_a_connection_uses_up_no_patience(store: FaultyS3) -> None:
    """One request holds the only connection for longer than the patience; the next one meets one failure."""
    patience = replace(QUICK, wait_s=0.2)
    async with S3Client(S3Options(endpoint_url=store.endpoint, max_connections=1, patience=patience)) as client:
        await client.read(object_of(), 0, 1)
        store.hold.clear()
        slow = asyncio.create_task(client.read(object_of(), 0, 10))
        await until(lambda: store.at_once == 1)
        queued = asyncio.create_task(client.read(object_of(), 10, 10))
        asyncio.get_running_loop().call_later(0.3, store.hold.set)
        store.faults += [Fault(), Fault(status=500)]
        assert await slow == DATA[:10]
        assert await queued == DATA[10:20]


async def test_a_store_that_ignores_if_match_is_caught_by_the_etag(store: FaultyS3, client: S3Client) -> None:
    pinned = object_of()
    store.extra_headers["ETag"] = '"another"'
    with pytest.raises(StoreError, match=f"its ETag was {pinned.etag}, it is another"):
        await client.read(pinned, 0, 10)


@pytest.mark.parametrize("announced", [0, 100, len(DATA) + 1, 10**9])
async def test_a_whole_object_has_the_length_of_its_listing(announced: int, store: FaultyS3, client: S3Client) -> None:
    """Also where what is announced is more than is ever read."""
    wanted = {"limit": 10**6, "etag": object_of().etag, "size": len(DATA)}
    store.faults += [Fault(announce=announced, then="close")] * 2
    assert await client.get("bucket", KEY, **wanted) == DATA
    store.faults += [Fault(announce=announced, then="close")] * 9
    with pytest.raises(StoreUnavailableError, match=r"given up after 3 attempts"):
        await client.get("bucket", KEY, **wanted)


async def test_without_etags_another_length_tells(store: FaultyS3, client: S3Client) -> None:
    store.extra_headers["ETag"] = ""
    longer = S3Object(bucket="bucket", key=KEY, size=len(DATA) + 5, etag=None)
    with pytest.raises(StoreChangedError, match=r"it had 300005 bytes, it has 300000"):
        await client.read(longer, 0, 10)
    with pytest.raises(StoreChangedError, match=r"it had 300005 bytes, it has 300000"):
        await client.get("bucket", KEY, limit=10**6, size=longer.size)
    store.faults.append(Fault(announce=100, then="close"))
    assert await client.get("bucket", KEY, limit=10**6, size=len(DATA)) == DATA, "one answer may lie"


async def test_a_body_without_a_length_may_be_unpacked_but_not_cut_short(store: FaultyS3, client: S3Client) -> None:
    """As stores do that keep objects compressed: the listing's size is of the compressed one."""
    store.faults += [Fault(announce=-1, then="close")]
    assert await client.get("bucket", KEY, limit=10**6, size=len(DATA) - 5) == DATA
    store.faults += [Fault(announce=-1, after=1000, then="close")]
    assert await client.get("bucket", KEY, limit=10**6, size=len(DATA)) == DATA
    assert len(store.of("GET")) == 3


# --- credentials ------------------------------------------------------------------------------------------------------


def key_of(request: Request) -> str:
    """Return the key id that a request is signed with, in its URL or its header."""
    said = request.query.get("X-Amz-Credential", [""])[0] or request.headers.get("authorization", "")
    return said.partition("/")[0].rpartition("=")[2].rpartition(" ")[2]


async def test_expired_credentials_are_read_anew_and_the_stream_goes_on(
    store: FaultyS3, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = bytearray()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OLDKEY")

    def expire() -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEWKEY")
        store.accept = lambda request: key_of(request) == "NEWKEY"

    store.faults.append(Fault(after=100_000, until=lambda: len(got) == 100_000 and (expire() or True), then="close"))
    await collect(client, got)
    assert bytes(got) == DATA
    assert store.ranges == ["bytes=0-299999", "bytes=100000-299999", "bytes=100000-299999"]
    assert [key_of(request) for request in store.of("GET")] == ["OLDKEY", "OLDKEY", "NEWKEY"]


async def test_calls_read_expired_credentials_anew(
    store: FaultyS3, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OLDKEY")
    await client.list("bucket", "", most=10)
    for number, call in enumerate(
        (
            lambda: client.list("bucket", "", most=10),
            lambda: client.head("bucket", KEY),
            lambda: client.get("bucket", KEY, limit=10**6),
            lambda: client.put("bucket", "mask.tif", b"x", content_type="image/tiff"),
        )
    ):
        key = f"KEY{number}"
        store.accept = lambda request, key=key: key_of(request) == key  # type: ignore[misc]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        await call()


async def test_many_reads_at_once_renew_once(
    store: FaultyS3, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.objects["bucket/other"] = DATA
    other = replace(object_of(), key="other")
    await asyncio.gather(client.read(object_of(), 0, 1), client.read(other, 0, 1))
    store.accept = lambda request: key_of(request) == "NEWKEY"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEWKEY")
    got = await asyncio.gather(*(client.read(object_of(), start, 10) for start in range(20)))
    assert got == [DATA[start : start + 10] for start in range(20)]
    assert await client.read(other, 0, 10) == DATA[:10]  # its URL was signed before
    assert "read 2 times" in repr(client._session._credentials)


async def test_credentials_that_stay_expired_are_an_error(store: FaultyS3, client: S3Client) -> None:
    store.accept = lambda _: False
    for attempt in (client.read(object_of(), 0, 1), client.list("bucket", "", most=10), client.head("bucket", KEY)):
        with pytest.raises(StoreError, match=r"expired .*also after they were read anew: log in again"):
            await attempt


async def test_a_url_that_was_signed_too_long_ago_is_signed_again(store: FaultyS3, client: S3Client) -> None:
    store.faults.append(Fault(status=403, code="AccessDenied", message="Request has expired"))
    assert await client.read(object_of(), 0, 9) == DATA[:9]


async def test_no_credentials_says_what_to_try(
    store: FaultyS3, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for attempt in (client.read(object_of(), 0, 1), client.list("bucket", "", most=10)):
        with pytest.raises(StoreError, match=r"no usable credentials: .*--s3-profile.*--s3-anonymous"):
            await attempt
    assert not store.requests


def region_of(request: Request) -> str:
    said = request.query.get("X-Amz-Credential", [""])[0] or request.headers.get("authorization", "")
    return said.split("/")[2]


@pytest.mark.parametrize("how", ["header", "element"])
async def test_a_bucket_in_another_region_is_followed(
    how: str, store: FaultyS3, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AWS refuses URLs that are signed for another region than the bucket's; the next ones are right at once."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    element = {"code": "AuthorizationQueryParametersError", "region": "eu-central-1"}
    header: dict[str, object] = {"code": "PermanentRedirect", "headers": {"x-amz-bucket-region": "eu-central-1"}}
    store.faults.append(Fault(status=301, **header) if how == "header" else Fault(status=400, **element))  # type: ignore[arg-type]
    assert await client.read(object_of(), 0, 10) == DATA[:10]
    assert await client.get("bucket", KEY, limit=10**6) == DATA
    await client.list("bucket", "", most=10)
    assert [region_of(request) for request in store.requests] == ["us-west-2", *["eu-central-1"] * 3]
    store.faults += [Fault(status=400, code="AuthorizationQueryParametersError", region="eu-central-1")]
    with pytest.raises(StoreError, match="400 AuthorizationQueryParametersError"):  # no second time
        await client.read(object_of(), 0, 10)


async def test_a_profile_that_is_not_there_is_named(store: FaultyS3) -> None:
    async with S3Client(S3Options(endpoint_url=store.endpoint, profile="absent")) as client:
        with pytest.raises(StoreError, match=r"no usable credentials: .*absent"):
            await client.list("bucket", "", most=10)


async def test_a_profile_gives_the_credentials(
    store: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = MYKEY\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    async with S3Client(S3Options(endpoint_url=store.endpoint, profile="mine")) as client:
        await client.read(object_of(), 0, 1)
    assert key_of(store.requests[-1]) == "MYKEY"


# --- who asks, and who pays -------------------------------------------------------------------------------------------


async def test_anonymous_requests_are_not_signed(store: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with S3Client(S3Options(endpoint_url=store.endpoint, anonymous=True, patience=QUICK)) as client:
        (at,) = await client.list("bucket", "X.SAFE/", most=10)
        assert await client.read(at, 0, 10) == DATA[:10]
        assert await client.get("bucket", KEY, limit=10**6) == DATA
        assert await client.head("bucket", KEY) == at
    assert len(store.requests) == 4
    for request in store.requests:
        assert "authorization" not in request.headers
        assert not [name for name in request.query if name.lower().startswith("x-amz-")]


async def test_every_request_says_that_the_requester_pays(store: FaultyS3) -> None:
    options = S3Options(endpoint_url=store.endpoint, requester_pays=True)
    async with S3Client(options) as client:
        (at,) = await client.list("bucket", "X.SAFE/", most=10)
        await client.read(at, 0, 10)
        await client.get("bucket", KEY, limit=10**6)
        await client.head("bucket", KEY)
        await client.put("bucket", "mask.tif", b"x", content_type="image/tiff")
    assert [request.headers.get("x-amz-request-payer") for request in store.requests] == ["requester"] * 5
    signed = store.requests[1].query["X-Amz-SignedHeaders"][0]
    assert signed == "host;x-amz-request-payer"  # S3 refuses x-amz- headers that are not signed


async def test_nobody_pays_unasked(store: FaultyS3, client: S3Client) -> None:
    await client.read(object_of(), 0, 10)
    await client.list("bucket", "", most=10)
    assert not [request for request in store.requests if "x-amz-request-payer" in request.headers]


@pytest.mark.parametrize("anonymous", [False, True])
async def test_a_refusal_says_what_to_try(*, anonymous: bool, store: FaultyS3) -> None:
    async with S3Client(S3Options(endpoint_url=store.endpoint, anonymous=anonymous)) as client:
        remedy = "leave --s3-anonymous out" if anonymous else "--s3-profile, --s3-anonymous .*--s3-requester-pays"
        store.faults.append(Fault(status=403, code="AccessDenied", message="Access Denied"))
        with pytest.raises(StoreError, match=rf"s3://bucket/{KEY}: .*403 AccessDenied \(Access Denied\): .*{remedy}"):
            await client.read(object_of(), 0, 10)
        store.faults.append(Fault(status=403, code="AccessDenied"))
        with pytest.raises(StoreError, match=remedy):
            await client.head("bucket", KEY)


async def test_names_and_endpoints_that_are_none(store: FaultyS3, client: S3Client) -> None:
    with pytest.raises(UsageError, match="s3://a bucket"):
        await client.list("a bucket", "", most=10)
    for options in (S3Options(endpoint_url="http://-bad-host-"), S3Options(region="no region!")):
        async with S3Client(options) as nowhere:
            with pytest.raises(UsageError, match="correct --s3-endpoint or --s3-region"):
                await nowhere.list("bucket", "", most=10)
    with pytest.raises(StoreError, match=r"s3://bucket/absent: there is no such object"):
        await client.get("bucket", "absent", limit=10)
    with pytest.raises(StoreError, match=r"there is no such object"):
        await client.read(S3Object(bucket="bucket", key="absent", size=10), 0, 10)
    assert await client.head("bucket", "absent") is None


async def test_proxies_are_taken_from_the_environment_passwords_of_netrc_are_not(
    store: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine store.invalid login me password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", store.endpoint)
    monkeypatch.setenv("http_proxy", store.endpoint)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with S3Client(S3Options(endpoint_url="http://store.invalid", patience=QUICK)) as client:
        (at,) = await client.list("bucket", "X.SAFE/", most=10)
        assert await client.read(at, 0, 10) == DATA[:10]
    listed, read = store.requests
    assert listed.headers["host"] == read.headers["host"] == "store.invalid"
    assert "authorization" not in read.headers


# --- checksums --------------------------------------------------------------------------------------------------------


async def test_a_damaged_whole_object_is_read_again(store: FaultyS3, client: S3Client) -> None:
    store.faults.append(Fault(flip=1000))
    assert await client.get("bucket", KEY, limit=10**6) == DATA
    assert len(store.requests) == 2
    assert store.requests[0].headers["x-amz-checksum-mode"] == "ENABLED"


async def test_an_etag_that_is_no_md5_is_found_out_by_reading_twice(store: FaultyS3, client: S3Client) -> None:
    store.extra_headers["ETag"] = '"00000000000000000000000000000000"'
    assert await client.get("bucket", KEY, limit=10**6) == DATA
    assert len(store.requests) == 2


@pytest.mark.parametrize("header", ["x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm"])
async def test_etags_of_encrypted_objects_are_no_md5(header: str, store: FaultyS3, client: S3Client) -> None:
    store.extra_headers |= {"ETag": '"00000000000000000000000000000000"', header: "aws:kms"}
    assert await client.get("bucket", KEY, limit=10**6) == DATA
    assert len(store.requests) == 1


async def test_s3s_own_checksum_is_final(store: FaultyS3, client: S3Client) -> None:
    store.extra_headers["x-amz-checksum-sha256"] = "AAAA"
    with pytest.raises(StoreUnavailableError, match=r"damaged: its sha256 is .*, the store says AAAA"):
        await client.get("bucket", KEY, limit=10**6)


async def test_a_whole_object_that_breaks_off_is_read_again(store: FaultyS3, client: S3Client) -> None:
    store.faults.append(Fault(after=1000, then="close"))
    assert await client.get("bucket", KEY, limit=10**6) == DATA


async def test_a_whole_object_beyond_the_limit_is_refused_before_it_comes(store: FaultyS3, client: S3Client) -> None:
    with pytest.raises(ProductError, match=r"300000 bytes, at most 299999"):
        await client.get("bucket", KEY, limit=299_999)


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_never_more_requests_at_once_than_connections(store: FaultyS3) -> None:
    async with S3Client(S3Options(endpoint_url=store.endpoint, max_connections=3, patience=QUICK)) as client:
        await client.list("bucket", "", most=10)
        store.hold.clear()
        reads = [asyncio.create_task(client.read(object_of(), start, 10)) for start in range(12)]
        lists = [asyncio.create_task(client.list("bucket", "", most=10)) for _ in range(4)]
        await until(lambda: store.at_once >= 3)
        await asyncio.sleep(0.05)  # a fourth one would be there by now; if not, this test sees less
        assert store.at_once == 3
        store.hold.set()
        assert await asyncio.gather(*reads) == [DATA[start : start + 10] for start in range(12)]
        await asyncio.gather(*lists)


async def test_clients_of_one_store_share_its_limits(store: FaultyS3) -> None:
    limits = RequestLimits(1)
    options = S3Options(endpoint_url=store.endpoint, patience=QUICK)
    async with S3Client(options, limits) as one, S3Client(options, limits) as other:
        await asyncio.gather(one.read(object_of(), 0, 1), other.read(object_of(), 0, 1))
        store.hold.clear()
        reads = [asyncio.create_task(client.read(object_of(), 0, 10)) for client in (one, other) * 5]
        await until(lambda: store.at_once >= 1)
        await asyncio.sleep(0.05)
        assert store.at_once == 1
        store.hold.set()
        await asyncio.gather(*reads)


async def test_streams_that_nobody_reads_on_hold_no_connections(store: FaultyS3) -> None:
    """As many streams as connections, all left in the middle: another object can be read all the same."""
    async with S3Client(S3Options(endpoint_url=store.endpoint, max_connections=2, patience=QUICK)) as client:
        streams = [client.stream(object_of(), 0, len(DATA)) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        assert await asyncio.wait_for(client.read(object_of(), 5, 10), 30) == DATA[5:15]
        for stream in streams:
            await stream.aclose()


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_stream_that_is_closed_ends_its_request(store: FaultyS3, client: S3Client) -> None:
    store.faults.append(Fault(after=100_000, then="stall"))
    async with aclosing(client.stream(object_of(), 0, len(DATA))) as pieces:
        await anext(pieces)
    assert client._session.limits._held == 0
    assert len(asyncio.all_tasks()) == 1
    assert await client.read(object_of(), 0, 10) == DATA[:10]


async def test_a_read_that_is_cancelled_gives_its_slot_back(store: FaultyS3, client: S3Client) -> None:
    store.faults.append(Fault(after=100, then="stall"))
    read = asyncio.create_task(client.read(object_of(), 0, 1000))
    await until(lambda: store.of("GET"))
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert client._session.limits._held == 0


async def test_nothing_is_connected_before_the_first_call(store: FaultyS3) -> None:
    async with S3Client(S3Options(endpoint_url=store.endpoint)) as client:
        assert "default credentials" in repr(client)
    assert not store.requests
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in repr(client)


async def test_a_blob_looks_once_and_is_pinned(store: FaultyS3, client: S3Client) -> None:
    blob = S3Blob(client, "bucket", KEY)
    assert [await blob.size(), await blob.size()] == [len(DATA)] * 2
    assert len(store.of("HEAD")) == 1
    assert await blob.read(3, 5) == DATA[3:8]
    assert b"".join([piece async for piece in blob.stream(0, len(DATA))]) == DATA
    with pytest.raises(ProductError, match=r"300000 bytes, bytes 299999 to 300001"):
        await blob.read(len(DATA) - 1, 2)
    store.objects[f"bucket/{KEY}"] = b"other"
    with pytest.raises(StoreError, match="replaced"):
        await blob.read(0, 1)
    with pytest.raises(ProductError, match=r"s3://bucket/absent\.zip does not exist"):
        await S3Blob(client, "bucket", "absent.zip").size()
