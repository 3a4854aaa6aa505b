"""From what people write after ``--output`` to a product's destination."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.destinations.folder import FolderDestination
from kappamask_stream.destinations.s3 import S3Destination
from kappamask_stream.errors import UsageError
from kappamask_stream.s3 import is_s3_url, parse_s3_url

if TYPE_CHECKING:
    from kappamask_stream.destinations.types import Destination
    from kappamask_stream.s3 import Stores

#: One slash is what is left of two where somebody took a URL for a path.
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/(?P<second>/?)")


async def make_destination(output: str | Path, product_name: str, stores: Stores) -> Destination:
    """Return the folder of one product below `output`: ``output/<product>``.

    Parameters
    ----------
    output : a directory, or ``s3://bucket/prefix``.
    stores : gives the client for S3 when it is needed.

    Raises
    ------
    UsageError
        If it is a URL of another kind or with one slash, has credentials in it, or names no bucket.
    """
    if isinstance(output, str) and is_s3_url(output):
        bucket, prefix = parse_s3_url(output)
        below = [part for part in (prefix.strip("/"), product_name) if part]
        return S3Destination(await stores.output_client(), bucket, "/".join(below))
    if found := _SCHEME.match(str(output)):  # the rest is not repeated: it may hold credentials
        if not found["second"]:
            raise UsageError(
                f"--output {found['scheme']}:/… has one slash where a URL has two: give s3://BUCKET/PREFIX, as text; "
                f"a folder of that name is given from the root, /…/{found['scheme']}:/…"
            )
        raise UsageError(f"--output is a URL of the kind {found['scheme']}://: give a folder or s3://BUCKET/PREFIX")
    return FolderDestination(Path(output) / product_name)
