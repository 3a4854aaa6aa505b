"""Where a mask goes, whether it is already there, and a wrong place is found before any work."""

import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio

from kappamask_stream.atomic import write_atomically
from kappamask_stream.cog import CogSpec
from kappamask_stream.cog.tiff import assemble
from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import OutputError
from kappamask_stream.output import MaskOptions, OutputPlan
from kappamask_stream.product import Product
from kappamask_stream.quicklook import encode_quicklook
from kappamask_stream.sources import DirectorySource
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
def plan(product: Product, csmask_contract: ModelContract, tmp_path: Path) -> OutputPlan:
    return OutputPlan.of(product, csmask_contract, OPTIONS, tmp_path / "masks")


def write_mask(plan: OutputPlan, contract: ModelContract) -> tuple[bytes, bytes]:
    """Write what a run would: mask and quicklook."""
    mask = naive_masks.blobs(1300, 700, seed=8)
    spec = CogSpec(
        height=1300, width=700, ulx=499980.0, uly=5900040.0, gsd_m=20, epsg=32629, nodata=contract.nodata_class,
        classes=contract.classes, tags=plan.tags,
    )  # fmt: skip
    picture = encode_quicklook(naive_masks.overview(mask, 5), {c.value: c.colour for c in contract.classes})
    plan.prepare()
    write_atomically([(plan.quicklook, [picture]), (plan.mask, assemble(spec, levels_of(mask, spec)))])
    return plan.mask.read_bytes(), picture


def test_names_are_km_predicts_in_a_folder_of_the_product(plan: OutputPlan, product: Product, tmp_path: Path) -> None:
    folder = tmp_path / "masks" / product.name
    assert plan.mask == folder / "L2A_T29UNU_20221005T115411_XX_20m.tif"
    assert plan.quicklook == folder / "L2A_T29UNU_20221005T115411_XX_20m.png"


def test_the_fingerprint_changes_with_all_that_decides_the_mask_and_nothing_else(
    product: Product, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    def fingerprint(product: Product = product, contract: ModelContract = csmask_contract, **options: object) -> str:
        return OutputPlan.of(product, contract, MaskOptions(**options), tmp_path).fingerprint  # type: ignore[arg-type]

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
        fingerprint(replace(product, name="S2B")),
        fingerprint(replace(product, metadata_sha256="00" * 32)),
        fingerprint(contract=replace(csmask_contract, weights_sha256="00" * 32)),
        fingerprint(contract=replace(csmask_contract, name="other_l2a")),
        fingerprint(contract=replace(csmask_contract, divisors=(2.0,) * 6)),
        fingerprint(contract=replace(csmask_contract, nodata_class=0)),
    ]
    assert len({*same, *others}) == 1 + len(others)


def test_tags_say_where_the_mask_comes_from_and_nothing_of_this_machine(
    plan: OutputPlan, csmask_contract: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "tell-tale.example")
    write_mask(plan, csmask_contract)
    with rasterio.open(plan.mask) as mask:
        tags = mask.tags()
    assert tags["FINGERPRINT"] == plan.fingerprint
    assert tags["PRODUCT"] == plan.mask.parent.name
    assert tags["MODEL"] == "test_l2a"
    assert tags["PROCESSING_BASELINE"] == "04.00"
    assert (tags["RADIOMETRY"], tags["MOSAIC"], tags["WEIGHTS_SOURCE"]) == ("corrected", "crop", "made for tests")
    assert tags["TIFFTAG_SOFTWARE"].startswith("kappamask-stream ")
    content = plan.mask.read_bytes()
    assert b"tell-tale" not in content
    assert str(tmp_path).encode() not in content


def test_nothing_there_is_not_done(plan: OutputPlan) -> None:
    assert not plan.is_done(OPTIONS)
    plan.prepare()
    assert not plan.is_done(OPTIONS)


def test_a_whole_mask_of_this_fingerprint_is_done_even_when_overwriting_is_allowed(
    plan: OutputPlan, csmask_contract: ModelContract
) -> None:
    written = write_mask(plan, csmask_contract)
    assert plan.is_done(OPTIONS)
    assert plan.is_done(OVERWRITE)
    assert (plan.mask.read_bytes(), plan.quicklook.read_bytes()) == written


def test_a_lost_quicklook_is_drawn_again_from_the_mask(plan: OutputPlan, csmask_contract: ModelContract) -> None:
    mask, picture = write_mask(plan, csmask_contract)
    plan.quicklook.unlink()
    assert plan.is_done(OPTIONS)
    assert files_in(plan.mask.parent) == {plan.mask.name: mask, plan.quicklook.name: picture}


