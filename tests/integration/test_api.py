"""The library as people call it, with a real Triton."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio

import kappamask_stream
from kappamask_stream import Masker, mask_product, mask_product_sync, stream_windows
from kappamask_stream.errors import ProductError, UsageError
from kappamask_stream.result import ProductProgress
from tests.stream.scene import l2a_scene

if TYPE_CHECKING:
    from tests.integration.session import SessionServer
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["l2a_scene"]


@pytest.fixture
def endpoint(session_server: SessionServer) -> str:
    return f"grpc://{session_server.address}"


async def test_a_product_is_masked(l2a_scene: Scene, endpoint: str, tmp_path: Path) -> None:
    progress = ProductProgress(product="P")
    result = await mask_product(
        l2a_scene.path, output=tmp_path, model="null_l2a", triton=endpoint, png=True, progress=progress
    )
    assert (result.status, result.product, progress.state) == ("done", l2a_scene.name, "done")
    assert result.output is not None
    assert Path(result.output).with_suffix(".png").exists()
    again = await mask_product(l2a_scene.path, output=tmp_path, model="null_l2a", triton=endpoint)
    assert again.status == "skipped"


def test_a_product_is_masked_without_a_loop(l2a_scene: Scene, endpoint: str, tmp_path: Path) -> None:
    result = mask_product_sync(str(l2a_scene.path), output=str(tmp_path), model="null_l2a", triton=endpoint)
    assert result.status == "done"


async def test_windows_are_the_mask_each_pixel_once(l2a_scene: Scene, endpoint: str, tmp_path: Path) -> None:
    result = await mask_product(l2a_scene.path, output=tmp_path, model="null_l2a", triton=endpoint)
    with rasterio.open(str(result.output)) as mask:
        expected, transform = mask.read(1), mask.transform
    found = np.full(expected.shape, 99, np.uint8)
    windows = stream_windows(l2a_scene.path, model="null_l2a", triton=endpoint)
    async for window in windows:
        height, width = window.pixels.shape
        part = found[window.row : window.row + height, window.col : window.col + width]
        assert (part == 99).all()
        part[...] = window.pixels
        assert (window.ulx, window.uly) == transform @ (window.col, window.row)
        assert (window.gsd_m, window.epsg) == (20, 32632)
    np.testing.assert_array_equal(found, expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == [l2a_scene.name], "windows write nothing"


async def test_a_consumer_may_leave(l2a_scene: Scene, endpoint: str) -> None:
    async with Masker(model="null_l2a", triton=endpoint) as masker:
        before = asyncio.all_tasks()
        async with aclosing(masker.windows(l2a_scene.path)) as windows:
            async for _ in windows:
                break
        left = asyncio.all_tasks() - before
        assert [task.get_name() for task in left] == ["watches a connection"], "the server's, which stays connected"
        results = await asyncio.gather(*(anext(masker.windows(l2a_scene.path)) for _ in range(2)))
        assert len(results) == 2


async def test_failures_are_errors_of_the_tree(l2a_scene: Scene, endpoint: str, tmp_path: Path) -> None:
    async with Masker(model="null_l2a", triton=endpoint) as masker:
        with pytest.raises(ProductError, match="does not exist"):
            await masker.mask(tmp_path / "nothing.SAFE", output=tmp_path)
        with pytest.raises(ProductError, match="does not exist"):
            async for _ in masker.windows(tmp_path / "nothing.SAFE"):
                pass
        with pytest.raises(UsageError, match="--aoi misses"):
            await masker.mask(l2a_scene.path, output=tmp_path, aoi="100,10,101,11")
    with pytest.raises(UsageError, match="not open"):
        await masker.mask(l2a_scene.path)


async def test_misspelt_options_are_refused(l2a_scene: Scene) -> None:
    with pytest.raises(TypeError, match="no option 'modle'"):
        await mask_product(l2a_scene.path, modle="csmask")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option 'outptu'"):
        Masker(outptu="x")  # type: ignore[call-arg]


def test_the_package_offers_its_front_door_lazily() -> None:
    assert {"Masker", "mask_product", "mask_product_sync", "stream_windows"} <= set(dir(kappamask_stream))
    with pytest.raises(AttributeError, match="nonsense"):
        kappamask_stream.nonsense  # type: ignore[attr-defined]  # noqa: B018
