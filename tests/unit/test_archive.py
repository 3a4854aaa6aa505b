"""Products in zip archives: read as they are, and refused where they are no product's."""

import asyncio
import io
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import ProductError
from kappamask_stream.sources import archive as archive_module
from kappamask_stream.sources import inflating
from kappamask_stream.sources.archive import ZipSource
from kappamask_stream.sources.blob import FileBlob
from tests.unit.zip_files import DEFLATED, STORED, MemoryBlob, pack, patched

NOISE = random.Random(1).randbytes(700_000)
#: Some of it is packed well, some not at all.
BAND = NOISE[:300_000] + bytes(400_000) + NOISE[300_000:] + b"abc" * 200_000
FILES = {"X.SAFE/MTD_MSIL2A.xml": b"<metadata/>" * 300, "X.SAFE/IMG/B02.jp2": BAND, "X.SAFE/empty.txt": b""}
B02 = "X.SAFE/IMG/B02.jp2"


def source_of(data: bytes, *, coalesce_bytes: int = 0) -> ZipSource:
    return ZipSource(MemoryBlob(data, coalesce_bytes=coalesce_bytes))


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("comment", [b"", b"a comment PK\1\2 of some length " * 1900])
async def test_every_form_of_archive_is_read_alike(method: int, *, streamed: bool, zip64: bool, comment: bytes) -> None:
    source = source_of(pack(FILES, method=method, streamed=streamed, zip64=zip64, comment=comment))
    assert dict(await source.files()) == {path: len(data) for path, data in FILES.items()}
    for path, data in FILES.items():
        assert await source.read_all(path, limit=10**7) == data
        assert b"".join([piece async for piece in source.stream(path, 0, len(data))]) == data
    await source.aclose()


async def test_a_directory_with_zip64_records_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # what more than 65535 members or 4 GB bring about
    data = pack(FILES)
    assert b"PK\6\6" in data
    assert set(await source_of(data).files()) == set(FILES)


async def test_few_requests_open_an_archive_and_its_members() -> None:
    data = pack(FILES, method=STORED)
    blob = MemoryBlob(data, coalesce_bytes=8_000_000)
    source = ZipSource(blob)
    await source.files()
    assert len(blob.requests) == 1
    assert await source.read(B02, 0, 8192) == BAND[:8192]
    assert len(blob.requests) == 2, "the head of a file comes with its local header"
    assert await source.read(B02, 9000, 100_000) == BAND[9000:109_000]
    assert blob.requests[2] == (data.index(BAND[:50]) + 9000, 100_000)


async def test_a_directory_longer_than_the_first_read_takes_one_more() -> None:
    files = {f"X.SAFE/{'f' * 200}{number}.xml": b"x" for number in range(1500)}
    blob = MemoryBlob(pack(files, method=STORED))
    assert len(await ZipSource(blob).files()) == 1500
    assert len(blob.requests) <= 3


async def test_a_file_on_disk(tmp_path: Path) -> None:
    (tmp_path / "X.zip").write_bytes(pack(FILES))
    source = ZipSource(FileBlob(tmp_path / "X.zip"))
    assert await source.read(B02, 1_000_000, 99) == BAND[1_000_000:1_000_099]
    assert repr(source) == f"<ZipSource {tmp_path / 'X.zip'}, 3 files, 1 opened>"
    blob = FileBlob(tmp_path / "X.zip")
    whole = (tmp_path / "X.zip").read_bytes() * 3
    (tmp_path / "X.zip").write_bytes(whole)
    assert b"".join([piece async for piece in blob.stream(5, len(whole) - 9)]) == whole[5:-4]
    with pytest.raises(ProductError, match=r"nothing\.zip does not exist"):
        await ZipSource(FileBlob(tmp_path / "nothing.zip")).files()
    with pytest.raises(ProductError, match="is a directory"):
        await ZipSource(FileBlob(tmp_path)).files()


@given(
    reads=st.lists(st.tuples(st.integers(0, len(BAND)), st.integers(0, 300_000)), max_size=12),
    spacing=st.sampled_from([1, 50_000, 10**7]),
    streamed=st.booleans(),
    coalesce_bytes=st.sampled_from([0, 10**6]),
)
def test_reads_anywhere_in_any_order_give_the_bytes(
    reads: list[tuple[int, int]], spacing: int, *, streamed: bool, coalesce_bytes: int
) -> None:
    archive = pack({B02: BAND})

    async def run() -> None:
        source = source_of(archive, coalesce_bytes=coalesce_bytes)
        await source.files()
        source._spacing = spacing
        ranges = [(start, min(length, len(BAND) - start)) for start, length in reads]
        if streamed:
            for start, length in ranges:
                got = b"".join([piece async for piece in source.stream(B02, start, length)])
                assert got == BAND[start : start + length]
        else:
            found = await asyncio.gather(*(source.read(B02, *r) for r in ranges))
            assert found == [BAND[start : start + length] for start, length in ranges]

    asyncio.run(run())


