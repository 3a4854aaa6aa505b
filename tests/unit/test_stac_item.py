"""The Item of a mask: against the schemas, against the files, and what it must not tell."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from kappamask_stream.aoi import AreaOfInterest
from kappamask_stream.contract import ModelContract
from kappamask_stream.destinations import OutputFile
from kappamask_stream.errors import ContractError
from kappamask_stream.grid import Window
from kappamask_stream.mask_options import MaskOptions
from kappamask_stream.stac import StacExtra
from tests.unit.mask_jobs import SHARES, make_finished, make_job
from tests.unit.stac_schemas import validate

PICTURE = OutputFile(name="L2A_T29UNU_20221005T115411_XX_20m_quicklook.png", content=[b"pic", b"ture"], media_type="image/png")  # fmt: skip


async def written(contract: ModelContract, folder: Path, finished: dict[str, Any] | None = None, **job: Any) -> dict:
    made = make_job(contract, folder, **job)
    extra = StacExtra()
    await extra.begin(made)
    (file,) = await extra.finish(make_finished(**{"files": [PICTURE], **(finished or {})}))
    assert extra.file_names(made) == (file.name,)
    assert file.name == f"{made.stem}.json"
    assert file.media_type == "application/geo+json"
    return json.loads(b"".join(file.content))


async def test_an_item_is_valid(csmask_contract: ModelContract, tmp_path: Path) -> None:
    item = await written(csmask_contract, tmp_path)
    checked = {identifier.split("/")[-3] for identifier in validate(item)}
    assert checked == {"classification", "eo", "file", "grid", "projection", "sat", "sentinel-2"}


async def test_the_schemas_can_refuse(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """A guard on the tests: each extension's schema is really looked at."""
    item = await written(csmask_contract, tmp_path)
    validate(item)
    for field, wrong in {
        "eo:cloud_cover": 101, "grid:code": "29unu", "proj:shape": [1.5, 2], "sat:relative_orbit": "023",
        "s2:processing_baseline": "4.00", "processing:software": ["x"], "datetime": None,
    }.items():  # fmt: skip
        with pytest.raises(AssertionError):
            validate({**item, "properties": {**item["properties"], field: wrong}})
    for field, wrong in {"file:checksum": "1220XY", "file:size": -1}.items():
        assets = {**item["assets"], "mask": {**item["assets"]["mask"], field: wrong}}
        with pytest.raises(AssertionError):
            validate({**item, "assets": assets})


