import asyncio
import json
import shutil
from pathlib import Path

import pytest

from kappamask_stream import manifest
from kappamask_stream.errors import ProductError
from kappamask_stream.manifest import parse_manifest, verify
from kappamask_stream.product import open_product
from kappamask_stream.sources import DirectorySource
from kappamask_stream.sources.blob import FileBlob
from kappamask_stream.sources.stac_bands import parse_item
from kappamask_stream.sources.stac_source import StacItemSource
from tests.unit.safe_product import SafeProduct, manifest_xml
from tests.unit.stac_items import data_space

PRODUCT_60M = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE"


@pytest.fixture
def l2a(tmp_path: Path) -> Path:
    return SafeProduct().write(tmp_path)


def band(root: Path, name: str = "B02_10m") -> Path:
    return root / SafeProduct().granule / "IMG_DATA" / f"R{name[-3:]}" / f"T29UNU_20221005T115411_{name}.jp2"


@pytest.mark.parametrize("checksum", ["MD5", "md5", "SHA3-256", "SHA-256", "SHA256", "SHA-512", "SHA3-512", "SHA-1"])
async def test_a_whole_product(tmp_path: Path, checksum: str) -> None:
    root = SafeProduct().write(tmp_path, checksum=checksum)
    steps: list[tuple[int, int]] = []
    assert not (await verify(DirectorySource(root), lambda done, total: steps.append((done, total)))).remarks
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file() and f.name != "manifest.safe")
    assert steps[-1] == (size, size)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert not (await verify(DirectorySource(tmp_path))).remarks, "the folder around the product will do"


@pytest.mark.parametrize("metadata", [True, False])
async def test_a_stac_item_cannot_be_verified(tmp_path: Path, *, metadata: bool) -> None:
    item = parse_item(json.dumps(data_space()).encode(), "item.json", "https://x.example/item.json")
    blobs = {"MTD_MSIL2A.xml": FileBlob(tmp_path / "x")} if metadata else {}
    with pytest.raises(ProductError, match=r"^item\.json is a STAC Item, .*cannot be verified; leave --verify out"):
        await verify(StacItemSource(item, "jp2", {}, blobs))