async def inflated_bytes(monkeypatch: pytest.MonkeyPatch, source: ZipSource, reads: list[tuple[int, int]]) -> int:
    """Return how many bytes are made by these reads."""
    made = 0
    step = inflating.Cursor._step

    def counted(cursor: Any, end: int) -> bytes:
        nonlocal made
        piece = step(cursor, end)
        made += len(piece)
        return piece

    with monkeypatch.context() as patch:
        patch.setattr(inflating.Cursor, "_step", counted)
        for start, length in reads:
            assert await source.read("a", start, length) == LARGE[start : start + length]
    return made


LARGE = random.Random(2).randbytes(20 * 2**20)


async def test_a_walk_and_reading_in_order_cost_two_passes_and_a_jump_back_a_megabyte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, size = source_of(pack({"a": LARGE})), len(LARGE)
    walk = [(at, 12) for at in range(0, size, 300_000)]
    units = [(at, min(300_000, size - at)) for at in range(0, size, 300_000)]
    assert await inflated_bytes(monkeypatch, source, walk) <= size
    assert await inflated_bytes(monkeypatch, source, units) == size
    assert await inflated_bytes(monkeypatch, source, [(15 * 2**20, 10)]) <= 2**20 + 2**15
    assert await inflated_bytes(monkeypatch, source, [(3 * 2**20 + 5, 10), (15 * 2**20 + 11, 10)]) <= 2**20 + 2**15


async def test_points_to_restart_from_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more than the limit, however large the archive says it is: they get farther apart."""
    monkeypatch.setattr(archive_module, "_MOST_POINT_BYTES", 4 * inflating.POINT_BYTES)
    source = source_of(pack({"a": LARGE, "b": LARGE}))
    for path in ("a", "b"):
        assert await source.read_all(path, limit=10**9) == LARGE
    points = [len(opened.inflation._points) - 1 for opened in source._opened.values() if opened.inflation]
    assert len(points) == 2
    assert 2 <= sum(points) <= 4


async def test_points_hold_no_input() -> None:
    source = source_of(pack({"a": LARGE[: 6 * 2**20]}))
    for start in range(0, 6 * 2**20 - 5000, 5000):  # input is always left over
        await source.read("a", start, 5000)
    inflation = source._opened["a"].inflation
    assert inflation is not None
    assert len(inflation._points) > 4
    assert not any(point.inflater.unconsumed_tail for point in inflation._points)


MEASURE = """
import random, zlib
held = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
inflater = zlib.decompressobj(-15)
inflater.decompress(zlib.compress(random.Random(1).randbytes(300_000), 6)[2:200_000])
before = held()
kept = [inflater.copy() for _ in range(3000)]
print((held() - before) / len(kept))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory held is read from /proc")
def test_a_point_takes_what_is_counted_for_it() -> None:
    """In a process of its own, where nothing else takes memory or gives it back."""
    taken = float(subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, check=True).stdout)
    assert 0.8 * inflating.POINT_BYTES < taken <= 1.05 * inflating.POINT_BYTES


async def test_several_members_are_read_at_once_without_mixing() -> None:
    files = {f"{n}": random.Random(n).randbytes(5000) * 60 for n in range(5)}
    source = source_of(pack(files))
    ranges = [(path, start, 20_000) for start in range(0, 280_000, 20_000) for path in files]
    random.Random(3).shuffle(ranges)
    got = await asyncio.gather(*(source.read(*r) for r in ranges))
    assert got == [files[path][start : start + length] for path, start, length in ranges]


async def test_two_streams_and_reads_of_one_member_do_not_wait_for_each_other() -> None:
    source = source_of(pack({B02: BAND}))
    async with asyncio.timeout(60), aclosing(source.stream(B02, 0, len(BAND))) as one:  # type: ignore[type-var]
        first = await anext(one)
        other = b"".join([piece async for piece in source.stream(B02, 100, 1_000_000)])
        assert other == BAND[100:1_000_100]
        assert await source.read(B02, 5, 5) == BAND[5:10]
        assert first + b"".join([piece async for piece in one]) == BAND