def test_a_cut_or_damaged_copy_of_this_very_mask_is_not_done_and_no_error(
    plan: OutputPlan, csmask_contract: ModelContract
) -> None:
    content, _ = write_mask(plan, csmask_contract)
    plan.mask.write_bytes(content[:-100])
    assert not plan.is_done(OPTIONS)
    plan.mask.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    assert not plan.is_done(OPTIONS)
    assert write_mask(plan, csmask_contract)[0] == content
    assert plan.is_done(OPTIONS)


def test_a_mask_of_another_origin_is_an_error_that_names_both_unless_overwriting(
    plan: OutputPlan, product: Product, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    content, _ = write_mask(plan, csmask_contract)
    other = OutputPlan.of(product, csmask_contract, replace(OPTIONS, radiometry="km_predict"), tmp_path / "masks")
    expected = f"fingerprint {plan.fingerprint[:12]}.*fingerprint {other.fingerprint[:12]}.*--output or --overwrite"
    with pytest.raises(OutputError, match=f"{re.escape(str(plan.mask))} is a mask of another origin.*{expected}"):
        other.is_done(OPTIONS)
    assert not other.is_done(OVERWRITE)
    plan.mask.write_bytes(content[:-100])
    with pytest.raises(OutputError, match=expected):
        other.is_done(OPTIONS)


@pytest.mark.parametrize("keep", [0, 3, 150, None])
def test_a_foreign_or_beheaded_file_is_an_error_unless_overwriting(
    plan: OutputPlan, csmask_contract: ModelContract, keep: int | None
) -> None:
    content, _ = write_mask(plan, csmask_contract)
    plan.mask.write_bytes(b"my notes" if keep is None else content[:keep])
    with pytest.raises(OutputError, match=rf"no fingerprint.*{plan.fingerprint[:12]}.*--overwrite"):
        plan.is_done(OPTIONS)
    assert not plan.is_done(OVERWRITE)


def test_preparing_removes_what_a_killed_run_left(plan: OutputPlan) -> None:
    plan.prepare()
    for path in (plan.mask, plan.quicklook):
        path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part").write_bytes(b"1")
    plan.prepare()
    assert files_in(plan.mask.parent) == {}
    plan.discard_folder()
    assert not plan.mask.parent.exists()


def test_discarding_keeps_a_folder_that_holds_something(plan: OutputPlan) -> None:
    plan.prepare()
    (plan.mask.parent / "notes.txt").write_text("mine")
    plan.discard_folder()
    assert files_in(plan.mask.parent) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("name", ["mask", "quicklook"])
def test_a_folder_with_a_files_name_is_found_before_any_work(plan: OutputPlan, name: str) -> None:
    getattr(plan, name).mkdir(parents=True)
    assert not plan.is_done(OVERWRITE)
    with pytest.raises(OutputError, match=r"Is a directory: a folder has that name: rename it or give another folder"):
        plan.prepare()


@pytest.mark.parametrize("depth", [0, 1])
def test_a_file_in_place_of_the_folder_is_found_before_any_work(plan: OutputPlan, tmp_path: Path, depth: int) -> None:
    in_the_way = [plan.mask.parent, tmp_path / "masks"][depth]
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("a file")
    with pytest.raises(OutputError, match=rf"{plan.mask.parent.name}: .*: a file stands where its folder should be"):
        plan.prepare()
    assert in_the_way.read_text() == "a file"


def test_a_read_only_file_system_is_found_before_any_work(plan: OutputPlan, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        inside = replace(plan, mask=disk / "p" / "m.tif", quicklook=disk / "p" / "m.png")
        inside.mask.parent.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OutputError, match=r"small/p: Read-only file system: give another folder with --output"):
            inside.prepare()


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


def test_a_folder_without_permission_is_found_before_any_work(plan: OutputPlan, forbidden: Path) -> None:
    there = replace(plan, mask=forbidden / "m.tif", quicklook=forbidden / "m.png")
    with pytest.raises(OutputError, match=rf"cannot write {forbidden}: Permission denied: give another folder"):
        there.prepare()
    new = replace(plan, mask=forbidden / "p" / "m.tif", quicklook=forbidden / "p" / "m.png")
    with pytest.raises(OutputError, match=rf"cannot write {forbidden}/p: Permission denied: give another folder"):
        new.prepare()
    with pytest.raises(OutputError, match=r"m\.tif: Permission denied \(4 bytes are needed, \d+ are free\): give"):
        write_atomically([(there.mask, [b"mask"])])


def test_a_fingerprint_is_of_the_ingredients_that_the_tags_show(plan: OutputPlan) -> None:
    names = ("product", "product_metadata_sha256", "model", "weights_sha256", "contract_sha256", "radiometry", "mosaic")
    shown = {name: plan.tags[name.upper()] for name in names}
    assert hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest() == plan.fingerprint
