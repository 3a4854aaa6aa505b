"""The status page in a real browser: it fills up while a worker works, fits a phone, and asks nobody else for anything.

Screenshots are written to the folder that KAPPAMASK_SCREENSHOTS names, else to pytest's own.
"""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.errors import ProductError, StoreUnavailableError
from kappamask_stream.monitor import Monitor
from kappamask_stream.worker.types import JobEnd, WorkerState
from tests.integration.chromium import Page, find_chromium, open_page
from tests.stream.polling import DEADLINE_S
from tests.unit.monitor_scene import Play, coloured, done, job_of, make_message, product_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kappamask_stream.contract import ModelContract

ATTACK = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
CLEAR, CLOUD = [104, 159, 56], [255, 255, 255]
#: 23 x 23 tiles, as a whole product has.
SIZE = 4692

#: Elements whose text has less contrast with what is behind it than WCAG's level AA asks for.
FAINT = """(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
  return [...document.querySelectorAll('body *:not(script):not(style)')].filter((e) => {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length) return false;
    const [a, b] = [light(numbers(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map((e) => e.outerHTML.slice(0, 120)); })()"""
WIDE = (
    "[...document.querySelectorAll('body *:not(.visually-hidden)')].filter(e => {"
    "const b = e.getBoundingClientRect(); return b.width && (b.right > innerWidth + 1 || b.left < -1); })"
    ".map(e => e.outerHTML.slice(0, 120))"
)


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    find_chromium()

    async def probe() -> dict[str, str | None]:
        return {"triton": None, "queue": "https://sqs.example/q does not answer"}

    async with Monitor("127.0.0.1:0", probe=probe, model="kappamask_l2a_deeplabv3plus") as opened:
        yield opened


@pytest.fixture
async def page(tmp_path: Path, monitor: Monitor) -> AsyncIterator[Page]:
    async with open_page(tmp_path / "profile") as opened:
        yield opened


def tell(monitor: Monitor, **state: Any) -> None:
    for observer in monitor.observers:
        observer.state_changed(WorkerState(**state))


async def open_status(page: Page, monitor: Monitor, *, width: int = 1280, height: int = 900, **rest: Any) -> None:
    assert monitor.url is not None
    await page.open(monitor.url, width=width, height=height, **rest)
    await shows(page, "document.getElementById('phase-text').textContent !== 'Connecting'")


async def shows(page: Page, condition: str) -> None:
    """Wait until the page, which looks each second, shows something."""
    async with asyncio.timeout(DEADLINE_S):
        while not await page.run(f"Boolean({condition})"):  # noqa: ASYNC110 - a page gives no event
            await asyncio.sleep(0.05)


def text_of(selector: str) -> str:
    return f"(document.querySelector('{selector}')?.innerText ?? '')"