async def test_streams_beside_each_other_do_not_take_each_others_inflaters() -> None:
    blob = MemoryBlob(pack({"a": LARGE}), coalesce_bytes=4 * 2**20)
    source, part = ZipSource(blob), 5 * 2**20
    await source.read("a", len(LARGE) - 12, 12)
    before = blob.bytes_read
    assert before <= len(blob.data) + 2**18

    async def take(start: int) -> None:
        pieces = [piece async for piece in source.stream("a", start, part)]
        assert b"".join(pieces) == LARGE[start : start + part]

    await asyncio.gather(*(take(start) for start in range(0, len(LARGE), part)))
    assert blob.bytes_read - before <= len(LARGE) + 4 * (2**20 + 2**18), "each begins at most 1 MB early"
    assert blob.reading == 0


@pytest.mark.parametrize("method", [STORED, DEFLATED])
async def test_a_cancelled_read_leaves_the_member_usable(method: int) -> None:
    blob = MemoryBlob(pack({B02: BAND}, method=method))
    source = ZipSource(blob)
    for moment in range(40):
        task = asyncio.create_task(source.read(B02, 20_000 * moment, 50_000))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert blob.reading == 0
        assert await source.read(B02, 17 * moment, 50_000) == BAND[17 * moment :][:50_000]


async def test_closing_a_stream_closes_the_archives() -> None:
    blob = MemoryBlob(pack({B02: BAND}, method=STORED))
    source = ZipSource(blob)
    async with aclosing(source.stream(B02, 0, len(BAND))) as pieces:  # type: ignore[type-var]
        await anext(pieces)
        assert blob.reading == 1
    assert blob.reading == 0
    await source.aclose()
    await source.aclose()
    assert blob.closed == 2


def named(name: str) -> bytes:
    """Write a member whose name `zipfile` would not."""
    plain = "n" * len(name.encode())
    return pack({plain: b"x"}).replace(plain.encode(), name.encode())


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\b", "a\nb", "a\0b", "C:\\x", "a/..", "."])
async def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(ProductError, match=r"^a member of X\.SAFE\.zip: .* is no path inside a product"):
        await source_of(named(name)).files()


@pytest.mark.parametrize("kind", [0o120000, 0o010000, 0o060000, 0o040000])
async def test_links_pipes_and_devices_are_refused(kind: int) -> None:
    data = patched(pack(FILES), B02, attributes=(kind | 0o777) << 16)
    what = "a symbolic link" if kind == 0o120000 else f"of file type 0o{kind:o}"
    with pytest.raises(ProductError, match=rf"X\.SAFE\.zip: {B02} is {what}, a product has files and folders only"):
        await source_of(data).files()


@pytest.mark.parametrize("flags", [0x1, 0x40, 0x2000])
async def test_encrypted_members_are_refused(flags: int) -> None:
    with pytest.raises(ProductError, match=rf"{B02} is encrypted"):
        await source_of(patched(pack(FILES), B02, flags=flags)).files()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 93, 99])
async def test_other_methods_are_refused(method: int) -> None:
    with pytest.raises(ProductError, match=rf"{B02} is compressed by method {method}, 0 \(stored\) and 8"):
        await source_of(patched(pack(FILES), B02, method=method)).files()


@pytest.mark.filterwarnings("ignore:Duplicate name")
async def test_names_that_are_there_twice_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a/b", "a/./b"):
            archive.writestr(name, b"x")
    with pytest.raises(ProductError, match=r"X\.SAFE\.zip holds a/b twice"):
        await source_of(buffer.getvalue()).files()
    with pytest.raises(ProductError, match="a is a file and the folder of a/b"):
        await source_of(pack({"a": b"x"}) and named_twice()).files()


def named_twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/b", b"x")
        archive.writestr("a", b"x")
    return buffer.getvalue()


async def test_members_that_overlap_are_refused() -> None:
    files = {"a": NOISE[:5000], "b": NOISE[5000:9000]}
    data = pack(files, method=STORED)
    with pytest.raises(ProductError, match=r"a takes bytes 0 to 5031, what follows it starts at 5000"):
        await source_of(patched(data, "b", offset=5000)).files()
    with pytest.raises(ProductError, match="members overlap"):
        await source_of(patched(data, "b", offset=0)).files()
    with pytest.raises(ProductError, match=r"b takes bytes 5031 to \d+, what follows it starts at"):
        await source_of(patched(data, "b", packed=6000, size=6000)).files()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 2**32 - 2}, "says 4294967294 bytes, packed into .*zip bomb"),
        ({"size": 4_000_000}, "holds .*|ends after 1700000 of 4000000 bytes"),
        ({"size": 1_699_999}, "holds more than the 1699999 bytes that the directory says"),
    ],
)
async def test_a_directory_that_lies_about_a_size_is_found_out(fields: dict[str, int], message: str) -> None:
    data = patched(pack({B02: BAND}, streamed=True), B02, **fields)
    with pytest.raises(ProductError, match=message) as caught:
        await source_of(data).read_all(B02, limit=2**33)
    assert "X.SAFE.zip" in str(caught.value)
    assert B02 in str(caught.value)


