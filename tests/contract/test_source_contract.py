"""What every `Source` must do. A new kind of source is one more entry in `MAKERS`."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.s3 import S3Client, S3Options
from kappamask_stream.sources import DirectorySource, Source, SubSource
from kappamask_stream.sources.archive import ZipSource
from kappamask_stream.sources.blob import FileBlob
from kappamask_stream.sources.http import HttpStore
from kappamask_stream.sources.s3 import S3Blob, S3Source
from kappamask_stream.sources.stac_bands import parse_item
from kappamask_stream.sources.stac_source import StacItemSource
from tests.integration.ranged_server import RangedServer
from tests.integration.s3_servers import Store
from tests.unit.stac_items import data_space
from tests.unit.zip_files import DEFLATED, STORED, MemoryBlob, pack

FILES = {
    "MTD_MSIL2A.xml": b"<metadata/>",
    "GRANULE/L2A_T29UNU/IMG_DATA/R10m/B02.jp2": bytes(range(256)) * 40,
    "empty.txt": b"",
    "name with spaces (ü).xml": b"x",
}
BAND = "GRANULE/L2A_T29UNU/IMG_DATA/R10m/B02.jp2"

Maker = Callable[[Path], Source]


def write(folder: Path) -> Path:
    for path, data in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def directory(folder: Path) -> Source:
    return DirectorySource(write(folder / "X.SAFE"))


def inside_a_directory(folder: Path) -> Source:
    write(folder / "in" / "X.SAFE")
    (folder / "in" / "beside.txt").write_text("not the product's")
    return SubSource(DirectorySource(folder / "in"), "X.SAFE")


def in_a_zip(**form: int) -> Maker:
    """Make archives of one form, with the product's files at the top."""

    def make(folder: Path) -> Source:
        (folder / "X.SAFE.zip").write_bytes(pack(FILES, **form))
        return ZipSource(FileBlob(folder / "X.SAFE.zip"))

    return make


def inside_a_zip(folder: Path) -> Source:
    """An archive as ESA's and CDSE's, with the product's folder at the top."""
    files = {f"X.SAFE/{path}": data for path, data in FILES.items()} | {"beside.txt": b"not the product's"}
    (folder / "X.zip").write_bytes(pack(files))
    return SubSource(ZipSource(FileBlob(folder / "X.zip")), "X.SAFE")


def in_a_distant_zip(folder: Path) -> Source:
    return ZipSource(MemoryBlob(pack(FILES), coalesce_bytes=8 * 2**20))


MAKERS: dict[str, Maker] = {
    "directory": directory,
    "inside a directory": inside_a_directory,
    "zip, stored": in_a_zip(method=STORED),
    "zip, deflated": in_a_zip(method=DEFLATED),
    "zip, streamed": in_a_zip(method=DEFLATED, streamed=True, zip64=True),
    "inside a zip": inside_a_zip,
    "distant zip": in_a_distant_zip,
}
#: Fixtures of S3 stores over sockets.
STORES = {"S3 (moto)": "moto_store", "S3 (rclone)": "rclone_store"}
#: The same stores, and how the archive's members are kept.
ZIPS_ON_STORES = {"zip on S3 (moto)": ("moto_store", STORED), "zip on S3 (rclone)": ("rclone_store", DEFLATED)}
ITEM = "STAC Item"


@pytest.fixture(params=[*MAKERS, *STORES, *ZIPS_ON_STORES, ITEM])
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Source]:
    async with AsyncExitStack() as stack:
        if request.param in STORES:
            request.getfixturevalue("aws_environment")
            store: Store = request.getfixturevalue(STORES[request.param])
            made: Source = await on_s3(store, stack)
        elif request.param in ZIPS_ON_STORES:
            request.getfixturevalue("aws_environment")
            fixture, method = ZIPS_ON_STORES[request.param]
            made = await zip_on_s3(request.getfixturevalue(fixture), stack, method)
        elif request.param == ITEM:
            made = await linked_by_an_item(stack)
        else:
            made = MAKERS[request.param](tmp_path)
        yield made
        await made.aclose()


async def on_s3(store: Store, stack: AsyncExitStack) -> Source:
    bucket = f"b{uuid.uuid4().hex}"
    beside = {"in/X.SAFE.txt": b"not the product's", "in/X.SAFE2/y": b"nor this"}
    store.fill(bucket, {f"in/X.SAFE/{path}": data for path, data in FILES.items()} | beside)
    client = await stack.enter_async_context(S3Client(S3Options(endpoint_url=store.endpoint)))
    return S3Source.at_prefix(client, bucket, "in/X.SAFE/")