async def screenshot(page: Page, tmp_path: Path, name: str) -> None:
    folder = Path(os.environ.get("KAPPAMASK_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    await page.run(
        "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode(); })).then(() => 1)"
    )
    await page.screenshot(folder / f"status-{name}.png")


async def cell(page: Page, play: Play, index: int) -> list[int]:
    """Return the colour in which a tile is drawn, off its centre, where there may be a dot."""
    grid = play.mask_job.grid
    row, col = divmod(index, grid.cols)
    at = f"Math.floor(c.width / {grid.cols + 2} * {col + 1.2}), Math.floor(c.height / {grid.rows + 2} * {row + 1.2})"
    script = f"(() => {{ const c = document.querySelector('canvas'); return [...c.getContext('2d').getImageData({at}, 1, 1).data]; }})()"
    return (await page.run(script))[:3]


def requests_elsewhere(page: Page, monitor: Monitor) -> list[str]:
    assert monitor.url is not None
    return [url for url in page.requests if not url.startswith((monitor.url, "data:"))]


async def test_a_product_fills_up_and_becomes_a_mask(
    page: Page, monitor: Monitor, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    tell(monitor, phase="taking", slots=4, busy=1, queue_waiting=1240, queue_in_work=1, queue_age_s=185.0, pending=37.0)
    job = job_of(make_message(1, received=2))
    play = Play.of(monitor.observers, job, coloured(csmask_contract), tmp_path, SIZE)
    await play.begin()
    await open_status(page, monitor)
    await shows(page, f"{text_of('.job .numbers')}.includes('0 of 529 tiles')")
    first_clear, first_cloud = (int((play.classes == value).argmax()) for value in (1, 4))
    unread = await cell(page, play, first_clear)
    assert unread not in (CLEAR, CLOUD)

    await play.answer(320, in_flight=9)
    job.progress.note = "the queue is full; trying again"
    await shows(page, f"{text_of('.job .numbers')}.includes('320 of 529 tiles')")
    assert await cell(page, play, first_clear) == CLEAR
    assert await cell(page, play, first_cloud) == CLOUD
    assert await cell(page, play, 528) == unread
    assert "9 in flight" in await page.run(text_of(".job .numbers"))
    assert await page.run("document.querySelector('.job progress').value") == 320
    lines = await page.run("[...document.querySelectorAll('.job .legend li')].map(e => e.innerText)")
    legend = dict(line.rsplit("\n", 1) for line in lines)
    answered = play.classes[:320]
    names = {1: "Clear", 2: "Cloud shadow", 3: "Semi-transparent cloud", 4: "Cloud", 5: "No data"}
    expected = {name: int(sum(answered == value)) for value, name in names.items()}
    assert {name: int(count) for name, count in legend.items()} == {name: n for name, n in expected.items() if n}
    assert f"Cloud {sum(answered == 4)}" in await page.run(
        "document.querySelector('canvas').getAttribute('aria-label')"
    )
    assert await page.run(text_of(".job .note")) == "Delivery 2 of this message. the queue is full; trying again"
    figures = await page.run(text_of("#figures"))
    assert "1\u202f240" in figures
    assert "3\u202fmin 05\u202fs" in figures
    assert "1 of 4" in figures

    await play.finish(done(41.3))
    for observer in monitor.observers:
        observer.message_ended(job.message, "done", None, 42.0)
    await shows(page, "document.querySelectorAll('.result').length === 1 && !document.querySelector('.job')")
    await shows(page, "document.querySelector('.result img').naturalWidth > 0")
    card = await page.run(text_of(".result"))
    assert "29UNU" in card
    assert "Clear 55\u202f%, Cloud 30\u202f%" in card
    assert "s3://masks/P/P.tif" in card
    await page.run("document.querySelector('.result').dataset.mark = 'mine'")
    other = job_of(make_message(2), product_name(7))
    for observer in monitor.observers:
        observer.job_started(other)
        observer.job_ended(other, JobEnd(status="found", seconds=0.1, output="s3://masks/Q/Q.tif"))
    await shows(page, "document.querySelectorAll('.result').length === 2")
    assert await page.run("[...document.querySelectorAll('.result')].map(e => e.dataset.mark ?? '')") == ["", "mine"]
    assert len([url for url in page.requests if url.endswith(".png")]) == 1
    assert await page.run("document.getElementById('news').textContent") == "1 more done"
    assert [said for said in page.messages if "getImageData" not in said] == []  # that is this test's own doing
    assert requests_elsewhere(page, monitor) == []


async def test_failures_pauses_and_silence_are_said(
    page: Page, monitor: Monitor, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    tell(monitor, phase="paused", reason="20 messages in a row could not be done")
    for number, (error, outcome) in enumerate(
        [(StoreUnavailableError("s3://b/k: 503"), "retry"), (ProductError("MTD_MSIL2A.xml is missing"), "poison")]
    ):
        job = job_of(make_message(number))
        for observer in monitor.observers:
            observer.job_started(job)
            observer.job_ended(job, JobEnd(status="failed", seconds=1.0, error=error))
            if number:
                observer.message_ended(job.message, outcome, str(error), 1.0)  # type: ignore[arg-type]
    await open_status(page, monitor)
    await shows(page, "document.querySelectorAll('.failures li').length === 2")
    first, second = await page.run("[...document.querySelectorAll('.failures li')].map(e => e.innerText)")
    for said in ("ProductError", "MTD_MSIL2A.xml is missing", product_name(), "dead-letter queue"):
        assert said in first
    assert "being settled" in second
    assert await page.run(text_of("#reason")) == "Paused: 20 messages in a row could not be done"
    assert await page.run(text_of("#phase")) == "Paused"
    assert await page.run(text_of("#parts")) == "Triton answers\nQueue: https://sqs.example/q does not answer"
    for observer in monitor.observers:
        observer.message_ended(make_message(0), "retry", "503", 1.0)
    await shows(page, f"{text_of('.failures li:nth-child(2)')}.includes('comes back later')")
    tell(monitor, phase="taking")
    await shows(page, "document.getElementById('reason').hidden")
    assert page.messages == []
    await monitor.__aexit__()
    await shows(page, f"{text_of('#silence')}.startsWith('The worker has not answered since')")
    assert await page.run(text_of("#phase")) == "No answer"


async def test_a_busy_page_fits_and_can_be_read(
    page: Page, monitor: Monitor, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    await busy(monitor, coloured(csmask_contract), tmp_path)
    for name, width, height, touch, dark in (
        ("desk", 1280, 900, False, False), ("dark", 1280, 900, False, True), ("phone", 360, 740, True, False),
        ("narrow", 320, 640, True, True),
    ):  # fmt: skip
        await open_status(page, monitor, width=width, height=height, touch=touch, dark=dark)
        await shows(page, "document.querySelectorAll('.result').length === 4")
        await screenshot(page, tmp_path, name)
        assert await page.run("document.documentElement.scrollWidth") == width
        assert await page.run(WIDE) == []
        assert await page.run(FAINT) == []
        paper = await page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in paper[4:-1].split(",")) < 3 * 128) == dark
    levels = await page.run("[...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert await page.run("[...document.images].every(i => i.alt.startsWith('Mask of S2A_'))")
    assert page.messages == []
    assert requests_elsewhere(page, monitor) == []


async def busy(monitor: Monitor, contract: ModelContract, folder: Path) -> None:
    """Everything that the page can show, at once."""
    tell(
        monitor,
        phase="draining",
        reason="SIGTERM: 87 s are left",
        slots=4,
        busy=3,
        queue_waiting=123_456,
        queue_age_s=4e5,
    )
    tiles = ("29UNU", "46RER", "33TWN", "10SEG", "36VUM", "55HBU")
    for number, tile in enumerate(tiles):
        message = make_message(number)
        play = Play.of(monitor.observers, job_of(message, product_name(number, tile)), contract, folder, SIZE)
        await play.begin()
        if number < 4:
            await play.finish(done(41.3 + number, retries=number, output="s3://masks/x/x.tif"))
        else:
            await play.answer(100 * number, in_flight=16)
    play.job.progress.note = (
        "tile at row 3, column 7: the queue of grpc://triton-with-a-rather-long-name.svc:8001 is full; trying again"
    )
    waiting = job_of(make_message(8, received=3), product_name(8))
    for observer in monitor.observers:
        observer.job_started(waiting)
        observer.message_ended(make_message(20), "poison", f"in no known form: {'x' * 300}", 1.0)
        observer.message_ended(make_message(21), "lost", "the queue did not answer", 1.0)
        for cause in ("ServerOverloadedError", "SlowDown"):
            observer.retried(cause, "again")


async def test_strangers_texts_stay_texts_and_motion_can_be_turned_off(
    page: Page, monitor: Monitor, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    tell(monitor, phase="taking", reason=ATTACK)
    job = job_of(make_message(1, id=ATTACK))
    play = Play.of(monitor.observers, job, coloured(csmask_contract), tmp_path, 600)
    await play.begin()
    job.progress.note = ATTACK
    failed = job_of(make_message(2, id=f"2{ATTACK}"))
    for observer in monitor.observers:
        observer.job_started(failed)
        observer.job_ended(failed, JobEnd(status="failed", seconds=1.0, error=ProductError(ATTACK)))
        observer.message_ended(make_message(3, id=f"3{ATTACK}"), "poison", ATTACK, 1.0)
        observer.retried(ATTACK, ATTACK)
    other = job_of(make_message(4))
    for observer in monitor.observers:
        observer.job_started(other)
        observer.job_ended(other, JobEnd(status="found", seconds=1.0, output=f"s3://b/{ATTACK}"))
    await open_status(page, monitor)
    await shows(page, "document.querySelectorAll('.failures li').length === 2")
    assert await page.run("document.title.endsWith('kappamask-stream')")
    seen = await page.run("document.body.innerText")
    assert seen.count("<script>document.title='owned'</script>") == 7
    assert await page.run("document.querySelectorAll('main img, main script').length") == 0
    assert page.messages == []

    assert await page.run("document.getAnimations().length") > 0
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert await page.run("document.getAnimations().length") == 0
    # Even where a text slipped through as markup the page's policy would stop it.
    await page.run(f"document.querySelector('main').insertAdjacentHTML('beforeend', {ATTACK!r}), 1")
    await shows(page, "document.querySelector('main img')")
    assert await page.run("document.title.endsWith('kappamask-stream')")