@pytest.mark.parametrize("data", [b"a" * 1000, b"x", b"abc" * 8, b"ab" * 11])
async def test_bytes_that_an_inflater_holds_back_are_not_missed(data: bytes) -> None:
    """All input may be used while a long match is not yet written out."""
    archive = pack({"a": data})
    for cut in range(len(data)):
        source = source_of(archive)
        assert await source.read("a", 0, cut) + await source.read("a", cut, len(data) - cut) == data


async def test_what_stands_behind_deflated_data_is_refused() -> None:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(BAND) + packer.flush() + b"junk"
    fields = {"method": DEFLATED, "size": len(BAND), "crc": zlib.crc32(BAND)}
    source = source_of(patched(pack({B02: packed}, method=STORED), B02, local=fields, **fields))
    with pytest.raises(
        ProductError, match=rf"is packed into {len(packed) - 4} bytes, the directory says {len(packed)}"
    ):
        await source.read_all(B02, limit=10**7)


@pytest.mark.parametrize("behind", [b"", NOISE[:100_000]])
async def test_a_member_that_ends_early_is_an_error_as_often_as_it_is_read(behind: bytes) -> None:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(BAND) + packer.flush() + behind
    fields = {"method": DEFLATED, "size": 4_000_000}
    source = source_of(patched(pack({B02: packed}, method=STORED), B02, local=fields, **fields))
    for start in (0, 3_000_000, len(BAND) - 10, len(BAND)):
        with pytest.raises(ProductError, match=f"ends after {len(BAND)} of 4000000 bytes"):
            await source.read(B02, start, 1_000_000 if start else 4_000_000)
    assert await source.read(B02, 50, 50) == BAND[50:100]


async def test_damage_inside_deflated_data_is_an_error_where_it_is_reached() -> None:
    data = bytearray(pack({"a": b"<xml>some text</xml>" * 9000 + NOISE[:5000]}))
    data[200:220] = b"\xff" * 20
    source = source_of(bytes(data))
    for _ in range(2):
        with pytest.raises(ProductError, match=r"^X\.SAFE\.zip: a (cannot be inflated at byte|has CRC|ends after)"):
            await source.read_all("a", limit=10**6)


async def test_a_bomb_is_not_unpacked() -> None:
    bomb = pack({"a.jp2": bytes(200 * 2**20)})
    assert len(bomb) < 300_000
    with pytest.raises(ProductError, match=r"a\.jp2 says 209715200 bytes, packed into \d+: .* \(zip bomb\)"):
        await source_of(bomb).files()
    small = pack({"a.jp2": bytes(10 * 2**20)})  # a band without data is packed as well as that
    assert await source_of(small).read_all("a.jp2", limit=2**24) == bytes(10 * 2**20)


async def test_a_stored_member_of_two_sizes_and_a_folder_of_bytes_are_refused() -> None:
    stored = pack(FILES, method=STORED)
    with pytest.raises(ProductError, match=rf"{B02} is stored, with 5 bytes in 1700000"):
        await source_of(patched(stored, B02, size=5)).files()
    with pytest.raises(ProductError, match=r"X\.SAFE/IMG is a folder of 5 bytes"):
        await source_of(patched(stored, "X.SAFE/IMG/", size=5)).files()
    with pytest.raises(ProductError, match=r"says 4294967294 bytes, at most|overlap"):
        await source_of(patched(stored, B02, size=2**32 - 2, packed=2**32 - 2)).files()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", 5, "says size 5, the archive's directory has 1700000"),
        ("packed", 5, r"says packed 5, the archive's directory has \d+"),
        ("crc", 5, r"says CRC 5, the archive's directory has \d+"),
        ("method", 0, "has method and flags 0, 0x0, the archive's directory has 8"),
        ("flags", 1, "has method and flags 8, 0x1, the archive's directory has 8, not encrypted"),
    ],
)
async def test_a_local_header_that_says_something_else_is_refused(field: str, value: int, message: str) -> None:
    source = source_of(patched(pack(FILES), B02, local={field: value}))
    with pytest.raises(ProductError, match=rf"^X\.SAFE\.zip: the header of {B02} at byte \d+ {message}"):
        await source.read(B02, 0, 1)


