"""Tiles cover the image, cores partition it, windows fall on whole pixels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.contract import ModelContract
from kappamask_stream.grid import TileGrid, Window, source_window


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    margin = draw(st.integers(0, 12))
    return TileGrid(
        height=draw(st.integers(1, 200)),
        width=draw(st.integers(1, 200)),
        tile_size=draw(st.integers(2 * margin + 4, 2 * margin + 60)),
        margin=margin,
    )


@given(grids())
def test_cores_partition_the_image(grid: TileGrid) -> None:
    owners = np.zeros((grid.height, grid.width), int)
    for tile in grid:
        owners[tile.core.relative_to(Window(0, 0, 0, 0))] += 1
        if not tile.core.is_empty:
            assert tile.core.intersection(tile.window) == tile.core
    assert (owners == 1).all()
    assert len(list(grid)) == len(grid)


def test_kappamask_grid_of_a_full_product() -> None:
    grid = TileGrid(10980, 10980, 512, 16)
    assert (grid.rows, grid.cols, len(grid)) == (23, 23, 529)
    last = grid.tile(22, 22)
    assert last.window == Window(10560, 10560, 512, 512)
    assert last.core == Window(10576, 10576, 404, 404)
    assert grid.tile(0, 1).core == Window(0, 496, 496, 480)


def test_csmask_grid_of_a_full_product() -> None:
    grid = TileGrid(5490, 5490, 256, 26)
    assert (grid.rows, grid.cols) == (27, 27)


def test_source_windows_of_kappamask(kappamask_contract: ModelContract) -> None:
    tile = TileGrid.of(kappamask_contract, 10980, 10980).tile(3, 7)
    windows = {g.gsd_m: source_window(tile, g) for g in kappamask_contract.inputs}
    assert windows == {
        10: Window(1440, 3360, 512, 512),
        20: Window(720, 1680, 256, 256),
        60: Window(240, 560, 85, 85),
    }
