"""Opening products: what is found where, and what is said when something is not."""

import asyncio
import hashlib
import shutil
from pathlib import Path

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.product import open_product
from kappamask_stream.sources import DirectorySource
from tests.unit.safe_product import L1C_BANDS, SafeProduct
from tests.unit.test_metadata import REAL

PRODUCT_60M = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"


@pytest.fixture
def l2a(tmp_path: Path) -> Path:
    return SafeProduct().write(tmp_path)


def renamed_to(product: Path, name: str) -> Path:
    return product.rename(product.parent / name)


@pytest.mark.shared
@pytest.mark.parametrize("folder", [folder for folder in REAL if folder.endswith(".SAFE")])
async def test_real_products_without_pixels(shared_dir: Path, folder: str) -> None:
    level, baseline, _, tile_id, epsg, corner, offset = REAL[folder]
    product = await open_product(DirectorySource(shared_dir / "data" / "metadata" / folder))
    assert (product.level, product.baseline, product.tile_id, product.epsg) == (level, baseline, tile_id, epsg)
    assert (product.ulx, product.uly) == corner
    assert set(product.offsets.values()) == {offset}
    assert product.name.endswith(folder.removesuffix(".SAFE")[-28:])
    assert "_N" in product.name, "the metadata knows the baseline where the directory's name leaves it out"
    assert product.notes == ()
    gsds = {gsd_m for _, gsd_m in product.files}
    assert gsds == {10, 20, 60}
    with pytest.raises(ProductError, match=r"has no file of B02 at 10 m \(GRANULE/.*_B02.*\.jp2\).*fetch it again"):
        product.band_path("B02", 10)


@pytest.mark.shared
async def test_real_product_with_60_m_bands(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "product_60m"
    product = await open_product(DirectorySource(folder / f"{PRODUCT_60M}.SAFE"))
    assert product.name == PRODUCT_60M
    assert product.sizes == {10: (10980, 10980), 20: (5490, 5490), 60: (1830, 1830)}
    assert product.metadata_sha256 == hashlib.sha256(
        (folder / f"{PRODUCT_60M}.SAFE" / "MTD_MSIL2A.xml").read_bytes()
    ).hexdigest()  # fmt: skip
    for band in ("B01", "B02", "B8A", "AOT", "WVP", "SCL"):
        path = product.band_path(band, 60)
        assert len(await product.source.read(path, 0, 12)) == 12
    with pytest.raises(ProductError, match=r"no file of B02 at 10 m .*; it has B02 at 60 m; at 10 m it has AOT: "):
        product.band_path("B02", 10)


async def test_l2a(l2a: Path) -> None:
    product = await open_product(DirectorySource(l2a))
    assert (product.name, product.level, product.baseline) == (SafeProduct().name, "L2A", "04.00")
    assert (product.tile_id, product.sensing_time, product.satellite) == ("T29UNU", "20221005T115411", "Sentinel-2A")
    assert (product.epsg, product.ulx, product.uly) == (32629, 499980.0, 5900040.0)
    assert product.sizes == {10: (120, 240), 20: (60, 120), 60: (20, 40)}
    assert product.band_path("B02", 20).endswith("IMG_DATA/R20m/T29UNU_20221005T115411_B02_20m.jp2")
    assert product.band_path("AOT", 10).endswith("IMG_DATA/R10m/T29UNU_20221005T115411_AOT_10m.jp2")
    assert await product.source.read_all(product.band_path("B8A", 20), limit=200)
    assert product.offsets["B8A"] == -1000
    assert product.quantification["WVP"] == 1000


async def test_l1c(tmp_path: Path) -> None:
    product = await open_product(DirectorySource(SafeProduct(level="L1C").write(tmp_path)))
    own = {"B01": 60, "B09": 60, "B10": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}
    for band in L1C_BANDS:
        assert product.band_path(band, own.get(band, 20)).endswith(f"_{band}.jp2")
    with pytest.raises(ProductError, match=r"no file of B02 at 20 m; it has B02 at 10 m; .* lists no such file either"):
        product.band_path("B02", 20)
    with pytest.raises(ProductError, match="no file of AOT at 10 m"):
        product.band_path("AOT", 10)


async def test_the_folder_around_the_only_product_will_do(l2a: Path) -> None:
    product = await open_product(DirectorySource(l2a.parent))
    direct = await open_product(DirectorySource(l2a))
    assert product.metadata_sha256 == direct.metadata_sha256
    assert dict(product.files) == dict(direct.files)
    assert await product.source.read_all(product.band_path("B02", 10), limit=200)
    assert product.notes == ()


async def test_its_metadata_file_will_do(l2a: Path) -> None:
    for name in ("MTD_MSIL2A.xml", "manifest.safe"):
        assert (await open_product(DirectorySource(l2a / name))).name == SafeProduct().name


async def test_several_products_are_named(l2a: Path) -> None:
    SafeProduct(tile_id="T30UXX").write(l2a.parent)
    with pytest.raises(ProductError, match=r"holds 2 products \(S2A_.*T29UNU.*, S2A_.*T30UXX.*\): give each by itself"):
        await open_product(DirectorySource(l2a.parent))


async def test_a_folder_inside_a_product_names_the_product(l2a: Path) -> None:
    with pytest.raises(ProductError, match=rf"it is a folder inside one, give .*{l2a.name}$"):
        await open_product(DirectorySource(l2a / "GRANULE"))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "it is empty"),
        (["photo.jpg"], r"MTD_MSIL1C\.xml or MTD_MSIL2A\.xml is missing; give the \.SAFE directory"),
        (["tileInfo.json", "metadata.xml"], "it is a copy of a tile folder of AWS's buckets"),
        (["S2A_OPER_MTD_SAFL1C_PDMC_20150818.xml"], "it has the format from before December 2016"),
    ],
)
async def test_what_is_no_product(tmp_path: Path, files: list[str], says: str) -> None:
    (tmp_path / "it").mkdir()
    for file in files:
        (tmp_path / "it" / file).touch()
    with pytest.raises(ProductError, match=f"is no Sentinel-2 product: {says}"):
        await open_product(DirectorySource(tmp_path / "it"))


