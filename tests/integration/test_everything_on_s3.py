"""All that can be made of a product, made into a bucket: whole, of the right types, and the same as on disk."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile

from tests.integration.s3_servers import aws_environment, moto_store, stores_env
from tests.integration.test_run import at_null, files_in, run, small

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.s3_servers import MotoStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

__all__ = ["at_null", "aws_environment", "moto_store", "stores_env"]

EXTRAS = ["--png", "--probabilities", "--subtiles", "--stac", "--report"]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
#: By what a name ends with, the longest first.
TYPES = {
    "_probabilities.tif": COG, ".tif": COG, ".png": "image/png", ".pgw": "text/plain",
    ".html": "text/html; charset=utf-8", "_subtiles.json": "application/json", "collection.json": "application/json",
    ".json": "application/geo+json",
}  # fmt: skip


def keys_of(store: MotoStore, bucket: str) -> list[str]:
    listing = ET.fromstring(store.content(bucket, ""))
    return sorted(key.text or "" for key in listing.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key"))


def type_of(name: str) -> str:
    return next(kind for ending, kind in TYPES.items() if name.endswith(ending))


def test_everything_goes_to_a_bucket_as_it_goes_to_a_folder(
    at_null: list[str], moto_store: MotoStore, tmp_path: Path
) -> None:
    product = small(tmp_path, seed=21)
    moto_store.fill("everything", {})
    here, there = tmp_path / "masks", ["--output", "s3://everything/masks", "--s3-endpoint", moto_store.endpoint]
    for output in (["--output", str(here)], there):
        ended = run(product, *output, *at_null, *EXTRAS, "--json")
        assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    stem = document["output"].rpartition("/")[2].removesuffix(".tif")
    name = product.name.removesuffix(".SAFE")

    local = {f"masks/{path}" for path in files_in(here) if (here / path).is_file()}
    assert set(keys_of(moto_store, "everything")) == local
    (model,) = (here / "models").iterdir()
    beside = {"collection.json", f"models/{model.name}"}
    tiles = {f"{name}/{stem}_tiles/tile_0_0/prediction.{ending}" for ending in ("png", "pgw")}
    endings = (".tif", "_quicklook.png", ".png", ".pgw", "_probabilities.tif", "_subtiles.json", ".json", ".html")
    assert local == {f"masks/{path}" for path in {*beside, *tiles, *(f"{name}/{stem}{ending}" for ending in endings)}}

    for key in sorted(local):
        content = moto_store.content("everything", key)
        assert moto_store.header("everything", key, "Content-Type") == type_of(key), key
        if key.startswith(f"masks/{name}/"):
            assert moto_store.header("everything", key, "x-amz-meta-fingerprint") == document["fingerprint"], key
        # A report tells how long it all took; all else is the same bytes.
        if not key.endswith(".html"):
            assert content == (tmp_path / key).read_bytes(), key
    assert b"</html>" in moto_store.content("everything", f"masks/{name}/{stem}.html")[-100:]
    with MemoryFile(moto_store.content("everything", f"masks/{name}/{stem}.tif")) as memory, memory.open() as mask:
        pixels = mask.read(1)
    with rasterio.open(here / name / f"{stem}.png") as grey:
        np.testing.assert_array_equal(np.array([3, 66, 129, 192, 255, 20])[pixels], grey.read(1))

    again = json.loads(run(product, *there, *at_null, *EXTRAS, "--json").stdout)
    assert (again["status"], again["fingerprint"]) == ("skipped", document["fingerprint"])


def test_files_of_a_run_that_failed_half_way_do_not_pass_for_the_old_masks(
    at_null: list[str], moto_store: MotoStore, tmp_path: Path
) -> None:
    product = small(tmp_path, seed=22)
    moto_store.fill("half", {})
    options = ["--output", "s3://half/masks", "--s3-endpoint", moto_store.endpoint, *at_null, "--png"]
    first = run(product, *options, "--json")
    mask = json.loads(first.stdout)["output"].removeprefix("s3://half/")
    before = {key: moto_store.content("half", key) for key in keys_of(moto_store, "half")}
    other = run(product, *options, "--json", "--dilate", "CLOUD=200", "--overwrite")
    assert json.loads(other.stdout)["status"] == "done"
    # As after a failure of the last upload: all is the second run's, but for the mask.
    moto_store.fill("half", {})
    moto_store.fill("half", {mask: before[mask]})
    again = json.loads(run(product, *options, "--json").stdout)
    assert again["status"] == "done"
    assert {key: moto_store.content("half", key) for key in keys_of(moto_store, "half")} == before
    assert json.loads(run(product, *options, "--json").stdout)["status"] == "skipped"
