"""Looking on at a real pipeline: what is counted and drawn is what the result says, and the mask is the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest

from kappamask_stream import pipeline, product_run
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.errors import ServerOverloadedError
from kappamask_stream.extras import Extra
from kappamask_stream.inference import RetryPolicy
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.monitor.board import Board
from kappamask_stream.monitor.metrics import Metrics
from kappamask_stream.monitor.status import status
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.settings import Settings
from kappamask_stream.worker.types import JobEnd
from tests.stream.fakes import FakeInference
from tests.stream.naive import Network
from tests.stream.scene import Scene, coarse_l2a, l2a_scene
from tests.unit.monitor_scene import coloured, job_of, make_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.extras import FinishedMask, TileAnswer
    from kappamask_stream.result import ProductProgress, ProductResult

__all__ = ["coarse_l2a", "l2a_scene"]


async def masked(
    scene: Scene, client: FakeInference, folder: Path, progress: ProductProgress, extras: Sequence[Extra]
) -> ProductResult:
    with Resources(settings=Settings()) as resources:
        return await pipeline.mask_product(
            await scene.open(), ServedModel.of(client), resources, MaskOptions(), FolderDestination(folder), progress,
            extras=extras,
        )  # fmt: skip


class Witness(Extra):
    """What the extras beside it must have seen."""

    def __init__(self) -> None:
        self.tiles: list[TileAnswer] = []
        self.mask: FinishedMask | None = None

    async def add_tile(self, answer: TileAnswer) -> None:
        self.tiles.append(answer)

    async def finish(self, mask: FinishedMask) -> tuple[()]:
        self.mask = mask
        return ()


async def test_what_is_shown_is_what_was_done(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        product_run, "RetryPolicy", lambda **given: RetryPolicy(**given, backoff_s=0.001, backoff_max_s=0.001)
    )
    contract = coloured(coarse_l2a)
    metrics, board, witness = Metrics(model="m"), Board(), Witness()
    job = job_of(make_message(), l2a_scene.name)
    for observer in (metrics, board):
        job.progress.on_retry = lambda *said, told=job.progress.on_retry, see=observer.retried: (
            told(*said),
            see(*said),
        )
    extras = [extra for observer in (metrics, board) for extra in observer.job_started(job)]
    client = Network(contract)
    client.failures.extend([ServerOverloadedError("full")] * 2)
    result = await masked(l2a_scene, client, tmp_path / "watched", job.progress, [*extras, witness])
    running = status(board, {}, name="w", model="m")["running"][0]
    for observer in (metrics, board):
        observer.job_ended(job, JobEnd(status="done", seconds=1.0, result=result, output=result.output))

    value = metrics.registry.get_sample_value
    assert value("kappamask_tiles_total", {"kind": "inferred"}) == result.tiles_inferred > 0
    assert value("kappamask_tiles_total", {"kind": "empty"}) == result.tiles_empty
    assert value("kappamask_read_bytes_total") == result.bytes_read > 0
    assert value("kappamask_retries_total", {"cause": "ServerOverloadedError"}) == result.retries == 2
    assert value("kappamask_stage_seconds_total", {"stage": "infer"}) == pytest.approx(result.stages["infer"])
    assert not value("kappamask_stage_seconds_total", {"stage": "other"})
    assert value("kappamask_pixels_total") == 100 * 100

    cells = running["grid"]["cells"]
    assert len(cells) == result.tiles == len(witness.tiles)
    assert cells.count("-") >= result.tiles_empty
    assert set(cells) <= set("012345-")
    assert running["tiles"] == {"total": result.tiles, "read": result.tiles, "in_flight": 0, "done": result.tiles}

    seen = status(board, {}, name="w", model="m")
    png = board.quicklooks.get(seen["results"][0]["id"])
    assert png is not None
    assert witness.mask is not None
    palette = np.array([c.colour for c in contract.classes], np.uint8)
    assert np.array_equal(imagecodecs.png_decode(png), palette[witness.mask.quicklook_pixels])
    assert seen["totals"]["retries"] == {"ServerOverloadedError": 2}

    alone = await masked(l2a_scene, Network(contract), tmp_path / "alone", job_of(make_message()).progress, [])
    assert alone.output is not None
    assert result.output is not None
    assert Path(alone.output).read_bytes() == Path(result.output).read_bytes()


async def test_a_product_that_is_cancelled_leaves_nothing_in_work(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    board, metrics = Board(), Metrics(model="m")
    job = job_of(make_message(), l2a_scene.name)
    extras = [extra for observer in (metrics, board) for extra in observer.job_started(job)]
    client = FakeInference(coloured(coarse_l2a), delay_s=3600.0)
    task = asyncio.create_task(masked(l2a_scene, client, tmp_path, job.progress, extras))
    await client.started.wait()
    assert metrics.registry.get_sample_value("kappamask_tiles_in_flight") == job.progress.tiles_in_flight > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for observer in (metrics, board):
        observer.job_ended(job, JobEnd(status="stopped", seconds=1.0))
    assert metrics.registry.get_sample_value("kappamask_tiles_in_flight") == 0.0
    seen = status(board, {}, name="w", model="m")
    assert (seen["running"], seen["results"], seen["failures"]) == ([], [], [])
    assert seen["totals"]["products"] == {"stopped": 1}
