"""The client's level and the end-to-end level of `bench`, on small products and a real Triton."""

from __future__ import annotations

import asyncio
import tempfile
from typing import TYPE_CHECKING

import psutil
import pytest

from kappamask_stream.bench.client_level import measure_client
from kappamask_stream.bench.end_to_end_level import measure_end_to_end
from kappamask_stream.errors import CodestreamError, ProductError
from kappamask_stream.models import ModelChoice
from kappamask_stream.settings import Settings
from tests.stream.polling import until
from tests.stream.scene import Scene, l1c_scene, l2a_scene

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

__all__ = ["l1c_scene", "l2a_scene"]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process: where masks go that nobody wants."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def nothing_left(scratch: Path) -> bool:
    ours = [p for p in psutil.Process().children(recursive=True) if "kappamask_stream.bench.child" in p.cmdline()]
    return not ours and not list(scratch.iterdir())


async def test_the_client_costs_no_less_than_decoding_alone(
    l2a_scene: Scene, kappamask_contract: ModelContract, scratch: Path
) -> None:
    said: list[str] = []
    level = await measure_client(
        str(l2a_scene.path), kappamask_contract, Settings(), radiometry="corrected", on_progress=said.append
    )
    assert 0 < level.floor.cpu_s <= level.cpu_s
    assert 0 < level.start_cpu_s < level.cpu_s
    assert level.cpu_to_floor == level.cpu_s / level.floor.cpu_s > 1
    assert level.wall_s * Settings().decode_threads > level.floor.cpu_s
    # 14 bands of one codestream tile each at 600 x 600 pixels of 10 m, but for 60 m: precincts make no more of them.
    assert level.floor.codestream_tiles == 14
    assert level.floor.megapixels == pytest.approx((6 * 600**2 + 6 * 300**2 + 2 * 100**2) / 1e6)
    assert (level.tiles, level.tiles_inferred) == (4, 4)
    assert level.requests is None
    assert level.bytes_written > 1000
    compressed = sum(path.stat().st_size for path in l2a_scene.path.rglob("*.jp2"))
    assert 0 < level.bytes_read < compressed
    assert 0 <= level.lag_p50_s <= level.lag_p99_s <= level.lag_max_s
    assert 50e6 < level.peak_rss_bytes < 600e6
    assert level.budget_bytes == 448 * 2**20
    assert {"index", "read", "decode", "cut", "mosaic", "close"} <= set(level.stages)
    assert said[0] == "masking without a network"
    assert said[-1] == "decoding 14 codestream tiles and nothing else"
    assert nothing_left(scratch)


async def test_what_is_wrong_with_a_product_is_the_same_error_as_in_a_run(
    l2a_scene: Scene, l1c_scene: Scene, csmask_contract: ModelContract, tmp_path: Path, scratch: Path
) -> None:
    damaged = l2a_scene.copy(tmp_path)
    (band,) = damaged.glob("GRANULE/*/IMG_DATA/R20m/*_B11_20m.jp2")
    band.write_bytes(band.read_bytes()[:-2000])
    with pytest.raises(CodestreamError, match=r"_B11_20m.jp2: the box b.jp2c. .* the file is truncated"):
        await measure_client(str(damaged), csmask_contract, Settings(), radiometry="corrected")
    with pytest.raises(ProductError, match="is a L1C product, the model test_l2a was trained on L2A"):
        await measure_client(str(l1c_scene.path), csmask_contract, Settings(), radiometry="corrected")
    assert nothing_left(scratch)


async def test_cancelling_leaves_neither_process_nor_file(
    l2a_scene: Scene, csmask_contract: ModelContract, scratch: Path
) -> None:
    said: list[str] = []
    measuring = asyncio.create_task(
        measure_client(
            str(l2a_scene.path), csmask_contract, Settings(), radiometry="corrected", on_progress=said.append
        )
    )
    await until(lambda: said)
    assert list(scratch.iterdir())
    measuring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await measuring
    assert nothing_left(scratch)


async def test_products_through_the_local_server_are_counted_as_they_were_masked(
    l2a_scene: Scene, session_server: SessionServer, server_env: Path, scratch: Path
) -> None:
    assert session_server.address
    said: list[str] = []
    settings = Settings(server_env=server_env, products_at_once=2)
    level = await measure_end_to_end(
        [str(l2a_scene.path)],
        ModelChoice(model="null_l2a"),
        settings,
        least=5,
        duration_s=0.0,
        radiometry="corrected",
        on_progress=said.append,
    )
    assert level.products >= 5
    assert level.products_at_once == 2
    assert level.products_per_hour == 3600 * level.products / level.wall_s
    assert level.tiles_inferred == 4 * level.products
    assert level.batch_sizes is not None
    assert sum(size * count for size, count in level.batch_sizes.items()) == level.tiles_inferred
    assert level.queue_s is not None
    assert level.compute_s is not None
    assert level.server_busy is not None
    assert 0 < level.server_busy <= 1
    assert 0 < level.mean_in_flight <= level.window
    assert level.server_cpu_s is not None
    assert 0 <= level.server_cpu_s <= level.wall_s * level.cores
    assert 0 < level.client_cpu_s <= level.wall_s * level.cores
    assert 0 < level.write_s <= level.wall_s * level.products_at_once
    assert level.stages["decode"] > 0
    assert level.gpu is None
    assert f"{level.products} products masked" in said[-1]
    assert nothing_left(scratch)


async def test_a_product_that_fails_ends_the_measurement_with_its_error(
    l1c_scene: Scene, session_server: SessionServer, scratch: Path
) -> None:
    settings = Settings(triton=f"grpc://{session_server.address}")
    with pytest.raises(ProductError, match="is a L1C product, the model null_l2a was trained on L2A"):
        await measure_end_to_end(
            [str(l1c_scene.path)],
            ModelChoice(model="null_l2a"),
            settings,
            least=1,
            duration_s=0.0,
            radiometry="corrected",
        )
    assert nothing_left(scratch)
