"""Directories that strangers made: links, pipes, devices and folders where files belong, and what may not be read."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.errors import ProductError, StoreChangedError, UsageError
from kappamask_stream.manifest import verify
from kappamask_stream.product import open_product
from kappamask_stream.sources import DirectorySource, Source
from kappamask_stream.sources import directory as directory_module
from kappamask_stream.sources.archive import ZipSource
from kappamask_stream.sources.blob import FileBlob
from tests.integration.session import short_folder
from tests.unit.safe_product import SafeProduct
from tests.unit.zip_files import STORED, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fault_table import Fault

BAND = f"{SafeProduct().granule}/IMG_DATA/R10m/T29UNU_20221005T115411_B02_10m.jp2"
_NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return SafeProduct().write(tmp_path)


async def within_5_s(source: Source, path: str) -> bytes:
    async with asyncio.timeout(5):
        return await source.read(path, 0, 4)


# Links.


def test_links_that_multiply_end_soon(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten links to the next folder in each of ten: ten thousand million ways, no file, no way back."""
    monkeypatch.setattr(directory_module, "_MOST_ENTRIES", 5000)
    for number in range(10):
        (root / f"d{number}").mkdir()
        for link in range(10):
            (root / f"d{number}" / f"{link}").symlink_to(root / f"d{number + 1}")
    with pytest.raises(ProductError, match=r"more than 20000 files, or 5000 files and folders, lie under .*\.SAFE"):
        asyncio.run(DirectorySource(root).files())


def test_a_folder_of_many_entries_is_not_read_to_its_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "_MOST_ENTRIES", 200)
    for number in range(300):
        (root / f"{number}\n").touch()  # names that are left out count as well
    with pytest.raises(ProductError, match="more than 20000 files, or 200 files and folders"):
        asyncio.run(DirectorySource(root).files())


@pytest.mark.fault("Source", "disk: symlink loops")
def test_loops_of_links_end(root: Path, fault: Fault) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "GRANULE" / "up").symlink_to("..")
    (root / "GRANULE" / "root").symlink_to("/")
    band = root / BAND
    band.unlink()
    band.symlink_to(band.name)
    (root / "GRANULE" / "root").unlink()
    product = asyncio.run(open_product(DirectorySource(root)))
    with pytest.raises(ProductError, match=r"has no file of B02 at 10 m \(GRANULE/.*_B02_10m\.jp2\)"):
        product.band_path("B02", 10)
    with pytest.raises(ProductError, match=rf"cannot read .*{band.name}: {os.strerror(40)}"):
        asyncio.run(within_5_s(product.source, BAND))
    fault.injected(3)
    fault.outcome("failed with the cause where it was needed, left out where not", 3)


def test_a_product_that_holds_the_whole_disk_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "_MOST_ENTRIES", 3000)
    (root / "everything").symlink_to("/usr")
    with pytest.raises(ProductError, match="give one product's"):
        asyncio.run(DirectorySource(root).files())


def test_what_a_link_leads_to_is_in_no_message(root: Path, tmp_path: Path) -> None:
    """Links out of a product are followed, as archives of many disks need them; what is no band is not shown."""
    secret = tmp_path / "secret"
    secret.write_text("root:$6$hash:19000:0:99999:7:::\n" * 20)
    for path in ("MTD_MSIL2A.xml", f"{SafeProduct().granule}/MTD_TL.xml"):
        file = root / path
        kept = file.read_bytes()
        file.unlink()
        file.symlink_to(secret)
        with pytest.raises(ProductError, match=rf"{path} is no well-formed XML") as caught:
            asyncio.run(open_product(DirectorySource(root)))
        assert "hash" not in str(caught.value)
        file.unlink()
        file.write_bytes(kept)


# Pipes, devices and folders.


