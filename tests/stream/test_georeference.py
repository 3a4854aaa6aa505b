"""A mask lies where GDAL says that the bands lie: both hemispheres, either side of the antimeridian, areas, real data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from kappamask_stream.aoi import parse_aoi
from kappamask_stream.contract import BandGroup
from kappamask_stream.synth import write_product
from kappamask_stream.synth.identity import Place
from tests.conftest import make_contract
from tests.stream.fakes import FakeInference
from tests.stream.scene import Scene, small_l1c, small_l2a
from tests.stream.test_pipeline import masked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kappamask_stream.contract import ModelContract

__all__ = ["small_l1c", "small_l2a"]

#: Degrees, and what a metre of the projection is of one.
CLOSE_DEG = 1e-9
#: Corners as the grid of Sentinel-2 has them: a multiple of 20 m, over the antimeridian where the name says so.
PLACES = {
    "north": Place(),
    "south": Place(tile_id="T55ZZZ", epsg=32755, ulx=600000, uly=6200020),
    "north of the equator by less than a tile": Place(tile_id="T31ZZZ", epsg=32631, ulx=499980, uly=3000),
    "zone 60, over the antimeridian": Place(tile_id="T60ZZZ", epsg=32760, ulx=816600, uly=8100040),
    "zone 1, over the antimeridian": Place(tile_id="T01ZZZ", epsg=32701, ulx=177500, uly=8100040),
    "far north": Place(tile_id="T33ZZZ", epsg=32633, ulx=499980, uly=9000000),
}


def corners(path: Path) -> list[tuple[float, float]]:
    """Longitude and latitude of the outer corners of the outer pixels as GDAL reads the file, degrees."""
    with rasterio.open(path) as file:
        transformer = Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True)
        ends = [(0, 0), (file.width, 0), (0, file.height), (file.width, file.height)]
        return [transformer.transform(*(file.transform @ end)) for end in ends]


def assert_alike(found: Iterable[tuple[float, float]], expected: Iterable[tuple[float, float]]) -> None:
    np.testing.assert_allclose(list(found), list(expected), rtol=0, atol=CLOSE_DEG)


def made(folder: Path, place: Place, level: str = "L2A") -> Scene:
    result = write_product(folder, level=level, size=600, seed=3, place=place)
    return Scene(path=result.product, truth=result.truth)


@pytest.fixture(scope="module", params=PLACES)
def placed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Place, Scene]:
    """A product at one of the places, which no test changes."""
    name = request.param
    return name, PLACES[name], made(tmp_path_factory.mktemp("placed"), PLACES[name])


async def test_a_mask_has_the_corners_of_its_bands(
    small_l2a: ModelContract, placed: tuple[str, Place, Scene], tmp_path: Path
) -> None:
    name, place, scene = placed
    result = await masked(scene, FakeInference(small_l2a), tmp_path / "masks")
    assert result.output is not None
    for band, gsd_m in (("B02", 10), ("B05", 20), ("B01", 60)):
        assert_alike(corners(result.output), corners(scene.band_file(band, gsd_m)))
    with rasterio.open(result.output) as mask:
        assert mask.crs.to_epsg() == place.epsg
        assert mask.transform == rasterio.Affine(10, 0, place.ulx, 0, -10, place.uly)
    longitudes = [longitude for longitude, _ in corners(result.output)]
    assert ("antimeridian" in name) == (max(longitudes) - min(longitudes) > 180)


async def test_a_mask_coarser_than_its_bands_lies_where_they_do(small_l1c: ModelContract, tmp_path: Path) -> None:
    scene = made(tmp_path, PLACES["zone 60, over the antimeridian"], "L1C")
    result = await masked(scene, FakeInference(small_l1c), tmp_path / "masks")
    assert result.output is not None
    with rasterio.open(result.output) as mask:
        assert mask.res == (20, 20)
    for band, gsd_m in (("B02", 10), ("B11", 20)):
        assert_alike(corners(result.output), corners(scene.band_file(band, gsd_m)))


async def test_an_areas_mask_lies_on_the_pixels_of_its_bands(
    small_l2a: ModelContract, placed: tuple[str, Place, Scene], tmp_path: Path
) -> None:
    _, place, scene = placed
    left, top, right, bottom = place.ulx + 1000, place.uly - 2000, place.ulx + 2500, place.uly - 4000
    ring = f"{left} {top},{right} {top},{right} {bottom},{left} {bottom},{left} {top}"
    aoi = parse_aoi(f"SRID={place.epsg};POLYGON(({ring}))")
    threshold = int(np.median(scene.pixels("AOT", 10)))
    client = FakeInference(small_l2a, threshold=threshold)
    result = await masked(scene, client, tmp_path / "masks", aoi=aoi)
    assert result.output is not None
    with rasterio.open(result.output) as mask, rasterio.open(scene.band_file("AOT", 10)) as band:
        assert mask.transform == rasterio.Affine(10, 0, left, 0, -10, top)
        assert (mask.width, mask.height) == (150, 200)
        row, col = band.index(left + 5, top - 5)
        pixels = band.read(1, window=rasterio.windows.Window(col, row, 150, 200))
        # The fake calls cloud what is above its threshold: classes are where the pixels are.
        np.testing.assert_array_equal(mask.read(1), np.where(pixels > threshold, 4, 1))
        assert len(np.unique(pixels > threshold)) == 2


@pytest.mark.shared
async def test_a_mask_of_a_real_product_lies_where_gdal_reads_its_bands(shared_dir: Path, tmp_path: Path) -> None:
    (product,) = (shared_dir / "data" / "product_60m").glob("*.SAFE")
    contract = make_contract(
        inputs=(BandGroup(gsd_m=60, bands=("B01", "B09"), tile=256, stride=224),), gsd_m=60, tile_size=256, margin=16
    )
    scene = Scene(path=product, truth=product)
    result = await masked(scene, FakeInference(contract), tmp_path)
    assert result.output is not None
    assert_alike(corners(result.output), corners(scene.band_file("B01", 60)))
