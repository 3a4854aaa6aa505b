"""A product through the whole pipeline with a fake server: pixels, counters, bounds, failures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio

from kappamask_stream import product_run
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.errors import (
    InferenceError,
    InferenceTimeoutError,
    KappaMaskError,
    ModelChangedError,
    ProductError,
    ServerOverloadedError,
    ServerUnavailableError,
    UsageError,
)
from kappamask_stream.grid import TileGrid
from kappamask_stream.inference import InferResult, RetryPolicy, TileRequest
from kappamask_stream.jp2 import TileStream
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.pipeline import mask_product
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.settings import Settings
from tests.stream.naive import NaiveMask, Network
from tests.stream.polling import until
from tests.stream.scene import Scene, band_file, coarse_l2a, l1c_scene, l2a_scene, small_l1c, small_l2a

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from tests.stream.fakes import FakeInference

__all__ = ["coarse_l2a", "l1c_scene", "l2a_scene", "small_l1c", "small_l2a"]


async def masked(
    scene: Scene,
    client: FakeInference,
    folder: Path,
    *,
    settings: Settings | None = None,
    model: ServedModel | None = None,
    progress: ProductProgress | None = None,
    **options: Any,
) -> ProductResult:
    with Resources(settings=settings or Settings()) as resources:
        result = await mask_product(
            await scene.open(),
            model or ServedModel.of(client, resources.settings.max_in_flight),
            resources,
            MaskOptions(**options),
            FolderDestination(folder / scene.name),
            progress or ProductProgress(product=scene.name),
        )
        assert resources.budget.free == resources.budget.total
    return result


def pixels_of(result: ProductResult) -> NDArray[np.uint8]:
    assert result.output is not None
    with rasterio.open(result.output) as mask:
        return mask.read(1)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the policy's patience, drop its pauses."""
    monkeypatch.setattr(RetryPolicy, "pause_s", lambda _, failures: 0.0)


@pytest.mark.parametrize("mosaic", ["crop", "blend"])
@pytest.mark.parametrize("radiometry", ["corrected", "km_predict"])
async def test_l2a_equals_the_whole_image_at_once(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path, mosaic: str, radiometry: str
) -> None:
    if radiometry == "km_predict":  # whose arithmetic counts in shares of 65535: the naive one does, too
        unit = np.array([1000.0 if b in ("AOT", "WVP") else 10000.0 for b in small_l2a.channels])
        served = small_l2a.__class__(**{**vars(small_l2a), "divisors": tuple(unit / 65535.0), "dn_unit": "full_scale"})
    else:
        served = small_l2a
    naive = NaiveMask(l2a_scene, small_l2a, offsets=radiometry == "corrected", nodata=radiometry == "corrected")
    client = Network(served)
    result = await masked(l2a_scene, client, tmp_path, mosaic=mosaic, radiometry=radiometry)
    expected = naive.crop() if mosaic == "crop" else naive.blend()
    np.testing.assert_array_equal(pixels_of(result), expected)
    assert len(np.unique(expected)) >= 4, "a scene of one class would prove little"


@pytest.mark.parametrize("mosaic", ["crop", "blend"])
async def test_l1c_equals_the_whole_image_at_once(
    l1c_scene: Scene, small_l1c: ModelContract, tmp_path: Path, mosaic: str
) -> None:
    naive = NaiveMask(l1c_scene, small_l1c, offsets=True, nodata=True)
    result = await masked(l1c_scene, Network(small_l1c), tmp_path, mosaic=mosaic)
    np.testing.assert_array_equal(pixels_of(result), naive.crop() if mosaic == "crop" else naive.blend())


