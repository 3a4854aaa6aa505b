"""STAC Items: what each catalogue's say, and what hostile ones get."""

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import ProductError
from kappamask_stream.sources.stac_bands import StacItem, parse_item, self_link
from kappamask_stream.sources.stac_fields import Place
from tests.unit.stac_items import NAME, ULX, ULY, data_space, earth_search, planetary_computer, stactools

WHERE, BASE = "https://stac.example/a.json", "https://stac.example/items/a.json"


def parsed(item: Any, base: str = BASE) -> StacItem:
    return parse_item(json.dumps(item).encode(), WHERE, base)


def test_earth_search() -> None:
    item = parsed(earth_search())
    assert (item.name.text, item.baseline, item.epsg, item.offset_applied) == (NAME, "04.00", 32629, True)
    form, bands = item.of_format()
    assert form == "cog"
    assert sorted(bands) == sorted({
        ("B01", 60), ("B02", 10), ("B03", 10), ("B04", 10), ("B05", 20), ("B06", 20), ("B07", 20), ("B08", 10),
        ("B8A", 20), ("B09", 60), ("B11", 20), ("B12", 20), ("AOT", 20), ("WVP", 20), ("SCL", 20),
    })  # fmt: skip
    nir = bands["B08", 10]
    assert (nir.key, nir.href) == ("nir", "https://cogs.example/29/U/NU/B08.tif")
    assert (nir.scale, nir.offset, nir.size) == (0.0001, -0.1, (10980, 10980))
    assert nir.place == Place(gsd_m=10, ulx=ULX, uly=ULY)
    assert bands["B8A", 20].key == "nir08"


def test_earth_searchs_jpeg_2000() -> None:
    item = earth_search()
    item["assets"] = {key: asset for key, asset in item["assets"].items() if key.endswith("-jp2")}
    form, bands = parsed(item).of_format()
    assert form == "jp2"
    assert bands["B8A", 20].href == "s3://sentinel-s2-l2a/tiles/29/U/NU/2022/10/5/0/R20m/B8A.jp2"
    assert len(bands) == 15


def test_data_space() -> None:
    item = parsed(data_space())
    assert (item.name.text, item.baseline, item.epsg, item.offset_applied) == (NAME, "04.00", 32629, None)
    form, bands = item.of_format()
    assert form == "jp2"
    assert sorted(bands) == [("AOT", 10), ("B01", 60), ("B02", 10), ("B02", 20), ("B05", 20), ("WVP", 10)]
    blue = bands["B02", 20]
    assert (blue.nbytes, blue.scale, blue.offset) == (1020, 0.0001, -0.1)
    assert item.metadata["product"].endswith("/MTD_MSIL2A.xml")
    assert item.metadata["granule"].startswith("s3://eodata/")


def test_planetary_computer() -> None:
    item = parsed(planetary_computer())
    assert (item.name.baseline, item.baseline) == (None, "04.00")
    form, bands = item.of_format()
    assert form == "cog"
    assert bands["B8A", 20].href.endswith("_B8A_20m.tif?sig=S%2Bx&se=1")
    assert (bands["B02", 10].scale, bands["B02", 10].offset) == (None, None)
    assert "product" in item.metadata


def test_stactools() -> None:
    _, bands = parsed(stactools()).of_format()
    assert {key: asset.href for key, asset in bands.items()} == {
        ("B04", 10): "https://stac.example/items/R10m/B04.jp2",
        ("B04", 20): "https://stac.example/items/R20m/B04.jp2",
        ("AOT", 10): "https://stac.example/items/R10m/AOT.jp2",
        ("WVP", 20): "https://stac.example/items/R20m/WVP.jp2",
    }
    assert bands["B04", 20].place == Place(gsd_m=20, ulx=ULX, uly=ULY)


@pytest.mark.parametrize("code", ["MGRS-9VWK", "MGRS-09VWK", "9VWK", "T09VWK"])
def test_zones_of_one_digit_are_written_with_and_without_a_zero(code: str) -> None:
    name = NAME.replace("T29UNU", "T09VWK")
    item = earth_search(name=name, epsg=32609)
    assert item["properties"]["grid:code"] == "MGRS-9VWK"  # as Earth Search writes it
    item["properties"]["grid:code"] = code
    assert parsed(item).name.tile_id == "T09VWK"
    item["properties"]["grid:code"] = code.replace("VWK", "VWL")
    with pytest.raises(ProductError, match="its tile is T09VWK and T09VWL"):
        parsed(item)


def test_unified_bands_of_stac_1_1() -> None:
    item = data_space()
    for asset in item["assets"].values():
        if "raster:scale" in asset:
            asset["bands"] = [{"raster:scale": asset.pop("raster:scale"), "raster:offset": asset.pop("raster:offset")}]
    _, bands = parsed(item).of_format()
    assert (bands["B05", 20].scale, bands["B05", 20].offset) == (0.0001, -0.1)


