"""Zip archives of strangers: every lie that a directory, a header and a member can tell. Nothing is ever unpacked."""

from __future__ import annotations

import asyncio
import io
import os
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import uuid
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.product import open_product
from kappamask_stream.s3 import S3Client, S3Options
from kappamask_stream.sources.archive import ZipSource
from kappamask_stream.sources.blob import FileBlob
from kappamask_stream.sources.s3 import S3Blob
from kappamask_stream.sources.zip_directory import parse_directory
from tests.unit.safe_product import SafeProduct
from tests.unit.zip_files import STORED, MemoryBlob, pack, patched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.s3_servers import Store

XML, BAND = "X.SAFE/MTD_MSIL2A.xml", "X.SAFE/IMG/B02.jp2"
FILES = {XML: b"<metadata/>" * 300, BAND: os.urandom(5000) + bytes(20_000)}


async def read_whole(blob: MemoryBlob | FileBlob | S3Blob) -> dict[str, bytes]:
    """Read all members, as far as they come to."""
    source = ZipSource(blob)
    try:
        return {path: await source.read_all(path, limit=2**24) for path in await source.files()}
    finally:
        await source.aclose()


def entry(name: bytes, **given: int) -> tuple[bytes, bytes]:
    """Return a central record and a local header of a name that `zipfile` would not write."""
    field = {"flags": 0, "method": 0, "crc": 0, "packed": 0, "size": 0, "offset": 0, "attributes": 0} | given
    local = struct.pack(
        "<4s5H3I2H", b"PK\3\4", 20, field["flags"], field["method"], 0, 0, field["crc"], field["packed"], field["size"],
        len(name), 0,
    )  # fmt: skip
    central = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, field["flags"], field["method"], 0, 0, field["crc"], field["packed"],
        field["size"], len(name), 0, 0, 0, 0, field["attributes"], field["offset"],
    )  # fmt: skip
    return central + name, local + name


def archive_of(*members: tuple[bytes, bytes, dict[str, int]]) -> bytes:
    """Write an archive of stored members: (name, data, fields that lie)."""
    body, directory = b"", b""
    for name, data, lies in members:
        fields = {"crc": zlib.crc32(data), "packed": len(data), "size": len(data), "offset": len(body)} | lies
        central, local = entry(name, **fields)
        body, directory = body + local + data, directory + central
    return body + directory + end(len(members), len(directory), len(body))


def end(count: int, size: int, offset: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, size, offset, 0)