async def zip_on_s3(store: Store, stack: AsyncExitStack, method: int) -> Source:
    bucket = f"b{uuid.uuid4().hex}"
    store.fill(bucket, {"in/X.SAFE.zip": pack(FILES, method=method)})
    client = await stack.enter_async_context(S3Client(S3Options(endpoint_url=store.endpoint)))
    return ZipSource(S3Blob(client, bucket, "in/X.SAFE.zip"))


async def linked_by_an_item(stack: AsyncExitStack) -> Source:
    """Files on a web server, linked one by one."""
    server = await stack.enter_async_context(RangedServer({f"X.SAFE/{path}": data for path, data in FILES.items()}))
    http = await stack.enter_async_context(HttpStore())
    blobs = {path: http.blob(server.url(f"X.SAFE/{quote(path)}")) for path in FILES}
    where = server.url("X.SAFE/item.json")
    item = parse_item(json.dumps(data_space()).encode(), where, where)
    return StacItemSource(item, "jp2", {}, blobs)


async def test_lists_every_file_with_its_size(source: Source) -> None:
    assert dict(await source.files()) == {path: len(data) for path, data in FILES.items()}


async def test_lists_once(source: Source) -> None:
    first, second = await asyncio.gather(source.files(), source.files())
    assert dict(first) == dict(second)


async def test_label_is_what_messages_say(source: Source) -> None:
    assert source.label
    with pytest.raises(ProductError, match=r"X\.SAFE"):
        await source.read_all("nothing.xml", limit=10)


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 10240), (10239, 1), (300, 5000), (17, 0), (10240, 0)])
async def test_reads_exactly_the_range(source: Source, start: int, length: int) -> None:
    assert await source.read(BAND, start, length) == FILES[BAND][start : start + length]


async def test_concurrent_reads_do_not_mix(source: Source) -> None:
    ranges = [(start, 64) for start in range(0, 10240 - 64, 97)]
    got = await asyncio.gather(*(source.read(BAND, *r) for r in ranges))
    assert got == [FILES[BAND][start : start + length] for start, length in ranges]


@pytest.mark.parametrize(("start", "length"), [(0, 10241), (10240, 1), (20000, 5), (-1, 5), (5, -1)])
async def test_a_short_read_names_the_file_and_both_numbers(source: Source, start: int, length: int) -> None:
    with pytest.raises(ProductError, match=r"B02\.jp2") as caught:
        await source.read(BAND, start, length)
    assert "10240" in str(caught.value)
    assert str(start + length) in str(caught.value)


async def test_a_length_out_of_a_damaged_header_allocates_nothing(source: Source) -> None:
    with pytest.raises(ProductError, match="10240"):
        await source.read(BAND, 0, 2**62)


@pytest.mark.parametrize("path", FILES)
async def test_reads_whole_files(source: Source, path: str) -> None:
    assert await source.read_all(path, limit=len(FILES[path])) == FILES[path]


async def test_refuses_whole_files_beyond_the_limit(source: Source) -> None:
    with pytest.raises(ProductError, match=r"10240 .* 10239"):
        await source.read_all(BAND, limit=10239)


@pytest.mark.parametrize("path", ["nothing.jp2", "GRANULE/L2A_T29UNU/nothing", "MTD_MSIL2A.xml/below"])
async def test_missing_files_are_named(source: Source, path: str) -> None:
    with pytest.raises(ProductError, match=path.rpartition("/")[2]):
        await source.read(path, 0, 1)


@pytest.mark.parametrize(
    "path", ["../secret", "GRANULE/../../secret", "/etc/passwd", "", ".", "..", "a\0b", "GRANULE\\x", "a\nb"]
)
async def test_no_path_leads_out(source: Source, path: str) -> None:
    for attempt in (source.read(path, 0, 1), source.read_all(path, limit=10)):
        with pytest.raises(ProductError, match="no path inside a product"):
            await attempt


async def test_a_directory_is_no_file(source: Source) -> None:
    with pytest.raises(ProductError, match="GRANULE"):
        await source.read("GRANULE", 0, 1)
    with pytest.raises(ProductError, match="GRANULE"):
        await source.read_all("GRANULE", limit=10)


async def test_closes_twice(source: Source) -> None:
    await source.files()
    await source.aclose()
    await source.aclose()


async def test_cancelling_a_read_leaves_it_usable(source: Source) -> None:
    read = asyncio.create_task(source.read(BAND, 0, 100))
    await asyncio.sleep(0)
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert await source.read(BAND, 0, 2) == b"\x00\x01"
