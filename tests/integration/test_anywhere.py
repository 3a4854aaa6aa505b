"""One product from everywhere to everywhere, through a real Triton: the same mask, to the byte."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from tests.integration.s3_servers import aws_environment, moto_store, rclone_store, stores_env
from tests.integration.test_run import at_null, files_in, run, small
from tests.stream.scene import l2a_scene

if TYPE_CHECKING:
    from tests.integration.s3_servers import MotoStore, RcloneStore
    from tests.stream.scene import Scene

pytestmark = pytest.mark.integration

__all__ = ["at_null", "aws_environment", "l2a_scene", "moto_store", "rclone_store", "stores_env"]

STEM = "L2A_T32ZZZ_20240823T101031_NULL_20m"


def files_of(product: Path) -> dict[str, bytes]:
    return {
        f"{product.name}/{p.relative_to(product).as_posix()}": p.read_bytes() for p in product.rglob("*") if p.is_file()
    }


def zipped(product: Path, path: Path, method: int) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files_of(product).items():
            archive.writestr(name, data)
    return path


@pytest.mark.usefixtures("aws_environment")
def test_the_mask_is_the_same_wherever_the_product_lies(
    l2a_scene: Scene, at_null: list[str], moto_store: MotoStore, rclone_store: RcloneStore, tmp_path: Path
) -> None:
    name = l2a_scene.name
    stored = zipped(l2a_scene.path, tmp_path / f"{name}.zip", zipfile.ZIP_STORED)
    deflated = zipped(l2a_scene.path, tmp_path / f"{name}.SAFE.zip", zipfile.ZIP_DEFLATED)
    objects = files_of(l2a_scene.path) | {f"{name}.zip": deflated.read_bytes()}
    for store in (moto_store, rclone_store):
        store.fill("products", objects)
    at_moto, at_rclone = (["--s3-endpoint", store.endpoint] for store in (moto_store, rclone_store))
    places: dict[str, list[object]] = {
        "directory": [l2a_scene.path],
        "stored zip": [stored],
        "deflated zip": [deflated],
        "moto": [f"s3://products/{name}.SAFE/", *at_moto],
        "zip on moto": [f"s3://products/{name}.zip", *at_moto],
        "rclone": [f"s3://products/{name}.SAFE", *at_rclone],
        "zip on rclone": [f"s3://products/{name}.zip", *at_rclone],
        "name in a folder": [name, "--source", l2a_scene.path.parent],
        "name in a bucket": [name, "--source", "s3://products", *at_moto],
    }
    masks = {}
    for place, arguments in places.items():
        ended = run(*arguments, "--output", tmp_path / place, *at_null, "--json")
        assert (ended.returncode, ended.stderr) == (0, ""), place
        masks[place] = Path(json.loads(ended.stdout)["output"]).read_bytes()
    assert {place: mask == masks["directory"] for place, mask in masks.items()} == dict.fromkeys(places, True)


@pytest.mark.usefixtures("aws_environment")
def test_outputs_go_to_a_bucket_whole_and_are_found_again(
    l2a_scene: Scene, at_null: list[str], moto_store: MotoStore, tmp_path: Path
) -> None:
    moto_store.fill("masks", {})
    here = run(l2a_scene.path, "--output", tmp_path, *at_null, "--png", "--json")
    options = ["--output", "s3://masks/some/where", "--s3-endpoint", moto_store.endpoint, *at_null, "--png", "--json"]
    ended = run(l2a_scene.path, *options)
    assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    folder = f"some/where/{l2a_scene.name}"
    assert document["output"] == f"s3://masks/{folder}/{STEM}.tif"
    local = Path(json.loads(here.stdout)["output"])
    for suffix, kind in ((".tif", "image/tiff"), (".png", "image/png"), ("_quicklook.png", "image/png")):
        key = f"{folder}/{STEM}{suffix}"
        assert moto_store.content("masks", key) == local.with_name(STEM + suffix).read_bytes()
        assert str(moto_store.header("masks", key, "Content-Type")).startswith(kind)
    again = run(l2a_scene.path, *options)
    assert json.loads(again.stdout)["status"] == "skipped"
    other = run(l2a_scene.path, *options, "--dilate", "CLOUD=60")
    assert other.returncode == 5
    assert "--overwrite" in json.loads(other.stdout)["error"]


@pytest.mark.usefixtures("aws_environment")
def test_a_product_of_one_store_is_masked_into_another(
    at_null: list[str], moto_store: MotoStore, rclone_store: RcloneStore, tmp_path: Path
) -> None:
    product = small(tmp_path, seed=13)
    rclone_store.fill("elsewhere", files_of(product))
    moto_store.fill("ours", {})
    (tmp_path / "aws").write_text("[mine]\naws_access_key_id = MINEMINE\naws_secret_access_key = SECRETOFMINE\n")
    ended = run(
        f"s3://elsewhere/{product.name}/", "--s3-endpoint", rclone_store.endpoint, "--output", "s3://ours/masks",
        "--output-s3-endpoint", moto_store.endpoint, "--output-s3-profile", "mine", *at_null, "--json",
        env={**os.environ, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws")},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    output = json.loads(ended.stdout)["output"].removeprefix("s3://ours/")
    assert moto_store.content("ours", output)[:4] == b"II*\0"


def test_grey_png_and_tiff_agree(l2a_scene: Scene, at_null: list[str], tmp_path: Path) -> None:
    ended = run(l2a_scene.path, "--output", tmp_path, *at_null, "--png", "--json")
    mask = Path(json.loads(ended.stdout)["output"])
    grey = {0: 3, 1: 66, 2: 129, 3: 192, 4: 255, 5: 20}
    with rasterio.open(mask) as tiff, rasterio.open(mask.with_suffix(".png")) as png:
        pixels = tiff.read(1)
        assert set(np.unique(pixels)) == {1, 4, 5}
        np.testing.assert_array_equal(png.read(1), np.vectorize(grey.get)(pixels))
        assert png.transform.almost_equals(tiff.transform)


def test_an_area_of_interest_and_a_grown_class(l2a_scene: Scene, at_null: list[str], tmp_path: Path) -> None:
    with rasterio.open(l2a_scene.band_file("B02", 20)) as band:
        west, north = band.transform @ (40, 60)
    box = f"{west},{north - 2000},{west + 3000},{north},EPSG:32632"
    whole = run(l2a_scene.path, "--output", tmp_path / "whole", *at_null, "--dilate", "CLOUD=100", "--json")
    part = run(l2a_scene.path, "--output", tmp_path / "part", *at_null, "--dilate", "cloud=100", "--aoi", box, "--json")
    plain = run(l2a_scene.path, "--output", tmp_path / "plain", *at_null, "--json")
    pixels = []
    for ended in (whole, part, plain):
        assert ended.returncode == 0, ended.stderr
        with rasterio.open(json.loads(ended.stdout)["output"]) as mask:
            pixels.append(mask.read(1))
    assert pixels[1].shape == (100, 150)
    inner = pixels[0][60:160, 40:190]
    # Clouds beyond the tiles that the area needs can't grow into it: its tiles reach at least their margin further.
    np.testing.assert_array_equal(pixels[1][6:-6, 6:-6], inner[6:-6, 6:-6])
    rows, cols = np.ogrid[-5:6, -5:6]
    disc = rows**2 + cols**2 <= 25
    padded = np.pad(pixels[2] == 4, 5)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (11, 11))
    reached = (windows & disc).any(axis=(2, 3))
    np.testing.assert_array_equal(pixels[0], np.where(reached & (pixels[2] != 5), 4, pixels[2]))
    assert (pixels[0] != pixels[2]).any()


def test_everything_at_once_and_nothing_but_it(csmask_address: str, tmp_path: Path) -> None:
    product = small(tmp_path, seed=11)
    options = ["--model", "csmask", "--triton", f"grpc://{csmask_address}", "--output", tmp_path / "masks", "--json"]
    extras = ["--png", "--probabilities", "--subtiles", "--stac", "--report", "--mosaic", "blend"]
    ended = run(product, *options, *extras)
    assert (ended.returncode, ended.stderr) == (0, "")
    stem = Path(json.loads(ended.stdout)["output"]).stem
    found = files_in(tmp_path / "masks" / product.name.removesuffix(".SAFE"))
    assert {name for name in found if "_tiles" not in name} >= {
        f"{stem}.html", f"{stem}.json", f"{stem}.pgw", f"{stem}.png", f"{stem}.tif", f"{stem}_probabilities.tif",
        f"{stem}_quicklook.png",
    }  # fmt: skip
    assert any(name.startswith(f"{stem}_tiles/tile_") for name in found)
    with rasterio.open(tmp_path / "masks" / product.name.removesuffix(".SAFE") / f"{stem}_probabilities.tif") as file:
        probabilities, names = file.read(), file.descriptions
    with rasterio.open(json.loads(ended.stdout)["output"]) as mask:
        pixels = mask.read(1)
    assert names == ("CLEAR", "CLOUD_SHADOW", "CLOUD")
    assert probabilities.shape == (3, *pixels.shape)
    seen = pixels != 5
    assert (np.array([1, 2, 4])[probabilities.argmax(axis=0)] == pixels)[seen].mean() > 0.99, "ties and roundings aside"
    again = run(product, *options, *extras)
    assert json.loads(again.stdout)["status"] == "skipped"
    fewer = run(product, *options, "--mosaic", "blend")
    assert json.loads(fewer.stdout)["status"] == "skipped", "what is there beside the mask does not matter"


def test_one_more_output_makes_a_finished_product_anew(at_null: list[str], tmp_path: Path) -> None:
    product = small(tmp_path, seed=12)
    first = json.loads(run(product, "--output", tmp_path, *at_null, "--json").stdout)
    mask = Path(first["output"]).read_bytes()
    second = json.loads(run(product, "--output", tmp_path, *at_null, "--json", "--png").stdout)
    assert second["status"] == "done"
    assert Path(first["output"]).read_bytes() == mask
    with MemoryFile(mask) as file, file.open() as dataset:
        assert dataset.count == 1
