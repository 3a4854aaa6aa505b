"""Masks on S3: order, types and fingerprints; a failure or cancellation leaves no half object and no open upload."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kappamask_stream.destinations import FolderDestination, OutputFile, S3Destination, make_destination
from kappamask_stream.errors import OutputError, OutputUnavailableError, UsageError
from kappamask_stream.s3 import Patience, S3Client, S3Options, Stores
from kappamask_stream.s3.session import S3Session
from tests.integration.s3_servers import MotoStore, free_port

pytestmark = pytest.mark.usefixtures("aws_environment")

LARGE = 40 * 1024 * 1024


@pytest.fixture
def bucket(moto_store: MotoStore) -> str:
    name = f"b{uuid.uuid4().hex}"
    moto_store.fill(name, {})
    return name


@pytest.fixture
async def client(moto_store: MotoStore) -> AsyncIterator[S3Client]:
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as running:
        yield running


def file(name: str, content: list[bytes] | Path, media_type: str = "image/png") -> OutputFile:
    return OutputFile(name=name, content=content, media_type=media_type, metadata={"fingerprint": "abc"})


class Watched:
    """The client of a store, and what it was asked to write, in order."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self.put_keys: list[str] = []
        self.fail_at: str | None = None
        self.reached = asyncio.Event()

    async def put(self, bucket: str, key: str, *args: object, **rest: object) -> object:
        self.put_keys.append(key)
        if key == self.fail_at:
            self.reached.set()
            return await self._client.put("no-such-bucket", key, *args, **rest)  # type: ignore[arg-type]
        return await self._client.put(bucket, key, *args, **rest)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)


@pytest.mark.parametrize("size", [5, LARGE])
async def test_types_and_fingerprints_go_with_the_objects(
    size: int, moto_store: MotoStore, client: S3Client, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "large.tif").write_bytes(bytes(size))
    place = S3Destination(client, bucket, "masks/P")
    kind = "image/tiff; application=geotiff; profile=cloud-optimized"
    await place.publish([file("m.png", [b"picture"]), file("p.tif", tmp_path / "large.tif", kind)])
    assert moto_store.header(bucket, "masks/P/m.png", "Content-Type") == "image/png"
    assert moto_store.header(bucket, "masks/P/p.tif", "Content-Type") == kind
    assert moto_store.header(bucket, "masks/P/p.tif", "x-amz-meta-fingerprint") == "abc"
    assert moto_store.header(bucket, "masks/P/p.tif", "Content-Length") == str(size)


async def test_the_last_file_is_written_when_all_others_are_there(client: S3Client, bucket: str) -> None:
    watched = Watched(client)
    watched.fail_at = "P/b.png"
    place = S3Destination(watched, bucket, "P")  # type: ignore[arg-type]
    files = [file("a.png", [b"1"]), file("b.png", [b"2"]), file("m.tif", [b"3"])]
    with pytest.raises(OutputError, match=r"cannot write the output: s3://no-such-bucket.*no bucket no-such-bucket"):
        await place.publish(files)
    assert watched.put_keys == ["P/a.png", "P/b.png"]
    assert await place.missing([f.name for f in files]) == ["b.png", "m.tif"]


async def test_a_cancelled_upload_in_parts_leaves_neither_object_nor_parts(
    moto_store: MotoStore, client: S3Client, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "large.tif").write_bytes(bytes(LARGE))
    place = S3Destination(client, bucket, "P")
    task = asyncio.create_task(place.publish([file("p.tif", tmp_path / "large.tif"), file("m.tif", [b"3"])]))
    while b"<UploadId>" not in await asyncio.to_thread(moto_store.uploads, bucket):
        assert not task.done(), "it was too quick to be cancelled"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b"<UploadId>" not in moto_store.uploads(bucket)
    assert await place.missing(["p.tif", "m.tif"]) == ["p.tif", "m.tif"]


