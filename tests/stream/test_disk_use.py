"""What a product has on disks stays below what was reserved for it; what would not fit is refused before any work."""

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import FolderDestination, OutputFile
from kappamask_stream.disk import DiskBudget, DiskUse
from kappamask_stream.errors import OutputError
from kappamask_stream.extras import Extra, FinishedMask, TileAnswer, selected
from kappamask_stream.extras.probabilities import ProbabilitiesExtra
from kappamask_stream.inference import InferResult, TileRequest
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.output import OutputPlan
from kappamask_stream.pipeline import mask_product
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.settings import Settings
from tests.stream.fakes import FakeInference
from tests.stream.scene import Scene, l2a_scene, small_l2a
from tests.unit import naive_masks
from tests.unit.mask_jobs import make_finished, make_job

__all__ = ["l2a_scene", "small_l2a"]

#: A folder of ``--subtiles`` and its two files take whole blocks of the file system.
BLOCK = 512
EVERYTHING = {"png": True, "probabilities": True, "subtiles": True, "report": True, "stac": True}


class Noise(FakeInference):
    """Answers what cannot be compressed."""

    def answer(self, request: TileRequest) -> InferResult:
        answer = super().answer(request)
        draw = np.random.default_rng(zlib.crc32(request.name.encode()))
        labels = draw.integers(0, 6, answer.labels.shape, np.uint8)
        if answer.probabilities is None:
            return InferResult(labels=labels)
        return InferResult(labels=labels, probabilities=draw.integers(0, 256, answer.probabilities.shape, np.uint8))


class Watcher(Extra):
    """Comes last and looks, with every block and when all files are made, at what the disks hold: the most of it."""

    def __init__(self, scratch: Path, output: Path) -> None:
        self.scratch, self.output = scratch, output
        self.most_scratch = self.most_output = 0

    async def add_block(self, block: object) -> None:
        self.look()

    async def finish(self, mask: FinishedMask) -> Sequence[OutputFile]:
        self.look()
        return ()

    def look(self) -> None:
        self.most_scratch = max(self.most_scratch, on_disk(self.scratch) + nameless(self.scratch))
        self.most_output = max(self.most_output, on_disk(self.output))


def on_disk(folder: Path) -> int:
    """Bytes that a folder takes with all that is in it, as ``du`` counts."""
    return sum(path.lstat().st_blocks * BLOCK for path in [folder, *folder.rglob("*")] if path.exists())