def overlapping(count: int) -> bytes:
    """Write a bomb as D. Fifield's (2019): all members share one kernel of zeros, each quoting the next one's header."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    kernel = packer.compress(bytes(10_000_000)) + packer.flush()
    names = [b"%04d.jp2" % number for number in range(count)]
    body, directory = b"", b""
    size, crc = 10_000_000, zlib.crc32(bytes(10_000_000))
    offsets = []
    fields = {"method": 8, "packed": len(kernel), "size": size, "crc": crc}
    for name in names:
        _, local = entry(name, **fields)
        offsets.append(len(body))
        body += local
    for number, name in enumerate(names):
        # Its data are all headers behind its own, and the kernel.
        packed = len(body) - offsets[number] - 30 - len(name) + len(kernel)
        directory += entry(name, **fields | {"packed": packed, "offset": offsets[number]})[0]
    return body + kernel + directory + end(count, len(directory), len(body) + len(kernel))


def nested() -> bytes:
    inner = pack({"bomb.jp2": bytes(10 * 2**20)})
    return pack({f"{number}.zip": inner for number in range(16)})


def zip64_lying(size: int, count: int) -> bytes:
    """Write a zip64 end of directory that says another size and count than there is."""
    data = pack(FILES, method=STORED)
    at = data.index(b"PK\1\2")
    directory = data[at:-22]
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at + len(directory), 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + directory + end64 + locator + last


PLAIN = pack(FILES)
MEMBER = (b"a/b.jp2", b"12345", dict[str, int]())


def named(name: bytes, flags: int = 0x800) -> bytes:
    return archive_of((name, b"x", {"flags": flags}))


#: What it is -> the archive, and what is said of it.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb of overlapping members": (lambda: overlapping(200), "members overlap"),
    "bomb of overlapping members, two": (lambda: overlapping(2), "members overlap"),
    "bomb of one member": (lambda: pack({"a.jp2": bytes(64 * 2**20)}), r"zip bomb"),
    "more than deflate can": (lambda: patched(PLAIN, BAND, size=2**31), "zip bomb|says 2147483648"),
    "parent": (lambda: named(b"../../etc/cron.d/x"), "is no path inside a product"),
    "parent in the middle": (lambda: named(b"X.SAFE/../../x"), "is no path inside a product"),
    "absolute": (lambda: named(b"/etc/cron.d/x"), "is no path inside a product"),
    "backslash parent": (lambda: named(b"..\\..\\x"), "is no path inside a product"),
    "drive": (lambda: named(b"C:\\Windows\\x"), "is no path inside a product"),
    "server": (lambda: named(b"\\\\server\\share\\x"), "is no path inside a product"),
    "null": (lambda: named(b"MTD_MSIL2A.xml\0.txt"), "is no path inside a product"),
    "newline": (lambda: named(b"a\nerror: all is lost"), r"a\\nerror: all is lost' is no path inside a product"),
    "terminal escape": (lambda: named(b"a\x1b]0;owned\x07"), r"a\\x1b\]0;owned\\x07' is no path inside a product"),
    "right to left": (lambda: named("a\u202egpj.exe".encode()), r"a\\u202egpj\.exe' is no path inside a product"),
    "zero width": (lambda: named("B\u200b02.jp2".encode()), r"is no path inside a product"),
    "10 KB": (lambda: named(b"a" * 10_000), "is no path inside a product"),
    "empty name": (lambda: named(b""), "is no path inside a product"),
    "no UTF-8": (lambda: named(b"\xff\xfe"), "is no zip archive that can be read"),
    "twice": (lambda: archive_of(MEMBER, MEMBER), "holds a/b.jp2 twice"),
    "twice by case": (lambda: archive_of(MEMBER, (b"A/b.JP2", b"x", {})), "holds A/b.JP2 and a/b.jp2: it cannot be told"),
    "twice by width": (
        lambda: archive_of(MEMBER, ("\uff41/b.jp2".encode(), b"x", {"flags": 0x800})), "holds \uff41/b.jp2 and a/b.jp2",
    ),
    "XML twice by case": (
        lambda: archive_of((b"X.SAFE/MTD_MSIL2A.xml", b"x", {}), (b"X.SAFE/mtd_msil2a.XML", b"x", {})), "it cannot be told",
    ),
    "what is never read, twice": (
        lambda: archive_of((b"README.TXT", b"x", {}), (b"README.TXT", b"y", {})), "holds README.TXT twice",
    ),
    "a file that is a folder": (lambda: archive_of(MEMBER, (b"a", b"x", {})), "a is a file and the folder of a/b.jp2"),
    "symbolic link": (lambda: archive_of((b"a", b"/etc/passwd", {"attributes": 0o120777 << 16})), "a is a symbolic link"),
    "device": (lambda: archive_of((b"a", b"", {"attributes": 0o060666 << 16})), "a is of file type 0o60000"),
    "setuid link": (lambda: archive_of((b"a", b"x", {"attributes": 0o124777 << 16})), "a is a symbolic link"),
    "encrypted": (lambda: archive_of((b"a", b"x", {"flags": 1})), "a is encrypted"),
    "encrypted directory": (lambda: archive_of((b"a", b"x", {"flags": 0x2000})), "a is encrypted"),
    "bzip2": (lambda: archive_of((b"a", b"x", {"method": 12})), "compressed by method 12"),
    "lzma": (lambda: archive_of((b"a", b"x", {"method": 14})), "compressed by method 14"),
    "WavPack": (lambda: archive_of((b"a", b"x", {"method": 97})), "compressed by method 97"),
    "Zstandard": (lambda: archive_of((b"a", b"x", {"method": 93})), "compressed by method 93"),
    "offset of another member": (lambda: patched(PLAIN, BAND, offset=0), "members overlap"),
    "offset beyond the end": (lambda: archive_of((b"a", b"x", {"offset": 2**31})), "what follows it starts at|overlap"),
    "another name in the header": (
        lambda: archive_of((b"a", b"x", {})).replace(b"a", b"b", 1), r"is named b'b', the archive's directory has b'a'",
    ),
    "another size in the header": (lambda: patched(PLAIN, BAND, local={"size": 3}), "says size 3, the archive's"),
    "another method in the header": (lambda: patched(PLAIN, BAND, local={"method": 0}), "has method and flags 0"),
    "another CRC in the header": (lambda: patched(PLAIN, BAND, local={"crc": 3}), "says CRC 3, the archive's"),
    "wrong CRC": (lambda: patched(PLAIN, BAND, crc=3, local={"crc": 3}), r"has CRC-32 [0-9a-f]{8}, the directory says"),
    "size too large": (lambda: patched(PLAIN, BAND, size=26_000, local={"size": 26_000}), "ends after 25000 of 26000"),
    "size too small": (lambda: patched(PLAIN, BAND, size=24_000, local={"size": 24_000}), "holds more than the 24000"),
    "stored, another size": (lambda: archive_of((b"a", b"xyz", {"size": 9})), "a is stored, with 9 bytes in 3"),
    "zip64 directory of a terabyte": (lambda: zip64_lying(10**12, 2), "directory says|no zip archive that can be read"),
    "zip64 directory of 2^64 - 1": (lambda: zip64_lying(2**64 - 1, 2), "no zip archive that can be read|says"),
    "a comment that ends like an archive": (
        lambda: pack(FILES, comment=b"PK\5\6" * 16_000), "no zip archive that can be read",
    ),
    "cut in the directory": (lambda: PLAIN[:-40], "is no zip archive that can be read"),
    "cut in half": (lambda: PLAIN[: len(PLAIN) // 2], "is no zip archive that can be read"),
    "an end alone, of much": (lambda: end(60_000, 2**32 - 2, 0), "directory says|no zip archive that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_that_lies_is_refused(what: str) -> None:
    made, says = REFUSED[what]
    with pytest.raises(ProductError, match=rf"(?s)X\.SAFE\.zip.*({says})") as caught:
        asyncio.run(read_whole(MemoryBlob(made())))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


#: The same reader on a disk and on S3: one of each kind of lie.
SAMPLE = ("bomb of overlapping members", "parent", "twice", "symbolic link", "wrong CRC", "size too large", "10 KB")


@pytest.mark.parametrize("what", SAMPLE)
def test_the_same_on_a_disk_where_nothing_is_written(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(folder))
    (folder / "X.SAFE.zip").write_bytes(REFUSED[what][0]())
    with pytest.raises(ProductError, match=rf"(?s)X\.SAFE\.zip.*({REFUSED[what][1]})"):
        asyncio.run(read_whole(FileBlob(folder / "X.SAFE.zip")))
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "X.SAFE.zip"]


@pytest.mark.integration
async def test_the_same_on_s3(moto_store: Store, aws_environment: None) -> None:
    bucket = f"b{uuid.uuid4().hex}"
    moto_store.fill(bucket, {f"{number}/X.SAFE.zip": REFUSED[what][0]() for number, what in enumerate(SAMPLE)})
    async with S3Client(S3Options(endpoint_url=moto_store.endpoint)) as client:
        for number, what in enumerate(SAMPLE):
            with pytest.raises(ProductError, match=rf"(?s){number}/X\.SAFE\.zip.*({REFUSED[what][1]})"):
                await read_whole(S3Blob(client, bucket, f"{number}/X.SAFE.zip"))


def test_odd_forms_that_hold_what_they_say_are_read() -> None:
    forms = {
        "bytes before it": b"#!/bin/sh\n" * 100 + PLAIN,
        "the largest comment": pack(FILES, comment=b"PK\1\2PK\3\4" * 8000),
        "sizes behind the data": pack(FILES, streamed=True),
        "zip64 of small files": pack(FILES, zip64=True),
        "readmes that differ by case": pack({"README.TXT": b"1", "readme.txt": b"2"} | FILES | {"X.SAFE/Readme": b"3"}),
        "a zip in a zip": pack(FILES | {"X.SAFE/other.zip": PLAIN}, method=STORED),
    }
    for what, data in forms.items():
        found = asyncio.run(read_whole(MemoryBlob(data)))
        assert {path: found[path] for path in FILES} == FILES, what


def test_names_that_only_look_like_a_products_are_none_of_it() -> None:
    alike = "MTD_MSIL2\u0410.xml"  # a Cyrillic A
    data = archive_of((f"X.SAFE/{alike}".encode(), b"x", {"flags": 0x800}))
    with pytest.raises(
        ProductError, match=r"X\.SAFE\.zip is no Sentinel-2 product: MTD_MSIL1C\.xml or MTD_MSIL2A\.xml"
    ):
        asyncio.run(open_product(ZipSource(MemoryBlob(data))))


def _product_files(product: SafeProduct, folder: Path) -> dict[str, bytes]:
    root = product.write(folder)
    return {f"{root.name}/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_two_products_in_one_archive_and_one_inside_another(tmp_path: Path) -> None:
    one = _product_files(SafeProduct(), tmp_path / "a")
    other = _product_files(SafeProduct(sensing_time="20221010T115411"), tmp_path / "b")
    with pytest.raises(ProductError, match=r"X\.SAFE\.zip holds 2 products \(S2A_.*, S2A_.*\): give each by itself"):
        asyncio.run(open_product(ZipSource(MemoryBlob(pack(one | other)))))
    root = next(iter(one)).partition("/")[0]
    inside = one | {f"{root}/HTML/{path}": data for path, data in other.items()}
    with pytest.raises(ProductError, match=r"X\.SAFE\.zip holds 2 products \(S2A_"):
        asyncio.run(open_product(ZipSource(MemoryBlob(pack(inside)))))


#: Many entries, read by a process whose memory is measured: MB beyond what it takes to import.
_CHILD = """
    import sys
    from kappamask_stream.errors import ProductError
    from kappamask_stream.result import peak_rss_bytes
    from kappamask_stream.sources.zip_directory import parse_directory
    data = sys.stdin.buffer.read()
    before = peak_rss_bytes()
    try:
        parse_directory("X.zip", len(data), 0, data)
    except ProductError as error:
        print(error)
    print((peak_rss_bytes() - before) >> 20)
