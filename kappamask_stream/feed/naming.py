"""Which product an object's key, or an address, stands for. Pure."""

from __future__ import annotations

import re

from kappamask_stream.errors import ProductError
from kappamask_stream.names import ProductName, parse_product_name
from kappamask_stream.sources.aws import product_name

_MANIFEST = re.compile(r"manifest\.safe|MTD_MSIL(?:1C|2A)\.xml", re.IGNORECASE | re.ASCII)
_INFO = "productInfo.json"
_ARCHIVE = re.compile(r"\.zip$", re.IGNORECASE | re.ASCII)
_FILE = re.compile(r"\.(?:zip|json)$", re.IGNORECASE | re.ASCII)


def upload_of(key: str) -> tuple[ProductName, str] | None:
    """Return the product that a new object stands for, and the key or prefix under which it is.

    A product of many files is there when its manifest is, or its ``MTD_MSIL1C.xml``, or in the layout of AWS's buckets
    its ``productInfo.json``. None for all other keys: a band, say, or a ``tileInfo.json``, which has no name in its key
    and comes with a ``productInfo.json``.
    """
    folder, _, file = key.rpartition("/")
    if file == _INFO:
        name = product_name(key)
        return None if name is None else (name, folder)
    if _MANIFEST.fullmatch(file):
        name = _name(folder.rpartition("/")[2])
        return None if name is None else (name, folder)
    if _ARCHIVE.search(file):
        name = _name(_ARCHIVE.sub("", file))
        return None if name is None else (name, key)
    return None


def product_at(address: str) -> ProductName | None:
    """Return the product that an address ends with: ``…/NAME.SAFE/``, ``…/NAME.zip``, ``…/NAME/productInfo.json``.

    Parameters
    ----------
    address : ``s3://…``, ``https://…`` or a path; what a query says does not count.
    """
    path = address.partition("?")[0].partition("#")[0] if "://" in address else address
    folder, _, file = path.rstrip("/").rpartition("/")
    if file == _INFO or _MANIFEST.fullmatch(file):
        file = folder.rpartition("/")[2]
    return _name(_FILE.sub("", file))


def _name(text: str) -> ProductName | None:
    try:
        return parse_product_name(text)
    except ProductError:
        return None
