"""Each tile's own mask is there as soon as the tile is answered, under km_predict's names."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import OutputFile
from kappamask_stream.errors import OutputError
from kappamask_stream.extras import MaskJob, TileAnswer
from kappamask_stream.extras.subtiles import SubtilesExtra
from kappamask_stream.grid import Window
from kappamask_stream.output import read_tile_list
from kappamask_stream.tile_pictures import TileList
from tests.unit.mask_jobs import make_finished, make_job
from tests.unit.places import files_in

GREYS = np.array([3, 66, 129, 192, 255, 20])


def labels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 6, (512, 512), np.uint8)


@pytest.mark.parametrize("window", [Window(0, 0, 1000, 1000), Window(500, 300, 400, 650)])
async def test_a_tile_is_there_when_it_is_answered_with_its_margins_and_place(
    window: Window, kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as threads:
        job = make_job(kappamask_contract, tmp_path, size=1000, window=window, workers=threads)
        await job.destination.prepare([])
        extra = SubtilesExtra()
        await extra.begin(job)
        await extra.add_tile(TileAnswer(tile=job.grid.tile(1, 2), labels=labels_of(1)))
        # The column comes first.
        assert set(files_in(tmp_path)) == {
            "tile_2_1/prediction.png", "tile_2_1/prediction.pgw", f"{job.stem}_subtiles.json",
        }  # fmt: skip
        await extra.add_tile(TileAnswer(tile=job.grid.tile(0, 2)))
    with rasterio.open(tmp_path / "tile_2_1" / "prediction.png") as picture:
        np.testing.assert_array_equal(picture.read(1), GREYS[labels_of(1)])
        assert picture.transform == Affine(10, 0, 499980.0 + 9600, 0, -10, 6100020.0 - 4800)
    with rasterio.open(tmp_path / "tile_2_0" / "prediction.png") as picture:
        assert (picture.read(1) == 20).all(), "a tile without data is all MISSING"
        assert (picture.height, picture.width) == (512, 512)


async def test_the_list_says_which_tiles_are_there(kappamask_contract: ModelContract, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        job = make_job(kappamask_contract, tmp_path, size=1000, workers=threads)
        await job.destination.prepare([])
        extra = SubtilesExtra()
        await extra.begin(job)
        tiles = list(job.grid)
        async with asyncio.TaskGroup() as tasks:
            for tile in reversed(tiles):
                tasks.create_task(extra.add_tile(TileAnswer(tile=tile, labels=labels_of(tile.index))))
        (listing,) = await extra.finish(make_finished())
    assert listing.name == f"{job.stem}_subtiles.json"
    assert not isinstance(listing.content, Path)
    document = json.loads(b"".join(listing.content))
    assert document["fingerprint"] == job.tags["FINGERPRINT"]
    assert [(t["row"], t["column"]) for t in document["tiles"]] == [(t.row, t.col) for t in tiles]
    assert all((tmp_path / t["file"]).is_file() for t in document["tiles"])
    assert set(files_in(tmp_path)) == set(extra.file_names(job))
    assert len(files_in(tmp_path)) == 2 * len(tiles) + 1


async def written_tiles(job: MaskJob, *tiles: tuple[int, int]) -> TileList | None:
    """Answer tiles as a run does that is ended before its mask is made; what the list says then."""
    await job.destination.prepare([])
    extra = SubtilesExtra()
    await extra.begin(job)
    for row, col in tiles:
        await extra.add_tile(TileAnswer(tile=job.grid.tile(row, col)))
    return await read_tile_list(job.destination, job.stem)


async def test_masks_of_different_models_share_no_tiles(
    kappamask_contract: ModelContract, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    suffixes = {"KZ": kappamask_contract, "CS": csmask_contract, "NULL": csmask_contract}
    with ThreadPoolExecutor(1) as threads:
        jobs = [make_job(replace(c, suffix=suffix), tmp_path, workers=threads) for suffix, c in suffixes.items()]
        for job in jobs:
            await written_tiles(job, (0, 0))
    found = {name for name in files_in(tmp_path) if name.endswith(".png")}
    folders = ["", *(f"{job.stem}_tiles/" for job in jobs[1:])]
    assert found == {f"{folder}tile_0_0/prediction.png" for folder in folders}


async def test_the_list_is_no_masks_from_the_first_tile_until_all_are_there(
    kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as threads:
        job = make_job(kappamask_contract, tmp_path, size=1000, workers=threads)
        assert await written_tiles(job) is None
        listed = await written_tiles(job, (0, 0))
        own = tuple((tile.row, tile.col) for tile in job.grid)
        assert listed == TileList(stem=job.stem, fingerprint=None, tiles=own)
        # An earlier, different mask's list: its tiles will have to go, whatever becomes of this run.
        old = TileList(stem=job.stem, fingerprint="ab" * 32, tiles=((0, 0), (77, 0)))
        await job.destination.publish(
            [OutputFile(name=old.name, content=[old.encode()], media_type="application/json")]
        )
        assert await written_tiles(job) == old
        listed = await written_tiles(job, (0, 0), (1, 0))
        assert listed == TileList(stem=job.stem, fingerprint=None, tiles=(*own, (77, 0)))
        # The same mask's: the pictures stay what they are.
        old = replace(old, fingerprint=job.tags["FINGERPRINT"])
        await job.destination.publish(
            [OutputFile(name=old.name, content=[old.encode()], media_type="application/json")]
        )
        assert await written_tiles(job, (0, 0)) == old


class Refusing:
    """A destination that has nothing and takes nothing."""

    async def missing(self, names: list[str]) -> list[str]:
        return names

    async def publish(self, files: list[OutputFile]) -> None:
        raise OutputError("no room")


async def test_a_tile_that_cannot_be_published_is_the_jobs_error(
    kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as threads:
        job: MaskJob = replace(make_job(kappamask_contract, tmp_path, workers=threads), destination=Refusing())  # type: ignore[arg-type]
        extra = SubtilesExtra()
        await extra.begin(job)
        with pytest.raises(OutputError, match="no room"):
            await extra.add_tile(TileAnswer(tile=job.grid.tile(0, 0)))
    assert files_in(tmp_path) == {}


async def test_a_tile_before_beginning_is_an_error_of_the_program(
    kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    job = make_job(kappamask_contract, tmp_path)
    with pytest.raises(RuntimeError, match="before begin"):
        await SubtilesExtra().add_tile(TileAnswer(tile=job.grid.tile(0, 0)))