async def test_what_the_raster_and_processing_extensions_say(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """Of raster 2.0.0 and processing 1.2.0 no package holds the schema: their published rules, by hand.

    raster 2.0.0: ``raster:sampling`` is area or point, ``raster:spatial_resolution`` a number of metres, both in a band
    or an asset; ``data_type``, ``nodata`` belong to the core. processing 1.2.0: an object of strings as
    ``processing:software``; strings as ``processing:level`` and ``processing:lineage``; nothing else of the prefix here.
    """
    item = await written(csmask_contract, tmp_path)
    (band,) = item["assets"]["mask"]["bands"]
    assert {name: value for name, value in band.items() if name.startswith("raster:")} == {
        "raster:sampling": "area",
        "raster:spatial_resolution": 20,
    }
    assert (band["data_type"], band["nodata"]) == ("uint8", 5)
    properties = item["properties"]
    said = {name: value for name, value in properties.items() if name.startswith("processing:")}
    assert set(said) == {"processing:level", "processing:lineage", "processing:software"}
    assert said["processing:level"] == "L2A"
    assert all(isinstance(version, str) for version in said["processing:software"].values())
    assert "test_l2a" in said["processing:lineage"]


async def test_cloud_cover_counts_pixels_with_data_only(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """0.1 + 0.2 of all pixels are cloud, 0.8 hold data."""
    properties = (await written(csmask_contract, tmp_path))["properties"]
    assert properties["eo:cloud_cover"] == pytest.approx(100 * 0.3 / 0.8)
    assert properties["kappamask:data_fraction"] == pytest.approx(0.8)
    fractions = properties["kappamask:class_fractions"]
    assert "MISSING" not in fractions
    assert fractions["CLEAR"] == pytest.approx(0.5)
    assert sum(fractions.values()) == pytest.approx(1)


async def test_percentages_of_classes_count_all_pixels(csmask_contract: ModelContract, tmp_path: Path) -> None:
    classes = (await written(csmask_contract, tmp_path))["assets"]["mask"]["bands"][0]["classification:classes"]
    assert {c["name"]: c["percentage"] for c in classes} == pytest.approx({n: 100 * s for n, s in SHARES.items()})
    assert [(c["value"], c["nodata"]) for c in classes] == [(v, v == 5) for v in range(6)]
    assert classes[2]["color_hint"] == "503C28"  # 80, 60, 40


@pytest.mark.parametrize("shares", [{"MISSING": 1.0}, {}])
async def test_no_data_has_no_cloud_cover(
    csmask_contract: ModelContract, tmp_path: Path, shares: dict[str, float]
) -> None:
    item = await written(csmask_contract, tmp_path, {"classes": shares})
    assert "eo:cloud_cover" not in item["properties"]
    assert item["properties"]["kappamask:class_fractions"] == {}
    validate(item)


async def test_a_model_without_cloud_classes_has_no_cloud_cover(csmask_contract: ModelContract, tmp_path: Path) -> None:
    named = tuple(replace(c, name=f"LAND-{c.value}") for c in csmask_contract.classes)
    item = await written(replace(csmask_contract, classes=named), tmp_path, {"classes": {"LAND-1": 1.0}})
    assert "eo:cloud_cover" not in item["properties"]
    validate(item)


async def test_checksums_are_those_of_the_files(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """Of pieces in memory and of a scratch file of several chunks; a multihash says 0x12, 32 bytes."""
    scratch = tmp_path / "scratch"
    scratch.write_bytes(bytes(range(256)) * 80_000)
    probabilities = OutputFile(name="stem_probabilities.tif", content=scratch, media_type="image/tiff")
    assets = (await written(csmask_contract, tmp_path, {"files": [PICTURE, probabilities]}))["assets"]
    for key, content in {
        "mask": b"II*\0the mask", "quicklook-png": b"picture", "stem_probabilities-tif": scratch.read_bytes(),
    }.items():  # fmt: skip
        assert assets[key]["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        assert assets[key]["file:size"] == len(content)
    assert assets["mask"]["href"] == "./L2A_T29UNU_20221005T115411_XX_20m.tif"


async def test_files_in_folders_are_no_assets(csmask_contract: ModelContract, tmp_path: Path) -> None:
    tiles = [OutputFile(name=f"prediction/{n}.tif", content=[b""], media_type="image/tiff") for n in range(3)]
    assert set((await written(csmask_contract, tmp_path, {"files": tiles}))["assets"]) == {"mask"}


async def test_the_frame_of_an_area_of_interest(csmask_contract: ModelContract, tmp_path: Path) -> None:
    item = await written(csmask_contract, tmp_path, window=Window(100, 200, 50, 40))
    properties = item["properties"]
    assert properties["proj:shape"] == [50, 40]
    assert properties["proj:transform"] == [20, 0, 503980, 0, -20, 6098020]
    assert properties["proj:bbox"] == [503980, 6097020, 504780, 6098020]
    assert properties["proj:code"] == "EPSG:32629"
    validate(item)


def area_on(ulx: float, uly: float, epsg: int, *xy: tuple[float, float]) -> AreaOfInterest:
    """An area in the projection's metres from the product's corner."""
    return AreaOfInterest(geometry=shapely.Polygon([(ulx + x, uly - y) for x, y in xy]), crs=CRS.from_epsg(epsg))


async def test_the_geometry_is_that_of_the_area_of_interest(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """A triangle that reaches beyond the product: what the two share, to a metre, by another library's projection."""
    triangle = area_on(499980.0, 6100020.0, 32629, (4000, 2000), (14000, 2000), (4000, 6000))
    options = MaskOptions(aoi=triangle)
    item = await written(csmask_contract, tmp_path, window=Window(100, 200, 200, 400), options=options)
    validate(item)
    shape = shapely.geometry.shape(item["geometry"])
    assert shape.is_valid
    assert shape.exterior.is_ccw
    assert item["bbox"] == pytest.approx(shape.bounds, abs=2e-6)
    back = shapely.Polygon(list(zip(*warp("EPSG:4326", "EPSG:32629", *shape.exterior.xy)[:2], strict=True)))
    product = shapely.box(499980.0, 6100020.0 - 12000, 499980.0 + 12000, 6100020.0)
    assert back.hausdorff_distance(triangle.geometry.intersection(product)) < 1.0
    properties = item["properties"]
    assert properties["kappamask:area_of_interest"] == triangle.identity
    assert properties["proj:bbox"] == [503980, 6094020, 511980, 6098020]
    whole = await written(csmask_contract, tmp_path)
    assert "kappamask:area_of_interest" not in whole["properties"]


async def test_an_area_with_a_hole_over_the_antimeridian(csmask_contract: ModelContract, tmp_path: Path) -> None:
    place = {"size": 5490, "epsg": 32760, "ulx": 799980.0, "uly": 8200000.0}
    outer = area_on(799980.0, 8200000.0, 32760, (1000, 1000), (100000, 1000), (100000, 100000), (1000, 100000))
    hole = area_on(799980.0, 8200000.0, 32760, (2000, 2000), (8000, 2000), (8000, 8000), (2000, 8000))
    aoi = replace(outer, geometry=outer.geometry - hole.geometry)
    item = await written(csmask_contract, tmp_path, options=MaskOptions(aoi=aoi), **place)
    validate(item)
    assert item["geometry"]["type"] == "MultiPolygon"
    west, _, east, _ = item["bbox"]
    assert 0 < east + 180 < 2 < west < 180
    parts = shapely.geometry.shape(item["geometry"])
    assert parts.is_valid
    assert sum(len(part.interiors) for part in parts.geoms) == 1
    assert {part.bounds[0] for part in parts.geoms} == {-180.0, west}
    assert {part.bounds[2] for part in parts.geoms} == {180.0, east}


async def test_an_area_of_too_many_vertices_is_told_by_the_frame(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    """A comb with 3,000 teeth."""
    teeth = [
        (x, y) for n in range(3000) for x, y in ((n * 4, 2000), (n * 4, 6000), (n * 4 + 2, 6000), (n * 4 + 2, 2000))
    ]
    comb = area_on(499980.0, 6100020.0, 32629, *teeth, (12000, 1000), (0, 1000))
    item = await written(csmask_contract, tmp_path, options=MaskOptions(aoi=comb))
    assert item["geometry"] == (await written(csmask_contract, tmp_path))["geometry"]


async def test_a_mask_over_the_antimeridian_is_valid(csmask_contract: ModelContract, tmp_path: Path) -> None:
    item = await written(csmask_contract, tmp_path, size=5490, epsg=32601, ulx=300_000.0, uly=8_000_040.0)
    assert item["geometry"]["type"] in {"Polygon", "MultiPolygon"}
    over = await written(csmask_contract, tmp_path, size=5490, epsg=32760, ulx=799_980.0, uly=8_200_000.0)
    assert over["geometry"]["type"] == "MultiPolygon"
    assert over["bbox"][0] > over["bbox"][2]
    validate(item)
    validate(over)


async def test_same_inputs_give_same_bytes_and_no_path(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """Neither the place that was read, nor the place that is written, nor the clock is told."""
    first = await written(csmask_contract, tmp_path / "one")
    other = await written(csmask_contract, tmp_path / "two")
    assert first == other
    assert "/nowhere" not in json.dumps(first)
    assert "created" not in first["properties"]


async def test_links_lead_to_scene_model_and_collection(csmask_contract: ModelContract, tmp_path: Path) -> None:
    item = await written(csmask_contract, tmp_path)
    links = {(link["rel"], link["href"]) for link in item["links"]}
    scene = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
    assert (
        "derived_from",
        f"https://stac.dataspace.copernicus.eu/v1/collections/sentinel-2-l2a/items/{scene}",
    ) in links
    assert ("derived_from", f"../models/test_l2a-{'ab' * 6}.json") in links
    assert ("collection", "../collection.json") in links
    assert item["id"] == f"{scene}_XX_20m"


class Labelled:
    """A source that is known by its label only."""

    def __init__(self, label: str) -> None:
        self.label = label


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("s3://eodata/Sentinel-2/X.SAFE", "s3://eodata/Sentinel-2/X.SAFE"),
        ("https://user:password@host/item.json?sig=SECRET#x", "https://host/item.json"),
        ("s3://key@bucket/a b", "s3://bucket/a b"),
        ("/data/X.SAFE", None),
        ("X.zip", None),
    ],
)
async def test_a_store_is_named_without_secrets(
    csmask_contract: ModelContract, tmp_path: Path, label: str, shown: str | None
) -> None:
    item = await written(csmask_contract, tmp_path, source=Labelled(label))
    via = [link["href"] for link in item["links"] if link["rel"] == "via"]
    assert via == ([shown] if shown else [])


async def test_lineage_names_what_was_asked_for(csmask_contract: ModelContract, tmp_path: Path) -> None:
    options = MaskOptions(mosaic="blend", dilate=(("CLOUD", 200.0),))
    item = await written(csmask_contract, tmp_path, options=options, resampled=("B11 of 60 m instead of 20 m",))
    assert "blend, CLOUD grown by 200 m; B11 of 60 m instead of 20 m." in item["properties"]["processing:lineage"]


async def test_a_model_that_cannot_be_linked_to_is_refused_at_once(
    csmask_contract: ModelContract, tmp_path: Path
) -> None:
    hostile = replace(csmask_contract, name="../../etc")
    with pytest.raises(ContractError, match="part of a file name"):
        await StacExtra().begin(make_job(hostile, tmp_path))


async def test_numbers_stand_on_one_line(csmask_contract: ModelContract, tmp_path: Path) -> None:
    """And texts that look like them are left as they are."""
    odd = replace(csmask_contract, weights_source="[\n  1,\n  2\n]")
    made = make_job(odd, tmp_path)
    extra = StacExtra()
    await extra.begin(made)
    (file,) = await extra.finish(make_finished())
    text = b"".join(file.content).decode()
    assert '"proj:shape": [600, 600],' in text
    assert "(weights: [\n  1,\n  2\n])" in json.loads(text)["properties"]["processing:lineage"]
    assert len(text) < 12_000
