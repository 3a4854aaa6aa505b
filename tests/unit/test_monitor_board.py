"""What the status page is told: all of it bounded, in order, and without secrets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from kappamask_stream.errors import ProductError, StoreUnavailableError
from kappamask_stream.extras import TileAnswer
from kappamask_stream.grid import Window
from kappamask_stream.monitor.board import Board
from kappamask_stream.monitor.quicklooks import Quicklooks, draw
from kappamask_stream.monitor.redaction import Redaction
from kappamask_stream.monitor.status import status
from kappamask_stream.monitor.throughput import Throughput
from kappamask_stream.monitor.tile_grid import TilePicture
from kappamask_stream.worker.types import JobEnd, WorkerState
from tests.unit.mask_jobs import make_finished, make_job
from tests.unit.monitor_scene import Play, coloured, done, job_of, make_message, product_name

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract


def said(board: Board, ready: dict[str, str | None] | None = None) -> dict[str, Any]:
    """The status after its way through JSON."""
    return json.loads(json.dumps(status(board, ready or {}, name="w", model="m"), allow_nan=False))


def answer(job: Any, index: int, labels: np.ndarray | None) -> TileAnswer:
    tile = next(tile for tile in job.grid if tile.index == index)
    return TileAnswer(tile=tile, labels=labels)


def full(value: int) -> np.ndarray:
    return np.full((256, 256), value, np.uint8)


def test_a_tile_shows_the_class_that_most_of_its_pixels_have(csmask_contract: ModelContract, tmp_path: Path) -> None:
    job = make_job(coloured(csmask_contract), tmp_path, size=600)
    picture = TilePicture(job)
    mixed = full(1)
    mixed[:100] = 4
    edge = full(5)
    edge[:30, :30] = 2
    for index, labels in enumerate((full(1), mixed, full(5), edge, None, full(4))):
        picture.fill(answer(job, index, labels))
    drawn = picture.to_json(6)
    assert (drawn["rows"], drawn["cols"]) == (3, 3)
    assert drawn["cells"] == "11-2-4..."
    assert drawn["empty"] == 2
    tiles = {c["name"]: (c["code"], c["colour"], c["tiles"]) for c in drawn["classes"]}
    assert tiles["CLEAR"] == ("1", "#689f38", 2)
    assert tiles["CLOUD"] == ("4", "#ffffff", 1)
    assert "MISSING" not in tiles


def test_only_the_tiles_core_counts(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """The margin is another tile's business: here it would outvote the core."""
    job = make_job(csmask_contract, tmp_path, size=600)
    labels = full(4)
    labels[26:230, 26:230] = 1
    labels[:, 26:40] = 4
    picture = TilePicture(job)
    picture.fill(answer(job, 4, labels))
    assert picture.to_json(0)["cells"][4] == "1"


def test_tiles_that_are_read_and_not_answered_are_told(csmask_contract: ModelContract, tmp_path: Path) -> None:
    job = make_job(csmask_contract, tmp_path, size=600)
    picture = TilePicture(job)
    assert picture.to_json(0)["cells"] == "." * 9
    assert picture.to_json(2)["cells"] == "~~......."
    picture.fill(answer(job, 3, full(1)))
    assert picture.to_json(2)["cells"] == "~~~1....."
    assert picture.to_json(99)["cells"] == "~~~1~~~~~"


def test_of_an_area_of_interest_only_its_tiles_are_shown(csmask_contract: ModelContract, tmp_path: Path) -> None:
    job = make_job(csmask_contract, tmp_path, size=2000, window=Window(500, 900, 300, 100))
    picture = TilePicture(job)
    shown = [tile for tile in job.grid if not tile.core.intersection(job.frame.window).is_empty]
    for tile in shown:
        picture.fill(TileAnswer(tile=tile, labels=full(4)))
    picture.fill(answer(job, 0, full(1)))  # not in the area: nowhere to draw it
    drawn = picture.to_json(99)
    assert drawn["rows"] * drawn["cols"] == len(shown) < len(job.grid)
    assert drawn["cells"] == "4" * len(shown)