async def test_a_cancellation_that_overtakes_the_beginning_of_an_upload_leaves_none(
    moto_store: MotoStore, client: S3Client, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.tif").write_bytes(bytes(LARGE))
    call, begun, go_on = S3Session.call, asyncio.Event(), asyncio.Event()

    async def slow(self: S3Session, operation: str, *args: object, **rest: object) -> dict[str, object]:
        answer = await call(self, operation, *args, **rest)  # type: ignore[arg-type]
        if operation == "create_multipart_upload":
            begun.set()
            await go_on.wait()
        return answer

    monkeypatch.setattr(S3Session, "call", slow)
    place = S3Destination(client, bucket, "P")
    task = asyncio.create_task(place.publish([file("p.tif", tmp_path / "large.tif")]))
    await begun.wait()
    assert b"<UploadId>" in await asyncio.to_thread(moto_store.uploads, bucket)
    for _ in range(2):  # an impatient user
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b"<UploadId>" not in moto_store.uploads(bucket)


async def test_a_wrong_place_is_found_before_any_work(moto_store: MotoStore, client: S3Client, bucket: str) -> None:
    with pytest.raises(OutputError, match=r"cannot write the output: s3://nowhere-at-all/P/m\.tif: there is no bucket"):
        await S3Destination(client, "nowhere-at-all", "P").prepare(["m.tif"])
    place = S3Destination(client, bucket, "P")
    await place.prepare(["m.tif", "m.png"])
    assert b"<UploadId>" not in moto_store.uploads(bucket)
    assert await place.missing(["m.tif"]) == ["m.tif"]


async def test_a_scratch_file_that_is_gone_is_an_output_error(client: S3Client, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=re.escape(f"cannot read {tmp_path / 'gone.tif'}: No such file")):
        await S3Destination(client, bucket, "P").publish([file("p.tif", tmp_path / "gone.tif")])


async def test_a_bucket_alone_holds_products_at_its_top(moto_store: MotoStore, client: S3Client, bucket: str) -> None:
    place = S3Destination(client, bucket, "")
    await place.publish([file("collection.json", [b"{}"], "application/json")])
    assert place.href("collection.json") == f"s3://{bucket}/collection.json"
    assert moto_store.content(bucket, "collection.json") == b"{}"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("s3://b/masks", "s3://b/masks/P"), ("s3://b/masks//", "s3://b/masks/P"), ("s3://b", "s3://b/P"),
        ("masks", "masks/P"), (Path("masks"), "masks/P"), ("/a/b c", "/a/b c/P"),
    ],
)  # fmt: skip
async def test_a_place_is_a_folder_or_a_prefix(output: str | Path, expected: str) -> None:
    async with Stores() as stores:
        place = await make_destination(output, "P", stores)
    assert place.label == expected
    assert isinstance(place, S3Destination if expected.startswith("s3") else FolderDestination)


@pytest.mark.parametrize("output", ["s3://user:secretpw@b/x", "s3://user:secret@pw@b", "s3://AKIA:secret/pw@b/x"])
async def test_credentials_in_a_url_are_refused_and_not_repeated(output: str) -> None:
    async with Stores() as stores:
        with pytest.raises(UsageError, match="has credentials before its bucket: leave them out") as caught:
            await make_destination(output, "P", stores)
        with pytest.raises(UsageError, match="kind https://") as others:
            await make_destination(output.replace("s3:", "https:"), "P", stores)
    for error in (caught, others):
        assert "secret" not in str(error.value)
        assert "pw" not in str(error.value)


async def test_an_access_point_is_named_by_its_arn() -> None:
    arn = "arn:aws:s3:eu-central-1:123456789012:accesspoint/mine"
    async with Stores() as stores:
        assert (await make_destination(f"s3://{arn}", "P", stores)).label == f"s3://{arn}/P"


@pytest.mark.parametrize("output", ["s3:/bkt/x", Path("s3://bkt/x"), "gs:/bkt"])
async def test_a_url_that_lost_a_slash_is_no_folder(output: str | Path) -> None:
    async with Stores() as stores:
        with pytest.raises(UsageError, match=r":/… has one slash where a URL has two: give s3://BUCKET/PREFIX"):
            await make_destination(output, "P", stores)
        assert (await make_destination(f"/a/{output}", "P", stores)).label.startswith("/a/")


@pytest.mark.parametrize("work", ["inspect", "missing", "read", "prepare", "publish", "remove"])
async def test_a_store_that_is_away_is_an_output_error_worth_another_try(work: str) -> None:
    patience = Patience(attempts=2, backoff_s=0.001, backoff_max_s=0.002)
    options = S3Options(endpoint_url=f"http://127.0.0.1:{free_port()}", patience=patience)
    calls = {"inspect": "m.tif", "read": "m.tif", "publish": [file("m.tif", [b"1"])]}
    async with S3Client(options) as client:
        with pytest.raises(
            OutputUnavailableError, match=r"cannot \w+( for)? the output: s3://b/P/m\.tif: .*again later"
        ):
            await getattr(S3Destination(client, "b", "P"), work)(calls.get(work, ["m.tif"]))
    assert OutputUnavailableError.retryable
    assert (OutputUnavailableError.exit_code, OutputError.retryable) == (5, False)


@pytest.mark.parametrize("output", ["gs://b/masks", "https://host/masks", "s3:///masks"])
async def test_urls_of_other_kinds_are_refused(output: str) -> None:
    async with Stores() as stores:
        with pytest.raises(UsageError, match="s3://BUCKET"):
            await make_destination(output, "P", stores)
