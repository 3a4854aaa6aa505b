"""`Masker` and its functions: how many products are in work, what arguments mean, and which are refused in words."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import rasterio

from kappamask_stream import Masker, mask_product, mask_product_sync, stream_windows
from kappamask_stream.errors import UsageError
from kappamask_stream.resources import ServedModel
from kappamask_stream.result import ProductProgress
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from tests.stream.polling import DEADLINE_S, until
from tests.stream.scene import coarse_l2a
from tests.stream.test_runner import Gate, name_of

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract
    from tests.stream.fakes import FakeInference

__all__ = ["coarse_l2a"]


class Pool:
    """Stands for the models of a `Masker`: a fake server behind each level."""

    client: FakeInference

    def __init__(self, *_: object, **__: object) -> None:
        self._model = ServedModel.of(self.client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def get(self, level: str) -> ServedModel:
        return self._model


@pytest.fixture(autouse=True)
def server(coarse_l2a: ModelContract, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Have every `Masker` use a fake server whose gate is closed."""
    monkeypatch.setattr(Pool, "client", Gate(coarse_l2a), raising=False)
    monkeypatch.setattr("kappamask_stream.api.ModelPool", Pool)
    return Pool.client  # type: ignore[return-value]


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("products")
    return [write_product(folder, size=240, seed=seed).product for seed in (1, 2, 3)]


def opened(server: Gate, products: list[Path]) -> None:
    server.open.update(map(name_of, products))


@pytest.mark.parametrize("at_once", [1, 2])
async def test_so_many_products_are_in_work_at_once_and_no_more(
    server: Gate, products: list[Path], tmp_path: Path, at_once: int
) -> None:
    shown = [ProductProgress(product=str(path)) for path in products]
    async with Masker(settings=Settings(products_at_once=at_once)) as masker:
        jobs = [
            asyncio.create_task(masker.mask(path, output=tmp_path, progress=seen))
            for path, seen in zip(products, shown, strict=True)
        ]
        for first in range(len(products)):
            await until(lambda n=first: all(p.state == "streaming" for p in shown[n : n + at_once]))  # type: ignore[misc]
            assert {p.state for p in shown[first + at_once :]} <= {"waiting"}
            await server.let(name_of(products[first]))
            await asyncio.wait_for(jobs[first], DEADLINE_S)
        assert [(await job).status for job in jobs] == ["done"] * 3


async def test_windows_count_as_products_in_work(server: Gate, products: list[Path], tmp_path: Path) -> None:
    opened(server, products)
    seen = ProductProgress(product="P")
    async with Masker(settings=Settings(products_at_once=1)) as masker:
        async with aclosing(masker.windows(products[0])) as windows:
            assert (await anext(windows)).row == 0
            assert [window async for window in windows] == []
        assert (await masker.mask(products[1], output=tmp_path, progress=seen)).status == "done"
        closed = masker.windows(products[0])
        await anext(closed)
        await closed.aclose()
        assert (await masker.mask(products[1], output=tmp_path)).status == "skipped"


@pytest.mark.parametrize(("given", "expected"), [({}, "zstd"), ({"compression": "deflate"}, "deflate")])
async def test_compression_is_the_settings_unless_it_is_given(
    server: Gate, products: list[Path], tmp_path: Path, given: dict[str, Any], expected: str
) -> None:
    opened(server, products)
    settings = Settings(compression="zstd")
    result = await mask_product(products[0], output=tmp_path, settings=settings, **given)
    with rasterio.open(str(result.output)) as mask:
        assert mask.compression.name == expected


async def test_the_result_names_every_file(server: Gate, products: list[Path], tmp_path: Path) -> None:
    opened(server, products)
    result = await mask_product(
        products[0], output=tmp_path, png=True, report=True, subtiles=True, stac=True, probabilities=True
    )
    assert result.files[0] == result.output
    assert result.quicklook in result.files
    folder = tmp_path / result.product
    assert sorted(result.files) == sorted(str(path) for path in folder.iterdir() if path.is_file())
    assert any(name.endswith("_subtiles.json") for name in result.files), "which names the tiles"
    again = await mask_product(products[0], output=tmp_path, png=True)
    assert again.status == "skipped"
    names = {Path(name).name.partition("_60m")[2] for name in again.files}
    assert names == {".tif", "_quicklook.png", ".png", ".pgw"}


