"""From what people write - a path, a URL, a product's name - to the source that reads it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError, UsageError
from kappamask_stream.names import parse_product_name
from kappamask_stream.s3 import CDSE, is_s3_url, parse_s3_url
from kappamask_stream.sources import aws, cdse
from kappamask_stream.sources.aws import AwsBuckets
from kappamask_stream.sources.directory import DirectorySource
from kappamask_stream.sources.hrefs import shown_url
from kappamask_stream.sources.s3 import S3Blob, S3Source
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from kappamask_stream.names import ProductName
    from kappamask_stream.s3 import S3Client, Stores
    from kappamask_stream.sources.blob import Blob
    from kappamask_stream.sources.hrefs import MayRead
    from kappamask_stream.sources.types import Source

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")
_PART_OF_PRODUCT = re.compile(r"(?P<folder>.*?)/?(?:manifest\.safe|MTD_MSIL(?:1C|2A)\.xml)", re.DOTALL)
#: Names that a product has in a folder, in the order in which they are looked for.
_FORMS = ("{}.SAFE", "{}", "{}.zip", "{}.SAFE.zip")
#: What begins with a product's name: the product itself, some zips.
_MOST_OF_A_PRODUCT = 20_000


async def open_source(
    where: str,
    *,
    stores: Stores,
    source: str | None = None,
    buckets: AwsBuckets | None = None,
    may_read: MayRead | None = None,
) -> Source:
    """Return the source of a product.

    Parameters
    ----------
    where : a SAFE directory or its manifest or metadata, a zip of one, ``s3://BUCKET/PREFIX/X.SAFE/``,
        ``s3://BUCKET/X.zip``, a tile or product in the layout of AWS's buckets, a STAC Item (a ``.json`` file, also
        ``http(s)://`` and ``s3://``), or, with `source`, a product's name.
    stores : the process's S3 clients.
    source : where products are that are given by name: ``aws``, ``cdse``, or a folder or S3 prefix that holds
        ``NAME.SAFE`` or ``NAME.zip``.
    buckets : those of ``aws``.
    may_read : tells where a STAC Item, its links and redirects may lead, for a `where` that comes from a stranger.

    Raises
    ------
    UsageError
        If `where` is nothing of these, or `source` is needed.
    ProductError
        If nothing is there. Directories, archives and prefixes are looked into when they are read.
    StoreError, StoreUnavailableError
        If a store refuses or fails.
    """
    locator = _Locator(stores=stores, buckets=buckets or AwsBuckets(), may_read=may_read)
    name = _name(where)
    if name is not None and source is not None:
        return await locator.by_name(name, source)
    if is_s3_url(where):
        return await locator.on_s3(where)
    scheme = _SCHEME.match(where)
    if scheme is not None:
        return await locator.on_the_web(where, scheme["scheme"].lower())
    if name is not None and not await in_thread(None, os.path.exists, where):
        raise UsageError(
            f"{where} is no file or directory here; it is a product's name: say where it is with --source aws, "
            "--source cdse or --source FOLDER"
        )
    return await locator.local(Path(where))


def _name(where: str) -> ProductName | None:
    """Read a bare product name; also ``NAME.SAFE``, which may be a directory as well."""
    try:
        return parse_product_name(where)
    except ProductError:
        return None


@dataclass(frozen=True, kw_only=True)
class _Locator:
    """What all ways to a source need: see `open_source`."""

    stores: Stores
    buckets: AwsBuckets
    may_read: MayRead | None

    async def by_name(self, name: ProductName, source: str) -> Source:
        if source == "cdse":
            return await cdse.find_product(await self.stores.client(CDSE), name)
        if source == "aws":
            bucket = self.buckets.of(name.level)
            return await aws.find_product(await self._client_of(bucket), bucket, name)
        if is_s3_url(source):
            return await self._in_prefix(name, source)
        if _SCHEME.match(source):
            shown = shown_url(source)[:200]
            raise UsageError(f"--source is {shown!r}: aws, cdse, a folder or s3://BUCKET/PREFIX is expected")
        return await self._in_folder(name, Path(source))

    async def on_s3(self, where: str) -> Source:
        bucket, key = parse_s3_url(where)
        if not key.strip("/"):
            raise UsageError(f"{where} names a whole bucket: give a product in it, s3://{bucket}/PREFIX/NAME.SAFE/")
        tile, product = aws.tile_prefix(key), aws.product_name(key)
        if key.lower().endswith(".json") and tile is None and product is None:
            return await self._stac_item(where)
        client = await self._client_of(bucket)
        if key.lower().endswith(".zip"):
            return _archive(S3Blob(client, bucket, key))
        if tile is not None:
            return aws.tile_source(client, bucket, tile)
        if product is not None:
            return await aws.find_product(client, bucket, product)
        part = _PART_OF_PRODUCT.fullmatch(key)
        return S3Source.at_prefix(client, bucket, part["folder"] if part else key)

    async def on_the_web(self, where: str, scheme: str) -> Source:
        if scheme not in {"http", "https"}:
            raise UsageError(
                f"{shown_url(where)[:200]!r}: {scheme}:// is not read; there are s3://, http:// and https://"
            )
        if where.partition("?")[0].lower().endswith(".zip"):
            raise UsageError(
                f"{shown_url(where)[:200]!r}: archives are read from this machine and from s3://, fetch it first"
            )
        return await self._stac_item(where)

    async def local(self, path: Path) -> Source:
        suffix = path.suffix.lower()
        # Not Path.is_file, which raises for a folder that may not be looked into: that is said when it is read.
        if suffix in {".zip", ".json"} and await in_thread(None, os.path.isfile, path):
            if suffix == ".json":
                return await self._stac_item(str(path))
            from kappamask_stream.sources.blob import FileBlob

            return _archive(FileBlob(path))
        return DirectorySource(path)

    async def _in_folder(self, name: ProductName, folder: Path) -> Source:
        forms = [form.format(name.text) for form in _FORMS]
        present = await in_thread(None, _present, folder, forms)
        if present:
            return await self.local(folder / present[0])
        if not await in_thread(None, os.path.isdir, folder):
            raise UsageError(f"--source {folder} is no folder; aws, cdse, a folder or s3://BUCKET/PREFIX is expected")
        raise ProductError(f"{folder} holds no {name.text}: looked for {', '.join(forms)}")

    async def _in_prefix(self, name: ProductName, source: str) -> Source:
        bucket, prefix = parse_s3_url(source)
        folder = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        client = await self._client_of(bucket)
        found = await client.list(bucket, f"{folder}{name.text}", most=_MOST_OF_A_PRODUCT)
        below = {at.key.removeprefix(folder).partition("/")[0] for at in found}
        forms = [form.format(name.text) for form in _FORMS]
        for entry in forms:
            if entry in below:
                return await self.on_s3(f"s3://{bucket}/{folder}{entry}")
        raise ProductError(f"s3://{bucket}/{folder} holds no {name.text}: looked for {', '.join(forms)}")

    async def _client_of(self, bucket: str) -> S3Client:
        """Return the client for a bucket; where its reader pays by rule, one that says so."""
        return await self.stores.client(aws.paid_by_reader(bucket, self.buckets))

    async def _stac_item(self, where: str) -> Source:
        from kappamask_stream.sources.stac_item import open_stac_item

        return await open_stac_item(where, stores=self.stores, may_read=self.may_read)


def _present(folder: Path, forms: list[str]) -> list[str]:
    # Path.exists raises for a folder that may not be looked into.
    return [form for form in forms if os.path.exists(folder / form)]  # noqa: PTH110


def _archive(blob: Blob) -> Source:
    from kappamask_stream.sources.archive import ZipSource

    return ZipSource(blob)