@pytest.mark.parametrize("path", ["MTD_MSIL2A.xml", f"{SafeProduct().granule}/MTD_TL.xml", BAND, "manifest.safe"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_what_is_no_file_blocks_nobody(root: Path, path: str, kind: str) -> None:
    file = root / path
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "socket":
        os.mknod(file, 0o140600)
    else:
        file.symlink_to("/dev/zero")

    async def run() -> None:
        async with asyncio.timeout(5):
            product = await open_product(DirectorySource(root))
            product.band_path("B02", 10)
            await verify(product.source)

    with pytest.raises(ProductError, match=r"is missing|has no GRANULE|has no file of B02"):
        asyncio.run(run())
    expected = "is a directory" if kind == "folder" else "is no regular file|No such device"
    with pytest.raises(ProductError, match=expected):
        asyncio.run(within_5_s(DirectorySource(root), path))


def test_a_pipe_named_as_an_archive_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "X.zip")
    ended = subprocess.run(
        [sys.executable, "-m", "kappamask_stream", "info", str(tmp_path / "X.zip")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (3, 1)
    assert "X.zip is a file, a product is a directory" in ended.stderr


def test_an_area_from_a_device_ends_at_the_limit_and_one_from_a_pipe_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--aoi /dev/zero has more than 16777216 bytes: simplify the geometry"):
        parse_aoi("/dev/zero")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("1,2,3,4",))
    writer.start()
    assert parse_aoi(str(pipe)).geometry.bounds == (1, 2, 3, 4)
    writer.join()


# Permission: as root nothing is denied, so a child gives its rights away, when it has imported what it needs.

_AS_NOBODY = """
    import asyncio, json, os, sys
    from kappamask_stream.errors import KappaMaskError
    from kappamask_stream.product import open_product
    from kappamask_stream.s3 import S3Options, Stores
    from kappamask_stream.sources.locate import open_source

    async def read(where, band):
        async with Stores(S3Options()) as stores:
            product = await open_product(await open_source(where, stores=stores))
            await product.source.read(band, 0, 4)

    readable, band, nobody, *denied = sys.argv[1:]
    asyncio.run(read(readable, band))
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(int(nobody))
        os.setuid(int(nobody))
    said = {}
    for where in denied:
        try:
            asyncio.run(read(where, band))
        except KappaMaskError as error:
            said[where] = f"{type(error).__name__} {error}"
    print(json.dumps(said))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may look into: pytest's own they may not."""
    with short_folder() as folder:
        folder.chmod(0o755)
        yield folder


@pytest.mark.fault("Source", "disk: permission denied")
def test_what_may_not_be_read_is_named(open_folder: Path, fault: Fault) -> None:
    readable = SafeProduct().write(open_folder / "readable")
    given: dict[str, tuple[Path, Path]] = {}  # what is denied -> where the product is, and what may not be read
    for what in ("band", "xml", "folder of bands", "product", "folder around", "archive"):
        made = SafeProduct().write(open_folder / what)
        (made / "X.zip").write_bytes(pack({"MTD_MSIL2A.xml": b"<a/>"}))
        denied = {
            "band": made / BAND, "xml": made / "MTD_MSIL2A.xml", "folder of bands": (made / BAND).parent,
            "product": made, "folder around": made.parent, "archive": made / "X.zip",
        }[what]  # fmt: skip
        given[what] = made / "X.zip" if what == "archive" else made, denied
        denied.chmod(0)
    try:
        places = [str(where) for where, _ in given.values()]
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_AS_NOBODY), str(readable), BAND, str(_NOBODY), *places],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        for _, denied in given.values():
            denied.chmod(0o755)
    assert ended.stderr == ""
    said = json.loads(ended.stdout)
    for what, (where, denied) in given.items():
        assert said[str(where)].startswith("ProductError cannot "), what
        assert str(where if what == "folder around" else denied) in said[str(where)]
        assert said[str(where)].endswith(f": {os.strerror(13)}")
        fault.injected()
        fault.outcome("failed with the cause")


# Files that change.


