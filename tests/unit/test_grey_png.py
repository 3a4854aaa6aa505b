"""km_predict's picture: its greys for every class, in the same place on the ground, equal to the GeoTIFF."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from kappamask_stream.cog.tiff import assemble
from kappamask_stream.contract import MaskClass, ModelContract
from kappamask_stream.errors import UsageError
from kappamask_stream.extras.grey_png import GreyPngExtra, encode_grey, grey_codes, world_file
from kappamask_stream.extras.subtiles import SubtilesExtra
from kappamask_stream.grid import Window
from tests.unit import naive_masks
from tests.unit.mask_jobs import make_finished, make_job
from tests.unit.test_cog_tiff import levels_of, spec_of

#: As km_predict's README lists them, and what its arithmetic gives for UNDEFINED, which the list leaves out.
GREYS = {0: 3, 1: 66, 2: 129, 3: 192, 4: 255, 5: 20}


def test_every_class_has_km_predicts_grey() -> None:
    assert dict(enumerate(grey_codes().tolist())) == GREYS
    # Its arithmetic on an argmax, which is 64-bit: times 63, plus 3, and 20 where that is no byte.
    argmax = np.arange(6)
    scaled = argmax * 63 + 3
    scaled[scaled > 255] = 20
    np.testing.assert_array_equal(grey_codes(), scaled)


def test_a_picture_holds_the_greys_and_nothing_else() -> None:
    labels = naive_masks.blobs(40, 30, seed=1)
    with MemoryFile(encode_grey(labels)) as memory, memory.open() as picture:
        assert (picture.driver, picture.count, picture.dtypes, picture.nodata) == ("PNG", 1, ("uint8",), None)
        np.testing.assert_array_equal(picture.read(1), np.vectorize(GREYS.get)(labels))


def test_a_world_file_has_six_lines_and_the_centre_of_the_first_pixel() -> None:
    assert [float(line) for line in world_file(499980.0, 6100020.0, 10).split()] == [10, 0, 0, -10, 499985, 6100015]
    assert world_file(1.0, 2.0, 10).count(b"\n") == 6


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
@pytest.mark.parametrize("window", [Window(0, 0, 600, 600), Window(37, 111, 530, 400)])
async def test_png_and_tiff_agree_in_every_pixel_and_place(
    kappamask_contract: ModelContract, tmp_path: Path, window: Window, compression: str
) -> None:
    labels = naive_masks.blobs(window.height, window.width, seed=2)
    assert set(np.unique(labels)) == set(range(6))
    with ThreadPoolExecutor(1) as threads:
        job = make_job(kappamask_contract, tmp_path, window=window, workers=threads)
        frame = job.frame
        spec = replace(
            spec_of(frame.height, frame.width, compression), ulx=frame.ulx, uly=frame.uly, gsd_m=10, epsg=frame.epsg
        )
        cog = assemble(spec, levels_of(labels, spec))
        extra = GreyPngExtra()
        await extra.begin(job)
        files = await extra.finish(make_finished(cog=cog))
        await extra.aclose()
    assert (
        sorted(file.name for file in files) == sorted(extra.file_names(job)) == [f"{job.stem}.pgw", f"{job.stem}.png"]
    )
    assert files[-1].name.endswith(".png"), "who finds the picture finds its place"
    assert {file.media_type for file in files} == {"image/png", "text/plain"}
    assert all(file.metadata == {"fingerprint": job.tags["FINGERPRINT"]} for file in files)
    await job.destination.prepare([])
    await job.destination.publish(files)
    (tmp_path / "mask.tif").write_bytes(b"".join(cog))
    with rasterio.open(tmp_path / "mask.tif") as mask, rasterio.open(tmp_path / f"{job.stem}.png") as picture:
        np.testing.assert_array_equal(picture.read(1), np.vectorize(GREYS.get)(mask.read(1)))
        assert picture.transform == mask.transform == Affine(10, 0, frame.ulx, 0, -10, frame.uly)


@pytest.mark.parametrize(("extra", "flag"), [(GreyPngExtra, "--png"), (SubtilesExtra, "--subtiles")])
async def test_a_model_with_other_classes_is_refused_before_any_work(
    extra: type[GreyPngExtra | SubtilesExtra], flag: str, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    snow = MaskClass(value=6, name="SNOW", colour=(0, 0, 0))
    contract = replace(csmask_contract, classes=(*csmask_contract.classes, snow))
    with pytest.raises(UsageError, match=rf"{flag} writes .* 0 to 5; test_l2a has SNOW \(6\): leave {flag} out"):
        await extra().begin(make_job(contract, tmp_path))


async def test_finishing_before_beginning_is_an_error_of_the_program() -> None:
    with pytest.raises(RuntimeError, match="before begin"):
        await GreyPngExtra().finish(make_finished())