async def test_no_granule(l2a: Path) -> None:
    shutil.rmtree(l2a / "GRANULE")
    with pytest.raises(ProductError, match=r"has no GRANULE/\*/MTD_TL\.xml: fetch the product again"):
        await open_product(DirectorySource(l2a))


async def test_several_granules(l2a: Path) -> None:
    shutil.copytree(l2a / SafeProduct().granule, l2a / "GRANULE" / "L2A_T30UXX_A038058_20221005T115407")
    with pytest.raises(ProductError, match="has 2 granules"):
        await open_product(DirectorySource(l2a))


async def test_two_levels_in_one_directory(l2a: Path) -> None:
    (l2a / "MTD_MSIL1C.xml").touch()
    with pytest.raises(ProductError, match=r"has MTD_MSIL1C\.xml and MTD_MSIL2A\.xml: they are two products"):
        await open_product(DirectorySource(l2a))


async def test_the_metadata_wins_over_the_directorys_name(l2a: Path) -> None:
    renamed = renamed_to(l2a, SafeProduct(level="L1C", tile_id="T01LAC").name)
    product = await open_product(DirectorySource(renamed))
    assert (product.level, product.name, product.tile_id) == ("L2A", SafeProduct().name, "T29UNU")
    assert len(product.notes) == 1
    assert "S2A_MSIL1C" in product.notes[0]
    plain = renamed_to(renamed, "my product")
    assert (await open_product(DirectorySource(plain))).notes == ()


async def test_the_directorys_name_without_baseline_is_no_contradiction(l2a: Path) -> None:
    renamed = renamed_to(l2a, l2a.name.replace("_N0400", ""))
    product = await open_product(DirectorySource(renamed))
    assert (product.name, product.baseline, product.notes) == (SafeProduct().name, "04.00", ())


async def test_where_the_uri_is_no_name_the_directorys_is_used(tmp_path: Path) -> None:
    name = SafeProduct().name
    made = SafeProduct(replace={f"<PRODUCT_URI>{name}.SAFE": "<PRODUCT_URI>http://www.example.org"}).write(tmp_path)
    product = await open_product(DirectorySource(made))
    assert product.name == name
    assert "http://www.example.org" in product.notes[0]
    with pytest.raises(ProductError, match=r"PRODUCT_URI 'http://www\.example\.org' is no Sentinel-2 product name"):
        await open_product(DirectorySource(made.rename(tmp_path / "it")))


async def test_a_uri_that_leads_elsewhere_never_becomes_a_path(tmp_path: Path) -> None:
    made = SafeProduct(replace={"<PRODUCT_URI>": "<PRODUCT_URI>../../"}).write(tmp_path)
    with pytest.raises(ProductError, match="is no Sentinel-2 product name"):
        await open_product(DirectorySource(made.rename(tmp_path / "it")))


