"""Small products for the pipeline's tests: generated once per session, read with rasterio as the oracle does."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import rasterio

from kappamask_stream.contract import BandGroup, ModelContract
from kappamask_stream.product import Product, open_product
from kappamask_stream.sources import DirectorySource
from kappamask_stream.synth import write_product
from tests.conftest import make_contract

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SEED = 3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A product that no test changes, and its truth (10 m)."""

    path: Path
    truth: Path

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".SAFE")

    async def open(self) -> Product:
        return await open_product(DirectorySource(self.path))

    def band_file(self, band: str, gsd_m: int) -> Path:
        return band_file(self.path, band, gsd_m)

    def pixels(self, band: str, gsd_m: int) -> NDArray[np.uint16]:
        """Read a band whole and plainly."""
        with rasterio.open(self.band_file(band, gsd_m)) as file:
            return file.read(1)

    def copy(self, folder: Path) -> Path:
        """Return a product of the same name that a test may damage."""
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.copytree(self.path, folder / self.path.name)


def band_file(product: Path, band: str, gsd_m: int) -> Path:
    (found,) = [
        *product.glob(f"GRANULE/*/IMG_DATA/R{gsd_m}m/*_{band}_{gsd_m}m.jp2"),
        *product.glob(f"GRANULE/*/IMG_DATA/*_{band}.jp2"),
    ]
    return found


# Fixtures that several modules import are made once for each; the products are made once.
_made: dict[tuple[str, int], Scene] = {}


def _scene(factory: pytest.TempPathFactory, level: str, size: int) -> Scene:
    if (level, size) not in _made:
        result = write_product(factory.mktemp(f"scene-{level}-{size}"), level=level, size=size, seed=SEED)
        _made[level, size] = Scene(path=result.product, truth=result.truth)
    return _made[level, size]


@pytest.fixture(scope="session")
def l2a_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """600 x 600 pixels of 10 m, a swath edge at the right."""
    return _scene(tmp_path_factory, "L2A", 600)


@pytest.fixture(scope="session")
def l1c_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return _scene(tmp_path_factory, "L1C", 600)


@pytest.fixture
def small_l2a() -> ModelContract:
    """KappaMask's shapes at a quarter of its size: all three resolutions, 60 m windows that end early."""
    return make_contract(
        inputs=(
            BandGroup(gsd_m=10, bands=("AOT", "B02", "B08"), tile=128, stride=96),
            BandGroup(gsd_m=20, bands=("B05", "B11"), tile=64, stride=48),
            BandGroup(gsd_m=60, bands=("B01",), tile=21, stride=16),
        ),
        gsd_m=10,
        tile_size=128,
        margin=16,
        family="kappamask",
        dn_unit="quantification",
        probability_classes=(0, 1, 2, 3, 4, 5),
        suffix="KZ",
    )


@pytest.fixture
def small_l1c() -> ModelContract:
    """csmask's shapes for L1C at a quarter of its size: a mask of 20 m, bands of 10 m joined."""
    return make_contract(
        inputs=(
            BandGroup(gsd_m=10, bands=("B02", "B04"), tile=128, stride=96),
            BandGroup(gsd_m=20, bands=("B12", "B11"), tile=64, stride=48),
        ),
        gsd_m=20,
        tile_size=64,
        margin=8,
        level="L1C",
        name="test_l1c",
        suffix="CS",
    )


@pytest.fixture
def coarse_l2a() -> ModelContract:
    """60 m bands only: 16 tiles that take a few milliseconds to read."""
    return make_contract(
        inputs=(BandGroup(gsd_m=60, bands=("B01", "B09"), tile=48, stride=32),),
        gsd_m=60,
        tile_size=48,
        margin=8,
    )
