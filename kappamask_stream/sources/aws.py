"""Products in the layout of AWS's buckets sentinel-s2-l1c and sentinel-s2-l2a, presented as SAFE products.

A tile lies under ``tiles/29/U/NU/2022/10/5/0/`` with its bands (``B02.jp2`` for L1C, ``R10m/B02.jp2`` for L2A), the
granule's ``metadata.xml`` and a ``tileInfo.json``, which names the product. The product's own metadata, with the
offsets, lies under ``products/2022/10/5/NAME/``, with a ``productInfo.json`` that names its tiles. Numbers are not
padded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import XML_LIMIT, product_metadata
from kappamask_stream.names import band_of_file, parse_product_name
from kappamask_stream.s3 import S3Options
from kappamask_stream.sources.s3 import S3Source, objects_under
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kappamask_stream.names import ProductName
    from kappamask_stream.s3 import S3Client, S3Object

_TILE = re.compile(r"tiles/\d{1,2}/[A-Z]/[A-Z]{2}/\d{4}/\d{1,2}/\d{1,2}/\d{1,3}", re.ASCII)
_PRODUCT = re.compile(r"products/\d{4}/\d{1,2}/\d{1,2}/(?P<name>[^/]+)", re.ASCII)
_BAND = re.compile(r"(?:R[126]0m/)?(?:B\d[\dA]|AOT|WVP|SCL)\.jp2", re.ASCII)
#: Some kilobytes; before December 2016 a product had up to a hundred tiles.
_JSON_LIMIT = 1 << 20
_PAID = S3Options(requester_pays=True)


@dataclass(frozen=True, kw_only=True)
class AwsBuckets:
    """Which bucket holds which level.

    Attributes
    ----------
    l1c : requester pays.
    l2a : free since 2023.
    """

    l1c: str = "sentinel-s2-l1c"
    l2a: str = "sentinel-s2-l2a"

    def of(self, level: str) -> str:
        """Return the bucket of ``L1C`` or ``L2A``."""
        return self.l1c if level == "L1C" else self.l2a


def paid_by_reader(bucket: str, buckets: AwsBuckets | None = None) -> S3Options | None:
    """Return what a bucket is reached with whose reader pays by rule; None for all others.

    To be asked where somebody who may spend the money has named the bucket: on a command line, or in the list of places
    that messages may have read. `s3_requester_pays` of the settings comes before it, either way.
    """
    return _PAID if bucket in {AwsBuckets().l1c, (buckets or AwsBuckets()).l1c} else None


def tile_prefix(key: str) -> str | None:
    """Return the tile that a key is or lies in, without slash at the end; None for other keys."""
    found = _TILE.match(key)
    if found is None or key[found.end() : found.end() + 1] not in {"", "/"}:
        return None
    return found[0]


def product_name(key: str) -> ProductName | None:
    """Return the product that a key of ``products/`` belongs to; None for other keys."""
    found = _PRODUCT.match(key)
    if found is None:
        return None
    try:
        return parse_product_name(found["name"])
    except ProductError:
        return None


async def find_product(client: S3Client, bucket: str, name: ProductName) -> S3Source:
    """Return a product by its name, through its productInfo.json.

    Raises
    ------
    ProductError
        If the bucket has no such product, or its productInfo.json names no tile.
    """
    year, month, day = int(name.sensing_time[:4]), int(name.sensing_time[4:6]), int(name.sensing_time[6:8])
    key = f"products/{year}/{month}/{day}/{name.text}/productInfo.json"
    at = await client.head(bucket, key)
    if at is None:
        raise ProductError(f"s3://{bucket} has no {name.text}: there is no {key}")
    info = await _read_json(client, at)
    tiles = info.get("tiles")
    paths = [tile.get("path") for tile in tiles if isinstance(tile, dict)] if isinstance(tiles, list) else []
    if len(paths) != 1 or not isinstance(paths[0], str) or _TILE.fullmatch(paths[0].rstrip("/")) is None:
        raise ProductError(f"s3://{bucket}/{key} names {len(paths)} tiles ({str(paths)[:100]}), one is expected")
    return tile_source(client, bucket, paths[0].rstrip("/"))


def tile_source(client: S3Client, bucket: str, prefix: str) -> S3Source:
    """Return the product that a tile belongs to, with the paths that it has as a SAFE product.

    Parameters
    ----------
    prefix : as `tile_prefix` returns it.
    """

    async def listing() -> Mapping[str, S3Object]:
        tile = await objects_under(client, bucket, prefix)
        label = f"s3://{bucket}/{prefix}"
        if "tileInfo.json" not in tile or "metadata.xml" not in tile:
            raise ProductError(f"{label} has no tileInfo.json and metadata.xml: it is no tile in the layout of AWS")
        name, product_prefix = await _product_of(client, tile["tileInfo.json"])
        product = await objects_under(client, bucket, product_prefix)
        if "metadata.xml" not in product:
            raise ProductError(f"{label}: there is no s3://{bucket}/{product_prefix}/metadata.xml, it has the offsets")
        at = product["metadata.xml"]
        data = await client.get(bucket, at.key, limit=XML_LIMIT, etag=at.etag, size=at.size)
        metadata = await in_thread(None, product_metadata, data, at.url)
        return MappingProxyType(safe_paths(name, tile, product, metadata.image_files))

    return S3Source(client, f"s3://{bucket}/{prefix}", listing)


def safe_paths(
    name: ProductName, tile: Mapping[str, S3Object], product: Mapping[str, S3Object], image_files: Iterable[str]
) -> dict[str, S3Object]:
    """Give objects of a tile and its product the paths that they have in the SAFE product.

    Parameters
    ----------
    tile, product : path below the prefix -> object.
    image_files : paths of the images, as the product's metadata lists them, without extension.
    """
    named = {key: path for path in image_files if (key := band_of_file(f"{path}.jp2")) is not None}
    granule = next(("/".join(path.split("/")[:2]) for path in named.values() if path.startswith("GRANULE/")), None)
    # A name of our own, where the metadata lists no images: what counts is that all files agree on it.
    granule = granule or f"GRANULE/{name.level}_{name.tile_id}_{name.discriminator}"
    paths = {f"MTD_MSI{name.level}.xml": product["metadata.xml"], f"{granule}/MTD_TL.xml": tile["metadata.xml"]}
    if "manifest.safe" in product:
        paths["manifest.safe"] = product["manifest.safe"]
    for path, at in tile.items():
        key = band_of_file(path) if _BAND.fullmatch(path) else None
        if key is not None:
            paths[f"{named.get(key) or _own_path(granule, name, *key)}.jp2"] = at
    return paths


def _own_path(granule: str, name: ProductName, band: str, gsd_m: int) -> str:
    stem = f"{granule}/IMG_DATA/" + (f"R{gsd_m}m/" if name.level == "L2A" else "")
    return f"{stem}{name.tile_id}_{name.sensing_time}_{band}" + (f"_{gsd_m}m" if name.level == "L2A" else "")


async def _product_of(client: S3Client, at: S3Object) -> tuple[ProductName, str]:
    """Return name and prefix of the product that a tileInfo.json names."""
    info, where = await _read_json(client, at), at.url
    said_name, said_path = info.get("productName"), info.get("productPath")
    if not isinstance(said_name, str) or not isinstance(said_path, str):
        raise ProductError(f"{where} names no product (productName, productPath): its metadata cannot be found")
    try:
        name = parse_product_name(said_name)
    except ProductError as error:
        raise ProductError(
            f"{where}: productName {error}; products in the format from before December 2016 are not read"
        ) from error
    prefix = said_path.rstrip("/")
    found = _PRODUCT.fullmatch(prefix)
    if found is None or ".." in prefix or not prefix.isprintable():
        raise ProductError(f"{where}: productPath is {said_path[:200]!r}, products/Y/M/D/NAME is expected")
    return name, prefix


async def _read_json(client: S3Client, at: S3Object) -> dict[str, Any]:
    data = await client.get(at.bucket, at.key, limit=_JSON_LIMIT, etag=at.etag, size=at.size)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # of UTF-8, too
        raise ProductError(f"{at.url} is no JSON: {ascii(str(error))[1:-1][:100]}") from error
    if not isinstance(content, dict):
        raise ProductError(f"{at.url} holds no JSON object")
    return content
