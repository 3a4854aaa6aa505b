"""What a directory can do to a reader."""

import asyncio
import os
from pathlib import Path

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.sources import DirectorySource, SubSource
from kappamask_stream.sources import directory as sources


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "X.SAFE"
    (folder / "GRANULE").mkdir(parents=True)
    (folder / "GRANULE" / "B02.jp2").write_bytes(b"0123456789")
    (folder / "MTD_MSIL2A.xml").write_bytes(b"<a/>")
    return folder


async def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ProductError, match="does not exist"):
        await DirectorySource(tmp_path / "nothing").files()


async def test_an_archive_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "X.zip").write_bytes(b"PK")
    with pytest.raises(ProductError, match=r"X\.zip is a file"):
        await DirectorySource(tmp_path / "X.zip").files()


@pytest.mark.parametrize("name", ["MTD_MSIL2A.xml", "manifest.safe"])
async def test_a_products_own_file_stands_for_its_directory(root: Path, name: str) -> None:
    source = DirectorySource(root / name)
    assert set(await source.files()) == {"GRANULE/B02.jp2", "MTD_MSIL2A.xml"}
    assert await source.read("GRANULE/B02.jp2", 3, 2) == b"34"


async def test_loops_end(root: Path) -> None:
    (root / "GRANULE" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    source = DirectorySource(root)
    assert set(await source.files()) == {"GRANULE/B02.jp2", "MTD_MSIL2A.xml"}
    with pytest.raises(ProductError, match="self: Too many levels"):
        await source.read("self", 0, 1)


async def test_links_to_files_and_folders_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "B03.jp2").write_bytes(b"abc")
    (root / "linked").symlink_to(tmp_path / "store")
    (root / "B04.jp2").symlink_to(tmp_path / "store" / "B03.jp2")
    (root / "dangling").symlink_to(tmp_path / "gone")
    source = DirectorySource(root)
    files = await source.files()
    assert files["linked/B03.jp2"] == files["B04.jp2"] == 3
    assert "dangling" not in files
    assert await source.read_all("linked/B03.jp2", limit=3) == b"abc"
    with pytest.raises(ProductError, match=r"dangling is not there \(or a link to nothing\)"):
        await source.read_all("dangling", limit=3)


async def test_a_file_that_vanishes_or_shrinks_after_the_listing(root: Path) -> None:
    source = DirectorySource(root)
    await source.files()
    (root / "GRANULE" / "B02.jp2").write_bytes(b"0123")
    with pytest.raises(ProductError, match="has 4 bytes, bytes 0 to 10 are needed"):
        await source.read("GRANULE/B02.jp2", 0, 10)
    (root / "GRANULE" / "B02.jp2").unlink()
    with pytest.raises(ProductError, match=r"B02\.jp2 is not there"):
        await source.read("GRANULE/B02.jp2", 0, 10)


async def test_a_file_that_shrinks_while_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.os, "pread", lambda fd, n, offset: b"" if offset >= 4 else b"01"[: min(n, 2)])
    with pytest.raises(ProductError, match="has 4 bytes, bytes 0 to 10 are needed"):
        await DirectorySource(root).read("GRANULE/B02.jp2", 0, 10)


async def test_reads_that_the_kernel_cuts_short_are_continued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pread
    monkeypatch.setattr(sources.os, "pread", lambda fd, n, offset: whole(fd, min(n, 3), offset))
    assert await DirectorySource(root).read("GRANULE/B02.jp2", 1, 9) == b"123456789"


async def test_a_pipe_does_not_hang(root: Path) -> None:
    os.mkfifo(root / "B03.jp2")
    source = DirectorySource(root)
    assert "B03.jp2" not in await source.files()
    async with asyncio.timeout(5):
        with pytest.raises(ProductError, match=r"B03\.jp2 is no regular file"):
            await source.read("B03.jp2", 0, 1)


async def test_permissions_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom nothing is denied.
    def denied(path: object, *rest: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sources.os, "open", denied)
    with pytest.raises(ProductError, match=r"cannot read .*B02\.jp2: Permission denied"):
        await DirectorySource(root).read("GRANULE/B02.jp2", 0, 1)
    monkeypatch.setattr(sources.os, "scandir", denied)
    with pytest.raises(ProductError, match=r"cannot list .*X\.SAFE: Permission denied"):
        await DirectorySource(root).files()


async def test_a_home_folder_is_no_product(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_MOST_FILES", 5)
    for number in range(10):
        (root / f"{number}.txt").touch()
    with pytest.raises(ProductError, match="more than 5 files"):
        await DirectorySource(root).files()


async def test_names_that_break_messages_are_left_out(root: Path) -> None:
    (root / "line\nbreak.xml").touch()
    (root / os.fsdecode(b"latin\xfc.xml")).touch()
    assert set(await DirectorySource(root).files()) == {"GRANULE/B02.jp2", "MTD_MSIL2A.xml"}


def descriptors() -> int:
    open_files = Path("/proc/self/fd")
    return len(list(open_files.iterdir())) if open_files.exists() else 0


async def test_no_descriptor_is_left(root: Path) -> None:
    source = DirectorySource(root)
    before = descriptors()
    for _ in range(20):
        await source.read("GRANULE/B02.jp2", 0, 4)
        with pytest.raises(ProductError):
            await source.read("GRANULE", 0, 4)
    assert descriptors() <= before + 1


async def test_reprs_tell_the_state(root: Path) -> None:
    source = DirectorySource(root)
    assert repr(source) == f"<DirectorySource {root}, not listed>"
    await source.files()
    assert repr(source) == f"<DirectorySource {root}, 2 files>"
    assert repr(SubSource(source, "GRANULE")) == f"<SubSource GRANULE of {source!r}>"