"""


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (20_000, None),
        (65_536, "has 65536 members, at most 20000 are read"),
        (170_000, "has 170000 members, at most 20000 are read"),
        (1_000_000, "has 1000000 members, at most 20000 are read"),
    ],
)
def test_many_entries_take_little_memory(count: int, says: str | None) -> None:
    if count == 1_000_000:  # all of one name: what they are called is not looked at before they are counted
        directory = entry(b"a")[0] * count
    else:
        directory = b"".join(entry(b"%x" % number)[0] for number in range(count))
    data = directory + end(count, len(directory), 0)
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(_CHILD)], input=data, capture_output=True, check=True)
    *said, megabytes = child.stdout.decode().splitlines()
    assert says is None or says in said[0]
    assert says is not None or "overlap" in said[0], "they all lie at byte 0"
    assert int(megabytes) < 64


def _deep(count: int) -> bytes:
    """Write members of one byte that lie as deep as a path's length lets them, no two in one folder."""
    return archive_of(*((b"/".join([b"%06x" % number, *[b"d"] * 506, b"f"]), b"x", {}) for number in range(count)))


def test_how_deep_members_lie_costs_nothing() -> None:
    """Counted in calls, which no other process changes: 7,700 members of 508 levels were 8 million, 1.6 s."""
    data, calls = _deep(200), 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = parse_directory("X.zip", len(data), 0, data)
    finally:
        sys.setprofile(None)
    assert len(found) == 200
    assert calls < 200 * 150, f"{calls / 200:.0f} calls a member"


