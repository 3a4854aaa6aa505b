"""An area of interest: a part of the whole mask, read and asked for only where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.features import geometry_mask

from kappamask_stream.aoi import AreaOfInterest, parse_aoi
from kappamask_stream.errors import OutputError, UsageError
from tests.stream.naive import Network
from tests.stream.scene import coarse_l2a, l2a_scene, small_l2a
from tests.stream.test_pipeline import masked, pixels_of

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from tests.stream.scene import Scene

__all__ = ["coarse_l2a", "l2a_scene", "small_l2a"]

#: Corners in metres from the product's upper-left corner: a triangle, a small square, two far apart.
SHAPES = {
    "triangle": [[(300, 300), (3500, 900), (1200, 4100)]],
    "one tile": [[(1300, 1300), (1700, 1300), (1700, 1700), (1300, 1700)]],
    "two places": [
        [(205, 195), (905, 195), (905, 895), (205, 895)],
        [(3305, 3295), (4005, 3295), (4005, 3995), (3305, 3995)],
    ],
    "all": [[(-1e4, -1e4), (1e5, -1e4), (1e5, 1e5), (-1e4, 1e5)]],
}


async def area(scene: Scene, corners: list[list[tuple[float, float]]]) -> AreaOfInterest:
    product = await scene.open()
    polygons = [shapely.Polygon([(product.ulx + x, product.uly - y) for x, y in ring]) for ring in corners]
    return AreaOfInterest(geometry=shapely.MultiPolygon(polygons), crs=CRS.from_epsg(product.epsg))


@pytest.mark.parametrize("mosaic", ["crop", "blend"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_it_is_exactly_its_part_of_the_whole_mask(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path, mosaic: str, shape: str
) -> None:
    whole = await masked(l2a_scene, Network(small_l2a), tmp_path / "whole", mosaic=mosaic)
    aoi = await area(l2a_scene, SHAPES[shape])
    client = Network(small_l2a, seed=4)
    part = await masked(l2a_scene, client, tmp_path / "part", mosaic=mosaic, aoi=aoi)
    with rasterio.open(whole.output) as file:
        pixels, transform, bounds = file.read(1), file.transform, file.bounds
    outside = geometry_mask([aoi.geometry], pixels.shape, transform)
    expected = np.where(outside, np.uint8(5), pixels)
    with rasterio.open(part.output) as file:
        found, placed = file.read(1), file.transform
        west, south, east, north = shapely.intersection(aoi.geometry, shapely.box(*bounds)).bounds
        assert (file.bounds.left, file.bounds.top) == (np.floor(west / 10) * 10, np.ceil(north / 10) * 10)
        assert (file.bounds.right, file.bounds.bottom) == (np.ceil(east / 10) * 10, np.floor(south / 10) * 10)
    col, row = (round(v) for v in ~transform @ (placed.c, placed.f))
    np.testing.assert_array_equal(found, expected[row : row + found.shape[0], col : col + found.shape[1]])
    inside = pixels[~outside]
    assert part.classes == pytest.approx({name: (inside == i).mean() for i, name in enumerate(part.classes)})
    assert part.tiles == part.tiles_inferred + part.tiles_empty
    assert (part.tiles < whole.tiles) == (shape != "all")


@pytest.mark.parametrize("mosaic", ["crop", "blend"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_classes_grow_into_it_from_outside(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path, mosaic: str, shape: str
) -> None:
    dilate = (("CLOUD_SHADOW", 250.0), ("CLOUD", 100.0))
    whole = await masked(l2a_scene, Network(small_l2a), tmp_path / "whole", mosaic=mosaic, dilate=dilate)
    aoi = await area(l2a_scene, SHAPES[shape])
    part = await masked(l2a_scene, Network(small_l2a, seed=4), tmp_path / "part", mosaic=mosaic, dilate=dilate, aoi=aoi)
    with rasterio.open(whole.output) as file:
        pixels, transform = file.read(1), file.transform
    expected = np.where(geometry_mask([aoi.geometry], pixels.shape, transform), np.uint8(5), pixels)
    with rasterio.open(part.output) as file:
        found, placed = file.read(1), file.transform
    col, row = (round(v) for v in ~transform @ (placed.c, placed.f))
    np.testing.assert_array_equal(found, expected[row : row + found.shape[0], col : col + found.shape[1]])


async def test_an_area_with_a_hole(l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path) -> None:
    product = await l2a_scene.open()
    outer, inner = [(500, 500), (5000, 500), (5000, 5000), (500, 5000)], [(1503, 1511), (4007, 1499), (3989, 4013)]
    ring, hole = ([(product.ulx + x, product.uly - y) for x, y in corners] for corners in (outer, inner))
    aoi = AreaOfInterest(geometry=shapely.Polygon(ring, [hole]), crs=CRS.from_epsg(product.epsg))
    whole = await masked(l2a_scene, Network(small_l2a), tmp_path / "whole")
    part = await masked(l2a_scene, Network(small_l2a), tmp_path / "part", aoi=aoi)
    with rasterio.open(whole.output) as file:
        outside = geometry_mask([aoi.geometry], file.shape, file.transform)
        expected = np.where(outside, np.uint8(5), file.read(1))[50:500, 50:500]
    assert outside[250, 300]
    np.testing.assert_array_equal(pixels_of(part), expected)


async def test_only_tiles_that_meet_it_are_asked_for(
    l2a_scene: Scene, small_l2a: ModelContract, tmp_path: Path
) -> None:
    client = Network(small_l2a)
    result = await masked(l2a_scene, client, tmp_path, aoi=await area(l2a_scene, SHAPES["one tile"]))
    assert set(client.sent) == {f"tile at row 1, column 1 of {l2a_scene.name}"}
    assert result.tiles == 1


async def test_a_mask_of_another_area_is_another_mask(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    aoi = await area(l2a_scene, SHAPES["triangle"])
    first = await masked(l2a_scene, Network(coarse_l2a), tmp_path, aoi=aoi)
    assert (await masked(l2a_scene, Network(coarse_l2a), tmp_path, aoi=aoi)).status == "skipped"
    with pytest.raises(OutputError, match="--overwrite"):
        await masked(l2a_scene, Network(coarse_l2a), tmp_path)
    other = await masked(l2a_scene, Network(coarse_l2a), tmp_path, overwrite=True)
    assert other.fingerprint != first.fingerprint
    with rasterio.open(other.output) as file:
        assert file.shape == (100, 100)


async def test_an_area_elsewhere_fails_before_anything_is_read_or_made(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    client = Network(coarse_l2a)
    with pytest.raises(UsageError, match=f"--aoi misses {l2a_scene.name}"):
        await masked(l2a_scene, client, tmp_path / "out", aoi=parse_aoi("100,10,101,11"))
    assert not (tmp_path / "out").exists()
    assert not client.sent


async def test_a_sliver_between_pixel_centres_gives_a_mask_without_data(
    l2a_scene: Scene, coarse_l2a: ModelContract, tmp_path: Path
) -> None:
    sliver = await area(l2a_scene, [[(121, 121), (125, 121), (125, 125), (121, 125)]])
    result = await masked(l2a_scene, Network(coarse_l2a), tmp_path, aoi=sliver)
    assert (pixels_of(result) == 5).all()
    assert set(result.classes.values()) == {0.0}
