"""A product with everything that can be made beside its mask: files agree with each other, and what is lost is remade."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.errors import OutputError
from kappamask_stream.extras import selected
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.pipeline import mask_product
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.settings import Settings
from tests.stream.fakes import FakeInference
from tests.stream.scene import Scene, l2a_scene, small_l2a
from tests.unit.places import files_in

__all__ = ["l2a_scene", "small_l2a"]

GREYS = np.array([3, 66, 129, 192, 255, 20])


class Setting:
    def __init__(
        self, scene: Scene, contract: ModelContract, folder: Path, scratch: Path, resources: Resources
    ) -> None:
        self.scene, self.contract, self.folder, self.scratch, self.resources = (
            scene,
            contract,
            folder,
            scratch,
            resources,
        )

    async def run(self, options: MaskOptions = MaskOptions()) -> ProductResult:  # noqa: B008 - frozen
        makers = selected(png=True, probabilities=True, subtiles=True, scratch=self.scratch)
        return await mask_product(
            await self.scene.open(),
            ServedModel.of(FakeInference(self.contract)),
            self.resources,
            options,
            FolderDestination(self.folder),
            ProductProgress(product=self.scene.name),
            extras=[make() for make in makers],
        )


@pytest.fixture
def setting(l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path):
    (tmp_path / "scratch").mkdir()

    @asynccontextmanager
    async def begun() -> AsyncIterator[Setting]:
        with Resources(settings=Settings(decode_threads=2)) as resources:
            yield Setting(l2a_scene, small_l2a, tmp_path / "out", tmp_path / "scratch", resources)
        assert not list((tmp_path / "scratch").iterdir())

    return begun


@pytest.mark.parametrize(
    "options", [MaskOptions(), MaskOptions(mosaic="blend"), MaskOptions(dilate=(("CLOUD", 50.0),))]
)
async def test_all_files_agree_with_the_mask(options: MaskOptions, setting) -> None:
    async with setting() as work:
        result = await work.run(options)
        assert result.status == "done"
        stem = Path(result.output).stem
        with rasterio.open(result.output) as file:
            mask, place = file.read(1), file.transform
        with rasterio.open(work.folder / f"{stem}.png") as picture:
            np.testing.assert_array_equal(picture.read(1), GREYS[mask])
            assert picture.transform == place
        path = work.folder / f"{stem}_probabilities.tif"
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
        with rasterio.open(path) as file:
            bands = file.read()
        np.testing.assert_array_equal(bands.any(axis=0), mask != 5)
        if not options.dilate:  # the fake is sure of its class
            seen = mask != 5
            np.testing.assert_array_equal(bands.argmax(axis=0)[seen], mask[seen])
        listing = json.loads((work.folder / f"{stem}_subtiles.json").read_text())
        assert len(listing["tiles"]) == 49
        assert all((work.folder / tile["file"]).is_file() for tile in listing["tiles"])
        before = files_in(work.folder)
        assert (await work.run(options)).status == "skipped"
        tile = listing["tiles"][7]["file"]
        for lost in (f"{stem}.pgw", f"{stem}_probabilities.tif", f"{stem}_subtiles.json", tile):
            (work.folder / lost).unlink()
            assert (await work.run(options)).status == "done"
            assert files_in(work.folder) == before


async def test_a_failure_while_files_are_made_leaves_only_finished_tiles(
    setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OutputError("no room")

    monkeypatch.setattr("kappamask_stream.extras.grey_png.grey_png", full)
    async with setting() as work:
        with pytest.raises(OutputError, match="no room"):
            await work.run()
        (listed,) = work.folder.glob("*_subtiles.json")
        assert json.loads(listed.read_text())["fingerprint"] is None
        names = {Path(name).name for name in files_in(work.folder)}
        assert names == {"prediction.png", "prediction.pgw", listed.name}


@pytest.mark.parametrize("mosaic", ["crop", "blend"])
async def test_the_tiles_named_before_are_those_that_come(mosaic: str, setting) -> None:
    async with setting() as work:
        product = await work.scene.open()
        west, north = product.ulx + 40 * 60, product.uly - 40 * 60
        area = parse_aoi(f"{west},{north - 1500},{west + 1500},{north},EPSG:{product.epsg}")
        result = await work.run(MaskOptions(mosaic=mosaic, aoi=area))  # type: ignore[arg-type]
        listing = json.loads((work.folder / f"{Path(result.output).stem}_subtiles.json").read_text())
        pictures = {name for name in files_in(work.folder) if name.endswith("prediction.png")}
        assert pictures == {tile["file"] for tile in listing["tiles"]}
        assert 0 < len(pictures) < 49
        assert (await work.run(MaskOptions(mosaic=mosaic, aoi=area))).status == "skipped"  # type: ignore[arg-type]


async def test_a_run_that_fails_half_way_does_not_pass_its_tiles_off_as_the_old_masks(
    setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OutputError("no room")

    other = MaskOptions(radiometry="km_predict", overwrite=True)
    async with setting() as work:
        await work.run()
        before = files_in(work.folder)
        with monkeypatch.context() as patched:
            patched.setattr("kappamask_stream.extras.grey_png.grey_png", full)
            with pytest.raises(OutputError, match="no room"):
                await work.run(other)
        assert (await work.run()).status == "done"
        assert files_in(work.folder) == before