def test_the_largest_directory_of_the_deepest_members_takes_less_than_a_second() -> None:
    data = _deep(7700)
    begin = time.process_time()
    assert len(parse_directory("X.zip", len(data), 0, data)) == 7700
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("deep", [1, 3, 400])
def test_a_file_is_no_folder_however_deep_what_it_holds_lies(deep: int) -> None:
    inside = b"/".join([b"a", b"b", *[b"d"] * deep])
    others = [(name, b"x", dict[str, int]()) for name in (b"a/b!", b"a/b-c/d", b"a.b", b"a/b0", b"a/bb/c")]
    data = archive_of(*others, (inside, b"x", {}))
    assert len(parse_directory("X.zip", len(data), 0, data)) == len(others) + 1
    data = archive_of((inside, b"x", {}), *others, (b"a/b", b"x", {}))
    with pytest.raises(ProductError, match=r"^X\.zip: a/b is a file and the folder of a/b/d"):
        parse_directory("X.zip", len(data), 0, data)


def test_a_bomb_within_what_is_allowed_takes_no_more_memory_than_its_reader_asks_for() -> None:
    """16 MB of zeros are no bomb: bands without data are packed as well. They come in pieces."""
    blob = MemoryBlob(pack({"a.jp2": bytes(16 * 2**20)}))

    async def stream() -> int:
        return sum([len(piece) async for piece in ZipSource(blob).stream("a.jp2", 0, 16 * 2**20)])

    tracemalloc.start()
    try:
        assert asyncio.run(stream()) == 16 * 2**20
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * 2**20


def test_nested_bombs_are_files_like_others() -> None:
    """42.zip's way: archives in archives. None is ever opened, their bytes are what they are."""
    buffer = io.BytesIO(nested())
    with zipfile.ZipFile(buffer) as whole:
        names = whole.namelist()
    found = asyncio.run(read_whole(MemoryBlob(buffer.getvalue())))
    assert sorted(found) == sorted(names)
    assert sum(map(len, found.values())) < 2**20