async def test_corrected_radiometry_makes_pixels_without_data_missing_and_km_predict_does_not(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    bands = [("AOT", 10), ("B02", 10), ("B08", 10)]
    without = ~np.stack([l2a_scene.pixels(*band) for band in bands]).any(axis=0)
    assert 0.02 < without.mean() < 0.5
    corrected = pixels_of(await masked(l2a_scene, Network(small_l2a), tmp_path / "a", radiometry="corrected"))
    # A pixel of 20 m or 60 m that reaches over the edge has data: up to five pixels of 10 m beyond it stay.
    assert not (corrected[~without] == 5).any()
    assert (corrected[without] == 5).mean() > 0.9
    kept = pixels_of(await masked(l2a_scene, Network(small_l2a), tmp_path / "b", radiometry="km_predict"))
    assert (kept[without] == 5).mean() < (corrected[without] == 5).mean()


async def test_tiles_without_data_are_answered_without_a_request(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    naive = NaiveMask(l2a_scene, small_l2a, offsets=True, nodata=True)
    grid = TileGrid.of(small_l2a, naive.height, naive.width)
    of_mask = {at for at in naive.tiles if not grid.tile(*at).core.is_empty}
    empty = of_mask - set(naive.with_data)
    assert empty
    client = Network(small_l2a)
    progress = ProductProgress(product="P")
    result = await masked(l2a_scene, client, tmp_path, progress=progress)
    asked = {f"tile at row {row}, column {col} of {l2a_scene.name}" for row, col in of_mask & set(naive.with_data)}
    assert set(client.sent) == asked
    assert set(client.sent.values()) == {1}
    assert (result.tiles, result.tiles_inferred, result.tiles_empty) == (len(of_mask), len(asked), len(empty))
    assert (progress.state, progress.tiles_read, progress.tiles_done) == ("done", result.tiles, result.tiles)
    assert progress.tiles_in_flight == 0
    assert progress.pixels_read == naive.height * naive.width


async def test_counters_tell_what_was_done(l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path) -> None:
    result = await masked(l2a_scene, Network(small_l2a), tmp_path)
    files = [l2a_scene.band_file(b, g.gsd_m) for g in small_l2a.inputs for b in g.bands]
    assert result.codestream_tiles_decoded_twice == 0
    assert result.codestream_tiles_decoded + result.codestream_tiles_empty == len(files), "one codestream tile a file"
    # Each tile-part once, and of what stands before them at most a first read of 4 KB and a few headers.
    assert abs(result.bytes_read - sum(f.stat().st_size for f in files)) < 5000 * len(files)
    assert len(files) < result.requests < 15 * len(files)
    assert sum(result.classes.values()) == pytest.approx(1.0)
    pixels = pixels_of(result)
    for value, name in enumerate(result.classes):
        assert result.classes[name] == (pixels == value).mean()
    assert result.tail_seconds is not None
    assert 0 <= result.tail_seconds <= result.seconds
    assert {"index", "read", "decode", "cut", "infer", "mosaic", "close"} <= set(result.stages)
    assert min(result.stages.values()) >= 0
    assert (result.status, result.model, result.retries) == ("done", "test_l2a", 0)
    assert result.batch_sizes is not None
    assert result.batch_sizes.reason == "a fake forms no batches"


@pytest.mark.parametrize("mosaic", ["crop", "blend"])
async def test_the_file_is_the_same_in_whatever_order_answers_come(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path, mosaic: str
) -> None:
    files = []
    for seed in (None, 1, 2, 3):
        folder = tmp_path / str(seed)
        result = await masked(l2a_scene, Network(small_l2a, seed=seed), folder, mosaic=mosaic)
        assert result.output is not None
        assert result.quicklook is not None
        files.append((Path(result.output).read_bytes(), Path(result.quicklook).read_bytes()))
    assert len(set(files)) == 1


async def test_a_mask_that_is_there_is_skipped_and_another_one_is_refused_unless_told(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    first = await masked(l2a_scene, Network(small_l2a), tmp_path)
    assert first.output is not None
    written = Path(first.output).stat()
    client, progress = Network(small_l2a), ProductProgress(product="P")
    again = await masked(l2a_scene, client, tmp_path, progress=progress)
    assert (again.status, again.output, again.fingerprint) == ("skipped", first.output, first.fingerprint)
    assert (progress.state, client.sent) == ("skipped", {})
    assert Path(first.output).stat() == written
    with pytest.raises(KappaMaskError, match=r"KZ_10m\.tif is a mask of another origin .* --overwrite"):
        await masked(l2a_scene, Network(small_l2a), tmp_path, mosaic="blend")
    assert Path(first.output).stat() == written
    other = await masked(l2a_scene, Network(small_l2a), tmp_path, mosaic="blend", overwrite=True)
    assert other.status == "done"
    assert other.fingerprint != first.fingerprint


class Stuck(Network):
    """Answers only once `released` is set; keeps what the pipeline held at each request."""

    def __init__(self, contract: ModelContract, progress: ProductProgress) -> None:
        super().__init__(contract)
        self.released = asyncio.Event()
        self.cut_and_not_done: list[int] = []
        self._progress = progress

    async def infer(self, request: TileRequest) -> InferResult:
        self.cut_and_not_done.append(self._progress.tiles_read - self._progress.tiles_done)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await self.released.wait()
            self.sent[request.name] += 1
            return self.answer(request)
        finally:
            self.in_flight -= 1


async def test_window_and_credits_bound_what_is_in_flight_and_what_is_cut(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    progress = ProductProgress(product="P")
    client = Stuck(small_l2a, progress)
    model = ServedModel.of(client, 3)
    credit_total = model.window.maximum + 2
    task = asyncio.create_task(masked(l2a_scene, client, tmp_path, model=model, progress=progress))
    await until(lambda: model.credits.locked() and client.in_flight == 3)
    for _ in range(200):  # nothing more gets through, however long the server takes
        await asyncio.sleep(0)
    assert (progress.tiles_in_flight, client.in_flight, model.window.in_flight) == (credit_total, 3, 3)
    assert progress.tiles_read - progress.tiles_done <= credit_total + 1, "one more waits for a credit"
    client.released.set()
    result = await task
    assert result.status == "done"
    assert client.peak_in_flight == 3
    assert max(client.cut_and_not_done) <= credit_total + 1
    assert not model.credits.locked()
    assert model.window.in_flight == 0


@pytest.mark.parametrize(
    "failure",
    [
        ServerOverloadedError("full"),
        ServerUnavailableError("gone"),
        InferenceTimeoutError("late"),
        InferenceError("once"),
    ],
)
async def test_failures_that_pass_leave_no_trace_in_the_mask(
    l2a_scene: Scene,
    coarse_l2a: ModelContract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: KappaMaskError,
) -> None:
    quick_retries(monkeypatch)
    calm = await masked(l2a_scene, Network(coarse_l2a), tmp_path / "calm")
    told: list[tuple[str, str]] = []
    client = Network(coarse_l2a)
    progress = ProductProgress(product="P", on_retry=lambda *said: told.append(said))
    client.failures.extend([failure] * 3)
    result = await masked(l2a_scene, client, tmp_path / "rough", progress=progress)
    assert result.retries == 3
    assert [cause for cause, _ in told] == [type(failure).__name__] * 3
    assert progress.note is not None
    assert str(failure) in progress.note
    assert "trying again" in progress.note
    assert calm.output is not None
    assert result.output is not None
    assert Path(result.output).read_bytes() == Path(calm.output).read_bytes()


async def test_a_tile_that_always_fails_fails_its_product_and_leaves_nothing(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_retries(monkeypatch)
    client = Network(coarse_l2a, seed=1)
    client.fail_tile = ("tile at row 2, column 1", InferenceError("CUDA error 700; restart the server"))
    model = ServedModel.of(client)
    credit_total = model.window.maximum + 2
    tasks = asyncio.all_tasks()
    for _ in range(5):
        with pytest.raises(InferenceError) as caught:
            await masked(l2a_scene, client, tmp_path, model=model, settings=Settings(tile_attempts=2))
        assert str(caught.value) == (
            f"tile at row 2, column 1 of {l2a_scene.name}: CUDA error 700; restart the server (tried 2 times)"
        )
        assert names_in(tmp_path) == []
        assert asyncio.all_tasks() == tasks
        # Not one credit may be lost, or other products would starve in the end.
        assert (model.credits._value, model.window.in_flight) == (credit_total, 0)


@pytest.mark.parametrize("doubt", [ModelChangedError("other weights"), ServerUnavailableError("gone")])
async def test_what_cannot_be_said_to_be_of_one_network_is_not_published(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doubt: KappaMaskError
) -> None:
    """All tiles are answered; then the server is another one, or nobody tells."""
    quick_retries(monkeypatch)
    client = Network(coarse_l2a)
    client.doubts.extend([doubt] * 100_000)
    with pytest.raises(type(doubt), match=str(doubt)):
        await masked(l2a_scene, client, tmp_path, settings=Settings(server_wait_s=0.02))
    assert client.sent
    assert names_in(tmp_path) == []
    client.doubts.clear()
    client.doubts.append(ServerUnavailableError("gone"))
    assert (await masked(l2a_scene, client, tmp_path)).retries == 1


async def test_a_server_that_gives_no_probabilities_cannot_blend(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    class Labels(Network):
        def answer(self, request: TileRequest) -> InferResult:
            return InferResult(labels=super().answer(request).labels)

    with pytest.raises(InferenceError, match="test_l2a gave no probabilities: --mosaic blend needs them"):
        await masked(l2a_scene, Labels(coarse_l2a), tmp_path, mosaic="blend")
    assert names_in(tmp_path) == []


async def test_a_product_of_another_level_is_refused(
    l1c_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    with pytest.raises(ProductError, match=r"is a L1C product, the model test_l2a was trained on L2A"):
        await masked(l1c_scene, Network(coarse_l2a), tmp_path)


async def test_a_band_of_another_size_than_the_metadata_says_is_refused(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    damaged = l2a_scene.copy(tmp_path / "in")
    file = band_file(damaged, "B09", 60)
    file.write_bytes(band_file(damaged, "B11", 20).read_bytes())
    with pytest.raises(ProductError, match=r"_B09_60m\.jp2 .* has 300 x 300 pixels, the metadata says 100 x 100"):
        await masked(Scene(path=damaged, truth=l2a_scene.truth), Network(coarse_l2a), tmp_path / "out")


def retiled(scene: Scene, folder: Path, band: str, gsd_m: int, block: int) -> Scene:
    """Return a copy in which one band's codestream tiles are `block` pixels high and wide."""
    copy = scene.copy(folder)
    file = band_file(copy, band, gsd_m)
    original = file.rename(file.with_suffix(".original"))
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        rasterio.shutil.copy(
            str(original), str(file), driver="JP2OpenJPEG", BLOCKXSIZE=block, BLOCKYSIZE=block, QUALITY=100,
            REVERSIBLE="YES", YCC="NO", NBITS=15,
        )  # fmt: skip
    original.unlink()
    return Scene(path=copy, truth=scene.truth)


class WatchedStreams:
    """Keeps the tile streams that the pipeline makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.streams: list[TileStream] = []
        watched = self.streams

        class Watched(TileStream):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                watched.append(self)

        monkeypatch.setattr(product_run, "TileStream", Watched)


async def test_decoding_runs_ahead_of_the_answers_as_far_as_the_budget_allows(
    l2a_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_l2a: ModelContract
) -> None:
    scene = retiled(l2a_scene, tmp_path / "in", "B02", 10, 128)
    contract = ten_metres_only(small_l2a)
    watch = WatchedStreams(monkeypatch)
    progress = ProductProgress(product="P")
    client = Stuck(contract, progress)
    model = ServedModel.of(client, 1)
    task = asyncio.create_task(masked(scene, client, tmp_path / "out", model=model, progress=progress))
    await until(lambda: bool(watch.streams) and model.credits.locked())
    (stream,) = watch.streams
    units = stream._plan.units
    pixels, kept = sum(unit.nbytes for unit in units), stream._plan.kept_bytes
    assert stream._reservation == pixels + kept
    assert pixels > 2 * (stream._plan.required_bytes - kept)
    await until(lambda: stream.stats.codestream_tiles_decoded == len(units))
    assert progress.tiles_done == 0, "not one answer was needed for that"
    client.released.set()
    assert (await task).status == "done"


async def test_a_product_gets_what_it_needs_but_no_more_than_its_share_beyond_that(
    l2a_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_l2a: ModelContract
) -> None:
    watch = WatchedStreams(monkeypatch)
    scene = retiled(l2a_scene, tmp_path / "in", "B02", 10, 128)
    contract = ten_metres_only(small_l2a)
    monkeypatch.setattr(Settings, "memory_budget_bytes", property(lambda _: 600_000))
    for at_once, expected in ((1, 600_000), (2, 300_000)):
        await masked(scene, Network(contract), tmp_path / str(at_once), settings=Settings(products_at_once=at_once))
        assert watch.streams[-1]._reservation == expected
    required = watch.streams[-1]._plan.required_bytes
    await masked(scene, Network(contract), tmp_path / "9", settings=Settings(products_at_once=9))
    assert 600_000 // 9 < required == watch.streams[-1]._reservation


async def test_a_product_beyond_the_budget_is_refused_at_once_and_in_words(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "memory_budget_bytes", property(lambda _: 1_000_000))
    with pytest.raises(UsageError, match=rf"{l2a_scene.name} needs 3 MB .*--memory-budget-mb 3"):
        await masked(l2a_scene, Network(small_l2a), tmp_path)
    assert names_in(tmp_path) == []


def ten_metres_only(contract: ModelContract) -> ModelContract:
    """Drop all bands but B02."""
    (first, *_) = contract.inputs
    group = first.__class__(gsd_m=10, bands=("B02",), tile=first.tile, stride=first.stride)
    return contract.__class__(**{**vars(contract), "inputs": (group,), "channels": ("B02",), "divisors": (1.0,)})