def nameless(folder: Path) -> int:
    """Bytes of files that this process has open there and that have no name."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            path = str(link.readlink())
            if path.startswith(f"{folder}/") and path.endswith(" (deleted)"):
                total += os.fstat(int(link.name)).st_blocks * BLOCK
        except OSError:  # closed meanwhile
            continue
    return total


class Setting:
    def __init__(self, scene: Scene, contract: ModelContract, folder: Path, resources: Resources) -> None:
        self.scene, self.contract, self.resources = scene, contract, resources
        self.out, self.scratch = folder / "out", folder / "scratch"
        self.inference = Noise(contract)
        self.watcher = Watcher(self.scratch, self.out)

    async def run(self, options: MaskOptions = MaskOptions(), **kinds: bool) -> ProductResult:  # noqa: B008 - frozen
        extras = [make() for make in selected(**kinds, scratch=self.scratch)]
        return await mask_product(
            await self.scene.open(),
            ServedModel.of(self.inference),
            self.resources,
            options,
            FolderDestination(self.out),
            ProductProgress(product=self.scene.name),
            extras=[*extras, self.watcher],
        )


@pytest.fixture
def setting(l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path):
    (tmp_path / "scratch").mkdir()

    @asynccontextmanager
    async def begun() -> AsyncIterator[Setting]:
        with Resources(settings=Settings(decode_threads=2)) as resources:
            yield Setting(l2a_scene, small_l2a, tmp_path, resources)
        assert not list((tmp_path / "scratch").iterdir())

    return begun


class Recorder(DiskBudget):
    """A budget that keeps what was asked of it."""

    def reserve(self, uses: Sequence[DiskUse], output: Path | None, *, what: str):
        self.uses = uses
        return super().reserve(uses, output, what=what)


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
async def test_scratch_files_of_full_blocks_of_noise_take_nearly_what_is_reserved(
    compression: str, kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    options = MaskOptions(compression=compression)  # type: ignore[arg-type]
    job = make_job(kappamask_contract, tmp_path / "out", size=2048, options=options)
    extra, draw = ProbabilitiesExtra(tmp_path / "scratch"), np.random.default_rng(1)
    watcher = Watcher(tmp_path / "scratch", tmp_path)
    try:
        await extra.begin(job)
        for tile in job.grid:
            noise = draw.integers(0, 256, (6, tile.window.height, tile.window.width), np.uint8)
            await extra.add_tile(TileAnswer(tile=tile, labels=noise[0] % 5, probabilities=noise))
        for block in naive_masks.blocks(np.ones((2048, 2048), np.uint8), 5, 512):
            await extra.add_block(block)
            watcher.look()
        await extra.finish(make_finished())
        watcher.look()
    finally:
        await extra.aclose()
    reserved = extra.disk_use(job).scratch
    assert 0.95 * reserved < watcher.most_scratch <= reserved


@pytest.mark.parametrize("compression", ["deflate", "zstd"])
@pytest.mark.parametrize("mosaic", ["crop", "blend"])
async def test_a_run_of_noise_with_everything_stays_below_what_it_reserved(
    mosaic: str, compression: str, setting
) -> None:
    async with setting() as work:
        work.resources.disk = Recorder(1 << 40)
        await work.run(MaskOptions(mosaic=mosaic, compression=compression), **EVERYTHING)  # type: ignore[arg-type]
        uses = work.resources.disk.uses
        scratch, handed = sum(use.scratch for use in uses), sum(use.handed_over for use in uses)
        output = sum(use.output for use in uses)
        (probabilities,) = work.out.glob("*_probabilities.tif")
        # Both are there in the end, the blocks and the file; noise of 600 pixels fills a third of blocks of 512.
        assert 1.9 * probabilities.stat().st_size < work.watcher.most_scratch <= scratch
        assert work.watcher.most_output <= output  # the tiles' own masks, while the product is in work
        written = on_disk(work.out)
        assert written <= output + handed


async def test_each_file_stays_below_what_its_own_part_reserved(setting) -> None:
    """Bounds that are too small for one part must not hide behind those of another."""
    async with setting() as work:
        alone = [{}, *({kind: True} for kind in EVERYTHING)]
        sizes, uses = [], []
        for number, kinds in enumerate(alone):
            work.out, work.inference = work.out.parent / f"out{number}", Noise(work.contract)
            work.resources.disk = Recorder(1 << 40)
            await work.run(**kinds)
            sizes.append(on_disk(work.out))
            uses.append(sum(use.output + use.handed_over for use in work.resources.disk.uses))
        base = sizes[0]
        assert base <= uses[0]
        for kinds, size, use in zip(alone[1:], sizes[1:], uses[1:], strict=True):
            assert size - base <= use - uses[0], kinds
            assert size - base > 0, kinds


async def test_a_full_disk_is_known_before_a_tile_is_sent(setting) -> None:
    async with setting() as work:
        work.resources.disk = DiskBudget(1 << 40, free=lambda _: 1 << 10)
        with pytest.raises(OutputError, match=r"may write \d+ MB to the file system of .*out, .*, 0 MB are free there"):
            await work.run(probabilities=True)
        assert not work.inference.sent
        assert not work.out.exists()
        assert not list(work.scratch.iterdir())


async def test_more_than_the_setting_is_refused_and_leaves_nothing(setting) -> None:
    async with setting() as work:
        work.resources.disk = DiskBudget(Settings(disk_budget_mb=16).disk_budget_bytes)
        with pytest.raises(OutputError, match=r"may write \d+ MB .*, the budget is 16 MB: .*KAPPAMASK_DISK_BUDGET_MB="):
            await work.run(probabilities=True, subtiles=True)
        assert not work.inference.sent
        assert not work.out.exists()
        assert not list(work.scratch.iterdir())
        assert (await work.run()).status == "done"  # the mask alone fits


async def test_a_second_product_waits_until_the_first_has_given_its_scratch_back(
    setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with setting() as work:
        work.resources.disk = Recorder(1 << 40)
        await work.run(probabilities=True)
        uses = work.resources.disk.uses
        one = sum(use.output + use.scratch for use in uses)
        monkeypatch.setattr("kappamask_stream.disk.free_bytes", lambda _: None)
        work.resources.disk = DiskBudget(one * 3 // 2)
        most = 0
        take = work.resources.disk._has_room

        def noted(*args: object) -> bool:
            nonlocal most
            found = take(*args)  # type: ignore[arg-type]
            most = max(most, len(work.resources.disk._held) + found)
            return found

        monkeypatch.setattr(work.resources.disk, "_has_room", noted)
        others = [Setting(work.scene, work.contract, work.out.parent, work.resources) for _ in range(3)]
        for number, other in enumerate(others):
            other.out = work.out.parent / f"other{number}"
        results = await asyncio.gather(*(other.run(probabilities=True) for other in others))
        assert [result.status for result in results] == ["done"] * 3
        assert most == 1
        assert work.resources.disk.reserved == 0


def test_whatever_makes_files_says_how_large_they_may_be(small_l2a: ModelContract, tmp_path: Path) -> None:
    job = make_job(small_l2a, tmp_path)
    for make in selected(**EVERYTHING):
        extra = make()
        assert extra.file_names(job)
        assert extra.disk_use(job).output + extra.disk_use(job).handed_over > 0, extra


@pytest.mark.parametrize("mosaic", ["crop", "blend"])
def test_two_full_products_with_everything_fit_the_default_and_docs_say_how_much_each_takes(
    mosaic: str, kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    options = MaskOptions(mosaic=mosaic)  # type: ignore[arg-type]
    job = make_job(kappamask_contract, tmp_path, size=10980, options=options)
    plan = OutputPlan.of(job.product, job.contract, options, job.destination)
    parts = {"mask": plan.disk_use(job)} | {
        kind: make().disk_use(job) for kind, make in zip(EVERYTHING, selected(**EVERYTHING), strict=True)
    }
    total = sum(use.output + use.scratch + use.handed_over for use in parts.values())
    assert 2 * total < Settings().disk_budget_bytes
    told = (Path(__file__).resolve().parents[2] / "docs" / "memory.md").read_text()
    for kind, use in parts.items():
        text = f"{round((use.output + use.scratch) / 1e6)} MB"
        label = "`--" + kind + "`" if kind != "mask" else "the mask and its quicklook"
        assert f"| {label} | {text}" in told, (kind, text)
    assert replace(parts["mask"], output=0) == DiskUse()
