"""The S3 client on two real stores: what is written comes back, listings are whole, nothing stays of what fails."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from kappamask_stream.errors import OutputError, ProductError, StoreError
from kappamask_stream.s3 import S3Client, S3Object, S3Options
from kappamask_stream.s3.client import SEGMENT_BYTES
from tests.integration.faulty_s3 import etag
from tests.integration.s3_servers import KEY_ID, SECRET, MotoStore, RcloneStore, Store

pytestmark = pytest.mark.usefixtures("aws_environment")

MIB = 1024 * 1024
LARGE = random.Random(1).randbytes(11 * MIB + 17)


@pytest.fixture(params=["moto_store", "rclone_store"])
def store(request: pytest.FixtureRequest) -> Store:
    running: Store = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def bucket(store: Store) -> str:
    name = f"b{uuid.uuid4().hex}"
    store.fill(name, {"there/already.txt": b"x"})
    return name


@pytest.fixture
async def client(store: Store) -> AsyncIterator[S3Client]:
    async with S3Client(S3Options(endpoint_url=store.endpoint)) as running:
        yield running


@pytest.mark.parametrize("kind", ["bytes", "pieces", "file"])
@pytest.mark.parametrize("size", [0, 1, 1000, len(LARGE)])
async def test_what_is_written_is_there(
    kind: str, size: int, store: Store, client: S3Client, bucket: str, tmp_path: Path
) -> None:
    data = LARGE[:size]
    (tmp_path / "file").write_bytes(data)
    pieces = [data[start : start + 700_001] for start in range(0, size, 700_001)]
    body = {"bytes": data, "pieces": pieces, "file": tmp_path / "file"}[kind]
    put = await client.put(bucket, "masks/a b ü.tif", body, content_type="image/tiff", part_bytes=5 * MIB)
    assert put.size == size
    assert store.content(bucket, "masks/a b ü.tif") == data
    found = await client.head(bucket, "masks/a b ü.tif")
    assert found is not None
    assert found.size == size
    assert (put.etag is None) == (size > 5 * MIB)
    assert put.etag in {None, found.etag}
    assert await client.get(bucket, "masks/a b ü.tif", limit=size, etag=put.etag) == data


async def test_content_type_and_metadata_are_kept(moto_store: MotoStore) -> None:
    moto_store.fill("kept", {})
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as client:
        for part_bytes, size in ((5 * MIB, 10), (5 * MIB, 6 * MIB)):
            await client.put(
                "kept", "m.tif", LARGE[:size], content_type="image/tiff; application=geotiff",
                metadata={"fingerprint": "abc"}, part_bytes=part_bytes,
            )  # fmt: skip
            assert moto_store.header("kept", "m.tif", "Content-Type") == "image/tiff; application=geotiff"
            assert moto_store.header("kept", "m.tif", "x-amz-meta-fingerprint") == "abc"


async def test_streams_of_several_requests_are_whole(store: Store, client: S3Client, bucket: str) -> None:
    assert len(LARGE) > 2 * SEGMENT_BYTES
    store.fill(bucket, {"large": LARGE})
    (at,) = await client.list(bucket, "large", most=1)
    assert at == S3Object(bucket=bucket, key="large", size=len(LARGE), etag=etag(LARGE).strip('"'))
    got = bytearray()
    async with aclosing(client.stream(at, 5, len(LARGE) - 10)) as pieces:
        async for piece in pieces:
            got += piece
    assert bytes(got) == LARGE[5:-5]
    assert await client.read(at, 3 * MIB, 5 * MIB) == LARGE[3 * MIB : 8 * MIB]


async def test_an_upload_that_fails_leaves_nothing(moto_store: MotoStore, tmp_path: Path) -> None:
    moto_store.fill("failing", {})
    file = tmp_path / "shrinks"
    file.write_bytes(LARGE)

    class Shrinking(type(file)):  # type: ignore[misc]
        def open(self, *args: object, **rest: object) -> object:
            Path(self).write_bytes(LARGE[: 6 * MIB])
            return Path(self).open("rb")

    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as client:
        with pytest.raises(OutputError, match=r"shrinks ended at byte"):
            await client.put("failing", "m.tif", Shrinking(file), content_type="image/tiff", part_bytes=5 * MIB)
        assert b"<UploadId>" not in moto_store.uploads("failing")
        assert await client.head("failing", "m.tif") is None


async def test_an_upload_that_is_cancelled_leaves_nothing(
    moto_store: MotoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_store.fill("cancelled", {})
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as client:
        call, begun = client._session.call, asyncio.Event()

        async def slow(operation: str, url: str, **rest: object) -> object:
            if operation == "upload_part":
                begun.set()
                await asyncio.Event().wait()
            return await call(operation, url, **rest)  # type: ignore[arg-type]

        monkeypatch.setattr(client._session, "call", slow)
        put = asyncio.create_task(
            client.put("cancelled", "m.tif", LARGE, content_type="image/tiff", part_bytes=5 * MIB)
        )
        await begun.wait()
        assert b"<UploadId>" in moto_store.uploads("cancelled")
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert b"<UploadId>" not in moto_store.uploads("cancelled")
        assert len(asyncio.all_tasks()) == 1


async def test_an_object_is_replaced_as_a_whole_and_deleted(store: Store, client: S3Client, bucket: str) -> None:
    for data in (b"first", b"second, longer"):
        await client.put(bucket, "there/already.txt", data, content_type="text/plain")
        assert store.content(bucket, "there/already.txt") == data
    await client.delete(bucket, "there/already.txt")
    assert await client.head(bucket, "there/already.txt") is None
    await client.delete(bucket, "there/already.txt")


async def test_trying_to_write_leaves_nothing(moto_store: MotoStore) -> None:
    moto_store.fill("tried", {})
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as client:
        await client.try_write("tried", "m.tif")
        assert b"<UploadId>" not in moto_store.uploads("tried")
        with pytest.raises(StoreError, match="there is no bucket absent-bucket"):
            await client.try_write("absent-bucket", "m.tif")


async def test_listings_of_several_pages_are_whole(moto_store: MotoStore) -> None:
    """moto, as S3, ends a page after 1000 keys."""
    moto_store.fill("pages", {f"many/{number:04}": b"x" for number in range(1005)})
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as client:
        found = await client.list("pages", "many/", most=1005)
        assert [at.key for at in found] == [f"many/{number:04}" for number in range(1005)]
        with pytest.raises(ProductError, match=r"more than 1004 objects lie under s3://pages/many/"):
            await client.list("pages", "many/", most=1004)
        assert await client.list("pages", "none/", most=10) == []


async def test_a_bucket_that_is_not_there_is_named(client: S3Client) -> None:
    with pytest.raises(StoreError, match=r"s3://absent-bucket/x: there is no bucket absent-bucket"):
        await client.list("absent-bucket", "x", most=10)


async def test_signatures_are_right_and_wrong_ones_are_refused(
    rclone_store: RcloneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_store.fill("signed", {"a b ü+%": b"secret data"})
    at = S3Object(bucket="signed", key="a b ü+%", size=11)
    async with S3Client(S3Options(endpoint_url=rclone_store.endpoint)) as client:
        assert await client.read(at, 0, 6) == b"secret"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET[::-1])
    async with S3Client(S3Options(endpoint_url=rclone_store.endpoint)) as client:
        for attempt in (client.read(at, 0, 6), client.list("signed", "", most=10)):
            with pytest.raises(StoreError, match=r"refuses access: 403 SignatureDoesNotMatch.*--s3-profile") as caught:
                await attempt
            assert KEY_ID not in str(caught.value)


async def test_who_is_nobody_sees_public_objects_only(moto_store: MotoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto checks no signatures, but refuses private objects to requests without any."""
    moto_store.fill("private", {"x": b"data"})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint, anonymous=True)) as client:
        with pytest.raises(StoreError, match=r"refuses access: 403 .*leave --s3-anonymous out"):
            await client.get("private", "x", limit=10)
        moto_store.publish("private", "x")
        assert await client.get("private", "x", limit=10) == b"data"
        assert await client.read(S3Object(bucket="private", key="x", size=4), 1, 2) == b"at"


async def test_a_store_with_another_region_and_session_token(
    rclone_store: RcloneStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CDSE wants it: a region that AWS does not know."""
    rclone_store.fill("elsewhere", {"x": b"data"})
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token/with+signs=")
    async with S3Client(S3Options(endpoint_url=rclone_store.endpoint, region="default")) as client:
        (at,) = await client.list("elsewhere", "", most=10)
        assert await client.read(at, 1, 2) == b"at"
