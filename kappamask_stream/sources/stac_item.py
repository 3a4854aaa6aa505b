"""A STAC Item, wherever it is, as the source of a product."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError, UsageError
from kappamask_stream.s3 import CDSE, is_s3_url, parse_s3_url
from kappamask_stream.s3.connections import configured_endpoint
from kappamask_stream.sources.aws import paid_by_reader
from kappamask_stream.sources.blob import FileBlob
from kappamask_stream.sources.hrefs import is_local, require_readable, shown_url
from kappamask_stream.sources.reach import Space, Visit
from kappamask_stream.sources.s3 import S3Blob
from kappamask_stream.sources.stac_bands import parse_item, self_link
from kappamask_stream.sources.stac_source import StacItemSource, path_of
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from kappamask_stream.s3 import S3Options, Stores
    from kappamask_stream.sources.blob import Blob
    from kappamask_stream.sources.hrefs import MayRead
    from kappamask_stream.sources.stac_bands import StacItem

#: Items of Sentinel-2 have 20 to 80 KB.
_ITEM_LIMIT = 4 << 20
_WEB = ("http://", "https://")
_CDSE_BUCKET = "eodata"


async def open_stac_item(where: str, *, stores: Stores, may_read: MayRead | None = None) -> StacItemSource:
    """Read an Item and return the source of its product; of the assets nothing is read yet.

    Parameters
    ----------
    where : a file, ``http(s)://`` or ``s3://``.
    stores : the process's S3 clients and connections to web servers.
    may_read : tells where the Item, what it links, and redirects may lead; None: everywhere that `checked_href` allows.

    Raises
    ------
    ProductError
        If it is no Item of a Sentinel-2 product, or links what is not followed, or may not be read.
    StoreError
        If a store or server refuses, or cannot be reached.
    """
    # Where there is a list of places, that is the rule: whoever wrote it knows where they are.
    visit = Visit() if may_read is None else None
    data, label, base = await _read(where, stores, may_read, visit)
    reach = None if visit is None else visit.space
    item = await in_thread(None, _parse, data, label, base)
    form, bands = item.of_format()
    places = {path_of(asset): asset.href for asset in bands.values()}
    names = {"product": f"MTD_MSI{item.name.level}.xml", "granule": "MTD_TL.xml"}
    places |= {names[kind]: place for kind, place in item.metadata.items()}
    blobs = {path: await _blob(place, stores, may_read, said_by=label, reach=reach) for path, place in places.items()}
    return StacItemSource(item, form, bands, blobs)


async def _read(where: str, stores: Stores, may_read: MayRead | None, visit: Visit | None) -> tuple[bytes, str, str]:
    """Return an Item's bytes, its place as it may be shown, and the place that relative links start from.

    Parameters
    ----------
    visit : takes note of where the Item came from.
    """
    if where.lower().startswith(_WEB):
        data, base = await stores.http.fetch(where, limit=_ITEM_LIMIT, may_read=may_read, visit=visit)
        return data, shown_url(where), base
    if visit is not None:
        visit.space = await _space(where, stores)
    base = where if is_s3_url(where) else str(await in_thread(None, lambda: Path(where).resolve()))
    blob = await _blob(base, stores, may_read, said_by="a STAC Item")
    size = await blob.size()
    if size > _ITEM_LIMIT:
        raise ProductError(f"{where} has {size} bytes, an Item at most {_ITEM_LIMIT}: give a STAC Item")
    return await blob.read(0, size), where, base


def _parse(data: bytes, label: str, base: str) -> StacItem:
    """Parse an Item (in a thread); one that was saved here without its assets is read from where it was published."""
    if not is_local(base):
        return parse_item(data, label, base)
    published = self_link(data, label) or ""
    if not published.lower().startswith((*_WEB, "s3://")):
        return parse_item(data, label, base)
    try:
        item = parse_item(data, label, base)
    except ProductError:  # such as a link to the folder above, which is fine where it was published
        return parse_item(data, label, published)
    beside = [asset.href for asset in item.bands if is_local(asset.href)]
    is_whole = not beside or any(Path(place).is_file() for place in beside)
    return item if is_whole else parse_item(data, label, published)


async def _space(where: str, stores: Stores) -> Space:
    """Return where a file, or an object, counts as having come from: a store of one's own is as trusted as a file."""
    if not is_s3_url(where):
        return Space.LOCAL
    options = stores.options
    endpoint = options.endpoint_url or await configured_endpoint(options)
    return Space.PUBLIC if endpoint in {None, CDSE.endpoint_url} else Space.LOCAL


async def _blob(
    place: str, stores: Stores, may_read: MayRead | None, *, said_by: str, reach: Space | None = None
) -> Blob:
    require_readable(place, may_read, said_by=said_by)
    if is_local(place):
        return FileBlob(Path(place))
    if is_s3_url(place):
        bucket, key = parse_s3_url(place)
        if not key:
            raise UsageError(f"{place} names a whole bucket: give a STAC Item in it")
        return S3Blob(await stores.client(_preset(bucket, may_read)), bucket, key)
    return stores.http.blob(place, may_read, reach)


def _preset(bucket: str, may_read: MayRead | None) -> S3Options | None:
    """Return what a bucket is reached with.

    Where the reader pays, a stranger's Item must not decide that he does: somebody has listed the bucket among the
    places that may be read, or has said that he pays.
    """
    if bucket == _CDSE_BUCKET:
        return CDSE
    return None if may_read is None else paid_by_reader(bucket)
