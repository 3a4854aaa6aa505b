"""What every `Source` must do. A new kind of source is one more entry in `MAKERS`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.sources import DirectorySource, Source, SubSource

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


MAKERS: dict[str, Maker] = {"directory": directory, "inside a directory": inside_a_directory}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS.keys())
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Source]:
    made: Source = request.param(tmp_path)
    yield made
    await made.aclose()


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
