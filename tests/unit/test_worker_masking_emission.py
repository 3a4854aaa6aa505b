"""What consumers are told: an Item that is one wherever it is read, and attributes that can be filtered by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.destinations.sets import item_of
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.queues.drafts import MOST_ATTRIBUTES, check
from kappamask_stream.sources.stac_bands import self_link
from kappamask_stream.stac import deprecated_item
from kappamask_stream.stac.vocabulary import encode
from kappamask_stream.worker.emitting import MOST_BODY_BYTES, absolute_item, emission
from tests.unit.mask_jobs import SHARES
from tests.unit.stac_schemas import validate
from tests.unit.test_stac_item import written

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract

PRODUCT = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
STEM = "L2A_T29UNU_20221005T115411_XX_20m"
HREF = f"s3://masks/out/test_l2a_12345678/{PRODUCT}/{STEM}.json"


@pytest.fixture
async def item(csmask_contract: ModelContract, tmp_path: Path) -> dict[str, Any]:
    return await written(csmask_contract, tmp_path)


async def test_the_body_is_a_valid_item(item: dict[str, Any]) -> None:
    body = json.loads(emission(encode(item), HREF).body)
    validate(body)
    assert self_link(json.dumps(body).encode(), "here") == HREF
    assert {key: value for key, value in body.items() if key not in ("links", "assets")} == {
        key: value for key, value in item.items() if key not in ("links", "assets")
    }


async def test_all_its_addresses_lead_somewhere_from_anywhere(item: dict[str, Any]) -> None:
    body = absolute_item(item, HREF)
    folder = f"s3://masks/out/test_l2a_12345678/{PRODUCT}"
    assert {key: asset["href"] for key, asset in body["assets"].items()} == {
        "mask": f"{folder}/{STEM}.tif", "quicklook-png": f"{folder}/{STEM}_quicklook.png"
    }  # fmt: skip
    links = [(link["rel"], link["href"]) for link in body["links"]]
    assert links[0] == ("self", HREF)
    up = "s3://masks/out/test_l2a_12345678/collection.json"
    assert links[1:4] == [("root", up), ("parent", up), ("collection", up)]
    assert links[4][1].startswith("https://stac.dataspace.copernicus.eu/")
    assert links[5][1].startswith("s3://masks/out/test_l2a_12345678/models/test_l2a-")


async def test_of_a_folder_they_are_paths_of_this_machine(item: dict[str, Any], tmp_path: Path) -> None:
    for href in (str(tmp_path / "P" / f"{STEM}.json"), f"./out/P/{STEM}.json"):
        body = absolute_item(item, href)
        place = str(Path(href).absolute())
        assert body["links"][0]["href"] == place
        assert body["assets"]["mask"]["href"] == place.replace(".json", ".tif")
        assert body["links"][1]["href"] == str(Path(place).parent.parent / "collection.json")
        validate(body)


async def test_what_lacks_a_part_that_is_told_is_no_item_of_ours(item: dict[str, Any]) -> None:
    assert item_of(encode(item), PRODUCT) == item
    strange: list[dict[str, Any]] = [
        {**item, "links": [{"href": "x"}]},
        {**item, "links": [{"rel": "x"}]},
        {**item, "links": ["x"]},
        {**item, "bbox": [1, 2, 3]},
        {**item, "bbox": None},
        {**item, "assets": {**item["assets"], "more": {}}},
        {**item, "assets": {**item["assets"], "more": {"href": 1}}},
        {**item, "stac_extensions": [{}]},
        {**item, "properties": {**item["properties"], "s2:product_uri": "another.SAFE"}},
    ]
    assert [item_of(json.dumps(document).encode(), PRODUCT) for document in strange] == [None] * len(strange)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1.5", '"7"', "null"])
async def test_a_size_that_is_none_is_no_item_of_ours(item: dict[str, Any], number: str) -> None:
    item["assets"]["mask"]["file:size"] = 123456789
    assert item_of(json.dumps(item).replace("123456789", number).encode(), PRODUCT) is None


async def test_attributes_that_are_neither_text_nor_number_are_left_out(item: dict[str, Any]) -> None:
    item["properties"] |= {"s2:processing_baseline": ["04.00"], "eo:cloud_cover": {}, "datetime": ""}
    attributes = emission(encode(item), HREF).attributes
    assert {"baseline", "cloud_cover", "datetime"}.isdisjoint(attributes)
    assert attributes["product"] == PRODUCT


async def test_attributes(item: dict[str, Any]) -> None:
    draft = emission(encode(item), HREF)
    assert draft.attributes == {
        "event": "created",
        "product": PRODUCT,
        "level": "L2A",
        "satellite": "S2A",
        "tile": "T29UNU",
        "orbit": "R023",
        "baseline": "04.00",
        "datetime": "2022-10-05T11:54:11Z",
        "model": "test_l2a",
        "cloud_cover": 37.5,
    }
    assert len(draft.attributes) <= MOST_ATTRIBUTES
    check(draft, "a topic", 256 * 1024)


async def test_a_deprecated_one_says_so(item: dict[str, Any]) -> None:
    draft = emission(encode(deprecated_item(item, href=f"../NEW/{STEM}.json", title="NEW")), HREF)
    assert draft.attributes["event"] == "deprecated"
    links = {link["rel"]: link["href"] for link in json.loads(draft.body)["links"]}
    assert links["successor-version"] == f"s3://masks/out/test_l2a_12345678/NEW/{STEM}.json"
    validate(json.loads(draft.body))


async def test_without_data_there_is_no_cloud_cover(csmask_contract: ModelContract, tmp_path: Path) -> None:
    item = await written(csmask_contract, tmp_path, {"classes": {**dict.fromkeys(SHARES, 0.0), "MISSING": 1.0}})
    draft = emission(encode(item), HREF)
    assert "cloud_cover" not in draft.attributes
    check(draft, "a queue")


async def test_an_outline_that_is_too_large_is_told_by_its_rectangle(item: dict[str, Any]) -> None:
    ring = [[-7 + n * 1e-5, 55.123456] for n in range(20_000)] + [[-6.0, 56.0], [-7.0, 55.123456]]
    large = {**item, "geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [-7.0, 55.0, -6.0, 56.0]}
    draft = emission(encode(large), HREF)
    assert len(draft.body) <= MOST_BODY_BYTES
    body = json.loads(draft.body)
    assert body["geometry"]["coordinates"] == [[[-7.0, 55.0], [-6.0, 55.0], [-6.0, 56.0], [-7.0, 56.0], [-7.0, 55.0]]]
    validate(body)
    check(draft, "a topic", 256 * 1024)


async def test_a_rectangle_across_the_antimeridian_is_two(item: dict[str, Any]) -> None:
    ring = [[179 + n * 1e-5, 55.123456] for n in range(20_000)] + [[179.0, 55.123456]]
    large = {**item, "geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [179.0, 55.0, -179.5, 56.0]}
    geometry = json.loads(emission(encode(large), HREF).body)["geometry"]
    assert geometry["type"] == "MultiPolygon"
    assert [(min(x for x, _ in ring), max(x for x, _ in ring)) for (ring,) in geometry["coordinates"]] == [
        (179.0, 180.0), (-180.0, -179.5)
    ]  # fmt: skip


async def test_the_largest_outline_that_an_item_has_fits(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """Areas of interest are told to 5000 vertices; no rectangle is needed for those."""
    teeth = [[-8.95 + n * 5e-5, 54.9 + 0.02 * (n % 2)] for n in range(4500)]
    ring = [*teeth, [-8.72, 54.95], [-8.95, 54.95], teeth[0]]
    area = parse_aoi(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    item = await written(csmask_contract, tmp_path, size=1000, options=MaskOptions(aoi=area))
    body = emission(encode(item), HREF).body
    assert json.loads(body)["geometry"] == item["geometry"]
    assert 50_000 < len(body) < MOST_BODY_BYTES


async def test_it_is_sent_in_ascii(item: dict[str, Any]) -> None:
    """Queues refuse some characters; in JSON all can be escaped."""
    strange = {**item, "properties": {**item["properties"], "title": "\ufffe\ud800\x00 \u4e91"}}
    draft = emission(json.dumps(strange).encode(), HREF)
    assert draft.body.isascii()
    check(draft, "a queue")
    assert json.loads(draft.body)["properties"]["title"] == "\ufffe\ud800\x00 \u4e91"
