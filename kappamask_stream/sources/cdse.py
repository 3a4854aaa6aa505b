"""Products of the Copernicus Data Space Ecosystem by name."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.sources.s3 import S3Source

if TYPE_CHECKING:
    from kappamask_stream.names import ProductName
    from kappamask_stream.s3 import S3Client

_BUCKET = "eodata"
#: Collection 1, all processed again with baseline 05.xx, lies beside what was processed when it was sensed.
_REPROCESSED = "_N0500"
_REPROCESSED_AFTER_DAYS = 30


async def find_product(client: S3Client, name: ProductName) -> S3Source:
    """Return a product of CDSE's store.

    Parameters
    ----------
    client : with the preset `s3.CDSE`.

    Raises
    ------
    ProductError
        If it is in none of the places where CDSE keeps products of its kind; names them.
    StoreError
        If the store refuses: it wants credentials.
    """
    prefixes = candidate_prefixes(name)
    for prefix in prefixes:
        if await client.head(_BUCKET, f"{prefix}manifest.safe") is not None:
            return S3Source.at_prefix(client, _BUCKET, prefix)
    tried = " and ".join(f"s3://{_BUCKET}/{prefix}" for prefix in prefixes)
    raise ProductError(
        f"CDSE has no {name.text}: nothing lies under {tried}; it may have been replaced by a later processing of the "
        "same scene, which has another name"
    )


def candidate_prefixes(name: ProductName) -> tuple[str, str]:
    """Return where CDSE may keep a product, the likelier place first.

    The name does not decide: baseline 05.10, say, was used for both kinds. A discriminator a month after sensing does
    nearly; where it is no time, or lies, the second look costs one request.
    """
    day = f"{name.sensing_time[:4]}/{name.sensing_time[4:6]}/{name.sensing_time[6:8]}/{name.text}.SAFE/"
    usual = f"Sentinel-2/MSI/{name.level}/{day}"
    again = f"Sentinel-2/MSI/{name.level}{_REPROCESSED}/{day}"
    return (again, usual) if _was_reprocessed(name) else (usual, again)


def _was_reprocessed(name: ProductName) -> bool:
    if name.baseline is None or not name.baseline.startswith("05."):
        return False
    try:
        processed = datetime.strptime(name.discriminator, "%Y%m%dT%H%M%S")  # noqa: DTZ007 - both are UTC
    except ValueError:
        return False
    sensed = datetime.strptime(name.sensing_time, "%Y%m%dT%H%M%S")  # noqa: DTZ007
    return (processed - sensed).days > _REPROCESSED_AFTER_DAYS
