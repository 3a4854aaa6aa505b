"""The catalogue on an object store: no dead link from the first Item on, and none to an Item that is gone."""

from __future__ import annotations

import json
import posixpath
import uuid
from typing import TYPE_CHECKING

import pytest

from kappamask_stream import Masker
from kappamask_stream.s3 import S3Options
from kappamask_stream.synth import write_product
from tests.stream.scene import coarse_l2a
from tests.stream.test_masker import Pool
from tests.stream.test_runner import Gate, name_of

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.contract import ModelContract
    from tests.integration.s3_servers import MotoStore

pytestmark = pytest.mark.usefixtures("aws_environment")

__all__ = ["coarse_l2a"]


def linked(store: MotoStore, bucket: str) -> list[str]:
    """Return the Items that the Collection links, after following all relative links of it and of them."""
    document = json.loads(store.content(bucket, "masks/collection.json"))
    items = [link["href"].removeprefix("./") for link in document["links"] if link["rel"] == "item"]
    for key in ("collection.json", *items):
        entry = json.loads(store.content(bucket, f"masks/{key}"))
        for part in (*entry["links"], *entry.get("assets", {}).values()):
            if part["href"].startswith("."):
                target = posixpath.normpath(posixpath.join("masks", posixpath.dirname(key), part["href"]))
                assert store.header(bucket, target, "Content-Length"), target
    return items


async def test_a_catalogue_on_s3(
    moto_store: MotoStore, coarse_l2a: ModelContract, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = Gate(coarse_l2a)
    monkeypatch.setattr(Pool, "client", server, raising=False)
    monkeypatch.setattr("kappamask_stream.api.ModelPool", Pool)
    products = [write_product(tmp_path, size=240, seed=seed).product for seed in (1, 2, 3)]
    server.open.update(map(name_of, products))
    bucket = f"b{uuid.uuid4().hex}"
    moto_store.fill(bucket, {})
    s3, output = S3Options(endpoint_url=moto_store.endpoint), f"s3://{bucket}/masks"
    async with Masker(s3=s3) as masker:
        for path in products:
            await masker.mask(path, output=output, stac=True, png=True)
            assert linked(moto_store, bucket)
    items = linked(moto_store, bucket)
    assert [item.split("/")[0] for item in items] == sorted(map(name_of, products))
    async with Masker(s3=s3) as masker:
        assert (await masker.mask(products[0], output=output, stac=True, png=True)).status == "skipped"
        await masker.mask(products[1], output=output, overwrite=True, dilate=[("CLOUD", 200.0)])
        await masker.mask(products[2], output=output, stac=True, report=True)
    assert linked(moto_store, bucket) == [item for item in items if not item.startswith(name_of(products[1]))]
    (last,) = [item for item in items if item.startswith(name_of(products[2]))]
    assets = json.loads(moto_store.content(bucket, f"masks/{last}"))["assets"]
    assert set(assets) == {"mask", "quicklook-png", "png", "pgw", "html"}