async def test_metadata_that_contradicts_itself(tmp_path: Path) -> None:
    level = SafeProduct(replace={"<PRODUCT_URI>S2A_MSIL2A": "<PRODUCT_URI>S2A_MSIL1C"}).write(tmp_path / "a")
    with pytest.raises(ProductError, match="PROCESSING_LEVEL is L2A, the product's name is S2A_MSIL1C"):
        await open_product(DirectorySource(level))
    tile = SafeProduct(replace={"A038058_T29UNU_N": "A038058_T30UXX_N"}).write(tmp_path / "b")
    with pytest.raises(ProductError, match=r"MTD_TL\.xml is of tile T30UXX, the product is S2A_.*mixed"):
        await open_product(DirectorySource(tile))


async def test_bands_are_found_where_the_metadata_lists_none(tmp_path: Path) -> None:
    made = SafeProduct(replace={"IMAGE_FILE>": "OTHER>"}).write(tmp_path)
    product = await open_product(DirectorySource(made))
    assert product.band_path("B11", 20).endswith("R20m/T29UNU_20221005T115411_B11_20m.jp2")
    listed = await open_product(DirectorySource(SafeProduct().write(tmp_path / "listed")))
    assert dict(product.files) == dict(listed.files)


async def test_bands_under_other_names_than_the_metadata_lists(l2a: Path) -> None:
    folder = l2a / SafeProduct().granule / "IMG_DATA" / "R20m"
    (folder / "T29UNU_20221005T115411_B11_20m.jp2").rename(folder / "L2A_T29UNU_20221005T115411_B11_20m.jp2")
    source = DirectorySource(l2a)
    assert (await open_product(source)).band_path("B11", 20).endswith("R20m/L2A_T29UNU_20221005T115411_B11_20m.jp2")
    (folder / "X_B11_20m.jp2").touch()
    with pytest.raises(ProductError, match="both claim to be B11 at 20 m"):
        await open_product(DirectorySource(l2a))


async def test_strays_beside_a_listed_band_do_not_matter(l2a: Path) -> None:
    folder = l2a / SafeProduct().granule / "IMG_DATA" / "R20m"
    (folder / "OLD_B11_20m.jp2").touch()
    assert (await open_product(DirectorySource(l2a))).band_path("B11", 20).endswith("20221005T115411_B11_20m.jp2")


async def test_a_missing_band_matters_only_when_it_is_asked_for(l2a: Path) -> None:
    (l2a / SafeProduct().granule / "IMG_DATA" / "R20m" / "T29UNU_20221005T115411_B11_20m.jp2").unlink()
    product = await open_product(DirectorySource(l2a))
    assert product.band_path("B12", 20)
    with pytest.raises(
        ProductError, match=r"no file of B11 at 20 m \(GRANULE.*B11_20m\.jp2\); at 20 m it has B02, B05"
    ):
        product.band_path("B11", 20)


async def test_bands_in_another_format_are_said_to_be(l2a: Path) -> None:
    folder = l2a / SafeProduct().granule / "IMG_DATA" / "R10m"
    (folder / "T29UNU_20221005T115411_B02_10m.jp2").rename(folder / "T29UNU_20221005T115411_B02_10m.tif")
    product = await open_product(DirectorySource(l2a))
    with pytest.raises(ProductError, match=r"has GRANULE/.*_B02_10m\.tif, but B02 is read from JPEG 2000 files only"):
        product.band_path("B02", 10)


async def test_errors_name_the_file_and_are_single(l2a: Path) -> None:
    (l2a / "MTD_MSIL2A.xml").write_text("<a>")
    (l2a / SafeProduct().granule / "MTD_TL.xml").write_text("<b>")
    with pytest.raises(ProductError, match=r"MTD_.*\.xml is no well-formed XML"):
        await open_product(DirectorySource(l2a))


async def test_a_huge_xml_file_is_not_read(l2a: Path) -> None:
    with (l2a / "MTD_MSIL2A.xml").open("wb") as file:
        file.write(b'<a b="')
        file.seek(100 * 2**20)
        file.write(b'"/>')
    with pytest.raises(ProductError, match=r"MTD_MSIL2A\.xml has 104857603 bytes, at most 8388608 are read"):
        await open_product(DirectorySource(l2a))


class Stalling(DirectorySource):
    """Never answers, and tells when both reads are under way."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun: set[str] = set()
        self.cancelled: set[str] = set()
        self.both = asyncio.Event()

    async def read_all(self, path: str, *, limit: int) -> bytes:
        self.begun.add(path)
        if len(self.begun) == 2:
            self.both.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.add(path)
            raise
        return b""


async def test_both_files_are_read_at_once_and_cancelling_ends_both(l2a: Path) -> None:
    source = Stalling(l2a)
    opening = asyncio.create_task(open_product(source))
    async with asyncio.timeout(5):
        await source.both.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert source.cancelled == source.begun == {f"{SafeProduct().granule}/MTD_TL.xml", "MTD_MSIL2A.xml"}
    assert len(asyncio.all_tasks()) == 1
