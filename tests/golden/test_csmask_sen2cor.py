"""csmask against Sen2Cor on a real scene: ESA's own 60 m files, through the whole pipeline and a real Triton."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PRODUCT = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE"
IMAGES = "GRANULE/L2A_T29UNU_A038058_20221005T115407/IMG_DATA"
STEM = "T29UNU_20221005T115411"
BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
#: The scene's 60 m pixels stand in for csmask's 20 m grid, so every size is a third.
SIZES = {10: 3660, 20: 1830, 60: 610}


@pytest.fixture
def coarse_product(shared_dir: Path, tmp_path: Path) -> Path:
    """The real product with its 60 m bands in the place of the 20 m ones; links, nothing is copied."""
    real, made = shared_dir / "data" / "product_60m" / PRODUCT, tmp_path / PRODUCT
    folder = made / IMAGES / "R20m"
    folder.mkdir(parents=True)
    for band in BANDS:
        (folder / f"{STEM}_{band}_20m.jp2").symlink_to(real / IMAGES / "R60m" / f"{STEM}_{band}_60m.jp2")
    (made / "MTD_MSIL2A.xml").symlink_to(real / "MTD_MSIL2A.xml")
    tile = (real / IMAGES).parent / "MTD_TL.xml"
    text = tile.read_text()
    for gsd, size in SIZES.items():
        text, found = re.subn(
            rf'(<Size resolution="{gsd}">\s*)<NROWS>\d+</NROWS>(\s*)<NCOLS>\d+</NCOLS>',
            rf"\1<NROWS>{size}</NROWS>\2<NCOLS>{size}</NCOLS>",
            text,
        )
        assert found == 1
    (made / IMAGES).parent.joinpath("MTD_TL.xml").write_text(text)
    return made


@pytest.mark.shared
@pytest.mark.integration
@pytest.mark.parametrize("mosaic", ["crop", "blend"])
def test_cloud_precision_and_recall_on_a_real_scene(
    coarse_product: Path, shared_dir: Path, tmp_path: Path, server_env: Path, mosaic: str
) -> None:
    labels = shared_dir / "data" / "product_60m" / PRODUCT / IMAGES / "R60m" / f"{STEM}_SCL_60m.jp2"
    result = command("run", coarse_product, "--model", "csmask", "--mosaic", mosaic, "--output", tmp_path / "masks")
    assert result["tiles"] == 81
    assert result["codestream_tiles_decoded_twice"] == 0
    scores = command("evaluate", as_label_grid(Path(result["output"])), labels, "--crosswalk", "scl")["any_cloud"]
    print(f"any cloud against SCL 8, 9, 10 ({mosaic}): {scores}")
    assert scores["precision"] >= 0.93
    assert scores["recall"] >= 0.93


def as_label_grid(mask: Path) -> Path:
    """Give the mask back the pixel size that its pixels have on the ground: 60 m."""
    import rasterio
    from rasterio.transform import Affine

    with rasterio.open(mask) as made:
        pixels, profile, transform = made.read(1), made.profile, made.transform
    assert transform.a == 20
    georeferenced = mask.with_name("mask_60m.tif")
    profile.update(driver="GTiff", transform=Affine(60, 0, transform.c, 0, -60, transform.f))
    with rasterio.open(georeferenced, "w", **profile) as out:
        out.write(pixels, 1)
    return georeferenced


def command(*arguments: object) -> dict:
    """Run the command line with ``--json`` and return its one object."""
    ended = subprocess.run(
        [sys.executable, "-m", "kappamask_stream", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