def test_a_class_without_a_code_or_a_value_beyond_all_is_no_error(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    job = make_job(csmask_contract, tmp_path, size=600)
    picture = TilePicture(job)
    picture.fill(answer(job, 0, full(200)))
    assert picture.to_json(0)["cells"][0] == "-"


def test_rates_are_of_the_last_minutes() -> None:
    throughput = Throughput(0.0)
    for minute in range(60):
        throughput.add(minute * 60.0 + 5.0, products=1, pixels=6_000_000)
    now = 3600.0
    assert throughput.rate(now, 300.0).products_per_h == pytest.approx(60.0)
    assert throughput.rate(now, 300.0).megapixels_per_s == pytest.approx(0.1)
    assert throughput.rate(now, 3600.0).products_per_h == pytest.approx(60.0)
    assert throughput.rate(now + 7200.0, 3600.0).products_per_h == 0.0


def test_rates_of_a_worker_that_is_young_are_of_its_life() -> None:
    throughput = Throughput(100.0)
    assert throughput.rate(100.0, 300.0).products_per_h == 0.0
    throughput.add(130.0, products=1, pixels=60_000_000)
    rate = throughput.rate(160.0, 300.0)
    assert (rate.products_per_h, rate.megapixels_per_s) == (60.0, 1.0)


def test_the_history_has_a_step_per_minute_the_last_one_last() -> None:
    throughput = Throughput(0.0)
    throughput.add(10.0, products=5, pixels=1_000_000)
    throughput.add(3550.0, products=1, pixels=2_000_000)
    throughput.add(3595.0, products=2, pixels=3_000_000)
    minutes = throughput.minutes(3599.0)
    assert len(minutes) == 60
    assert minutes[-1] == (3, 5.0)
    assert sum(products for products, _ in minutes) == 8
    assert throughput.minutes(7300.0) == [(0, 0.0)] * 60


def test_history_of_weeks_takes_no_more_than_an_hours() -> None:
    throughput = Throughput(0.0)
    for second in range(0, 20_000, 5):
        throughput.add(float(second), pixels=1)
    assert len(throughput._steps) <= 361


def test_pictures_give_way_to_newer_ones() -> None:
    pictures = Quicklooks(most_bytes=100)
    for number in range(1, 8):
        pictures.put(number, bytes(30))
    assert pictures.held_bytes == 90
    assert [number for number in range(1, 8) if number in pictures] == [5, 6, 7]
    pictures.put(8, bytes(500))
    assert pictures.held_bytes == 0
    assert pictures.get(8) is None


def test_a_picture_is_small_and_has_the_classes_colours(csmask_contract: ModelContract) -> None:
    pixels = np.full((1100, 700), 1, np.uint8)
    pixels[:, 350:] = 4
    seen = imagecodecs.png_decode(draw(pixels, coloured(csmask_contract)))
    assert seen.shape == (550, 350, 3)
    assert tuple(seen[10, 10]) == (104, 159, 56)
    assert tuple(seen[10, 340]) == (255, 255, 255)


async def test_a_products_life_is_seen(csmask_contract: ModelContract, tmp_path: Path) -> None:
    board, contract = Board(), coloured(csmask_contract)
    board.state_changed(WorkerState(phase="taking", slots=2, busy=1, queue_waiting=7, queue_age_s=3.0))
    job = job_of(make_message(5, received=2))
    play = Play.of([board], job, contract, tmp_path, 600)
    await play.begin()
    await play.answer(4, in_flight=3)
    job.progress.note = "the queue is full; trying again"
    seen = said(board, {"triton": None})
    (running,) = seen["running"]
    assert running["product"] == product_name()
    assert (running["message"], running["received"], running["state"]) == ("message-5", 2, "streaming")
    assert running["tiles"] == {"total": 9, "read": 7, "in_flight": 3, "done": 4}
    assert running["grid"]["cells"][4:] == "~~~.."
    assert running["note"] == "the queue is full; trying again"
    assert (seen["worker"]["phase"], seen["worker"]["busy"], seen["worker"]["queue_waiting"]) == ("taking", 1, 7)
    assert seen["ready"] == {"triton": None}
    await play.finish(done(12.34))
    board.message_ended(job.message, "done", None, 13.0)
    seen = said(board)
    assert seen["running"] == []
    (result,) = seen["results"]
    assert (result["product"], result["status"], result["seconds"], result["tiles"]) == (
        product_name(),
        "done",
        12.3,
        9,
    )
    assert {c["name"]: c["colour"] for c in result["classes"]}["CLOUD"] == "#ffffff"
    assert result["quicklook"] == f"quicklooks/{result['id']}.png"
    png = board.quicklooks.get(result["id"])
    assert png is not None
    assert imagecodecs.png_decode(png).shape == (72, 72, 3)
    assert seen["totals"] == {"messages": {"done": 1}, "products": {"done": 1}, "retries": {}}
    assert seen["throughput"]["minutes"][-1]["products"] == 1
    board.count_pixels()
    assert said(board)["throughput"]["minutes"][-1]["megapixels"] == pytest.approx(0.36, abs=0.01)


async def test_pixels_of_products_that_fail_or_end_between_two_looks_count_once(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    board = Board()
    for number in range(3):
        play = Play.of([board], job_of(make_message(number)), csmask_contract, tmp_path, 600)
        await play.begin()
        await play.answer(9)
        if number < 2:
            board.count_pixels()
        play.end(JobEnd(status="stopped", seconds=1.0))
        board.count_pixels()
    assert sum(m for _, m in board.throughput.minutes(board.started + 1)) == pytest.approx(3 * 0.36)


async def test_a_picture_that_cannot_be_drawn_is_no_failure_of_the_product(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    board = Board()
    job = job_of(make_message())
    (extra,) = board.job_started(job)
    await extra.begin(make_job(csmask_contract, tmp_path, workers=ThreadPoolExecutor(1)))
    mask = make_finished(quicklook_pixels=np.zeros((0, 0), np.uint8))
    assert list(await extra.finish(replace(mask))) == []
    board.job_ended(job, done())
    assert said(board)["results"][0]["quicklook"] is None


def test_failures_say_what_became_of_the_message() -> None:
    board = Board()
    for number, (error, outcome) in enumerate(
        [(StoreUnavailableError("s3://b/k: 503"), "retry"), (ProductError("damaged"), "poison")]
    ):
        job = job_of(make_message(number))
        board.job_started(job)
        board.job_ended(job, JobEnd(status="failed", seconds=1.0, error=error))
        assert said(board)["failures"][0]["outcome"] is None
        board.message_ended(job.message, outcome, str(error), 1.0)  # type: ignore[arg-type]
    board.message_ended(make_message(7), "poison", "in no known form", 0.1)
    board.message_ended(make_message(8), "released", "SIGTERM", 0.1)
    board.message_ended(make_message(9), "filtered", "too cloudy", 0.1)
    bare, damaged, busy = said(board)["failures"]
    assert (bare["product"], bare["message"], bare["error"], bare["reason"]) == (
        None,
        "message-7",
        None,
        "in no known form",
    )
    assert (damaged["product"], damaged["error"], damaged["outcome"]) == (product_name(), "ProductError", "poison")
    assert (busy["error"], busy["reason"], busy["outcome"]) == ("StoreUnavailableError", "s3://b/k: 503", "retry")


def test_nothing_grows_without_end() -> None:
    board = Board()
    for number in range(500):
        message = make_message(number)
        for count in range(2):
            job = job_of(message, count=count)
            board.job_started(job)
            board.job_ended(
                job, done() if count else JobEnd(status="failed", seconds=1.0, error=ProductError("x" * 5000))
            )
        board.message_ended(message, "retry", "x", 1.0)
        board.retried(f"Cause{number}", "again")
    seen = said(board)
    assert (len(seen["results"]), len(seen["failures"]), len(seen["running"])) == (24, 40, 0)
    assert len(seen["totals"]["retries"]) == 41
    assert seen["totals"]["products"] == {"done": 500, "failed": 500}
    assert len(seen["failures"][0]["reason"]) < 700
    assert len(json.dumps(seen)) < 100_000


def test_no_field_shows_a_secret() -> None:
    secret = "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"
    board = Board(Redaction(known=(secret,)))
    board.state_changed(WorkerState(phase="paused", reason=f"https://u:{secret}@sqs/q?X-Amz-Signature={secret}"))
    job = job_of(make_message(1), location=f"https://{secret}@h/x")
    board.job_started(job)
    job.progress.note = f"token={secret}"
    other = job_of(make_message(2))
    board.job_started(other)
    board.job_ended(
        other, JobEnd(status="failed", seconds=1.0, error=StoreUnavailableError(f"Authorization: Bearer {secret}"))
    )
    board.message_ended(other.message, "retry", f"password={secret}", 1.0)
    board.message_ended(make_message(3), "poison", f"password={secret}", 1.0)
    third = job_of(make_message(4))
    board.job_started(third)
    board.job_ended(third, JobEnd(status="found", seconds=1.0, output=f"https://u:{secret}@h/mask.tif"))
    seen = said(board)
    assert (len(seen["failures"]), len(seen["results"]), len(seen["running"])) == (2, 1, 1)
    assert secret not in json.dumps(seen)