async def test_home_is_not_a_folder_of_that_name(
    server: Gate, products: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(server, products)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    result = await mask_product(products[0], output="~/masks")
    assert str(result.output).startswith(f"{tmp_path}/home/masks/")
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"radiometry": "km-predict"}, "radiometry is 'km-predict': allowed is corrected or km_predict"),
        ({"mosaic": "blnd"}, "mosaic is 'blnd': allowed is crop or blend"),
        ({"compression": "lzw"}, "compression is 'lzw': allowed is deflate or zstd"),
        ({"architecture": "unet"}, "--architecture is 'unet': allowed is DeepLabv3Plus or Unet"),
        ({"precision": "fp8"}, "--precision is 'fp8': allowed is f32 or bf16 or fp16"),
        ({"settings": {"compression": "zstd"}}, r"settings is a dict: give kappamask_stream\.settings\.load_settings"),
        ({"aoi": {"type": "Point"}}, "aoi is a dict: give text"),
        ({"aoi": (1.0, 2.0, 3.0, 4.0)}, "aoi is a tuple: give text"),
        ({"aoi": Path("nowhere.geojson")}, r"'nowhere\.geojson' cannot be read"),
        ({"dilate": ["CLOUD"]}, "--dilate CLOUD: give CLASS=METRES"),
        ({"dilate": [("CLOUD", -1)]}, "--dilate CLOUD=-1: give CLASS=METRES"),
        ({"dilate": [("CLOUD", 60, 1)]}, r"dilate holds \('CLOUD', 60, 1\): give pairs"),
        ({"dilate": 60}, "dilate holds 60: give pairs"),
    ],
)
async def test_an_argument_that_means_nothing_is_refused_in_words(
    products: list[Path], tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        await mask_product(products[0], output=tmp_path / "masks", **options)
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("dilate", [[("CLOUD", 120)], ["CLOUD=120"], {"cloud": 120.0}, "CLOUD=120"])
async def test_what_grows_is_said_in_several_ways(
    server: Gate, products: list[Path], tmp_path: Path, dilate: Any
) -> None:
    opened(server, products)
    result = await mask_product(products[0], output=tmp_path, dilate=dilate)
    with rasterio.open(str(result.output)) as mask:
        assert mask.tags()["DILATE"] == "CLOUD=120"


async def test_an_area_may_be_a_file(server: Gate, products: list[Path], tmp_path: Path) -> None:
    opened(server, products)
    with rasterio.open(next(products[0].rglob("*_B09_60m.jp2"))) as band:
        west, south, _, north = band.bounds
        epsg = band.crs.to_epsg()
    area = tmp_path / "area.txt"
    area.write_text(f"{west},{south},{west + 600},{north},{epsg}")
    result = await mask_product(products[0], output=tmp_path, aoi=area)
    with rasterio.open(str(result.output)) as mask:
        assert mask.width == 10


@pytest.mark.parametrize("option", ["png", "stac", "overwrite", "compression"])
async def test_windows_have_no_options_of_files(products: list[Path], option: str) -> None:
    with pytest.raises(TypeError, match=f"there is no option '{option}'"):
        async for _ in stream_windows(products[0], **{option: True}):  # type: ignore[arg-type]
            pass
    async with Masker() as masker:
        with pytest.raises(TypeError, match=f"there is no option '{option}'"):
            async for _ in masker.windows(products[0], **{option: True}):  # type: ignore[arg-type]
                pass


async def test_the_function_without_a_loop_says_what_to_do_in_one(products: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use `await mask_product"):
        mask_product_sync(products[0], output=tmp_path)


def test_the_function_without_a_loop_keeps_progress(server: Gate, products: list[Path], tmp_path: Path) -> None:
    opened(server, products)
    seen = ProductProgress(product="P")
    assert mask_product_sync(products[0], output=tmp_path, progress=seen).status == "done"
    assert seen.state == "done"
