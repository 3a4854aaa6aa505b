"""A model that asks for 10 m files at half their resolution: what it is fed, and what its masks say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.crs import CRS

from kappamask_stream.aoi import AreaOfInterest
from kappamask_stream.contract import BandGroup
from kappamask_stream.grid import TileGrid, Window, source_window
from kappamask_stream.jp2.reduced_band import low_pass
from tests.stream.naive import Network
from tests.stream.scene import l1c_scene, small_l1c
from tests.stream.test_pipeline import masked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference import InferResult, TileRequest
    from tests.stream.scene import Scene

__all__ = ["l1c_scene", "small_l1c"]


class Keeping(Network):
    """Keeps what it is sent."""

    def __init__(self, contract: ModelContract) -> None:
        super().__init__(contract)
        self.seen: list[dict[str, NDArray[np.uint16]]] = []

    def answer(self, request: TileRequest) -> InferResult:
        self.seen.append({name: pixels.copy() for name, pixels in request.tensors.items()})
        return super().answer(request)


@pytest.fixture
def reduced_l1c(small_l1c: ModelContract) -> ModelContract:
    fine, coarse = small_l1c.inputs
    group = BandGroup(gsd_m=20, file_gsd_m=10, bands=fine.bands, tile=coarse.tile, stride=coarse.stride)
    return replace(small_l1c, name="test_l1c_reduced", inputs=(group, coarse))


def expected(scene: Scene, contract: ModelContract) -> list[dict[str, NDArray[np.uint16]]]:
    """Cut all tiles with data out of whole images; one codestream tile holds each of this product's 10 m bands."""
    images = {}
    for group in contract.inputs:
        bands = [scene.pixels(band, group.file_gsd_m or group.gsd_m) for band in group.bands]
        images[group.tensor] = np.stack(
            [low_pass(pixels, 0, 0, 32767) if group.file_gsd_m else pixels for pixels in bands]
        )
    height, width = images["DN_20M"].shape[1:]
    tiles = []
    for tile in TileGrid.of(contract, height, width):
        cut = {}
        for group in contract.inputs:
            window = source_window(tile, group)
            common = window.intersection(Window(0, 0, height, width))
            pixels = np.zeros((len(group.bands), group.tile, group.tile), np.uint16)
            pixels[:, *common.relative_to(window)] = images[group.tensor][:, common.row : common.row_end,
                                                                          common.col : common.col_end]  # fmt: skip
            cut[group.tensor] = pixels
        if any(pixels.any() for pixels in cut.values()):
            tiles.append(cut)
    return tiles


def as_bytes(tiles: list[dict[str, NDArray[np.uint16]]]) -> list[bytes]:
    return sorted(b"".join(tile[name].tobytes() for name in sorted(tile)) for tile in tiles)


async def test_the_network_sees_the_low_pass_band_of_10_m_files(
    l1c_scene: Scene, reduced_l1c: ModelContract, tmp_path: Path
) -> None:
    client = Keeping(reduced_l1c)
    result = await masked(l1c_scene, client, tmp_path)
    assert as_bytes(client.seen) == as_bytes(expected(l1c_scene, reduced_l1c))
    assert result.codestream_tiles_decoded_twice == 0


async def test_the_mask_says_so_and_is_another_one(
    l1c_scene: Scene, reduced_l1c: ModelContract, small_l1c: ModelContract, tmp_path: Path
) -> None:
    reduced = await masked(l1c_scene, Network(reduced_l1c), tmp_path / "reduced")
    averaged = await masked(l1c_scene, Network(small_l1c), tmp_path / "averaged")
    said = "B02 is read at half the resolution of its 10 m file, as the model asks"
    assert any(said in note for note in reduced.notes)
    assert not averaged.notes
    assert reduced.fingerprint != averaged.fingerprint
    with rasterio.open(reduced.output) as mask, rasterio.open(averaged.output) as other:
        assert said in mask.tags()["RESAMPLED"]
        assert "RESAMPLED" not in other.tags()
        assert (mask.shape, mask.transform) == (other.shape, other.transform)


async def test_an_area_is_its_part_of_the_whole(l1c_scene: Scene, reduced_l1c: ModelContract, tmp_path: Path) -> None:
    product = await l1c_scene.open()
    box = shapely.box(product.ulx + 800, product.uly - 1600, product.ulx + 1600, product.uly - 800)
    aoi = AreaOfInterest(geometry=box, crs=CRS.from_epsg(product.epsg))
    whole = await masked(l1c_scene, Network(reduced_l1c), tmp_path / "whole")
    part = await masked(l1c_scene, Network(reduced_l1c), tmp_path / "part", aoi=aoi)
    with rasterio.open(whole.output) as first, rasterio.open(part.output) as second:
        np.testing.assert_array_equal(second.read(1), first.read(1)[40:80, 40:80])
    assert part.tiles < whole.tiles
