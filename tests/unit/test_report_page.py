"""The page: complete, self-contained, and deaf to hostile names."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import shapely
from rasterio.crs import CRS

from kappamask_stream.aoi import AreaOfInterest
from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import OutputFile
from kappamask_stream.extras import TileAnswer
from kappamask_stream.grid import Window
from kappamask_stream.inference import BatchSizes
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.report import ReportExtra
from tests.unit.mask_jobs import make_finished, make_job

HOSTILE = "<script>alert(1)</script>\"'>&\u202e{{ 7*7 }}"


class Reader(HTMLParser):
    """Elements with their attributes, texts, and what was never closed."""

    VOID = frozenset({"meta", "img", "input", "link", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


async def written(contract: ModelContract, folder: Path, finished: dict[str, Any] | None = None, **job: Any) -> str:
    made = make_job(contract, folder, **job)
    extra = ReportExtra()
    await extra.begin(made)
    rng = np.random.default_rng(0)
    for tile in made.grid:
        if made.frame.inside(tile.core).is_empty:
            continue
        size = contract.tile_size
        await extra.add_tile(
            TileAnswer(
                tile=tile,
                tensors={
                    g.tensor: rng.integers(1100, 4000, (len(g.bands), g.tile, g.tile), np.uint16)
                    for g in contract.inputs
                },
                labels=np.ones((size, size), np.uint8),
                probabilities=rng.integers(0, 256, (3, size, size), np.uint8),
            )
        )
    (file,) = await extra.finish(make_finished(**(finished or {})))
    await extra.aclose()
    assert (file.name, file.media_type) == (f"{made.stem}.html", "text/html; charset=utf-8")
    assert list(extra.file_names(made)) == [file.name]
    return b"".join(file.content).decode()


async def test_a_page_is_well_formed_and_needs_nothing_else(csmask_contract: ModelContract, tmp_path: Path) -> None:
    page = await written(csmask_contract, tmp_path)
    read = Reader(page)
    assert read.open == []
    for _, attributes in read.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "@import" not in page
    assert not re.search(r"url\((?!data:)", page)
    assert not read.named("link")


async def test_only_its_own_script_may_run(csmask_contract: ModelContract, tmp_path: Path) -> None:
    page = await written(csmask_contract, tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m["content"] for m in Reader(page).named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.search(r"<[^>]+\son[a-z]+=", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))


async def test_hostile_names_are_text(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """Of classes, weights, files, remarks, stages: all of them come from outside."""
    classes = tuple(replace(c, name=f"{c.value}{HOSTILE}") for c in csmask_contract.classes)
    hostile = replace(csmask_contract, classes=classes, weights_source=HOSTILE, architecture=HOSTILE)
    shares = {c.name: 1 / 6 for c in classes}
    files = [OutputFile(name=f"prediction/{HOSTILE}", content=[b"x"], media_type=HOSTILE)]
    finished = make_finished()
    timeline = replace(finished.timeline, spans={HOSTILE: [(0.0, 1.0)]})
    rest = {"classes": shares, "files": files, "timeline": timeline}
    page = await written(hostile, tmp_path, rest, notes=(HOSTILE,), satellite=HOSTILE, baseline=HOSTILE)
    read = Reader(page)
    assert read.open == []
    assert len(read.named("script")) == 1
    assert "alert(1)</script>" not in page.replace("&lt;/script&gt;", "")
    assert sum(HOSTILE.lower() in text.lower() for text in read.texts) >= 8
    assert not [name for _, attributes in read.elements for name in attributes if not re.fullmatch(r"[a-z-]+|viewbox|preserveaspectratio", name)]  # fmt: skip


async def test_pictures_are_there(csmask_contract: ModelContract, tmp_path: Path) -> None:
    read = Reader(await written(csmask_contract, tmp_path))
    scene, mask = (base64.b64decode((image["src"] or "").partition(",")[2]) for image in read.named("img"))
    assert imagecodecs.jpeg_decode(scene).shape == (600, 600, 3)
    assert imagecodecs.png_decode(mask).shape == (60, 60, 3)
    assert all(image["alt"] for image in read.named("img"))


async def test_controls_have_labels(csmask_contract: ModelContract, tmp_path: Path) -> None:
    read = Reader(await written(csmask_contract, tmp_path))
    labelled = {label["for"] for label in read.named("label")}
    assert {control["id"] for control in read.named("input")} == labelled == {"swipe", "opacity"}
    identifiers = {attributes["id"] for _, attributes in read.elements if "id" in attributes}
    for section in read.named("section"):
        assert section["aria-labelledby"] in identifiers
    assert all(chart.get("aria-label") for chart in read.named("svg"))


async def test_a_part_of_an_image(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """The mask's overview may end beyond the frame: its picture is as much larger."""
    window = Window(100, 200, 301, 211)
    pixels = np.full((76, 53), 1, np.uint8)  # a quarter, rounded up
    read = Reader(await written(csmask_contract, tmp_path, {"quicklook_pixels": pixels}, window=window))
    (stage,) = [a for tag, a in read.elements if a.get("id") == "stage"]
    assert stage["style"] == "--rows: 301; --cols: 211"
    scene, mask = read.named("img")
    assert scene["style"] == "width: 100.0%; height: 100.0%"
    assert mask["style"] == f"width: {100 * 212 / 211:.3f}%; height: {100 * 304 / 301:.3f}%"


