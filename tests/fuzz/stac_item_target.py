"""STAC Items, as sources of products and in messages: `kappamask_stream.sources.stac_bands.parse_item`."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import InputError, ProductError
from kappamask_stream.feed.catalogue_events import of_item
from kappamask_stream.sources.hrefs import is_local
from kappamask_stream.sources.stac_bands import parse_item, self_link
from tests.fuzz.json_mutation import mutated
from tests.unit.stac_items import data_space, earth_search, planetary_computer, stactools

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

_WHERE, _BASES = "the Item", ("https://stac.example/items/a.json", "s3://bucket/2022/a.json")
_KEPT = ("blue", "B02", "B02_10m", "red", "product_metadata")

#: An Item may have 4 MB; real ones have up to 60 KB.
LONGEST = 1 << 16


def seeds() -> list[bytes]:
    """Return an Item of each catalogue with a few of its assets, and some that lead astray."""
    items = [earth_search(), data_space(), planetary_computer(), stactools()]
    short = [{**item, "assets": {key: item["assets"][key] for key in item["assets"] if key in _KEPT}} for item in items]
    astray = [
        _with(short[0], lambda item, href=href: item["assets"]["blue"].update(href=href))
        for href in (
            "http://169.254.169.254/B02.tif", "file:///etc/B02.tif", "s3://b/../B02.tif", "//x.example/B02.tif", "../../B02.tif",
            "data:image/tiff,B02.tif", "https://u:p@[::1]:0/B02.tif?s=1", "http://2130706433/B02.tif", "a" * 5000,
        )
    ]  # fmt: skip
    numbers = [
        _with(short[0], lambda item, value=value: item["assets"]["blue"].update({"proj:shape": [value, value]}))
        for value in (0, 1e308, 10**400, "1", None, [1])
    ]
    numbers += [
        _with(short[1], lambda item, value=value: item["assets"]["B02_10m"].update({"proj:code": value}))
        for value in ("EPSG:" + "9" * 400, "EPSG:\u0663\u0662\u0666\u0662\u0669", "epsg:32629", "EPSG:-1", "EPSG:3.2e4")
    ]
    texts = [json.dumps(item) for item in (*short, *astray, *numbers)]
    return [
        text.encode()
        for text in (*texts, '{"type": "Feature"}', "[" * 2000, "NaN", texts[0].replace("0.0001", "9" * 5000))
    ]


def large() -> dict[str, bytes]:
    """Return Items near the limit of 4 MB."""
    item = earth_search()
    asset = item["assets"]["blue"]
    found = {
        "500 assets": {**item, "assets": {f"a{number}": asset for number in range(500)}},
        "assets": {**item, "assets": {f"a{number}": {"href": "x"} for number in range(120_000)}},
        "bands": _with(item, lambda one: one["assets"]["blue"].update({"eo:bands": [{"name": "blue"}] * 200_000})),
        "numbers": _with(item, lambda one: one["assets"]["blue"].update({"proj:shape": [1] * 1_000_000})),
        "a link": _with(item, lambda one: one["assets"]["blue"].update(href="../" * 1_300_000 + "B02.tif")),
        "links": {**item, "links": [{"rel": "self", "href": "https://x.example/a.json"}] * 75_000},
        "properties": {**item, "properties": item["properties"] | {f"p{number}": 1 for number in range(280_000)}},
        "a polygon": {**item, "geometry": {"type": "Polygon", "coordinates": [[[-9.5, 52.25]] * 250_000]}},
    }
    texts = {what: json.dumps(document).encode() for what, document in found.items()}
    return texts | {"lists in lists": b"[" * 4_000_000, "a number": b'{"properties": ' + b"9" * 4_000_000 + b"}"}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Replace something in the JSON."""
    return mutated(data, rng)


def one_input(data: bytes) -> None:
    """Read an Item, whatever it is."""
    try:
        item = parse_item(data, _WHERE, _BASES[len(data) % 2])
        _, bands = item.of_format()
    except ProductError:
        return
    for asset in bands.values():
        assert asset.href.startswith(("https://", "http://", "s3://")), asset.href
        assert not is_local(asset.href)
        assert asset.gsd_m in {10, 20, 60}
        assert asset.nbytes is None or 0 < asset.nbytes < 2**40
        assert asset.size is None or all(0 < side <= 100_000 for side in asset.size)
    assert item.epsg is None or 32601 <= item.epsg <= 32760
    self_link(data, _WHERE)
    with contextlib.suppress(InputError):
        assert len(of_item(json.loads(data))) <= 1


def _with(item: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    copy = json.loads(json.dumps(item))
    change(copy)
    return copy
