"""Same product, model and options: the same bytes, wherever it is read from and however it is worked on. Real network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kappamask_stream import Masker
from kappamask_stream.s3 import S3Options
from kappamask_stream.settings import load_settings
from kappamask_stream.synth import write_product
from tests.integration.test_s3_products import files_of

if TYPE_CHECKING:
    from tests.integration.s3_servers import MotoStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

#: How a product is worked on: nothing of it may be seen in the mask.
WAYS: dict[str, dict[str, Any]] = {
    "one request at a time": {"max_in_flight": 1},
    "many requests at a time": {"max_in_flight": 24},
    "one thread, a small budget": {"decode_threads": 1, "read_ahead_tiles": 1, "memory_budget_mb": 64},
    "four threads": {"decode_threads": 4, "read_ahead_tiles": 32},
    "over gRPC": {"shared_memory": "off"},
}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine tiles of csmask: several batches."""
    return write_product(tmp_path_factory.mktemp("product"), size=1152, seed=11).product


class Masking:
    """Masks with csmask on the session's server, and returns the file's bytes."""

    def __init__(self, address: str, folder: Path) -> None:
        self._triton, self._folder = f"grpc://{address}", folder
        self._masks = 0

    async def __call__(
        self, *products: object, settings: dict[str, Any] | None = None, s3: S3Options | None = None, **options: Any
    ) -> list[bytes]:
        self._masks += 1
        given = load_settings(**(settings or {}))
        async with Masker(model="csmask", triton=self._triton, settings=given, s3=s3) as masker:
            made = [
                await masker.mask(str(one), output=self._folder / f"{self._masks}-{n}", **options)
                for n, one in enumerate(products)
            ]
        return [Path(str(result.output)).read_bytes() for result in made]


@pytest.fixture
def mask(csmask_address: str, tmp_path: Path) -> Masking:
    return Masking(csmask_address, tmp_path / "masks")


@pytest.mark.parametrize("overlap", ["crop", "blend"])
async def test_a_mask_is_the_same_however_it_is_worked_on(mask: Masking, product: Path, overlap: str) -> None:
    (expected,) = await mask(product, mosaic=overlap)
    for way, settings in WAYS.items():
        (made,) = await mask(product, settings=settings, mosaic=overlap)
        assert made == expected, way


async def test_a_mask_is_the_same_wherever_it_is_read_from(
    mask: Masking, product: Path, moto_store: MotoStore, tmp_path: Path
) -> None:
    (expected,) = await mask(product)
    zipped = shutil.make_archive(str(tmp_path / product.name), "zip", product.parent, product.name)
    deflated = Path(zipped).rename(tmp_path / product.with_suffix(".zip").name)
    moto_store.fill("same", {f"a/{product.name}/{path}": data for path, data in files_of(product).items()})
    there = S3Options(endpoint_url=moto_store.endpoint)
    copied = shutil.copytree(product, tmp_path / "copy" / product.name)
    for source in (deflated, f"s3://same/a/{product.name}", copied):
        (made,) = await mask(source, s3=there)
        assert made == expected, source
