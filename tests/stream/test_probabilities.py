"""The file of probabilities: a band per class, zero exactly where the mask has no data; scratch files never stay."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import InferenceError, OutputError, UsageError
from kappamask_stream.extras import MaskJob, TileAnswer, selected
from kappamask_stream.extras.probabilities import ProbabilitiesExtra
from kappamask_stream.grid import Window
from kappamask_stream.mask_options import MaskOptions
from tests.unit import naive_masks
from tests.unit.mask_jobs import make_finished, make_job
from tests.unit.places import files_in

SIZE = 1000


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def answers_of(job: MaskJob) -> list[TileAnswer]:
    """Tiles with probabilities, one without data."""
    draw = np.random.default_rng(7)
    answers = []
    for tile in job.grid:
        rows, cols = np.ogrid[: tile.window.height, : tile.window.width]
        wave = 127 + 100 * np.sin((rows + tile.index) / 30) * np.cos(cols / 40)
        probabilities = np.stack([wave / (n + 1) + draw.integers(0, 9) for n in range(6)]).astype(np.uint8)
        labels = probabilities.argmax(axis=0).astype(np.uint8)
        empty = tile.index == 4
        answers.append(
            TileAnswer(tile=tile) if empty else TileAnswer(tile=tile, labels=labels, probabilities=probabilities)
        )
    return answers


@asynccontextmanager
async def begun(job: MaskJob, scratch: Path) -> AsyncIterator[ProbabilitiesExtra]:
    extra = ProbabilitiesExtra(scratch)
    try:
        await extra.begin(job)
        yield extra
    finally:
        await extra.aclose()


async def feed(extra: ProbabilitiesExtra, answers: list[TileAnswer], mask: np.ndarray, order: int) -> None:
    """Hand tiles and blocks over in any order, several at a time."""
    calls = [extra.add_tile(answer) for answer in answers] + [
        extra.add_block(b) for b in naive_masks.blocks(mask, 5, 512)
    ]
    random.Random(order).shuffle(calls)
    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(call)


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
@pytest.mark.parametrize("window", [Window(0, 0, SIZE, SIZE), Window(200, 350, 700, 600)])
async def test_bands_are_the_tiles_cores_and_zero_where_the_mask_has_no_data(
    window: Window, compression: str, kappamask_contract: ModelContract, tmp_path: Path, scratch: Path,
    threads: ThreadPoolExecutor,
) -> None:  # fmt: skip
    options = MaskOptions(compression=compression)  # type: ignore[arg-type]
    job = make_job(kappamask_contract, tmp_path / "out", size=SIZE, window=window, workers=threads, options=options)
    mask = naive_masks.blobs(window.height, window.width, seed=5)
    answers = answers_of(job)
    contents = []
    for order in (1, 2):
        async with begun(job, scratch) as extra:
            assert extra.needs_probabilities
            await feed(extra, answers, mask, order)
            (file,) = await extra.finish(make_finished())
            assert [file.name] == list(extra.file_names(job)) == [f"{job.stem}_probabilities.tif"]
            assert file.metadata == {"fingerprint": job.tags["FINGERPRINT"]}
            await job.destination.prepare([file.name])
            await job.destination.publish([file])
        assert files_in(scratch) == {}
        assert not list(scratch.iterdir())
        contents.append((tmp_path / "out" / file.name).read_bytes())
    assert contents[0] == contents[1]
    path = tmp_path / "out" / file.name
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    names = [c.name for c in kappamask_contract.classes]
    with rasterio.open(path) as found:
        bands = found.read()
        assert list(found.descriptions) == names
        assert found.nodata is None
        assert found.tags()["FINGERPRINT"] == job.tags["FINGERPRINT"]
        assert (found.tags()["PROBABILITY_OF_255"], found.tags()["NO_DATA"]) == ("1.0", "0 in all bands")
        assert (found.transform.c, found.transform.f) == (job.frame.ulx, job.frame.uly)
    none = np.zeros((6, 512, 512), np.uint8)
    given = np.stack([none if answer.probabilities is None else answer.probabilities for answer in answers])
    grid = job.grid
    rows, cols = np.arange(window.row, window.row_end)[:, None], np.arange(window.col, window.col_end)[None, :]
    over = [
        np.vectorize(lambda p, n=n: naive_masks.owner(p, n, grid.stride, grid.margin))(axis)
        for axis, n in ((rows, grid.rows), (cols, grid.cols))
    ]
    index, row, col = over[0] * grid.cols + over[1], rows - over[0] * grid.stride, cols - over[1] * grid.stride
    for number in range(6):
        np.testing.assert_array_equal(bands[number], np.where(mask == 5, 0, given[index, number, row, col]))


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_after_any_number_of_steps_no_scratch_file_stays(
    steps: int, kappamask_contract: ModelContract, tmp_path: Path, scratch: Path, threads: ThreadPoolExecutor
) -> None:
    job = make_job(kappamask_contract, tmp_path, workers=threads)

    async def work() -> None:
        async with begun(job, scratch) as extra:
            await feed(extra, answers_of(job), np.ones((600, 600), np.uint8), 1)
            await extra.finish(make_finished())

    before = asyncio.all_tasks()
    task = asyncio.create_task(work())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list(scratch.iterdir())
    assert asyncio.all_tasks() == before


async def test_the_published_file_can_be_read_by_those_who_may_read_the_mask(
    kappamask_contract: ModelContract, tmp_path: Path, scratch: Path, threads: ThreadPoolExecutor
) -> None:
    job = make_job(kappamask_contract, tmp_path / "out", workers=threads)
    async with begun(job, scratch) as extra:
        await feed(extra, answers_of(job), np.ones((600, 600), np.uint8), 1)
        (file,) = await extra.finish(make_finished())
        await job.destination.prepare([file.name])
        await job.destination.publish([file])
    (tmp_path / "plain").touch()
    assert (tmp_path / "out" / file.name).stat().st_mode == (tmp_path / "plain").stat().st_mode


async def test_a_failure_or_cancellation_leaves_no_scratch_file(
    kappamask_contract: ModelContract, tmp_path: Path, scratch: Path, threads: ThreadPoolExecutor
) -> None:
    job = make_job(kappamask_contract, tmp_path, size=SIZE, workers=threads)

    async def work() -> None:
        async with begun(job, scratch) as extra:
            await feed(extra, answers_of(job)[:3], np.ones((SIZE, SIZE), np.uint8), 1)
            assert list(scratch.iterdir())
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    task = asyncio.create_task(work())
    while not list(scratch.iterdir()):  # noqa: ASYNC110 - a thread makes it
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list(scratch.iterdir())
    assert asyncio.all_tasks() == before


async def test_a_file_that_was_not_published_does_not_stay(
    kappamask_contract: ModelContract, tmp_path: Path, scratch: Path, threads: ThreadPoolExecutor
) -> None:
    job = make_job(kappamask_contract, tmp_path, workers=threads)
    async with begun(job, scratch) as extra:
        await feed(extra, answers_of(job), np.ones((600, 600), np.uint8), 1)
        (file,) = await extra.finish(make_finished())
        assert isinstance(file.content, Path)
        assert file.content.is_file()
    assert not list(scratch.iterdir())


async def test_a_tile_without_probabilities_is_the_servers_fault(
    kappamask_contract: ModelContract, tmp_path: Path, scratch: Path, threads: ThreadPoolExecutor
) -> None:
    job = make_job(kappamask_contract, tmp_path, workers=threads)
    async with begun(job, scratch) as extra:
        with pytest.raises(InferenceError, match="test_l2a gave no probabilities"):
            await extra.add_tile(TileAnswer(tile=job.grid.tile(0, 0), labels=np.ones((512, 512), np.uint8)))


async def test_a_model_without_probabilities_is_refused_before_any_work(
    kappamask_contract: ModelContract, tmp_path: Path, scratch: Path
) -> None:
    job = make_job(replace(kappamask_contract, probability_classes=()), tmp_path)
    with pytest.raises(UsageError, match="gives no probabilities: leave --probabilities out"):
        await ProbabilitiesExtra(scratch).begin(job)
    assert not list(scratch.iterdir())


async def test_a_missing_scratch_folder_is_an_output_error(
    kappamask_contract: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(kappamask_contract, tmp_path)
    extra = ProbabilitiesExtra(tmp_path / "gone")
    with pytest.raises(OutputError, match=r"cannot write .*gone: No such file or directory.*TMPDIR"):
        await extra.begin(job)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with pytest.raises(OutputError, match=r"cannot write .*not there: No such file"):
        await ProbabilitiesExtra().begin(job)
    await extra.aclose()


def test_choices_become_extras_in_order_and_each_product_gets_its_own(tmp_path: Path) -> None:
    assert selected() == []
    makers = selected(png=True, probabilities=True, subtiles=True, stac=True, scratch=tmp_path)
    made = [[type(maker()).__name__ for maker in makers] for _ in range(2)]
    assert made[0] == made[1] == ["GreyPngExtra", "ProbabilitiesExtra", "SubtilesExtra", "StacExtra"]
    assert makers[1]() is not makers[1]()