async def test_a_local_header_of_another_member_is_refused() -> None:
    data = pack({"a": b"x" * 100, "b": b"y" * 100}, method=STORED)
    renamed = data.replace(b"a" + b"x" * 100, b"c" + b"x" * 100)
    with pytest.raises(ProductError, match="the header of a at byte 0 is named b'c', the archive's directory has b'a'"):
        await source_of(renamed).read("a", 0, 1)
    with pytest.raises(ProductError, match="the header of a at byte 0 starts with 00000000"):
        await source_of(bytes(4) + data[4:]).read("a", 0, 1)
    longer = bytearray(data)
    struct.pack_into("<H", longer, 28, 9)  # extra fields that would push the data into the next member
    with pytest.raises(
        ProductError, match="the header of a at byte 0 ends at byte 140, the archive's directory has 131"
    ):
        await source_of(bytes(longer)).read("a", 0, 1)


async def read_through(source: ZipSource, how: str) -> None:
    if how == "whole":
        await source.read_all(B02, limit=10**7)
    elif how == "stream":
        _ = [piece async for piece in source.stream(B02, 0, len(BAND))]
    else:
        for start in range(0, len(BAND), 170_000):
            await source.read(B02, start, 170_000)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("how", ["whole", "stream", "reads"])
async def test_a_wrong_crc_is_an_error_where_a_member_is_read_in_order(method: int, how: str) -> None:
    good = pack({B02: BAND}, method=method)
    with zipfile.ZipFile(io.BytesIO(good)) as whole:
        crc = whole.getinfo(B02).CRC
    source = source_of(patched(good, B02, crc=crc ^ 1, local={"crc": crc ^ 1}))
    message = rf"^X\.SAFE\.zip: {B02} has CRC-32 {crc:08x}, the directory says {crc ^ 1:08x}: the archive is corrupt"
    with pytest.raises(ProductError, match=message):
        await read_through(source, how)
    assert await source.read(B02, 700_000, 100) == BAND[700_000:700_100]


async def test_reads_of_a_stored_member_by_turns_do_not_confuse_its_crc() -> None:
    source = source_of(pack({B02: BAND}, method=STORED))
    for _ in range(3):
        reads = [source.read(B02, start, 340_000) for start in range(0, len(BAND), 340_000)]
        await asyncio.gather(*reads, source.read_all(B02, limit=10**7), source.read(B02, 100, 340_000))


@given(data=st.data())
def test_flipped_bytes_end_in_the_same_bytes_or_in_words(data: st.DataObject) -> None:
    files = {"a/b.xml": b"<a>" * 50, "B02.jp2": NOISE[:300]}
    archive = bytearray(pack(files, method=data.draw(st.sampled_from([STORED, DEFLATED]))))
    for _ in range(data.draw(st.integers(1, 3))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))

    async def run() -> None:
        source = source_of(bytes(archive))
        for path in await source.files():
            got = await source.read_all(path, limit=10**6)
            assert got in {*files.values(), b""}, "CRC-32 missed it"

    try:
        asyncio.run(run())
    except ProductError as error:
        assert "X.SAFE.zip" in str(error)  # noqa: PT017


async def test_an_archive_cut_anywhere_is_refused() -> None:
    archive = pack({"a/b.xml": b"<a>" * 50, "B02.jp2": NOISE[:300]})
    for end in range(len(archive)):
        with pytest.raises(ProductError, match=r"X\.SAFE\.zip"):
            await source_of(archive[:end]).files()


@pytest.mark.parametrize("data", [b"", b"PK", NOISE[:100], NOISE, b"PK\5\6" + bytes(18), b"PK\5\6" + b"\xff" * 18])
async def test_what_is_no_archive_is_said(data: bytes) -> None:
    if data == b"PK\5\6" + bytes(18):
        assert dict(await source_of(data).files()) == {}  # an empty archive
        return
    with pytest.raises(ProductError, match=rf"X\.SAFE\.zip.*({len(data)} bytes|directory says)"):
        await source_of(data).files()


async def test_a_directory_beyond_all_bounds_is_not_read() -> None:
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 9 * 2**20, 0, 0)
    blob = MemoryBlob(bytes(10 * 2**20) + end)
    with pytest.raises(ProductError, match=f"its directory says {9 * 2**20} bytes, at most {8 * 2**20} are read"):
        await ZipSource(blob).files()
    assert blob.bytes_read <= 2**18


async def test_too_many_members_are_no_product() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(20_001):
            archive.writestr(f"{number}", b"")
    with pytest.raises(ProductError, match="has 20001 members, at most 20000 are read"):
        await source_of(buffer.getvalue()).files()
