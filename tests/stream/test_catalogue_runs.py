"""Runs that keep a catalogue, from Python and from the command line: no dead link, however a run ends."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import Masker, mask_product
from kappamask_stream.cli.masking import Masking, Telling, mask_and_report
from kappamask_stream.errors import OutputError
from kappamask_stream.extras import selected
from kappamask_stream.models import ModelChoice
from kappamask_stream.runner import Order
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from tests.stream.polling import until
from tests.stream.scene import coarse_l2a
from tests.stream.test_masker import Pool
from tests.stream.test_runner import Gate, name_of

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

__all__ = ["coarse_l2a"]


@pytest.fixture(autouse=True)
def server(coarse_l2a: ModelContract, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Have every `Masker` and every run use a fake server."""
    monkeypatch.setattr(Pool, "client", Gate(coarse_l2a), raising=False)
    monkeypatch.setattr("kappamask_stream.api.ModelPool", Pool)
    monkeypatch.setattr("kappamask_stream.models.ModelPool", Pool)
    return Pool.client  # type: ignore[return-value]


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("products")
    return [write_product(folder, size=240, seed=seed).product for seed in (1, 2, 3, 4)]


def masking(products: list[Path], output: Path, said: list[str] | None = None, **rest: Any) -> Masking:
    telling = Telling(quiet=True, also=None if said is None else said.append)
    settings = Settings(output=output, products_at_once=1)
    asked: dict[str, Any] = {"order": Order(extras=selected(stac=True)), "telling": telling, **rest}
    return Masking(wheres=[str(path) for path in products], choice=ModelChoice(), settings=settings, **asked)


def dead_links(folder: Path) -> list[str]:
    """Return relative links of all catalogue entries that lead to no file."""
    dead = []
    for path in folder.rglob("*.json"):
        document = json.loads(path.read_bytes())
        hrefs = [part["href"] for part in (*document["links"], *document.get("assets", {}).values())]
        dead += [f"{path}: {h}" for h in hrefs if h.startswith(".") and not (path.parent / h).resolve().is_file()]
    return dead


def linked(folder: Path) -> list[str]:
    """Return the products whose Items the Collection links."""
    links = json.loads((folder / "collection.json").read_bytes())["links"]
    return [link["href"].split("/")[1] for link in links if link["rel"] == "item"]


async def test_python_keeps_the_catalogue_from_the_first_item_on(
    server: Gate, products: list[Path], tmp_path: Path
) -> None:
    server.open.update(map(name_of, products))
    async with Masker() as masker:
        for path in products[:3]:
            await masker.mask(path, output=tmp_path, stac=True, report=True)
            assert dead_links(tmp_path) == []
    assert linked(tmp_path) == sorted(map(name_of, products[:3]))
    assert dead_links(tmp_path) == []


async def test_a_mask_that_lost_its_item_loses_its_link(server: Gate, products: list[Path], tmp_path: Path) -> None:
    server.open.update(map(name_of, products))
    for path in products[:2]:
        await mask_product(path, output=tmp_path, stac=True)
    await mask_product(products[0], output=tmp_path, overwrite=True, dilate=[("CLOUD", 200.0)])
    assert linked(tmp_path) == [name_of(products[1])]
    assert dead_links(tmp_path) == []


async def test_other_outputs_later_on_leave_the_assets_of_earlier_ones(
    server: Gate, products: list[Path], tmp_path: Path
) -> None:
    server.open.add(name_of(products[0]))
    await mask_product(products[0], output=tmp_path, stac=True, png=True, probabilities=True)
    (path,) = tmp_path.glob("S2*/*.json")
    before = json.loads(path.read_bytes())["assets"]
    await mask_product(products[0], output=tmp_path, stac=True, report=True)
    after = json.loads(path.read_bytes())["assets"]
    assert set(after) == {"mask", "quicklook-png", "png", "pgw", "probabilities-tif", "html"}
    assert after["png"] == before["png"]
    assert after["png"]["file:size"] > 0
    await mask_product(products[0], output=tmp_path, stac=True, overwrite=True, dilate=[("CLOUD", 200.0)])
    assert set(json.loads(path.read_bytes())["assets"]) == {"mask", "quicklook-png"}, "they are another mask's"
    assert dead_links(tmp_path) == []


async def test_a_damaged_collection_is_found_before_any_work(
    server: Gate, products: list[Path], tmp_path: Path
) -> None:
    server.open.update(map(name_of, products))
    (tmp_path / "collection.json").write_text('{"type": "Coll')
    with pytest.raises(OutputError, match=r"collection\.json"):
        await mask_product(products[0], output=tmp_path, stac=True)
    with pytest.raises(OutputError, match=r"collection\.json"):
        await mask_and_report(masking(products, tmp_path))
    assert server.asked == set()
    assert (await mask_product(products[0], output=tmp_path)).status == "done", "who wants no Items is not kept"


async def test_a_run_that_is_ended_leaves_a_collection_of_what_is_done(
    server: Gate, products: list[Path], tmp_path: Path
) -> None:
    server.open.update(map(name_of, products[:3]))
    said: list[str] = []
    run = asyncio.create_task(mask_and_report(masking(products, tmp_path, said)))
    await until(lambda: len(said) == 3 and name_of(products[3]) in server.asked)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert linked(tmp_path) == sorted(map(name_of, products[:3]))
    assert dead_links(tmp_path) == []


async def test_fail_fast_leaves_a_collection_of_what_is_done(
    server: Gate, products: list[Path], tmp_path: Path
) -> None:
    server.open.update(map(name_of, products))
    wheres = [*products[:3], tmp_path / "nowhere.SAFE", products[3]]
    results = await mask_and_report(masking(wheres, tmp_path / "masks", fail_fast=True))
    assert [result.status for result in results] == ["done", "done", "done", "failed"]
    assert linked(tmp_path / "masks") == sorted(map(name_of, products[:3]))


async def test_a_catalogue_that_cannot_be_written_is_told_beside_the_results(
    server: Gate, products: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.open.update(map(name_of, products))
    (tmp_path / "models").write_text("in the way")
    said: list[str] = []
    telling = Telling(also=said.append)
    with pytest.raises(OutputError, match="models"):
        await mask_and_report(masking(products, tmp_path, telling=telling))
    assert len(said) == 4
    assert "4 done" in capsys.readouterr().err, "the summary"
    with pytest.raises(OutputError, match="models"):
        await mask_product(products[0], output=tmp_path, stac=True)
    (tmp_path / "models").unlink()
    await mask_and_report(masking(products, tmp_path))
    assert linked(tmp_path) == sorted(map(name_of, products))
