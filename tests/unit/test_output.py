"""Where a mask goes, whether it is already there, and a wrong place is found before any work."""

import asyncio
import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import rasterio

from kappamask_stream.cog import CogSpec
from kappamask_stream.cog.tiff import assemble
from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import FolderDestination, OutputFile
from kappamask_stream.errors import OutputError
from kappamask_stream.leftovers import NEW, new_writer, temporary
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.output import OutputPlan
from kappamask_stream.product import Product
from kappamask_stream.sources import DirectorySource
from kappamask_stream.tile_pictures import TileList
from tests.unit import naive_masks
from tests.unit.places import files_in, small_disk
from tests.unit.test_cog_tiff import levels_of

OPTIONS, OVERWRITE = MaskOptions(), MaskOptions(overwrite=True)


@pytest.fixture
def product(tmp_path: Path) -> Product:
    return Product(
        source=DirectorySource(tmp_path),
        name="S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454",
        level="L2A",
        baseline="04.00",
        satellite="Sentinel-2A",
        tile_id="T29UNU",
        sensing_time="20221005T115411",
        epsg=32629,
        ulx=499980.0,
        uly=5900040.0,
        sizes={20: (1300, 700)},
        offsets={},
        quantification={},
        files={},
        listing={},
        metadata_sha256="cd" * 32,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "masks" / "product"


@pytest.fixture
def plan(product: Product, csmask_contract: ModelContract, folder: Path) -> OutputPlan:
    return OutputPlan.of(product, csmask_contract, OPTIONS, FolderDestination(folder))


async def write_mask(plan: OutputPlan, contract: ModelContract, *more: OutputFile) -> tuple[bytes, bytes]:
    """Write what a run would: quicklook, other files, mask."""
    mask = naive_masks.blobs(1300, 700, seed=8)
    spec = CogSpec(
        height=1300, width=700, ulx=499980.0, uly=5900040.0, gsd_m=20, epsg=32629, nodata=contract.nodata_class,
        classes=contract.classes, tags=plan.tags,
    )  # fmt: skip
    picture = plan.quicklook_file(naive_masks.overview(mask, 5))
    await plan.destination.prepare([plan.mask, plan.quicklook, *(file.name for file in more)])
    await plan.publish([picture, *more, plan.mask_file(assemble(spec, levels_of(mask, spec)))])
    assert not isinstance(picture.content, Path)
    return Path(plan.href).read_bytes(), b"".join(picture.content)


def companion(plan: OutputPlan, ending: str, content: bytes = b"made with it") -> OutputFile:
    return OutputFile(name=plan.stem + ending, content=[content], media_type="text/plain")


def tile_list(plan: OutputPlan, tiles: Sequence[tuple[int, int]], fingerprint: str | None = "own") -> OutputFile:
    fingerprint = plan.fingerprint if fingerprint == "own" else fingerprint
    listed = TileList(stem=plan.stem, fingerprint=fingerprint, tiles=tuple(tiles))
    return OutputFile(name=listed.name, content=[listed.encode()], media_type="application/json")


def tiles_of(plan: OutputPlan, tiles: Sequence[tuple[int, int]], content: bytes = b"tile") -> list[OutputFile]:
    names = TileList(stem=plan.stem, fingerprint=None, tiles=tuple(tiles)).files
    return [OutputFile(name=name, content=[content], media_type="image/png") for name in names]


def test_names_are_km_predicts(plan: OutputPlan, folder: Path) -> None:
    assert plan.mask == "L2A_T29UNU_20221005T115411_XX_20m.tif"
    assert plan.quicklook == "L2A_T29UNU_20221005T115411_XX_20m_quicklook.png"
    assert plan.href == str(folder / plan.mask)


def test_files_say_what_they_are_and_which_mask_they_belong_to(plan: OutputPlan) -> None:
    mask, picture = plan.mask_file([b"II*"]), plan.quicklook_file(naive_masks.blobs(20, 20, seed=1))
    assert (mask.media_type, picture.media_type) == (
        "image/tiff; application=geotiff; profile=cloud-optimized",
        "image/png",
    )
    assert mask.metadata == picture.metadata == {"fingerprint": plan.fingerprint}


def test_the_fingerprint_changes_with_all_that_decides_the_mask_and_nothing_else(
    product: Product, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    def fingerprint(product: Product = product, contract: ModelContract = csmask_contract, **options: object) -> str:
        return OutputPlan.of(product, contract, MaskOptions(**options), FolderDestination(tmp_path)).fingerprint  # type: ignore[arg-type]

    same = {
        fingerprint(),
        fingerprint(overwrite=True),
        fingerprint(compression="zstd"),
        fingerprint(contract=replace(csmask_contract, max_batch=64, instances=8)),
        fingerprint(replace(product, source=DirectorySource(tmp_path / "elsewhere"), ulx=0.0)),
    }
    assert len(same) == 1
    others = [
        fingerprint(radiometry="km_predict"),
        fingerprint(mosaic="blend"),
        fingerprint(dilate=(("CLOUD", 60.0),)),
        fingerprint(dilate=(("CLOUD", 80.0),)),
        fingerprint(dilate=(("CLOUD", 60.0), ("CLEAR", 60.0))),
        fingerprint(dilate=(("CLEAR", 60.0), ("CLOUD", 60.0))),
        fingerprint(aoi=SimpleNamespace(identity="aa")),
        fingerprint(aoi=SimpleNamespace(identity="bb")),
        fingerprint(replace(product, name="S2B")),
        fingerprint(replace(product, metadata_sha256="00" * 32)),
        fingerprint(contract=replace(csmask_contract, weights_sha256="00" * 32)),
        fingerprint(contract=replace(csmask_contract, name="other_l2a")),
        fingerprint(contract=replace(csmask_contract, divisors=(2.0,) * 6)),
        fingerprint(contract=replace(csmask_contract, nodata_class=0)),
    ]
    assert len({*same, *others}) == 1 + len(others)


async def test_tags_say_where_the_mask_comes_from_and_nothing_of_this_machine(
    plan: OutputPlan, csmask_contract: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "tell-tale.example")
    await write_mask(plan, csmask_contract)
    with rasterio.open(plan.href) as mask:
        tags = mask.tags()
    assert tags["FINGERPRINT"] == plan.fingerprint
    assert tags["PRODUCT"] == "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
    assert tags["MODEL"] == "test_l2a"
    assert tags["PROCESSING_BASELINE"] == "04.00"
    assert (tags["RADIOMETRY"], tags["MOSAIC"], tags["WEIGHTS_SOURCE"]) == ("corrected", "crop", "made for tests")
    assert tags["TIFFTAG_SOFTWARE"].startswith("kappamask-stream ")
    content = Path(plan.href).read_bytes()
    assert b"tell-tale" not in content
    assert str(tmp_path).encode() not in content


async def test_nothing_there_is_not_done(plan: OutputPlan) -> None:
    assert not await plan.is_done(OPTIONS)
    await plan.destination.prepare([plan.mask])
    assert not await plan.is_done(OPTIONS)


async def test_a_whole_mask_of_this_fingerprint_is_done_even_when_overwriting_is_allowed(
    plan: OutputPlan, csmask_contract: ModelContract, folder: Path
) -> None:
    mask, picture = await write_mask(plan, csmask_contract)
    assert await plan.is_done(OPTIONS)
    assert await plan.is_done(OVERWRITE)
    assert files_in(folder) == {plan.mask: mask, plan.quicklook: picture}


async def test_a_lost_quicklook_is_drawn_again_from_the_mask(
    plan: OutputPlan, csmask_contract: ModelContract, folder: Path
) -> None:
    mask, picture = await write_mask(plan, csmask_contract)
    (folder / plan.quicklook).unlink()
    assert await plan.is_done(OPTIONS, [plan.quicklook])
    assert files_in(folder) == {plan.mask: mask, plan.quicklook: picture}


async def test_a_mask_without_a_file_that_was_asked_for_is_not_done_and_no_error(
    plan: OutputPlan, csmask_contract: ModelContract, folder: Path
) -> None:
    png = companion(plan, ".png")
    await write_mask(plan, csmask_contract)
    (folder / plan.quicklook).unlink()
    assert not await plan.is_done(OPTIONS, [plan.quicklook, png.name])
    await write_mask(plan, csmask_contract, png)
    assert await plan.is_done(OPTIONS, [plan.quicklook, png.name])
    assert await plan.is_done(OPTIONS)


async def test_what_was_made_with_a_different_mask_goes_with_it(
    plan: OutputPlan, product: Product, csmask_contract: ModelContract, folder: Path
) -> None:
    endings = (".png", ".pgw", "_probabilities.tif", ".html", ".json")
    files = [*(companion(plan, ending) for ending in endings), tile_list(plan, ())]
    await write_mask(plan, csmask_contract, *files)
    (folder / "notes.txt").write_text("mine")
    await write_mask(plan, csmask_contract)
    assert len(files_in(folder)) == 9, "the same mask again: what was made with it is as good as before"
    other = OutputPlan.of(product, csmask_contract, replace(OVERWRITE, mosaic="blend"), plan.destination)
    await write_mask(other, csmask_contract, companion(plan, ".pgw", b"new"))
    assert set(files_in(folder)) == {plan.mask, plan.quicklook, f"{plan.stem}.pgw", "notes.txt"}
    assert files_in(folder)[f"{plan.stem}.pgw"] == b"new"


async def test_files_of_the_old_mask_stay_where_the_new_one_does_not_fit(
    product: Product, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small") as disk:
        plan = OutputPlan.of(product, csmask_contract, OPTIONS, FolderDestination(disk / "p"))
        await write_mask(
            plan, csmask_contract, companion(plan, ".json"), *tiles_of(plan, [(0, 0)]), tile_list(plan, [(0, 0)])
        )
        before = files_in(disk)
        other = OutputPlan.of(product, csmask_contract, replace(OVERWRITE, mosaic="blend"), plan.destination)
        with pytest.raises(OutputError, match="No space left"):
            await write_mask(other, csmask_contract, companion(other, ".pgw", bytes(10**6)))
        assert files_in(disk) == before


@pytest.mark.parametrize("with_tiles", [True, False])
@pytest.mark.parametrize("finished", [True, False])
async def test_tiles_of_a_different_mask_go_with_it(
    plan: OutputPlan, product: Product, csmask_contract: ModelContract, folder: Path, with_tiles, finished
) -> None:
    old = [(row, col) for row in range(3) for col in range(3)]
    listed = tile_list(plan, old, "own" if finished else None)
    await write_mask(plan, csmask_contract, *tiles_of(plan, old), listed)
    (folder / f"{plan.stem}_tiles" / "tile_1_1" / "notes.txt").write_text("mine")
    other = OutputPlan.of(product, csmask_contract, replace(OVERWRITE, mosaic="blend"), plan.destination)
    new = [*tiles_of(other, [(2, 1)], b"new"), tile_list(other, [(2, 1)])] if with_tiles else []
    await write_mask(other, csmask_contract, *new)
    left = {name: content for name, content in files_in(folder).items() if "_tiles/" in name}
    notes = {f"{plan.stem}_tiles/tile_1_1/notes.txt": b"mine"}
    assert left == {**notes, **{file.name: b"new" for file in new if "_tiles/" in file.name}}
    folders = {path.name for path in folder.rglob("tile_*")}
    assert folders == ({"tile_1_1", "tile_1_2"} if with_tiles else {"tile_1_1"}), "the empty ones are gone"
    assert (folder / f"{plan.stem}_subtiles.json").exists() == with_tiles


async def test_the_same_mask_again_keeps_its_tiles(
    plan: OutputPlan, csmask_contract: ModelContract, folder: Path
) -> None:
    await write_mask(plan, csmask_contract, *tiles_of(plan, [(0, 0), (0, 1)]), tile_list(plan, [(0, 0), (0, 1)]))
    before = files_in(folder)
    await write_mask(plan, csmask_contract)
    assert files_in(folder) == before


@pytest.mark.parametrize("fingerprint", [None, "ab" * 32])
async def test_tiles_that_are_not_all_of_this_mask_are_not_done(
    plan: OutputPlan, csmask_contract: ModelContract, fingerprint: str | None
) -> None:
    tiles, own, others = tiles_of(plan, [(0, 0)]), tile_list(plan, [(0, 0)]), tile_list(plan, [(0, 0)], fingerprint)
    names = [own.name, *(tile.name for tile in tiles)]
    await write_mask(plan, csmask_contract, *tiles, own)
    assert await plan.is_done(OPTIONS, names)
    await plan.destination.publish([others])  # as a run does that writes another mask's tiles
    assert not await plan.is_done(OPTIONS, names)
    assert await plan.is_done(OPTIONS), "nobody asks for tiles"


async def test_a_mask_that_came_meanwhile_is_not_replaced_unless_told(
    plan: OutputPlan, product: Product, csmask_contract: ModelContract, folder: Path
) -> None:
    plans = [
        OutputPlan.of(product, csmask_contract, replace(OPTIONS, dilate=(("CLOUD", metres),)), plan.destination)
        for metres in (20.0, 40.0)
    ]
    assert not any([await each.is_done(OPTIONS) for each in plans])  # both begin
    await write_mask(plans[0], csmask_contract)
    before = files_in(folder)
    with pytest.raises(OutputError, match=rf"fingerprint {plans[0].fingerprint[:12]}.* --overwrite"):
        await write_mask(plans[1], csmask_contract, companion(plan, ".png"))
    assert files_in(folder) == before
    Path(plan.href).write_bytes(b"my notes")
    with pytest.raises(OutputError, match="no fingerprint"):
        await write_mask(plans[0], csmask_contract)


async def test_a_cut_or_damaged_copy_of_this_very_mask_is_not_done_and_no_error(
    plan: OutputPlan, csmask_contract: ModelContract
) -> None:
    content, _ = await write_mask(plan, csmask_contract)
    path = Path(plan.href)
    path.write_bytes(content[:-100])
    assert not await plan.is_done(OPTIONS)
    path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    assert not await plan.is_done(OPTIONS)
    assert (await write_mask(plan, csmask_contract))[0] == content
    assert await plan.is_done(OPTIONS)


async def test_a_mask_of_another_origin_is_an_error_that_names_both_unless_overwriting(
    plan: OutputPlan, product: Product, csmask_contract: ModelContract
) -> None:
    content, _ = await write_mask(plan, csmask_contract)
    other = OutputPlan.of(product, csmask_contract, replace(OPTIONS, radiometry="km_predict"), plan.destination)
    expected = f"fingerprint {plan.fingerprint[:12]}.*fingerprint {other.fingerprint[:12]}.*--output or --overwrite"
    with pytest.raises(OutputError, match=f"{re.escape(plan.href)} is a mask of another origin.*{expected}"):
        await other.is_done(OPTIONS)
    assert not await other.is_done(OVERWRITE)
    Path(plan.href).write_bytes(content[:-100])
    with pytest.raises(OutputError, match=expected):
        await other.is_done(OPTIONS)


@pytest.mark.parametrize("keep", [0, 3, 150, None])
async def test_a_foreign_or_beheaded_file_is_an_error_unless_overwriting(
    plan: OutputPlan, csmask_contract: ModelContract, keep: int | None
) -> None:
    content, _ = await write_mask(plan, csmask_contract)
    Path(plan.href).write_bytes(b"my notes" if keep is None else content[:keep])
    with pytest.raises(OutputError, match=rf"no fingerprint.*{plan.fingerprint[:12]}.*--overwrite"):
        await plan.is_done(OPTIONS)
    assert not await plan.is_done(OVERWRITE)


#: This process's number, of another run.
DEAD = new_writer().rpartition(".")[0] + ".00000000-0"


async def test_tidying_removes_what_a_killed_run_left(plan: OutputPlan, folder: Path) -> None:
    names = [plan.mask, plan.quicklook]
    await plan.destination.tidy(names)
    await plan.destination.prepare(names)
    for name in names:
        (folder / temporary(Path(name), DEAD, NEW).name).write_bytes(b"1")
    await plan.destination.tidy(names)
    assert files_in(folder) == {}
    await plan.destination.discard()
    assert not folder.exists()


async def test_temporary_files_of_killed_runs_go_from_tiles_folders_too(plan: OutputPlan, folder: Path) -> None:
    left = folder / "tile_0_0" / temporary(Path("prediction.png"), DEAD, NEW).name
    left.parent.mkdir(parents=True)
    left.write_bytes(b"1")
    await plan.destination.tidy([plan.mask, "tile_0_0/prediction.png", "tile_1_0/prediction.png"])
    assert files_in(folder) == {}


async def test_discarding_removes_the_folders_above_that_were_made(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    places = [FolderDestination(tmp_path / "there" / "a" / "b" / name) for name in ("p", "q")]
    for place in places:
        await place.prepare(["m.tif"])
    await places[0].discard()
    assert (tmp_path / "there" / "a" / "b" / "q").is_dir(), "another product is in work"
    await places[1].discard()
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    await places[0].discard()
    assert (tmp_path / "there").is_dir()


async def test_discarding_keeps_a_folder_that_holds_something(plan: OutputPlan, folder: Path) -> None:
    await plan.destination.prepare([plan.mask])
    (folder / "notes.txt").write_text("mine")
    await plan.destination.discard()
    assert files_in(folder) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("name", ["mask", "quicklook"])
async def test_a_folder_with_a_files_name_is_found_before_any_work(plan: OutputPlan, folder: Path, name: str) -> None:
    (folder / getattr(plan, name)).mkdir(parents=True)
    assert not await plan.is_done(OVERWRITE)
    with pytest.raises(OutputError, match=r"Is a directory: a folder has that name: rename it or give another folder"):
        await plan.destination.prepare([plan.mask, plan.quicklook])


@pytest.mark.parametrize("depth", [0, 1])
async def test_a_file_in_place_of_the_folder_is_found_before_any_work(
    plan: OutputPlan, folder: Path, depth: int
) -> None:
    in_the_way = [folder, folder.parent][depth]
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("a file")
    with pytest.raises(OutputError, match=rf"{folder.name}: .*: a file stands where its folder should be"):
        await plan.destination.prepare([plan.mask])
    assert in_the_way.read_text() == "a file"


async def test_a_file_in_place_of_a_tiles_folder_is_found_before_any_work(folder: Path) -> None:
    destination = FolderDestination(folder)
    folder.mkdir(parents=True)
    (folder / "tile_0_0").write_text("a file")
    file = OutputFile(name="tile_0_0/prediction.png", content=[b"1"], media_type="image/png")
    for attempt in (destination.prepare([file.name]), destination.publish([file])):
        with pytest.raises(OutputError, match=r"tile_0_0.*: a file stands where its folder should be"):
            await attempt


def test_a_read_only_file_system_is_found_before_any_work(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        (disk / "p").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OutputError, match=r"small/p: Read-only file system: give another folder with --output"):
            asyncio.run(FolderDestination(disk / "p").prepare(["m.tif"]))


async def test_files_that_do_not_fit_leave_no_folder_that_was_made_for_them(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        file = OutputFile(name="tile_0_0/prediction.png", content=[bytes(10**6)], media_type="image/png")
        with pytest.raises(OutputError, match=r"prediction\.png: No space left on device \(1000000 bytes are needed"):
            await FolderDestination(disk).publish([file])
        assert list(disk.iterdir()) == []


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder that this process, for the time of the test not root, can read but not write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.rmdir()


async def test_a_folder_without_permission_is_found_before_any_work(forbidden: Path) -> None:
    there = FolderDestination(forbidden)
    with pytest.raises(OutputError, match=rf"cannot write {forbidden}: Permission denied: give another folder"):
        await there.prepare(["m.tif"])
    with pytest.raises(OutputError, match=rf"cannot write {forbidden}/p: Permission denied: give another folder"):
        await FolderDestination(forbidden / "p").prepare(["m.tif"])
    for name, path in (
        ("m.tif", "m.tif: Permission denied (4 bytes are needed, "),
        ("t/m.tif", "t: Permission denied: "),
    ):
        with pytest.raises(OutputError, match=re.escape(path)):
            await there.publish([OutputFile(name=name, content=[b"mask"], media_type="image/tiff")])


def test_a_fingerprint_is_of_the_ingredients_that_the_tags_show(
    plan: OutputPlan, product: Product, csmask_contract: ModelContract
) -> None:
    plain = ("product", "product_metadata_sha256", "model", "weights_sha256", "contract_sha256", "radiometry", "mosaic")
    aoi = SimpleNamespace(identity="ef" * 32)
    options = MaskOptions(dilate=(("CLOUD", 60.0), ("CLOUD_SHADOW", 30.5)), aoi=aoi)  # type: ignore[arg-type]
    full = OutputPlan.of(product, csmask_contract, options, plan.destination)
    assert (full.tags["DILATE"], full.tags["AOI"]) == ("CLOUD=60,CLOUD_SHADOW=30.5", "ef" * 32)
    assert not {"DILATE", "AOI"} & set(plan.tags)
    for made, names in ((plan, plain), (full, (*plain, "dilate", "aoi"))):
        shown = {name: made.tags[name.upper()] for name in names}
        assert hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest() == made.fingerprint