def test_self_link() -> None:
    assert self_link(json.dumps(earth_search()).encode(), WHERE) == earth_search()["links"][0]["href"]
    for links in ({}, {"links": None}, {"links": [1, {"rel": "self"}]}):
        assert self_link(json.dumps(links).encode(), WHERE) is None


def change(item: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(item)
    *parents, last = path.split("/")
    at = changed
    for parent in parents:
        at = at[parent]
    at[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("type", "FeatureCollection", "is a FeatureCollection: give a single STAC Item"),
        ("type", None, "JSON object without type"),
        ("properties", [], "properties is .*, an object is expected"),
        ("assets", "x", "assets is 'x', an object"),
        ("assets", {}, "no bands of Sentinel-2 among its assets"),
        ("assets/blue", [], "assets: blue is .*, an object"),
        ("assets/blue/href", None, "asset blue: href is None, a link"),
        ("assets/blue/href", "file:///etc/passwd", "asset blue: the link 'file:///etc/passwd' is not followed"),
        ("assets/blue/href", "https://cogs.example/B04.tif", "asset blue is B02, it links a file of B04"),
        (
            "assets/blue/href",
            "https://x.example/T29UNV_20221005T115411_B02_10m.tif",
            "blue links T29UNV_2022.*of T29UNU",
        ),
        (
            "assets/blue/href",
            "s3://x/L2A_T29UNU_20170105T115411_B02_10m.jp2",
            "blue links L2A_T29UNU_2017.*two products",
        ),
        ("assets/blue/proj:shape", [10980, -1], "proj:shape is .*, rows and columns"),
        ("assets/blue/proj:shape", [10980], "proj:shape is .*, a list of 2 numbers"),
        ("assets/blue/proj:transform", [10, 1, 0, 0, -10, 0], "proj:transform .*, north up"),
        ("assets/blue/proj:transform", [15, 0, 0, 0, -15, 0], "proj:transform .*10, 20 or 60 m"),
        ("assets/blue/proj:epsg", 4326, "a UTM zone"),
        ("assets/blue/proj:epsg", 32630, "lie in 2 projections"),
        ("assets/blue/raster:bands", [3], "a list of objects"),
        ("assets/blue/raster:bands", [{"scale": "x"}], "scale is 'x', a number"),
        ("assets/blue/raster:bands", [{"scale": 0}], "raster scale is 0, a positive number"),
        ("assets/blue/raster:bands", [{"scale": 10**400}], "scale is .*, a number"),
        ("assets/blue/type", "x" * 2000, "a short text"),
        ("properties/s2:product_uri", "../../etc/passwd", "names no Sentinel-2 product"),
        ("properties/s2:product_uri", 3, "a short text"),
        ("properties/grid:code", "MGRS-30UNU", "its tile is T29UNU and T30UNU"),
        ("properties/s2:processing_baseline", "05.10", "its processing baseline is 04.00 and 05.10"),
        ("properties/earthsearch:boa_offset_applied", "yes", "true or false"),
        ("id", NAME.replace("T29UNU", "T29UNV"), "its level, tile and time is"),
    ],
)
def test_what_contradicts_itself_or_is_nonsense(path: str, value: Any, said: str) -> None:
    with pytest.raises(ProductError, match=said):
        parsed(change(earth_search(), path, value)).of_format()


@pytest.mark.parametrize("file", ["B04.tif", "T29UNV_20221005T115411_B02_10m.tif"])
def test_passwords_in_links_are_not_repeated(file: str) -> None:
    item = change(earth_search(), "assets/blue/href", f"https://user:SECRET@x.example/{file}?sig=SECRET")
    with pytest.raises(ProductError, match=r"links .*B0\d(_10m)?\.tif") as caught:
        parsed(item)
    assert "SECRET" not in str(caught.value)


def test_two_files_for_one_band() -> None:
    item = earth_search()
    item["assets"]["B02_10m"] = {**item["assets"]["blue"], "href": "https://cogs.example/other/B02.tif"}
    with pytest.raises(ProductError, match="blue and B02_10m both claim to be B02 at 10 m"):
        parsed(item).of_format()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no JSON"),
        (b"<html>", "begins with '<html>'"),
        (b"[]", "is JSON but no object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"type": NaN}', "NaN is no number of JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
        (
            json.dumps({"type": "Feature", "assets": {str(i): {} for i in range(501)}}).encode(),
            "501 assets, at most 500",
        ),
    ],
)
def test_what_is_no_item(data: bytes, said: str) -> None:
    with pytest.raises(ProductError, match=said):
        parse_item(data, WHERE, BASE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_no_value_gets_out_as_another_error(data: st.DataObject) -> None:
    item = data.draw(st.sampled_from([earth_search, data_space, planetary_computer, stactools]))()
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = item
        while True:
            key = data.draw(st.sampled_from(sorted(at)))
            if isinstance(at[key], dict) and at[key] and data.draw(st.integers(0, 4)):
                at = at[key]
                continue
            at[key] = data.draw(VALUES)
            break
    with suppress(ProductError):
        parsed(item).of_format()
