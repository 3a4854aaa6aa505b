"""Synthetic products are valid: names, layout, XML, manifest and georeference as ESA's, and a truth that fits."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from kappamask_stream.errors import OutputError, ProductError, UsageError
from kappamask_stream.manifest import verify
from kappamask_stream.names import parse_product_name
from kappamask_stream.product import open_product
from kappamask_stream.sources import DirectorySource
from kappamask_stream.survey import survey
from kappamask_stream.synth import SynthResult, write_product
from kappamask_stream.synth import safe as module

SIZE = 1260  # 60 m: 210 pixels, more than a codestream tile of 192; 10 m: more than one of 1024
DEADLINE_S = 60

#: Files of IMG_DATA as ESA has them since 2018 (L2A) and 2016 (L1C).
L2A_BANDS = {
    10: ("AOT", "B02", "B03", "B04", "B08", "TCI", "WVP"),
    20: ("AOT", "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B11", "B12", "B8A", "SCL", "TCI", "WVP"),
    60: (
        "AOT", "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B11", "B12", "B8A", "SCL", "TCI", "WVP",
    ),
}  # fmt: skip
L1C_GSD = {
    **dict.fromkeys(("B02", "B03", "B04", "B08", "TCI"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20),
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}
#: Codestream tile, code-block and precinct by resolution (FACTS.md section 3).
LAYOUT = {10: (1024, 64, 256), 20: (640, 8, 128), 60: (192, 4, 64)}


@pytest.fixture(scope="module", params=["L2A", "L1C"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SynthResult:
    return write_product(tmp_path_factory.mktemp(request.param), level=request.param, size=SIZE, seed=11)


def level_of(made: SynthResult) -> str:
    return made.product.name[7:10]


def images(made: SynthResult) -> dict[tuple[str, int], Path]:
    """Find all images by band and resolution, from their names alone."""
    found: dict[tuple[str, int], Path] = {}
    for file in made.product.glob("GRANULE/*/IMG_DATA/**/*.jp2"):
        band, _, gsd = file.stem.removeprefix("T32ZZZ_20240831T101031_").partition("_")
        found[band, int(gsd.removesuffix("m")) if gsd else L1C_GSD[band]] = file
    return found


def test_names_and_places_are_esas(made: SynthResult) -> None:
    name = parse_product_name(made.product.name)
    level = level_of(made)
    assert (name.level, name.tile_id, name.sensing_time, name.baseline) == (level, "T32ZZZ", "20240831T101031", "05.11")
    (granule,) = (made.product / "GRANULE").iterdir()
    assert re.fullmatch(rf"{level}_T32ZZZ_A\d{{6}}_20240831T101031", granule.name)
    files = {path.relative_to(made.product).as_posix() for path in made.product.rglob("*") if path.is_file()}
    inside = f"GRANULE/{granule.name}"
    stem = "T32ZZZ_20240831T101031"
    expected = {f"MTD_MSI{level}.xml", "manifest.safe", f"{inside}/MTD_TL.xml", f"{inside}/QI_DATA/{stem}_PVI.jp2"}
    if level == "L2A":
        expected |= {
            f"{inside}/IMG_DATA/R{gsd}m/{stem}_{band}_{gsd}m.jp2" for gsd, bands in L2A_BANDS.items() for band in bands
        }
    else:
        expected |= {f"{inside}/IMG_DATA/{stem}_{band}.jp2" for band in L1C_GSD}
    assert files == expected
    assert made.truth == made.product.with_name(f"{name.text}_truth_10m.tif")


async def test_every_image_is_read_with_its_place_and_size(made: SynthResult) -> None:
    for (band, gsd_m), path in images(made).items():
        with rasterio.open(path) as file:
            assert file.driver == "JP2OpenJPEG"
            assert file.crs == CRS.from_epsg(32632), path.name
            assert file.transform == rasterio.Affine(gsd_m, 0, 399960, 0, -gsd_m, 5300040), path.name
            assert file.shape == (SIZE * 10 // gsd_m,) * 2
            count, dtype = (3, "uint8") if band == "TCI" else (1, "uint8" if band == "SCL" else "uint16")
            assert (file.count, set(file.dtypes)) == (count, {dtype})
            pixels = file.read(1)
        assert len(np.unique(pixels[::5, ::5])) > (3 if band == "SCL" else 20), f"{path.name} shows nothing"


async def test_images_are_laid_out_as_esas(made: SynthResult) -> None:
    for band in (await survey(made.product, memory_bytes=2**28)).bands:
        tile, block, precinct = LAYOUT[band.gsd_m]
        tile = min(tile, SIZE * 10 // band.gsd_m)
        bits = 8 if band.band == "SCL" else 15
        assert band.index.layout == (
            f"tiles {tile}x{tile}, {bits} bit, code-blocks {block}x{block}, LRCP, 5 resolutions, 5/3 reversible, "
            f"precincts {precinct}x{precinct}, no TLM"
        ), band.band
        assert band.index.plain_reason is None
        assert {len(t.parts) for t in band.index.tiles} == {1}


async def test_the_metadata_is_read_as_any_products(made: SynthResult) -> None:
    product = await open_product(DirectorySource(made.product))
    assert (product.name, product.level) == (made.product.name.removesuffix(".SAFE"), level_of(made))
    assert (product.baseline, product.satellite, product.tile_id) == ("05.11", "Sentinel-2A", "T32ZZZ")
    assert (product.epsg, product.ulx, product.uly) == (32632, 399960, 5300040)
    assert product.sizes == {10: (SIZE, SIZE), 20: (SIZE // 2, SIZE // 2), 60: (SIZE // 6, SIZE // 6)}
    assert set(product.offsets.values()) == {-1000.0}
    assert {v for b, v in product.quantification.items() if b.startswith("B")} == {10000.0}
    assert {v for b, v in product.quantification.items() if not b.startswith("B")} <= {1000.0}
    assert product.notes == ()
    for band, gsd_m in images(made):
        if band != "TCI":
            assert product.listing[product.band_path(band, gsd_m)] > 0


async def test_the_manifest_holds_for_every_file(made: SynthResult, tmp_path: Path) -> None:
    assert not (await verify(DirectorySource(made.product))).remarks
    copy = shutil.copytree(made.product, tmp_path / made.product.name)
    (file,) = copy.glob("GRANULE/*/IMG_DATA/**/*_B09*.jp2")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(ProductError, match=rf"1 of \d+ files are not as manifest\.safe says: {file.name} has the"):
        await verify(DirectorySource(copy))


def test_the_truth_fits_the_images(made: SynthResult) -> None:
    with rasterio.open(made.truth) as file:
        truth = file.read(1)
        assert file.crs == CRS.from_epsg(32632)
        assert file.transform == rasterio.Affine(10, 0, 399960, 0, -10, 5300040)
        assert file.tags()["SYNTHETIC"] == "YES"
    assert set(np.unique(truth)) == {1, 2, 3, 4, 5}, "clear, shadow, semi-transparent, cloud, missing"
    found = images(made)
    with rasterio.open(found["B02", 10]) as file:
        blue = file.read(1)
    with rasterio.open(found["B08", 10]) as file:
        infrared = file.read(1)
    np.testing.assert_array_equal(truth == 5, blue == 0)
    assert 0.05 < (truth == 5).mean() < 0.25, "a swath edge"
    # Cloud is bright; shadow is darker than the clear ground around it.
    assert np.median(blue[truth == 4]) > 1.5 * np.median(blue[truth == 1])
    assert np.median(infrared[truth == 2]) < 0.8 * np.median(infrared[truth == 1])
    assert int(blue.max()) < 2**15


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("level", ["L2A", "L1C"])
def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path, level: str) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (5, 5, 6), strict=True):
        write_product(folder, level=level, size=300, seed=seed)  # type: ignore[arg-type]
    first, again, other = map(digests, folders)
    assert first == again
    assert len(first) > 15
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"size": 100}, "size 100 is not a multiple of 6, which whole 20 m and 60 m pixels need: take 96 or 102"),
        ({"size": 90}, "size 90 is not between 96 and 30000"),
        ({"size": 30006}, "size 30006 is not between 96 and 30000"),
        ({"level": "L3"}, "level 'L3' is not one of L1C, L2A"),
        ({"seed": -1}, "seed -1 is not between 0 and 2147483647"),
        ({"seed": 2**31}, "seed 2147483648 is not between"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path, request_: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        write_product(tmp_path / "new", **{"size": 96, **request_})  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", [96, 102])
def test_the_smallest_sizes_are_products_too(tmp_path: Path, size: int) -> None:
    made = write_product(tmp_path, size=size)
    with rasterio.open(made.truth) as truth:
        assert truth.shape == (size, size)


def test_a_product_that_is_there_is_replaced_only_when_told(tmp_path: Path) -> None:
    made = write_product(tmp_path, size=96, seed=2)
    before = digests(tmp_path)
    with pytest.raises(UsageError, match=r"\.SAFE exists: take another --seed or folder, or replace it"):
        write_product(tmp_path, size=96, seed=2)
    assert digests(tmp_path) == before
    made.truth.write_bytes(b"old")
    (made.product / "old").touch()
    write_product(tmp_path, size=96, seed=2, overwrite=True)
    assert digests(tmp_path) == before


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_product(tmp_path, size=96, seed=2)
    before = digests(tmp_path)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "manifest", full)
    with pytest.raises(OutputError, match=r"cannot write .*\.SAFE: .*No space left on device"):
        write_product(tmp_path, size=96, seed=2, overwrite=True)
    assert digests(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_too_little_space_is_said_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=10_000_000))
    with pytest.raises(OutputError, match=r"has 10 MB free, the product needs \d+ MB while it is made"):
        write_product(tmp_path, size=1200)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_product(tmp_path / "file", size=96)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "kappamask_stream", "synth", str(tmp_path), "--size", "1800"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stderr.readline() == "drawing the scene\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_drawing_holds_a_few_strips_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STRIP_ROWS", 48)
    monkeypatch.setattr(module, "_workers", lambda: 2)
    peaks: list[int] = []

    def note(doing: str, *_: int) -> None:
        if doing == "drawing the scene":
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        write_product(tmp_path, size=768, on_progress=note)
    finally:
        tracemalloc.stop()
    assert len(peaks) == 16
    # Each strip holds 0.9 MB of pixels: kept, they would add 11 MB from the fourth to the last.
    assert max(peaks[4:]) < max(peaks[:4]) + 4e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_process_that_makes_a_product_stays_small(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kappamask_stream.synth import write_product; "
        "from kappamask_stream.result import peak_rss_bytes; "
        "write_product(Path(sys.argv[1]), size=900); print(peak_rss_bytes())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(ended.stdout) < 400e6  # 180 MB here; more threads hold more strips
