"""Catalogue entry and report as the pipeline makes them: what they say of the files is what lies there."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rasterio

from kappamask_stream.destinations import FolderDestination
from kappamask_stream.inference import BatchSizes
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.pipeline import mask_product
from kappamask_stream.report import ReportExtra
from kappamask_stream.resources import Resources, ServedModel
from kappamask_stream.result import ProductProgress, ProductResult
from kappamask_stream.settings import Settings
from kappamask_stream.stac import StacExtra, publish_catalogue
from tests.stream.naive import Network
from tests.stream.scene import Scene, l2a_scene, small_l2a
from tests.unit.stac_schemas import validate

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import InferResult, TileRequest

__all__ = ["l2a_scene", "small_l2a"]


async def masked(scene: Scene, client: Network, folder: Path) -> ProductResult:
    with Resources(settings=Settings()) as resources:
        return await mask_product(
            await scene.open(),
            ServedModel.of(client, resources.settings.max_in_flight),
            resources,
            MaskOptions(),
            FolderDestination(folder / scene.name),
            ProductProgress(product=scene.name),
            extras=[ReportExtra(), StacExtra()],
        )


def item_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("S2*/*.json")
    return json.loads(path.read_bytes())


async def test_the_item_describes_what_lies_beside_it(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    result = await masked(l2a_scene, Network(small_l2a), tmp_path)
    item = item_of(tmp_path)
    validate(item)
    folder = tmp_path / l2a_scene.name
    assert {asset["href"] for asset in item["assets"].values()} == {
        f"./{path.name}" for path in folder.iterdir() if path.suffix != ".json"
    }
    assert "file:checksum" not in item["assets"].pop("html")
    for asset in item["assets"].values():
        data = (folder / asset["href"]).read_bytes()
        assert asset["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
        assert asset["file:size"] == len(data)
    assert result.output is not None
    with rasterio.open(result.output) as mask:
        assert item["properties"]["proj:shape"] == [mask.height, mask.width]
        assert item["properties"]["proj:transform"] == list(mask.transform)[:6]
        assert item["properties"]["proj:bbox"] == list(mask.bounds)
        assert item["properties"]["proj:code"] == mask.crs.to_string()
        pixels = mask.read(1)
    data = pixels != small_l2a.nodata_class
    cloudy = (pixels == 3) | (pixels == 4)
    assert item["properties"]["eo:cloud_cover"] == pytest.approx(100 * cloudy.sum() / data.sum(), abs=1e-3)
    assert cloudy.any(), "a scene without cloud would prove little"


async def test_the_report_shows_all_stages_and_the_servers_batches(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    class Counting(Network):
        formed = 7  # for others, before

        def answer(self, request: TileRequest) -> InferResult:
            self.formed += 1
            return super().answer(request)

        async def batch_sizes(self) -> BatchSizes:
            return BatchSizes(counts={1: self.formed})

    result = await masked(l2a_scene, Counting(small_l2a), tmp_path)
    (path,) = tmp_path.glob("*/*.html")
    page = path.read_text(encoding="utf-8")
    stages = set(re.findall(r'aria-label="(\w+): busy from', page))
    assert stages == set(result.stages) >= {"index", "infer", "mosaic", "close"}
    assert result.batch_sizes == BatchSizes(counts={1: result.tiles_inferred})
    assert f"{result.tiles_inferred} of 1 tiles, for all clients" in page
    assert f"{l2a_scene.name}.SAFE" in page
    assert str(l2a_scene.path.parent) not in page


async def test_the_same_product_gives_the_same_item(l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path) -> None:
    """To the byte, though the report beside it tells another time."""
    items = []
    for name in ("one", "two"):
        await masked(l2a_scene, Network(small_l2a), tmp_path / name)
        (path,) = (tmp_path / name).glob("S2*/*.json")
        items.append(path.read_bytes())
    assert items[0] == items[1]


async def test_a_product_is_done_only_with_item_and_report(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    assert (await masked(l2a_scene, Network(small_l2a), tmp_path)).status == "done"
    assert (await masked(l2a_scene, Network(small_l2a), tmp_path)).status == "skipped"
    for suffix in ("html", "json"):
        (path,) = tmp_path.glob(f"*/*.{suffix}")
        path.unlink()
        assert (await masked(l2a_scene, Network(small_l2a), tmp_path)).status == "done"
        assert path.is_file()


async def test_a_collection_leads_to_all_items(l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path) -> None:
    result = await masked(l2a_scene, Network(small_l2a), tmp_path)
    root = FolderDestination(tmp_path)
    item = f"{result.product}/{Path(str(result.output)).stem}.json"
    await publish_catalogue(root, [small_l2a], {item: await root.read(item)})
    document = json.loads((tmp_path / "collection.json").read_bytes())
    validate(document)
    for link in [*document["links"], *item_of(tmp_path)["links"]]:
        if link["href"].startswith("."):
            base = tmp_path / l2a_scene.name if link["href"].startswith("../") else tmp_path
            assert (base / link["href"]).is_file(), link


async def test_a_cancelled_product_leaves_no_page_and_no_item(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    """Cancelled while the page is written: after all tiles, before anything has its name."""
    reached = asyncio.Event()

    class Held(ReportExtra):
        async def finish(self, mask: Any) -> Any:
            await super().finish(mask)
            reached.set()
            await asyncio.Event().wait()

    with Resources(settings=Settings()) as resources:
        work = asyncio.create_task(
            mask_product(
                await l2a_scene.open(),
                ServedModel.of(Network(small_l2a)),
                resources,
                MaskOptions(),
                FolderDestination(tmp_path / "P"),
                ProductProgress(product="P"),
                extras=[Held(), StacExtra()],
            )
        )
        await reached.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert list(tmp_path.rglob("*")) == []
