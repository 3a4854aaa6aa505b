"""Tiles cut from a product to check a model on: real windows, the product's own radiometry, spread over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.bench.tiles import neighbours, write_tile_set
from kappamask_stream.errors import OutputError, ProductError
from kappamask_stream.grid import TileGrid
from kappamask_stream.product import Product, open_product
from kappamask_stream.sampling import spread, write_tiles
from kappamask_stream.sources import DirectorySource
from kappamask_stream.synth import write_product
from server_models.check_tiles import load_tiles

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract


@given(st.lists(st.sampled_from([0.01, 0.5, 1.0]), min_size=1, max_size=60), st.integers(1, 8) | st.integers(9, 64))
def test_tiles_are_spread_evenly_and_well_covered_ones_are_preferred(shares: list[float], count: int) -> None:
    grid = list(TileGrid(60 * 10, 10, 12, 1))
    chosen = spread(list(zip(grid, shares, strict=False)), count)
    good = [tile for tile, share in zip(grid, shares, strict=False) if share >= 0.5]
    pool = good or grid[: len(shares)]
    assert len(chosen) == min(count, len(pool))
    assert len({tile.index for tile in chosen}) == len(chosen)
    assert set(chosen) <= set(pool)
    positions = [pool.index(tile) for tile in chosen]
    gaps = np.diff([-1 - positions[0], *positions, 2 * len(pool) - 1 - positions[-1]])
    assert gaps.max() - gaps.min() <= 2


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("product"), size=1152, seed=4).product


async def test_tiles_are_the_products_pixels_with_its_own_offsets(
    safe: Path, csmask_contract: ModelContract, tmp_path: Path
) -> None:
    product = await open_product(DirectorySource(safe))
    path = tmp_path / product.name
    assert await write_tiles(product, csmask_contract, path, count=4, radiometry="corrected") == 4
    tiles = load_tiles(path, csmask_contract)
    assert tiles.source == f"tiles of {product.name}"
    assert tiles.labels is None
    assert (tiles.tensors["OFFSET"] == [product.offsets[b] for b in csmask_contract.channels]).all()
    assert np.allclose(tiles.tensors["SCALE"], 1e-4)
    grid = TileGrid.of(csmask_contract, *product.sizes[20])
    expected = {tile.index: windows(safe, product, csmask_contract, tile.window.row, tile.window.col) for tile in grid}
    found = [
        next((index for index, pixels in expected.items() if np.array_equal(pixels, tensor)), None)
        for tensor in tiles.tensors["DN_20M"]
    ]
    assert None not in found
    assert found == sorted(set(found)), "different tiles in the order of the grid"
    assert all(tensor.any() for tensor in tiles.tensors["DN_20M"])


def windows(safe: Path, product: Product, contract: ModelContract, row: int, col: int) -> np.ndarray:
    """A tile's pixels as GDAL reads them, zero beyond the image."""
    bands = np.zeros((len(contract.channels), 256, 256), np.uint16)
    for pixels, band in zip(bands, contract.channels, strict=True):
        with rasterio.open(safe / product.band_path(band, 20)) as file:
            inside = file.read(1)[row : row + 256, col : col + 256]
        pixels[: inside.shape[0], : inside.shape[1]] = inside
    return bands


async def test_radiometry_is_the_users_choice(safe: Path, kappamask_contract: ModelContract, tmp_path: Path) -> None:
    product = await open_product(DirectorySource(safe))
    offsets = {}
    for radiometry in ("corrected", "km_predict"):
        path = tmp_path / radiometry
        assert await write_tiles(product, kappamask_contract, path, count=1, radiometry=radiometry) == 1
        offsets[radiometry] = load_tiles(path, kappamask_contract).tensors["OFFSET"][0]
    assert offsets["km_predict"].tolist() == [0.0] * 14
    assert sorted(set(offsets["corrected"].tolist())) == [-1000.0, 0.0]  # AOT and WVP have none


async def test_more_tiles_than_there_are(safe: Path, kappamask_contract: ModelContract, tmp_path: Path) -> None:
    product = await open_product(DirectorySource(safe))
    count = await write_tiles(product, kappamask_contract, tmp_path / "t", count=64, radiometry="corrected")
    assert 1 <= count <= len(TileGrid.of(kappamask_contract, *product.sizes[10]))
    assert len(load_tiles(tmp_path / "t", kappamask_contract)) == count


async def test_a_tile_set_is_the_tiles_that_hold_data(
    safe: Path, kappamask_contract: ModelContract, tmp_path: Path
) -> None:
    """All of them where the grid has no more than are wanted: the floors of the benchmarks are measured on these."""
    product = await open_product(DirectorySource(safe))
    with rasterio.open(safe / product.band_path("B02", 10)) as file:
        image = np.pad(file.read(1), (0, 512))
    windows_10m = [image[480 * (i // 3) :, 480 * (i % 3) :][:512, :512] for i in range(9)]
    expected = [pixels for pixels in windows_10m if pixels.any()]
    assert 2 < len(expected) < 9, "one tile at least has no data"
    cut = {}
    for most in (9, 2):
        folder = tmp_path / str(most)
        folder.mkdir()
        tiles = await write_tile_set(product, kappamask_contract, "corrected", folder, most=most)
        requests = tiles.requests()
        assert (tiles.product, tiles.count) == (product.name, len(requests))
        assert {name: t.shape for name, t in requests[0].tensors.items()} == {
            "DN_10M": (6, 512, 512), "DN_20M": (6, 256, 256), "DN_60M": (2, 85, 85),
        }  # fmt: skip
        assert sorted(set(requests[0].offset.tolist())) == [-1000.0, 0.0]
        cut[most] = [request.tensors["DN_10M"][2] for request in requests]
    assert len(cut[9]) == len(expected)
    assert all(np.array_equal(found, pixels) for found, pixels in zip(cut[9], expected, strict=True))
    assert len(cut[2]) == 2
    assert all(any(np.array_equal(found, pixels) for pixels in expected) for found in cut[2])


@pytest.mark.parametrize(("most", "expected"), [(1, "4"), (9, "012345678"), (20, "012345678")])
def test_neighbours_are_those_around_the_middle(most: int, expected: str) -> None:
    grid = list(TileGrid(3 * 10, 3 * 10, 12, 1))
    assert "".join(str(tile.index) for tile in neighbours(grid, most)) == expected
    assert neighbours([], most) == []


async def test_a_product_of_another_level(safe: Path, l1c_csmask_contract: ModelContract, tmp_path: Path) -> None:
    product = await open_product(DirectorySource(safe))
    with pytest.raises(ProductError, match="is a L2A product, the model test_l2a was trained on L1C"):
        await write_tiles(product, l1c_csmask_contract, tmp_path / "t", count=1, radiometry="corrected")


async def test_a_product_without_data(
    safe: Path, csmask_contract: ModelContract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> list[object]:
        return []

    product = await open_product(DirectorySource(safe))
    monkeypatch.setattr("kappamask_stream.sampling.covered", nothing)
    with pytest.raises(ProductError, match="holds no data: there is no tile to take from it"):
        await write_tiles(product, csmask_contract, tmp_path / "t", count=1, radiometry="corrected")


async def test_a_folder_that_is_not_there(safe: Path, csmask_contract: ModelContract, tmp_path: Path) -> None:
    product = await open_product(DirectorySource(safe))
    with pytest.raises(OutputError, match=r"cannot write tiles of .*nowhere"):
        await write_tiles(product, csmask_contract, tmp_path / "nowhere" / "t", count=1, radiometry="corrected")