@pytest.mark.shared
async def test_real_product_that_lacks_10_and_20_m_bands(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "product_60m" / PRODUCT_60M
    with pytest.raises(ProductError) as caught:
        await verify(DirectorySource(folder))
    # 21 of 86 files are absent: two TCI, the HTML pages and the datastrip's XML are not needed; the rest is intact.
    message = str(caught.value)
    assert "16 of 86 files are not as manifest.safe says" in message
    assert "T29UNU_20221005T115411_B02_10m.jp2 is missing" in message
    assert "and 11 more" in message
    assert "checksum" not in message


@pytest.mark.shared
async def test_real_60_m_bands_are_intact_and_flipped_bits_are_found(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "data" / "product_60m" / PRODUCT_60M
    listed = parse_manifest((folder / "manifest.safe").read_bytes(), "manifest.safe")
    present = {entry.path: (folder / entry.path).read_bytes() for entry in listed if (folder / entry.path).exists()}
    assert len(present) == 65
    copy = tmp_path / PRODUCT_60M
    for path, data in present.items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(data)
    (copy / "manifest.safe").write_text(manifest_xml(present))
    assert not (await verify(DirectorySource(copy))).remarks
    flipped = next(path for path in present if path.endswith("_B02_60m.jp2"))
    data = bytearray(present[flipped])
    data[len(data) // 2] ^= 1
    (copy / flipped).write_bytes(data)
    with pytest.raises(
        ProductError, match=r"1 of 65 files .*_B02_60m\.jp2 has the sha3_256 checksum [0-9a-f]{64}, not"
    ):
        await verify(DirectorySource(copy))


async def test_what_masks_do_not_need_may_be_missing(l2a: Path) -> None:
    (l2a / "HTML" / "UserProduct_index.html").unlink()
    band(l2a, "TCI_10m").unlink()
    remarks = (await verify(DirectorySource(l2a))).remarks
    assert len(remarks) == 2
    assert remarks[0] == "HTML/UserProduct_index.html is missing, masks do not need it"
    assert "_TCI_10m.jp2" in remarks[1]


async def test_what_other_programs_leave_beside_the_bands_is_none_of_it(l2a: Path) -> None:
    image = band(l2a)
    for path in (
        l2a / "MTD_MSIL2A.xml.bak", l2a / "MTD_MSIL2A.xml.aux.xml", l2a / "._MTD_MSIL2A.xml", l2a / ".DS_Store",
        image.with_suffix(".tif"), image.with_suffix(".jp2.aux.xml"), image.with_name(f"._{image.name}"),
    ):  # fmt: skip
        path.write_bytes(b"\0\5\x16\7")
    assert not (await verify(DirectorySource(l2a))).remarks
    product = await open_product(DirectorySource(l2a))
    assert not any(path.rpartition("/")[2].startswith("._") for path in product.files.values())
    # But a band that the product would be read from, and nobody vouches for, is.
    other = image.with_name(image.name.replace("B02_10m", "B12_10m"))
    other.write_bytes(b"x")
    with pytest.raises(ProductError, match=rf"1 of 21 files .* {other.name} is not listed there"):
        await verify(DirectorySource(l2a))
    assert any(path.endswith(other.name) for path in (await open_product(DirectorySource(l2a))).files.values())


async def test_bands_may_not(l2a: Path) -> None:
    band(l2a).unlink()
    with pytest.raises(ProductError, match=r"_B02_10m\.jp2 is missing: fetch the product again"):
        await verify(DirectorySource(l2a))


async def test_all_faults_are_in_one_message_in_the_manifests_order(l2a: Path) -> None:
    band(l2a, "B03_10m").write_bytes(b"truncated")
    data = bytearray(band(l2a, "B8A_20m").read_bytes())
    data[3] ^= 0x10
    band(l2a, "B8A_20m").write_bytes(data)
    band(l2a, "AOT_10m").unlink()
    (l2a / "HTML" / "UserProduct_index.html").write_text("changed")
    with pytest.raises(ProductError) as caught:
        await verify(DirectorySource(l2a))
    message = str(caught.value)
    assert "4 of 21 files" in message
    places = [message.index(text) for text in (
        "UserProduct_index.html has 7 bytes, not 13", "AOT_10m.jp2 is missing", "B03_10m.jp2 has 9 bytes, not ",
        "B8A_20m.jp2 has the sha3_256 checksum ",
    )]  # fmt: skip
    assert places == sorted(places)


async def test_only_the_first_faults_are_named(l2a: Path) -> None:
    shutil.rmtree(l2a / SafeProduct().granule / "IMG_DATA")
    with pytest.raises(ProductError, match=r"17 of 21 files .* and 12 more") as caught:
        await verify(DirectorySource(l2a))
    assert str(caught.value).count("is missing") == 5


async def test_files_are_read_in_chunks(l2a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_CHUNK", 7)
    assert not (await verify(DirectorySource(l2a))).remarks
    data = bytearray(band(l2a).read_bytes())
    data[-1] ^= 1
    band(l2a).write_bytes(data)
    with pytest.raises(ProductError, match="1 of 21 files"):
        await verify(DirectorySource(l2a))


async def test_a_file_that_cannot_be_read_is_a_fault(l2a: Path) -> None:
    source = DirectorySource(l2a)
    await source.files()
    band(l2a).unlink()
    with pytest.raises(ProductError, match=r"_B02_10m\.jp2 cannot be read \(.* is not there"):
        await verify(source)


async def test_no_manifest(l2a: Path) -> None:
    (l2a / "manifest.safe").unlink()
    with pytest.raises(ProductError, match=r"manifest\.safe is missing: without it nothing can be verified"):
        await verify(DirectorySource(l2a))


async def test_cancelling_ends_all_readers(l2a: Path) -> None:
    reading: list[str] = []
    several = asyncio.Event()

    class Stalling(DirectorySource):
        async def read(self, path: str, start: int, length: int) -> bytes:
            reading.append(path)
            if len(reading) == 4:
                several.set()
            await asyncio.Event().wait()
            return b""

    verifying = asyncio.create_task(verify(Stalling(l2a)))
    async with asyncio.timeout(5):
        await several.wait()
    verifying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await verifying
    assert len(reading) == 4, "files at once are bounded"
    assert len(asyncio.all_tasks()) == 1


FILES = {"MTD_MSIL2A.xml": b"a", "GRANULE/x/IMG_DATA/R10m/T29UNU_20221005T115411_B02_10m.jp2": b"bb"}


def test_entries() -> None:
    entries = parse_manifest(manifest_xml(FILES, "MD5").encode(), "manifest.safe")
    assert [entry.path for entry in entries] == list(FILES)
    assert [(entry.size, entry.algorithm) for entry in entries] == [(1, "md5"), (2, "md5")]
    assert entries[0].checksum == "0cc175b9c0f1b6a831c399e269772661"


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        ("MTD_MSIL2A.xml", True),
        ("GRANULE/x/MTD_TL.xml", True),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_B02.jp2", True),
        ("GRANULE/x/IMG_DATA/R20m/T29UNU_20221005T115411_SCL_20m.jp2", True),
        ("GRANULE/x/IMG_DATA/R10m/T29UNU_20221005T115411_TCI_10m.jp2", False),
        ("GRANULE/x/QI_DATA/MSK_CLDPRB_20m.jp2", False),
        ("DATASTRIP/DS_x/MTD_DS.xml", False),
        ("HTML/UserProduct_index.html", False),
        ("INSPIRE.xml", False),
        ("MTD_MSIL1C.xml", True),
        ("MTD_MSIL2A.xml.aux.xml", False),
        ("MTD_MSIL2A.xml.bak", False),
        ("._MTD_MSIL2A.xml", False),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_B02.JP2", True),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_B02.tif", False),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_B02.jp2.aux.xml", False),
        ("GRANULE/x/IMG_DATA/._T46RER_20210908T042701_B02.jp2", False),
    ],
)
def test_what_is_needed(path: str, needed: bool) -> None:  # noqa: FBT001
    entry = manifest.ManifestEntry(path=path, size=1, algorithm="md5", checksum="0" * 32)
    assert entry.is_needed is needed


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"MD5"', '"CRC32"', "has a checksum named 'CRC32', known are md5"),
        ("0CC175B9C0F1B6A831C399E269772661", "0CC1", "has the MD5 checksum '0cc1', not 32 hexadecimal digits"),
        ("0CC175B9C0F1B6A831C399E269772661", "x" * 32, "not 32 hexadecimal digits"),
        ('size="1"', 'size="-1"', "has the size '-1', not a number of bytes"),
        ('size="1"', "", "has the size '', not"),
        ("./MTD", "../../MTD", "fileLocation: '../../MTD_MSIL2A.xml' is no path inside a product"),
        ('href="./MTD_MSIL2A.xml"', "", "fileLocation: '' is no path"),
        ("fileLocation", "place", "a byteStream has no fileLocation or no checksum"),
        ("byteStream", "stream", "lists 0 files, none of them a band"),
        ("<xfdu:XFDU", "<!DOCTYPE x><xfdu:XFDU", "declares a document type"),
    ],
)
def test_nonsense(old: str, new: str, says: str) -> None:
    text = manifest_xml(FILES, "MD5")
    assert old in text
    with pytest.raises(ProductError, match=f"P/manifest.safe.*{says}"):
        parse_manifest(text.replace(old, new).encode(), "P/manifest.safe")


def test_files_listed_twice() -> None:
    text = manifest_xml(FILES, "MD5")
    entry = text[text.index("<dataObject>") : text.index("</dataObject>") + len("</dataObject>")]
    assert len(parse_manifest(text.replace(entry, entry * 2).encode(), "x")) == 2
    other = entry.replace('size="1"', 'size="7"')
    with pytest.raises(ProductError, match=r"lists MTD_MSIL2A\.xml twice, with different checksums or sizes"):
        parse_manifest(text.replace(entry, entry + other).encode(), "x")
