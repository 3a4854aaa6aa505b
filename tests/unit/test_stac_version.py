"""Which of two products supersedes the other, and what the older one's Item says then."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.names import parse_product_name, same_scene, version_order
from kappamask_stream.stac import deprecated_item, is_deprecated
from kappamask_stream.stac.vocabulary import encode
from tests.unit.stac_schemas import validate
from tests.unit.test_stac_item import written

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

NAME = "S2A_MSIL2A_20221005T115411_{}R023_T29UNU_{}"
#: From the oldest to the newest.
ORDERED = [
    NAME.format("N9999_", "20221005T164454"),
    NAME.format("", "20260101T000000"),
    NAME.format("N9999_", "20260101T000001"),
    NAME.format("N0204_", "20260101T000000"),
    NAME.format("N0214_", "20221005T164454"),
    NAME.format("N0400_", "20221005T164454"),
    NAME.format("N0400_", "20221005T164455"),
    NAME.format("N0510_", "20221005T000000"),
    NAME.format("N0511_", "20200101T000000"),
    NAME.format("N1000_", "20200101T000000"),
]
VERSION = "https://stac-extensions.github.io/version/v1.2.0/schema.json"
HREF = "../NEW/stem.json"


@given(st.permutations(ORDERED))
def test_the_higher_baseline_and_then_the_later_discriminator_supersedes(names: list[str]) -> None:
    assert [name.text for name in sorted(map(parse_product_name, names), key=version_order)] == ORDERED


def test_products_of_one_scene_differ_in_baseline_and_discriminator_only() -> None:
    names = [parse_product_name(text) for text in ORDERED]
    assert all(same_scene(one, other) for one, other in itertools.product(names, names))
    for old, new in {"S2A": "S2B", "L2A": "L1C", "115411": "115412", "R023": "R024", "T29UNU": "T29UNV"}.items():
        assert not same_scene(names[-1], parse_product_name(ORDERED[-1].replace(old, new)))


@pytest.fixture
async def item(csmask_contract: ModelContract, tmp_path: Path) -> dict[str, Any]:
    return await written(csmask_contract, tmp_path)


async def test_a_deprecated_item_is_valid(item: dict[str, Any]) -> None:
    assert not is_deprecated(item)
    older = deprecated_item(item, href=HREF, title="NEW")
    assert is_deprecated(older)
    assert VERSION in validate(older)


async def test_the_schema_can_refuse(item: dict[str, Any]) -> None:
    older = deprecated_item(item, href=HREF, title="NEW")
    with pytest.raises(AssertionError):
        validate({**older, "properties": {**older["properties"], "deprecated": "yes"}})


async def test_nothing_else_of_the_item_changes(item: dict[str, Any]) -> None:
    before = encode(item)
    older = deprecated_item(item, href=HREF, title="NEW")
    assert encode(item) == before
    assert older["properties"].pop("deprecated") is True
    assert older["stac_extensions"].pop() == VERSION
    links = {link["rel"]: link for link in older["links"] if link not in item["links"]}
    assert older["links"] == [*item["links"], *links.values()]
    assert links == {
        rel: {"rel": rel, "href": HREF, "type": "application/geo+json", "title": "NEW"}
        for rel in ("successor-version", "latest-version")
    }
    assert {**older, "links": item["links"]} == item


async def test_it_does_not_matter_for_what_it_was_deprecated_before(item: dict[str, Any]) -> None:
    once = encode(deprecated_item(item, href=HREF, title="NEW"))
    earlier = deprecated_item(item, href="../LESS_NEW/stem.json", title="LESS_NEW")
    assert encode(deprecated_item(earlier, href=HREF, title="NEW")) == once
    assert encode(deprecated_item(json.loads(once), href=HREF, title="NEW")) == once


async def test_an_item_that_was_read_is_written_as_it_was(item: dict[str, Any]) -> None:
    assert encode(json.loads(encode(item))) == encode(item)
