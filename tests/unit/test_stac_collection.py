"""The Collection: valid, grown without loss in whatever order, written to a folder."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import FolderDestination
from kappamask_stream.errors import OutputError
from kappamask_stream.stac import COLLECTION_FILE, ItemEntry, collection, mask_item, merged, publish_catalogue
from tests.unit.mask_jobs import SHARES, make_job
from tests.unit.stac_schemas import validate


def entry(name: str, bbox: tuple[float, float, float, float], day: str, cover: float = 10.0) -> ItemEntry:
    summaries = {"platform": "sentinel-2a", "gsd": 20, "processing:level": "L2A", "eo:cloud_cover": cover}
    return ItemEntry(href=f"./{name}/x.json", title=name, bbox=bbox, datetime=day, summaries=summaries)


ITEMS = [
    entry("A", (10.0, 50.0, 11.0, 51.0), "2022-10-05T11:54:11Z", 40.0),
    entry("B", (-3.0, 40.0, -2.0, 41.0), "2023-01-01T00:00:00Z", 5.5),
    entry("C", (12.0, -10.0, 13.0, -9.0), "2021-01-01T00:00:00Z", 99.0),
]


def test_a_collection_is_valid(csmask_contract: ModelContract, l1c_csmask_contract: ModelContract) -> None:
    for document in (
        collection([csmask_contract]),
        collection([csmask_contract, l1c_csmask_contract], ITEMS),
        merged(collection([csmask_contract], ITEMS[:1]), collection([l1c_csmask_contract], ITEMS[1:])),
    ):
        assert {identifier.split("/")[-3] for identifier in validate(document)} == {"classification", "eo"}


def test_extents_cover_the_items(csmask_contract: ModelContract) -> None:
    document = collection([csmask_contract], ITEMS)
    assert document["extent"]["spatial"]["bbox"] == [[-3.0, -10.0, 13.0, 51.0]]
    assert document["extent"]["temporal"]["interval"] == [["2021-01-01T00:00:00Z", "2023-01-01T00:00:00Z"]]
    assert document["summaries"]["eo:cloud_cover"] == {"minimum": 5.5, "maximum": 99.0}


def test_without_items_the_extent_is_the_missions(csmask_contract: ModelContract) -> None:
    """And it is forgotten as soon as an Item is known."""
    empty = collection([csmask_contract])
    assert empty["extent"]["spatial"]["bbox"] == [[-180.0, -56.0, 180.0, 84.0]]
    assert empty["extent"]["temporal"]["interval"] == [["2015-06-23T00:00:00Z", None]]
    assert merged(empty, collection([csmask_contract], ITEMS)) == collection([csmask_contract], ITEMS)
    assert merged(collection([csmask_contract], ITEMS), empty) == collection([csmask_contract], ITEMS)


def test_an_item_over_the_antimeridian_covers_all_longitudes(csmask_contract: ModelContract) -> None:
    over = entry("D", (179.0, 60.0, -179.0, 61.0), "2022-01-01T00:00:00Z")
    (box,) = collection([csmask_contract], [over, ITEMS[0]])["extent"]["spatial"]["bbox"]
    assert box == [-180.0, 50.0, 180.0, 61.0]


def test_runs_may_come_in_any_order_and_again(csmask_contract: ModelContract) -> None:
    whole = collection([csmask_contract], ITEMS)
    for order in itertools.permutations(ITEMS):
        grown: dict[str, Any] = collection([csmask_contract])
        for item in (*order, order[0]):
            grown = merged(grown, collection([csmask_contract], [item]))
        assert grown == whole


def test_two_models_share_a_collection(csmask_contract: ModelContract) -> None:
    """Classes that differ are left to the Items; nothing else is lost."""
    colours = tuple(replace(c, colour=(1, 2, 3)) for c in csmask_contract.classes)
    other = replace(csmask_contract, name="other_l2a", classes=colours)
    both = merged(collection([csmask_contract]), collection([other]))
    assert both["summaries"]["kappamask:model"] == ["other_l2a", "test_l2a"]
    assert "bands" not in both["item_assets"]["mask"]
    assert len([link for link in both["links"] if link["rel"] == "derived_from"]) == 2
    assert both == merged(both, collection([csmask_contract]))


def item_bytes(contract: ModelContract, folder: Path, **rest: Any) -> bytes:
    return json.dumps(mask_item(make_job(contract, folder, **rest), SHARES, [])).encode()


async def test_a_run_writes_collection_and_models(csmask_contract: ModelContract, tmp_path: Path) -> None:
    root = FolderDestination(tmp_path / "out")
    items = {"P/x.json": item_bytes(csmask_contract, tmp_path)}
    written = await publish_catalogue(root, [csmask_contract], items)
    model = f"models/test_l2a-{'ab' * 6}.json"
    assert written == [model, COLLECTION_FILE]
    document = json.loads((tmp_path / "out" / COLLECTION_FILE).read_bytes())
    validate(document)
    validate(json.loads((tmp_path / "out" / model).read_bytes()))
    assert [link["href"] for link in document["links"] if link["rel"] == "item"] == ["./P/x.json"]


async def test_nothing_new_writes_nothing(csmask_contract: ModelContract, tmp_path: Path) -> None:
    root = FolderDestination(tmp_path)
    items = {"P/x.json": item_bytes(csmask_contract, tmp_path)}
    await publish_catalogue(root, [csmask_contract], items)
    assert await publish_catalogue(root, [csmask_contract], items) == []
    assert await publish_catalogue(root, [csmask_contract]) == []  # a worker that gives no Items loses none


async def test_a_later_run_keeps_what_is_there(csmask_contract: ModelContract, tmp_path: Path) -> None:
    root = FolderDestination(tmp_path)
    for name in ("P", "Q"):
        await publish_catalogue(root, [csmask_contract], {f"{name}/x.json": item_bytes(csmask_contract, tmp_path)})
    links = json.loads((tmp_path / COLLECTION_FILE).read_bytes())["links"]
    assert [link["href"] for link in links if link["rel"] == "item"] == ["./P/x.json", "./Q/x.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"type": "Collection", "id": "other", "links": []}', b'{"id": 1}'],
)
async def test_what_is_not_ours_is_left_alone(csmask_contract: ModelContract, tmp_path: Path, content: bytes) -> None:
    (tmp_path / COLLECTION_FILE).write_bytes(content)
    with pytest.raises(OutputError, match=r"collection\.json is no Collection of cloud masks of ours"):
        await publish_catalogue(FolderDestination(tmp_path), [csmask_contract])
    assert (tmp_path / COLLECTION_FILE).read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"id": "x", "properties": {}, "bbox": [1]}',
        b'{"id": "x", "properties": {"datetime": ""}, "bbox": [NaN, 1, 2, 3]}',
    ],
)
async def test_an_item_that_is_none_is_named(csmask_contract: ModelContract, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(OutputError, match=r"P/x\.json is no STAC Item"):
        await publish_catalogue(FolderDestination(tmp_path), [csmask_contract], {"P/x.json": content})


@pytest.mark.parametrize("damage", [{"extent": {"spatial": {"bbox": []}, "temporal": {}}}, {"summaries": {"gsd": 1}}, {"links": [1]}, {"item_assets": []}])  # fmt: skip
async def test_a_damaged_collection_is_named(
    csmask_contract: ModelContract, tmp_path: Path, damage: dict[str, Any]
) -> None:
    document = {**collection([csmask_contract], ITEMS), **damage}
    (tmp_path / COLLECTION_FILE).write_text(json.dumps(document))
    items = {"P/x.json": item_bytes(csmask_contract, tmp_path)}
    with pytest.raises(OutputError, match=r"collection\.json is no Collection"):
        await publish_catalogue(FolderDestination(tmp_path), [csmask_contract], items)


async def test_links_that_people_added_are_kept(csmask_contract: ModelContract, tmp_path: Path) -> None:
    document = collection([csmask_contract], ITEMS)
    document["links"].append({"rel": "about", "href": "https://example.org/masks"})
    (tmp_path / COLLECTION_FILE).write_text(json.dumps(document))
    await publish_catalogue(FolderDestination(tmp_path), [csmask_contract])
    grown = json.loads((tmp_path / COLLECTION_FILE).read_bytes())
    assert [link["href"] for link in grown["links"] if link["rel"] == "about"] == ["https://example.org/masks"]
    validate(grown)
