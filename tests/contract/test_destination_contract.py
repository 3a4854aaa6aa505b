"""What every `Destination` must do. A new kind of place is one more entry in `PLACES`."""

import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kappamask_stream.cog import CogSpec, FoundMask
from kappamask_stream.cog.tiff import assemble
from kappamask_stream.contract import MaskClass
from kappamask_stream.destinations import Destination, OutputFile, make_destination
from kappamask_stream.errors import OutputError
from kappamask_stream.s3 import S3Options, Stores
from tests.unit import naive_masks
from tests.unit.test_cog_tiff import levels_of

PLACES = ["folder", "moto_store", "rclone_store"]
FINGERPRINT = "ab" * 32


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Destination]:
    if request.param == "folder":
        async with Stores() as stores:
            yield await make_destination(tmp_path / "masks", "PRODUCT", stores)
        return
    request.getfixturevalue("aws_environment")
    store = request.getfixturevalue(request.param)
    bucket = f"b{uuid.uuid4().hex}"
    store.fill(bucket, {"there/already.txt": b"x"})
    async with Stores(S3Options(endpoint_url=store.endpoint)) as stores:
        yield await make_destination(f"s3://{bucket}/masks/", "PRODUCT", stores)


def file(name: str, content: list[bytes] | Path, media_type: str = "image/tiff") -> OutputFile:
    return OutputFile(name=name, content=content, media_type=media_type, metadata={"fingerprint": FINGERPRINT})


def mask_bytes(size: int = 1300) -> bytes:
    pixels = naive_masks.blobs(size, size, seed=3)
    spec = CogSpec(
        height=size, width=size, ulx=0.0, uly=0.0, gsd_m=10, epsg=32629, nodata=5, tags={"FINGERPRINT": FINGERPRINT},
        classes=tuple(MaskClass(value=v, name=f"C{v}", colour=(v, v, v)) for v in range(6)),
    )  # fmt: skip
    return b"".join(assemble(spec, levels_of(pixels, spec)))


async def test_what_is_published_is_there(place: Destination, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch.tif"
    scratch.write_bytes(b"from a file")
    names = ["m_probabilities.tif", "tile_3_4/prediction.png", "empty.txt", "m.tif"]
    await place.prepare(names)
    assert await place.missing(names) == names
    await place.publish([
        file(names[0], scratch), file(names[1], [b"picture"]), file(names[2], []), file(names[3], [b"mask ", b"in pieces"]),
    ])  # fmt: skip
    assert await place.missing([*names, "other.tif"]) == ["other.tif"]
    assert [await place.read(name) for name in names] == [b"from a file", b"picture", b"", b"mask in pieces"]


async def test_publishing_again_replaces(place: Destination) -> None:
    await place.prepare(["m.tif"])
    for content in (b"old", b"new"):
        await place.publish([file("m.tif", [content])])
        assert await place.read("m.tif") == content


async def test_places_say_where_files_are(place: Destination) -> None:
    assert place.label.endswith("masks/PRODUCT")
    assert place.href("t/m.tif") == f"{place.label}/t/m.tif"
    assert place.label in repr(place)


async def test_what_is_not_there_cannot_be_read(place: Destination) -> None:
    with pytest.raises(OutputError, match=r"read.*m\.tif"):
        await place.read("m.tif")
    assert await place.inspect("m.tif") is None
    assert await place.missing([]) == []


async def test_a_mask_is_known_by_its_content_whoever_put_it_there(place: Destination) -> None:
    content = mask_bytes()
    await place.prepare(["m.tif"])
    await place.publish([OutputFile(name="m.tif", content=[content], media_type="application/octet-stream")])
    assert await place.inspect("m.tif") == FoundMask(fingerprint=FINGERPRINT, is_whole=True)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [(-1, FoundMask(fingerprint=FINGERPRINT, is_whole=False)), (200, FoundMask(fingerprint=None, is_whole=False)),
     (0, FoundMask(fingerprint=None, is_whole=False))],
)  # fmt: skip
async def test_a_cut_mask_is_told_from_a_whole_one(place: Destination, cut: int, expected: FoundMask) -> None:
    await place.prepare(["m.tif"])
    await place.publish([file("m.tif", [mask_bytes()[:cut]])])
    assert await place.inspect("m.tif") == expected


async def test_a_foreign_file_is_no_mask(place: Destination) -> None:
    await place.prepare(["m.tif"])
    await place.publish([file("m.tif", [b"my notes"])])
    assert await place.inspect("m.tif") == FoundMask(fingerprint=None, is_whole=False)