async def test_provenance_and_files_are_told(csmask_contract: ModelContract, tmp_path: Path) -> None:
    options = MaskOptions(radiometry="corrected", mosaic="blend", dilate=(("CLOUD", 200.0),))
    asked = {"options": options, "resampled": ("B11 of 60 m instead of 20 m",)}
    text = " ".join(Reader(await written(csmask_contract, tmp_path, **asked)).texts)
    job = make_job(csmask_contract, tmp_path, **asked)
    for said in (
        job.product.name, "04.00", "−1000 DN", "test_l2a", "ab" * 32, job.tags["FINGERPRINT"], "CLOUD by 200 m", "B11 of 60 m instead",  # noqa: RUF001
        hashlib.sha256(b"II*\0the mask").hexdigest(), f"{job.stem}.tif", "12.3\u202fMB", "37.5\u202f%",
    ):  # fmt: skip
        assert said in text


class Labelled:
    """A source that is known by its label only."""

    def __init__(self, label: str) -> None:
        self.label = label


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("/home/somebody/masks in/X.SAFE", "X.SAFE"),
        ("../X.zip", "X.zip"),
        ("https://user:password@host/item.json?sig=SECRET#x", "https://host/item.json"),
        ("s3://eodata/Sentinel-2/X.SAFE", "s3://eodata/Sentinel-2/X.SAFE"),
    ],
)
async def test_where_a_scene_was_read_is_told_without_secrets_and_folders(
    csmask_contract: ModelContract, tmp_path: Path, label: str, shown: str
) -> None:
    page = await written(csmask_contract, tmp_path, source=Labelled(label))
    texts = Reader(page).texts
    assert texts[texts.index("Read from") + 1] == shown
    for hidden in ("somebody", "password", "SECRET"):
        assert hidden not in page


def area(*lonlat: tuple[float, float]) -> AreaOfInterest:
    return AreaOfInterest(geometry=shapely.Polygon(lonlat), crs=CRS.from_epsg(4326))


async def test_an_area_of_interest_is_told_with_its_coordinates(csmask_contract: ModelContract, tmp_path: Path) -> None:
    small = area((-9.0, 55.0), (-8.9, 55.0), (-8.9, 54.96))
    read = Reader(await written(csmask_contract, tmp_path, options=MaskOptions(aoi=small)))
    text = " ".join(" ".join(read.texts).split())
    assert "POLYGON ((-9 55, -8.9 55, -8.9 54.96, -9 55)) in EPSG:4326" in text
    assert "none of the shares counts those pixels" in text
    assert "area of interest’s pixels that hold data" in text  # noqa: RUF001 - as people read it
    assert "Share of the pixels in the area of interest" in text
    assert "Share of all pixels" not in text


async def test_of_an_area_of_many_vertices_its_place_is_told(csmask_contract: ModelContract, tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    circle = area(*zip(-8.95 + 0.05 * np.cos(angles), 54.97 + 0.02 * np.sin(angles), strict=True))
    page = await written(csmask_contract, tmp_path, options=MaskOptions(aoi=circle))
    assert "5\u202f001 vertices within -9 to -8.9, 54.95 to 54.99 in EPSG:4326" in page
    assert len(page) < len(await written(csmask_contract, tmp_path)) + 2000


async def test_confidence_is_told_to_be_the_networks_where_classes_grew(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    grown = MaskOptions(dilate=(("CLOUD", 200.0), ("CLOUD_SHADOW", 100.0)))
    assert "before Cloud and Cloud shadow grew" in await written(csmask_contract, tmp_path, options=grown)
    assert " grew" not in await written(csmask_contract, tmp_path)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (BatchSizes(counts={1: 2, 8: 1234}), "2 of 1, 1\u202f234 of 8 tiles, for all clients"),
        (BatchSizes(counts={}), "none while this product was in work"),
        (BatchSizes(reason="statistics are <restricted>"), "not known: statistics are <restricted>"),
        (None, "not known"),
    ],
)
async def test_how_the_server_ran_is_told(
    csmask_contract: ModelContract, tmp_path: Path, batches: BatchSizes | None, said: str
) -> None:
    served = replace(csmask_contract, max_batch=16, instances=3)
    texts = Reader(await written(served, tmp_path, {"batch_sizes": batches})).texts
    assert "3 instances, in batches of up to 16" in texts
    assert said in "".join(texts)


@pytest.mark.parametrize("shares", [{"MISSING": 1.0}, {}])
async def test_a_product_without_data(csmask_contract: ModelContract, tmp_path: Path, shares: dict[str, float]) -> None:
    made = make_job(csmask_contract, tmp_path)
    extra = ReportExtra()
    await extra.begin(made)
    for tile in made.grid:
        await extra.add_tile(TileAnswer(tile=tile))
    finished = make_finished(classes=shares, tiles_inferred=0)
    (file,) = await extra.finish(replace(finished, timeline=replace(finished.timeline, spans={}, seconds=0.0)))
    read = Reader(b"".join(file.content).decode())
    assert "No pixel came with probabilities." in read.texts
    assert "0.0\u202f%" in read.texts
