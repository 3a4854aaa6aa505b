"""The report in a real browser: it fits a desk and a phone, its controls work, it asks nobody for anything.

Screenshots are written to the folder that KAPPAMASK_SCREENSHOTS names, else to pytest's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import shapely
from rasterio.crs import CRS

from kappamask_stream.aoi import AreaOfInterest
from kappamask_stream.destinations import OutputFile
from kappamask_stream.extras import TileAnswer
from kappamask_stream.grid import Window
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.report import ReportExtra
from kappamask_stream.result import Timeline
from tests.integration.chromium import Page, find_chromium, open_page
from tests.unit.mask_jobs import make_finished, make_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract

ARROW_LEFT, ARROW_RIGHT, HOME, END = 37, 39, 36, 35
#: Grey of the scene, and the colour of the only class of the mask, as the page shows them.
SCENE, MASK = (129, 129, 129), (160, 120, 80)
#: A long name, as all are that people really have.
NAME = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"


@pytest.fixture
async def report(csmask_contract: ModelContract, tmp_path: Path) -> Path:
    return await written(csmask_contract, tmp_path)


async def written(csmask_contract: ModelContract, tmp_path: Path, **asked: Any) -> Path:
    """A page whose scene is grey all over and whose mask is cloud all over: what is seen tells which it is."""
    job = make_job(csmask_contract, tmp_path, **asked)
    frame = job.frame
    extra = ReportExtra()
    await extra.begin(job)
    size = csmask_contract.tile_size
    rng = np.random.default_rng(0)
    for tile in job.grid:
        tensors = {g.tensor: np.full((len(g.bands), g.tile, g.tile), 1880, np.uint16) for g in csmask_contract.inputs}
        likely = rng.integers(60, 256, (3, size, size), np.uint8)
        labels = np.full((size, size), 4, np.uint8)
        await extra.add_tile(TileAnswer(tile=tile, tensors=tensors, labels=labels, probabilities=likely))
    spans = {name: [(n + i / 9, n + 0.4 + i / 9) for i in range(20)] for n, name in enumerate(("read", "infer"))}
    files = [OutputFile(name=f"{job.stem}_quicklook.png", content=[b"x"], media_type="image/png")]
    (file,) = await extra.finish(
        make_finished(
            quicklook_pixels=np.full((-(-frame.height // 2), -(-frame.width // 2)), 4, np.uint8),
            timeline=Timeline(spans=spans, seconds=4.0),
            files=files,
        )
    )
    path = tmp_path / file.name
    path.write_bytes(b"".join(file.content))
    return path


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    find_chromium()
    async with open_page(tmp_path / "profile") as opened:
        yield opened


def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("KAPPAMASK_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def looks(page: Page, tmp_path: Path) -> NDArray[np.uint8]:
    """Return what the picture shows now, uint8 ``[height, width, 3]``."""
    box = await page.box("#stage")
    shot = tmp_path / "look.png"
    await page.screenshot(shot, whole=False)
    seen = imagecodecs.png_decode(shot.read_bytes())[..., :3]
    top, left = max(0, round(box["y"])), round(box["x"])
    return seen[top : round(box["y"] + box["height"]), left : round(box["x"] + box["width"])]


def is_colour(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    """JPEG and rounded corners leave a little."""
    return bool(np.abs(pixels.reshape(-1, 3).astype(int) - colour).max() <= 3)


def quarter(seen: NDArray[np.uint8], where: float) -> NDArray[np.uint8]:
    """Some pixels at a share of the width, away from labels, corners and the handle."""
    row, col = seen.shape[0] // 4, int(seen.shape[1] * where)
    return seen[row - 3 : row + 3, col - 3 : col + 3]


@pytest.mark.parametrize(
    ("name", "width", "height", "touch", "dark"),
    [
        ("desk", 1280, 900, False, False),
        ("phone", 360, 740, True, False),
        ("dark", 1280, 900, False, True),
        ("narrow", 320, 640, True, True),
    ],
)
async def test_a_report_fits(
    report: Path,
    page: Page,
    tmp_path: Path,
    name: str,
    width: int,
    height: int,
    touch: bool,  # noqa: FBT001 - parameters of a test
    dark: bool,  # noqa: FBT001
) -> None:
    await page.open(report, width=width, height=height, touch=touch, dark=dark)
    await page.screenshot(screenshots(tmp_path) / f"report-{name}.png")
    assert await page.run("document.documentElement.scrollWidth") == width
    wide = await page.run(
        "[...document.querySelectorAll('body *:not(.visually-hidden)')].filter(e => {"
        "const b = e.getBoundingClientRect(); return b.width && (b.right > innerWidth + 1 || b.left < -1)"
        "&& !e.closest('.stage, .visually-hidden'); }).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    paper = await page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper[4:-1].split(",")) < 3 * 128) == dark
    assert page.messages == []
    assert [url for url in page.requests if not url.startswith(("data:", report.as_uri()))] == []


@pytest.mark.parametrize(
    ("name", "window"),
    [("portrait", Window(0, 100, 600, 200)), ("sliver", Window(0, 100, 400, 20)), ("wide", Window(100, 0, 20, 400))],
)
async def test_an_area_of_any_shape_is_seen_whole(
    csmask_contract: ModelContract, page: Page, tmp_path: Path, name: str, window: Window
) -> None:
    """Scene, mask and slider together on one screen, the picture undistorted, its halves where the slider says."""
    corner = (499980.0, 6100020.0)
    area = shapely.box(
        corner[0] + window.col * 20, corner[1] - window.row_end * 20,
        corner[0] + window.col_end * 20, corner[1] - window.row * 20,
    )  # fmt: skip
    options = MaskOptions(aoi=AreaOfInterest(geometry=area, crs=CRS.from_epsg(32629)))
    report = await written(csmask_contract, tmp_path, window=window, options=options)
    for device, width, height in (("desk", 1280, 900), ("phone", 360, 740)):
        await page.open(report, width=width, height=height, touch=device == "phone")
        await page.screenshot(screenshots(tmp_path) / f"area-{name}-{device}.png")
        assert await page.run("document.documentElement.scrollWidth") == width
        box = await page.box("#stage")
        assert box["height"] <= 0.8 * height + 1
        assert box["width"] / box["height"] == pytest.approx(window.width / window.height, rel=0.02)
        seen = await looks(page, tmp_path)
        if name == "portrait":
            assert is_colour(quarter(seen, 0.25), SCENE)
            assert is_colour(quarter(seen, 0.75), MASK)
        assert page.messages == []


async def test_the_mouse_moves_the_mask(report: Path, page: Page, tmp_path: Path) -> None:
    await page.open(report, width=1280, height=900)
    seen = await looks(page, tmp_path)
    assert is_colour(quarter(seen, 0.25), SCENE)
    assert is_colour(quarter(seen, 0.75), MASK)
    box = await page.box("#stage")
    row = box["y"] + box["height"] * 0.6
    await page.drag((box["x"] + box["width"] * 0.5, row), (box["x"] + box["width"] * 0.1, row))
    assert is_colour(quarter(await looks(page, tmp_path), 0.25), MASK)
    assert float(await page.run("document.getElementById('swipe').value")) == pytest.approx(10, abs=1)


async def test_a_finger_moves_the_mask(report: Path, page: Page, tmp_path: Path) -> None:
    await page.open(report, width=360, height=740, touch=True)
    box = await page.box("#stage")
    row = box["y"] + box["height"] * 0.6
    await page.swipe((box["x"] + box["width"] * 0.5, row), (box["x"] + box["width"] * 0.9, row))
    seen = await looks(page, tmp_path)
    assert is_colour(quarter(seen, 0.75), SCENE)
    assert float(await page.run("document.getElementById('swipe').value")) == pytest.approx(90, abs=2)


async def test_keys_move_the_mask(report: Path, page: Page, tmp_path: Path) -> None:
    await page.open(report, width=1280, height=900)
    await page.run("document.getElementById('swipe').focus()")
    await page.press("End", END)
    assert is_colour(quarter(await looks(page, tmp_path), 0.75), SCENE)
    await page.press("Home", HOME)
    await page.press("ArrowRight", ARROW_RIGHT)
    assert is_colour(quarter(await looks(page, tmp_path), 0.25), MASK)
    assert await page.run("document.getElementById('swipe').value") == "0.5"


async def test_the_sliders_take_the_mouse(report: Path, page: Page, tmp_path: Path) -> None:
    """Dragged to its left end, opacity shows the scene alone."""
    await page.open(report, width=1280, height=900)
    box = await page.box("#opacity")
    row = box["y"] + box["height"] / 2
    await page.drag((box["x"] + box["width"] - 8, row), (box["x"] - 20, row))
    assert await page.run("document.getElementById('opacity').value") == "0"
    seen = await looks(page, tmp_path)
    assert is_colour(quarter(seen, 0.25), SCENE)
    assert is_colour(quarter(seen, 0.75), SCENE)


async def test_names_cannot_run_scripts(csmask_contract: ModelContract, page: Page, tmp_path: Path) -> None:
    """Even where a text slipped through unescaped the page's policy would stop it; this one does not slip through."""
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    job = make_job(csmask_contract, tmp_path, notes=(attack,))
    extra = ReportExtra()
    await extra.begin(job)
    (file,) = await extra.finish(make_finished())
    path = tmp_path / "attack.html"
    path.write_bytes(b"".join(file.content))
    await page.open(path, width=1280, height=900)
    assert await page.run("document.title") == f"Cloud mask of {NAME}"
    assert await page.run(f"document.body.innerText.includes({attack!r})")
    assert page.messages == []
    broken = tmp_path / "broken.html"
    broken.write_text(path.read_text().replace("</main>", f"{attack}</main>"))
    await page.open(broken, width=1280, height=900)
    assert await page.run("document.title") == f"Cloud mask of {NAME}"
    assert page.messages != []  # the policy speaks of what it refused
