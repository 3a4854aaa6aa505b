"""Products read through STAC Items over HTTP: the same tiles as from the SAFE, the offset exactly once."""

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.io import MemoryFile

from kappamask_stream.bands import choose_files, provenance
from kappamask_stream.contract import BandGroup, ModelContract
from kappamask_stream.errors import ProductError, StoreError
from kappamask_stream.grid import TileGrid
from kappamask_stream.planning import plan_decoding
from kappamask_stream.product import Product
from kappamask_stream.s3 import Patience, S3Options, Stores
from kappamask_stream.sources.stac_item import open_stac_item
from kappamask_stream.sources.stac_product import open_item_product
from kappamask_stream.sources.stac_source import StacItemSource
from tests.conftest import make_contract
from tests.integration.ranged_server import Fault, RangedServer
from tests.integration.stac_scene import Published, publish_cogs, tiles_of, without
from tests.stream.scene import Scene, l2a_scene, small_l2a

__all__ = ["l2a_scene", "small_l2a"]

MINUS_1000, NONE = {-1000.0}, {0.0}


@pytest.fixture(scope="module")
def inside(l2a_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """COGs whose DN are ESA's, with the offset inside."""
    return publish_cogs(l2a_scene, tmp_path_factory.mktemp("inside"), shift=0)


@pytest.fixture(scope="module")
def removed(l2a_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """COGs from whose DN 1000 were subtracted."""
    return publish_cogs(l2a_scene, tmp_path_factory.mktemp("removed"), shift=-1000)


@pytest.fixture
async def server() -> AsyncIterator[RangedServer]:
    async with RangedServer({}) as server:
        yield server


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    async with Stores(S3Options(patience=Patience(attempts=3, backoff_s=0.001))) as stores:
        yield stores


class Opener:
    """Opens Items and closes their sources."""

    def __init__(self, server: RangedServer, stores: Stores) -> None:
        self.server, self.stores = server, stores
        self.sources: list[StacItemSource] = []

    async def source(self, where: str) -> StacItemSource:
        source = await open_stac_item(where, stores=self.stores)
        self.sources.append(source)
        return source

    async def product(self, files: dict[str, bytes], path: str = "item.json") -> Product:
        self.server.files = files
        return await open_item_product(await self.source(self.server.url(path)))


@pytest.fixture
async def opener(server: RangedServer, stores: Stores) -> AsyncIterator[Opener]:
    opener = Opener(server, stores)
    yield opener
    for source in opener.sources:
        await source.aclose()
        await source.aclose()


async def test_tiles_are_those_of_the_safe(
    l2a_scene: Scene, inside: Published, opener: Opener, small_l2a: ModelContract
) -> None:
    contract = without(small_l2a, "AOT")
    product = await opener.product(inside.with_properties(**{"earthsearch:boa_offset_applied": False}))
    safe = await l2a_scene.open()
    for ours, esas in zip(await tiles_of(product, contract), await tiles_of(safe, contract), strict=True):
        assert ours.keys() == esas.keys()
        for tensor, pixels in esas.items():
            np.testing.assert_array_equal(ours[tensor], pixels)
    assert {band: product.offsets[band] for band in ("B01", "B02", "B8A")} == {
        band: safe.offsets[band] for band in ("B01", "B02", "B8A")
    }
    same = ("name", "level", "baseline", "satellite", "tile_id", "sensing_time", "epsg", "ulx", "uly", "sizes")
    assert [getattr(product, name) for name in same] == [getattr(safe, name) for name in same]
    assert product.quantification == {**safe.quantification}
    assert product.notes == ()


@pytest.mark.parametrize(
    ("applied", "baseline", "is_removed", "offsets", "told"),
    [
        (True, "05.11", True, NONE, None),
        (False, "05.11", False, MINUS_1000, None),
        (None, "05.11", False, MINUS_1000, None),
        (False, "05.11", True, NONE, "its pixels are too dark for that"),
        (None, "05.11", True, NONE, "its pixels are too dark for that"),
        (True, "05.11", False, MINUS_1000, "no pixel is dark enough for that"),
        (False, "02.09", True, NONE, "products of baseline 02.09 have none"),
        (True, "02.09", True, NONE, "products of baseline 02.09 have none"),
        (False, "04.00", True, NONE, "its pixels are too dark for that"),
        (True, "04.00", True, NONE, None),
    ],
)
async def test_offset_is_decided_by_what_is_there(
    inside: Published,
    removed: Published,
    opener: Opener,
    *,
    applied: bool | None,
    baseline: str,
    is_removed: bool,
    offsets: set[float],
    told: str | None,
) -> None:
    published = removed if is_removed else inside
    files = published.with_properties(
        **{
            "earthsearch:boa_offset_applied": applied,
            "s2:processing_baseline": baseline,
            "s2:product_uri": published.item["properties"]["s2:product_uri"].replace(
                "N0511", f"N{baseline.replace('.', '')}"
            ),
        }
    )
    product = await opener.product(files)
    assert set(product.offsets.values()) == offsets
    assert product.baseline == baseline
    assert bool(product.notes) == (told is not None)
    assert told is None or told in product.notes[0]


async def test_reflectances_agree_whatever_was_done_to_the_cogs(
    inside: Published, removed: Published, opener: Opener
) -> None:
    """DN plus offset is the same for both, so a mask is too; where nothing was cut off at 1."""
    contract = make_contract(
        inputs=(BandGroup(gsd_m=20, bands=("B05", "B8A"), tile=64, stride=48),), gsd_m=20, tile_size=64, margin=8
    )
    sums = []
    for published in (inside, removed):
        product = await opener.product(published.with_properties(**{"earthsearch:boa_offset_applied": None}))
        offset = product.offsets["B05"]
        tiles = await tiles_of(product, contract)
        sums.append([np.where(tile["DN_20M"] == 0, 0, tile["DN_20M"] + offset) for tile in tiles])
    np.testing.assert_array_equal(np.maximum(sums[0], 1) * (np.array(sums[0]) != 0), sums[1])


async def test_a_coarser_band_is_refused_or_replicated(
    inside: Published, opener: Opener, small_l2a: ModelContract
) -> None:
    product = await opener.product(inside.with_properties())
    with pytest.raises(ProductError, match=r"item\.json has AOT at 20 m only, test_l2a needs it at 10 m"):
        choose_files(product, small_l2a, allow_coarser=False)
    files = choose_files(product, small_l2a, allow_coarser=True)
    assert provenance(files) == ("AOT is read at 20 m and replicated to 10 m",)
    whole = replicated(read(inside, "AOT"), 2)
    grid_col, grid_row = 2, 1
    tile = (await tiles_of(product, small_l2a))[grid_row * 7 + grid_col]
    window = whole[96 * grid_row : 96 * grid_row + 128, 96 * grid_col : 96 * grid_col + 128]
    np.testing.assert_array_equal(tile["DN_10M"][0], window)


async def test_a_finer_band_is_averaged(inside: Published, opener: Opener) -> None:
    """csmask asks for B02 at 20 m, Earth Search has it at 10 m."""
    contract = make_contract(
        inputs=(BandGroup(gsd_m=20, bands=("B02", "B11"), tile=300, stride=284),), gsd_m=20, tile_size=300, margin=8
    )
    product = await opener.product(inside.with_properties())
    files = choose_files(product, contract, allow_coarser=False)
    assert provenance(files) == ("B02 is read at 10 m and averaged to 20 m",)
    fine = read(inside, "B02").astype(float)
    squares = fine.reshape(300, 2, 300, 2)
    there = (squares > 0).sum(axis=(1, 3))
    means = np.floor(squares.sum(axis=(1, 3)) / np.maximum(there, 1) + 0.5)
    tiles = await tiles_of(product, contract)
    np.testing.assert_array_equal(tiles[0]["DN_20M"][0], means)


def read(published: Published, band: str) -> np.ndarray:
    with MemoryFile(published.files[f"cogs/{band}.tif"]) as memory, memory.open() as file:
        return np.asarray(file.read(1))


def replicated(pixels: np.ndarray, factor: int) -> np.ndarray:
    return np.kron(pixels, np.ones((factor, factor), pixels.dtype))


def safe_item(scene: Scene) -> dict[str, Any]:
    """Return an Item that links the files of a SAFE relative to itself, and says little of its own."""
    images = sorted(path.relative_to(scene.path) for path in scene.path.glob("GRANULE/*/IMG_DATA/R*m/*.jp2"))
    assets = {
        path.stem.split("_", 2)[2]: {"href": f"./{path}", "type": "image/jp2"}
        for path in images
        if "TCI" not in path.name
    }
    assets["product_metadata"] = {"href": "./MTD_MSIL2A.xml", "type": "application/xml"}
    (granule,) = scene.path.glob("GRANULE/*/MTD_TL.xml")
    assets["granule_metadata"] = {"href": str(granule.relative_to(scene.path)), "type": "application/xml"}
    return {"type": "Feature", "stac_version": "1.1.0", "id": scene.name, "properties": {}, "assets": assets}


def safe_files(scene: Scene, item: dict[str, Any]) -> dict[str, bytes]:
    files = {str(p.relative_to(scene.path)): p.read_bytes() for p in scene.path.rglob("*") if p.is_file()}
    return {**files, "item.json": json.dumps(item).encode()}


async def test_jpeg_2000_of_a_safe(l2a_scene: Scene, opener: Opener, small_l2a: ModelContract) -> None:
    """Everything that SAFE's metadata says is taken from there: the mask's fingerprint is the same."""
    product = await opener.product(safe_files(l2a_scene, safe_item(l2a_scene)))
    safe = await l2a_scene.open()
    said = (
        "name", "level", "baseline", "satellite", "tile_id", "sensing_time", "epsg", "ulx", "uly", "sizes", "offsets",
        "quantification", "metadata_sha256", "notes",
    )  # fmt: skip
    assert {name: getattr(product, name) for name in said} == {name: getattr(safe, name) for name in said}
    assert product.files.keys() == safe.files.keys() - {("TCI", 10)}
    for ours, esas in zip(await tiles_of(product, small_l2a), await tiles_of(safe, small_l2a), strict=True):
        np.testing.assert_array_equal(ours["DN_10M"], esas["DN_10M"])
        np.testing.assert_array_equal(ours["DN_60M"], esas["DN_60M"])


@pytest.mark.parametrize("applied", [True, False, None])
async def test_the_flag_is_not_about_jpeg_2000(l2a_scene: Scene, opener: Opener, *, applied: bool | None) -> None:
    """Earth Search's ``-jp2`` assets are ESA's files, whatever it did to its COGs."""
    item = safe_item(l2a_scene)
    del item["assets"]["product_metadata"]
    item["properties"] = {"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": applied}
    for key, asset in item["assets"].items():
        if key.startswith("B"):
            asset["raster:bands"] = [{"scale": 0.0001, "offset": -0.1}]
    product = await opener.product(safe_files(l2a_scene, item))
    assert set(product.offsets.values()) == MINUS_1000
    assert product.quantification["B02"] == 10000.0
    assert product.quantification["AOT"] == 1000.0


async def test_a_local_item_beside_its_files(l2a_scene: Scene, opener: Opener, tmp_path: Path) -> None:
    product_folder = l2a_scene.copy(tmp_path)
    (product_folder / "item.json").write_text(json.dumps(safe_item(l2a_scene)))
    product = await open_item_product(await opener.source(str(product_folder / "item.json")))
    safe = await l2a_scene.open()
    assert product.metadata_sha256 == safe.metadata_sha256
    assert product.listing["B02_10m.jp2"] == l2a_scene.band_file("B02", 10).stat().st_size
    assert product.source.coalesce_bytes == 0


async def test_an_item_saved_without_its_assets(
    inside: Published, server: RangedServer, opener: Opener, tmp_path: Path
) -> None:
    """Its relative links start from where it was published, as its self link says."""
    server.files = inside.files
    item = {**inside.item, "links": [{"rel": "self", "href": server.url("item.json")}]}
    (tmp_path / "saved.json").write_text(json.dumps(item))
    product = await open_item_product(await opener.source(str(tmp_path / "saved.json")))
    assert product.listing["B02_10m.tif"] == len(inside.files["cogs/B02.tif"])


async def test_metadata_of_another_product(l2a_scene: Scene, opener: Opener) -> None:
    item = safe_item(l2a_scene)
    item["id"] = l2a_scene.name.replace("T32ZZZ", "T32ZZY")
    files = safe_files(l2a_scene, item)
    with pytest.raises(
        ProductError, match=r"links T32ZZZ_.*\.jp2, the Item is of T32ZZY at .*: they are of two products"
    ):
        await opener.product(files)
    unnamed = {path.replace("/T32ZZZ_", "/"): data for path, data in files.items()}
    unnamed["item.json"] = unnamed["item.json"].replace(b"/T32ZZZ_", b"/")
    with pytest.raises(ProductError, match=r"its tile is T32ZZY, .* is T32ZZZ .*: they are of two products"):
        await opener.product(unnamed)


async def test_files_of_another_place(inside: Published, opener: Opener) -> None:
    item = json.loads(json.dumps(inside.item))
    for asset in item["assets"].values():
        if "proj:transform" in asset:
            asset["proj:transform"][2] += 100_000
    files = {**inside.files, "item.json": json.dumps(item).encode()}
    with pytest.raises(ProductError, match=r"B01_60m\.tif lies at 399960, .* the metadata says 499960"):
        await opener.product(files)


async def test_a_band_of_another_place(inside: Published, opener: Opener, small_l2a: ModelContract) -> None:
    """Not of those whose pixels the offset is checked by: found before any of its tiles is read."""
    files, old = inside.with_properties(), struct.pack("<d", 399960.0)
    assert files["cogs/B05.tif"].count(old) == 1
    files["cogs/B05.tif"] = files["cogs/B05.tif"].replace(old, struct.pack("<d", 499960.0))
    product, contract = await opener.product(files), without(small_l2a, "AOT")
    with pytest.raises(ProductError, match=r"B05_20m\.tif lies at 499960, .* the metadata says 399960"):
        await plan_decoding(product, contract, list(TileGrid.of(contract, *product.sizes[10])))


async def test_an_item_that_says_no_place(inside: Published, opener: Opener) -> None:
    item = json.loads(json.dumps(inside.item))
    for asset in item["assets"].values():
        asset.pop("proj:shape", None)
    with pytest.raises(ProductError, match=r"does not say where its pixels lie: .* or a granule_metadata asset"):
        await opener.product({**inside.files, "item.json": json.dumps(item).encode()})


async def test_an_asset_that_is_gone_is_missed_only_where_it_is_needed(
    inside: Published, opener: Opener, small_l2a: ModelContract
) -> None:
    files = inside.with_properties()
    del files["cogs/B05.tif"]
    product = await opener.product(files)
    assert "B05_20m.tif" not in product.listing
    with pytest.raises(ProductError, match=r"no file of B05 at 20 m \(B05_20m\.tif\)"):
        choose_files(product, small_l2a, allow_coarser=True)
    with pytest.raises(ProductError, match=r"B05_20m\.tif: .*cogs/B05\.tif is not there"):
        await product.source.read("B05_20m.tif", 0, 1)


async def test_a_store_that_refuses(inside: Published, server: RangedServer, opener: Opener) -> None:
    server.files = inside.with_properties()
    source = await opener.source(server.url("item.json"))
    server.faults.extend([Fault(status=403)] * 20)
    with pytest.raises(StoreError, match="403 Forbidden; it needs other credentials"):
        await open_item_product(source)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<html>", "is no JSON"), (b"{}" + b" " * (4 << 20), "is longer than 4194304 bytes"), (None, "is not there")],
)
async def test_what_is_no_item(server: RangedServer, opener: Opener, content: bytes | None, said: str) -> None:
    server.files = {} if content is None else {"item.json": content}
    with pytest.raises(ProductError, match=said):
        await opener.source(server.url("item.json?sig=secret"))


async def test_reads_next_to_nothing_before_the_first_tile(
    inside: Published, server: RangedServer, opener: Opener
) -> None:
    """One request a band for size and header; the blocks that the offset is checked by."""
    await opener.product(inside.with_properties(**{"s2:processing_baseline": None}))
    bands = [path for path, asked in server.requests if asked == "bytes=0-16383"]
    assert sorted(bands) == sorted(inside.files)
    rest = {path for path, asked in server.requests if asked not in {None, "bytes=0-16383"}}
    assert rest <= {"cogs/B01.tif", "cogs/B12.tif"}


async def test_identity_does_not_depend_on_how_links_are_signed(
    inside: Published, server: RangedServer, opener: Opener
) -> None:
    first = await opener.product(inside.with_properties(updated="2022"))
    item = json.loads(json.dumps(inside.item))
    for key, asset in item["assets"].items():
        if not key.endswith("-jp2"):
            asset["href"] += "?sig=another"
    again = await opener.product({**inside.files, "item.json": json.dumps(item).encode()})
    assert first.metadata_sha256 == again.metadata_sha256
    believed = {**item, "properties": {**item["properties"], "s2:generation_time": "2023"}}
    removed = {
        key: {**asset, "raster:bands": [{"scale": 0.0001, "offset": -0.2}]} for key, asset in item["assets"].items()
    }
    other = await opener.product({**inside.files, "item.json": json.dumps({**believed, "assets": removed}).encode()})
    assert other.offsets != first.offsets
    assert other.metadata_sha256 != first.metadata_sha256
