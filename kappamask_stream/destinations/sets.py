"""Files that belong together: those of one mask, and the STAC Item that lists them with their checksums.

Several processes may publish the same mask at once, each with an Item of its own, and a store writes each file by
itself. So that what stays in the end is one set, whoever is ended when:

- a set *stands* where its Item is there and every file that the Item tells a checksum of has that content;
- whoever writes a file looks again afterwards, and is not done before a set stands, be it another one's;
- whoever finds that none stands, because somebody was ended half way, makes the mask anew.

The last of all writes is followed by a look that sees all the others: a set stands then, or there is another write.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import OutputUnavailableError
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kappamask_stream.destinations.types import Destination, OutputFile

#: Times that a set is published before it is given up: each time others have put theirs in between.
_ATTEMPTS = 6
_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0
#: sha2-256 and its length, before the digest of a multihash.
_SHA256 = "1220"


async def standing_item(destination: Destination, name: str, product: str) -> bytes | None:
    """Return the Item of a set that stands; None where none does.

    Parameters
    ----------
    destination : the product's folder.
    name : of the Item's file.
    product : name of the product that the mask must be of.

    Raises
    ------
    OutputError
        If it cannot be looked at.
    """
    if await destination.missing([name]):
        return None
    data = await destination.read(name)
    item = item_of(data, product)
    if item is None:
        return None
    for file, (size, sha256) in _files(item).items():
        if not await destination.has(file, size=size, sha256=sha256):
            return None
    return data


async def publish_beside_others(
    destination: Destination,
    files: Sequence[OutputFile],
    *,
    stands: Callable[[], Awaitable[bool]],
    stale: Callable[[], Awaitable[Sequence[str]]],
) -> bool:
    """Publish a set until one stands; False where another one did before anything was written.

    Parameters
    ----------
    files : of the set; its Item comes last.
    stands : tells whether a set stands.
    stale : names what the files of this set make worthless.

    Raises
    ------
    OutputError
        See `Destination.publish`.
    OutputUnavailableError
        If others keep writing at the same time.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            await pause(attempt)
        if await stands():
            return attempt > 0
        if attempt and not await _can_be_sent_again(files):
            break
        await destination.publish(files, stale=await stale())
        if await stands():
            return True
    raise OutputUnavailableError(
        f"{destination.label}: others write the same mask at the same time, and what is there is of several: try again "
        "later"
    )


async def pause(attempt: int) -> None:
    """Wait a while, longer with each attempt, so that two that got in each other's way do not do so again."""
    longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2.0 ** (attempt - 1))
    await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


def item_of(data: bytes, product: str) -> dict[str, Any] | None:
    """Read the Item of a product's mask; None of anything else, and of what lacks a part that its readers rely on."""
    try:
        item: dict[str, Any] = json.loads(data, parse_constant=_no_number, parse_float=_finite)
        _files(item)
        _, south, _, north = map(float, item["bbox"])
        texts = [*item["stac_extensions"], *(asset["href"] for asset in item["assets"].values())]
        texts += [link[key] for link in item["links"] for key in ("rel", "href")]
        is_ours = (
            item["properties"]["s2:product_uri"] == f"{product}.SAFE"
            and "file:checksum" in item["assets"]["mask"]
            and all(isinstance(text, str) for text in texts)
            and south <= north
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return item if is_ours else None


def _files(item: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Return the size and SHA-256 of each file beside an Item that it tells the checksum of.

    Raises
    ------
    ValueError, LookupError, TypeError, AttributeError
        If it is no Item of ours.
    """
    files: dict[str, tuple[int, str]] = {}
    for asset in item["assets"].values():
        if "file:checksum" in asset:
            href, checksum = asset["href"], asset["file:checksum"]
            if not href.startswith("./") or "/" in href[2:] or not checksum.startswith(_SHA256):
                raise ValueError(href)
            if not isinstance(asset["file:size"], int):
                raise TypeError(asset["file:size"])
            files[href[2:]] = asset["file:size"], checksum.removeprefix(_SHA256)
    return files


def _no_number(text: str) -> None:
    """Refuse what JSON has no word for."""
    raise ValueError(text)


def _finite(text: str) -> float:
    """Read a number; 1e999 is none."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


async def _can_be_sent_again(files: Sequence[OutputFile]) -> bool:
    """Tell whether all content is still there: a directory has moved scratch files away."""
    scratch = [file.content for file in files if isinstance(file.content, Path)]
    return not scratch or await in_thread(None, lambda: all(path.exists() for path in scratch))