def test_a_file_that_was_replaced_is_not_mixed_with_its_former_self(root: Path) -> None:
    async def run() -> None:
        source = DirectorySource(root)
        size = (await source.files())[BAND]
        assert len(await source.read(BAND, 0, size)) == size
        new = root / "new"
        new.write_bytes(b"x" * size)
        new.replace(root / BAND)
        with pytest.raises(
            StoreChangedError, match=r"_B02_10m\.jp2 was changed .* last changed at \d+\.\d{9} s, now at"
        ):
            await source.read(BAND, 0, size)
        assert await DirectorySource(root).read(BAND, 0, 4) == b"xxxx"

    asyncio.run(run())


_SECOND = 10**9


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (7 * _SECOND + 123_456_789, 7 * _SECOND, True),
        (7 * _SECOND, 7 * _SECOND + 123_456_789, True),
        (7 * _SECOND + 123_456_789, 7 * _SECOND + 123_456_000, False),
        (7 * _SECOND + 123_456_789, 8 * _SECOND, False),
        (7 * _SECOND, 6 * _SECOND + 999_999_999, False),
    ],
)
async def test_a_time_that_loses_its_part_of_a_second_is_no_other_one(
    tmp_path: Path, first: int, second: int, *, is_same: bool
) -> None:
    """As a network file system's does between two looks at it."""
    file = tmp_path / "a.jp2"
    file.write_bytes(b"x" * 100)
    os.utime(file, ns=(0, first))
    source = DirectorySource(tmp_path)
    await source.files()
    os.utime(file, ns=(0, second))
    if is_same:
        assert await source.read("a.jp2", 0, 3) == b"xxx"
    else:
        with pytest.raises(StoreChangedError, match=r"last changed at 7\.\d{9} s, now at [678]\.\d{9} s\)"):
            await source.read("a.jp2", 0, 3)
    file.write_bytes(b"x" * 90)
    os.utime(file, ns=(0, first))
    with pytest.raises(StoreChangedError, match=r"it had 100 bytes, it has 90|90 bytes, bytes 91 to"):
        await source.read("a.jp2", 0, 3)


def test_a_file_that_is_replaced_while_checksums_are_made_is_told_as_what_it_is(root: Path) -> None:
    """And not as a group of errors, which would be a fault of this program."""

    async def run() -> None:
        source = DirectorySource(root)
        await source.files()
        new = root / "new"
        new.write_bytes((root / BAND).read_bytes())
        new.replace(root / BAND)
        with pytest.raises(StoreChangedError, match=r"_B02_10m\.jp2 was changed or replaced while it was read"):
            await verify(source)

    asyncio.run(run())


def test_a_file_that_nobody_listed_is_pinned_when_it_is_read_first(root: Path) -> None:
    async def run() -> None:
        source = DirectorySource(root)
        await source.read(BAND, 0, 4)
        with (root / BAND).open("ab") as file:
            file.write(b"more")
        with pytest.raises(StoreChangedError):
            await source.read_all(BAND, limit=10**6)
        assert await source.read("manifest.safe", 0, 4) == b"<?xm"

    asyncio.run(run())


def test_an_archive_that_was_replaced_is_not_mixed_with_its_former_self(tmp_path: Path) -> None:
    archive = tmp_path / "X.zip"
    archive.write_bytes(pack({"a": b"1" * 5000, "b": b"2" * 5000}, method=STORED))

    async def run() -> None:
        source = ZipSource(FileBlob(archive))
        assert await source.read("a", 0, 4) == b"1111"
        new = tmp_path / "new"
        new.write_bytes(pack({"a": b"3" * 5000, "b": b"4" * 5000}, method=STORED))
        new.replace(archive)
        with pytest.raises(StoreChangedError, match=r"X\.zip was changed or replaced while it was read"):
            await source.read("b", 0, 4)

    asyncio.run(run())


def test_a_copy_that_keeps_its_times_is_the_same_file(root: Path) -> None:
    """Archives move files between disks: what is the same to the byte and the nanosecond may be read on."""

    async def run() -> None:
        source = DirectorySource(root)
        await source.files()
        file, copy = root / BAND, root / "copy"
        status = file.stat()
        copy.write_bytes(file.read_bytes())
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        copy.replace(file)
        assert await source.read(BAND, 0, 4) == file.read_bytes()[:4]

    asyncio.run(run())