async def test_removing_takes_what_is_named_and_there(place: Destination) -> None:
    await place.prepare(["a", "b"])
    await place.publish([file("a", [b"1"]), file("b", [b"2"])])
    await place.remove(["a", "c"])
    assert await place.missing(["a", "b"]) == ["a"]


async def test_another_masks_file_is_missing_where_the_place_can_tell(place: Destination) -> None:
    await place.prepare(["a"])
    await place.publish([file("a", [b"1"]), OutputFile(name="b", content=[b"2"], media_type="text/plain")])
    assert await place.missing(["a", "b", "c"], fingerprint=FINGERPRINT) == ["c"]
    others = await place.missing(["a", "b", "c"], fingerprint="cd" * 32)
    assert others == (["a", "c"] if place.label.startswith("s3://") else ["c"])


async def test_what_says_that_it_is_another_masks_is_told_from_what_says_nothing_or_is_not_there(
    place: Destination,
) -> None:
    await place.prepare(["a"])
    await place.publish([file("a", [b"1"]), OutputFile(name="b", content=[b"2"], media_type="text/plain")])
    assert await place.foreign(["a", "b", "c"], fingerprint=FINGERPRINT) == []
    others = await place.foreign(["a", "b", "c"], fingerprint="cd" * 32)
    assert others == (["a"] if place.label.startswith("s3://") else [])


async def test_what_is_stale_goes_with_publishing_and_nothing_else(place: Destination) -> None:
    await place.prepare(["m.tif"])
    names = ["m.png", "x/tile_0_0/p.png", "x/tile_0_1/p.png", "m.tif"]
    await place.publish([file(name, [b"old"]) for name in names])
    await place.publish([file("m.tif", [b"new"])], stale=["m.png", "x/tile_0_0/p.png", "never/there"])
    assert await place.missing(names) == ["m.png", "x/tile_0_0/p.png"]
    assert await place.read("m.tif") == b"new"


async def test_preparing_and_discarding_leave_nothing_and_keep_what_is_there(place: Destination) -> None:
    await place.prepare(["m.tif", "t/p.png"])
    await place.discard()
    assert await place.missing(["m.tif", "t/p.png"]) == ["m.tif", "t/p.png"]
    await place.prepare(["m.tif"])
    await place.publish([file("m.tif", [b"mask"])])
    await place.prepare(["m.tif"])
    await place.discard()
    assert await place.read("m.tif") == b"mask"


async def test_a_file_is_known_by_size_and_checksum(place: Destination) -> None:
    await place.prepare(["m.tif"])
    await place.publish([file("m.tif", [b"ma", b"sk"])])
    digest, other = hashlib.sha256(b"mask").hexdigest(), hashlib.sha256(b"MASK").hexdigest()
    assert await place.has("m.tif", size=4, sha256=digest)
    assert not await place.has("m.tif", size=4, sha256=other)
    assert not await place.has("m.tif", size=5, sha256=digest)
    assert not await place.has("n.tif", size=4, sha256=digest)


async def test_a_file_from_disk_is_known_by_its_checksum(place: Destination, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch.tif"
    scratch.write_bytes(b"from a file")
    await place.prepare(["m.tif"])
    await place.publish([file("m.tif", scratch)])
    assert await place.has("m.tif", size=11, sha256=hashlib.sha256(b"from a file").hexdigest())
    assert not await place.has("m.tif", size=11, sha256=hashlib.sha256(b"another").hexdigest())


async def test_folders_are_found_by_how_they_begin(place: Destination) -> None:
    names = ["a1/m.tif", "a1/t/p.png", "a2/m.tif", "b1/m.tif", "a.txt"]
    await place.prepare(names)
    await place.publish([file(name, [b"x"]) for name in names])
    assert await place.folders("a") == ["a1", "a2"]
    assert await place.folders("") == ["a1", "a2", "b1"]
    assert await place.folders("c") == []


async def test_where_nothing_is_there_are_no_folders(place: Destination) -> None:
    assert await place.folders("a") == []


async def test_a_file_is_replaced_only_where_it_is_what_it_is_thought_to_be(place: Destination) -> None:
    await place.prepare(["m.json"])
    assert not await place.replace(b"", file("m.json", [b"2"]))
    await place.publish([file("m.json", [b"1"])])
    assert not await place.replace(b"0", file("m.json", [b"2"]))
    assert await place.read("m.json") == b"1"
    assert await place.replace(b"1", file("m.json", [b"2", b"3"]))
    assert await place.read("m.json") == b"23"
    assert await place.has("m.json", size=2, sha256=hashlib.sha256(b"23").hexdigest())
    assert await place.missing(["m.json"], fingerprint=FINGERPRINT) == []
