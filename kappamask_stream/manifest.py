"""Checksums of a product's files against its manifest.safe: the only defence against flipped bytes."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import XML_LIMIT, parse_xml
from kappamask_stream.names import checked_path
from kappamask_stream.product import is_read, product_source
from kappamask_stream.sources.stac_source import StacItemSource
from kappamask_stream.sources.verified import BLOCK_BYTES, VerifiedSource, block_checksums
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from xml.etree.ElementTree import Element

    from kappamask_stream.sources import Source

_MANIFEST = "manifest.safe"
#: Bytes of a file that are in memory at once, whole blocks of them, and files that are read at once.
_CHUNK = 256 * BLOCK_BYTES
_FILES_AT_ONCE = 4
#: Faults that a message names.
_NAMED = 5
#: Digits of a size: no file has 10^15 bytes.
_MOST_DIGITS = 15
#: Checksum names, lower case without separators -> hashlib's name and hexadecimal digits.
_ALGORITHMS = {
    "md5": ("md5", 32),
    "sha1": ("sha1", 40),
    "sha256": ("sha256", 64),
    "sha512": ("sha512", 128),
    "sha3256": ("sha3_256", 64),
    "sha3512": ("sha3_512", 128),
}


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One file of a manifest.

    Attributes
    ----------
    path : relative to the product.
    size : bytes.
    algorithm : as hashlib names it.
    checksum : lower-case hexadecimal.
    """

    path: str
    size: int
    algorithm: str
    checksum: str

    @property
    def is_needed(self) -> bool:
        """True for what masks are made from."""
        return is_read(self.path)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A product whose files are as its manifest says.

    Attributes
    ----------
    source : reads the very bytes that were compared, or fails.
    remarks : on files that are missing and that masks do not need: previews, reports, masks of quality.
    """

    source: VerifiedSource
    remarks: Sequence[str]


async def verify(source: Source, on_progress: Callable[[int, int], None] | None = None) -> Verified:
    """Compare size and checksum of all files that the manifest lists.

    Parameters
    ----------
    source : the product, or the folder around it.
    on_progress : called with bytes done and bytes in all, on the event loop.

    Raises
    ------
    ProductError
        If there is no manifest (STAC Items have none), or naming the first files that differ from it or are needed and
        missing.
    StoreError
        If the store that they are in refuses or fails, or a file is replaced meanwhile.
    """
    if isinstance(source, StacItemSource):
        raise ProductError(
            f"{source.label} is a STAC Item, which links no {_MANIFEST}: its files cannot be verified; leave --verify "
            "out, or give the product as a SAFE directory or zip"
        )
    source = await product_source(source)
    listing = await source.files()
    where = f"{source.label}/{_MANIFEST}"
    if _MANIFEST not in listing:
        raise ProductError(f"{where} is missing: without it nothing can be verified; fetch the product again")
    data = await source.read_all(_MANIFEST, limit=XML_LIMIT)
    entries = await in_thread(None, parse_manifest, data, where)
    missing = [entry for entry in entries if entry.path not in listing]
    remarks = [f"{entry.path} is missing, masks do not need it" for entry in missing if not entry.is_needed]
    faults = {entry.path: "is missing" for entry in missing if entry.is_needed}
    listed = {entry.path for entry in entries}
    faults |= {path: "is not listed there" for path in sorted(listing) if is_read(path) and path not in listed}
    blocks: dict[str, array[int]] = {}
    there = [entry for entry in entries if entry.path in listing]
    faults |= await _compare(source, there, listing, blocks, on_progress)
    if faults:
        # In the manifest's order, whatever order the files were read in; what it does not list comes last.
        order = [entry.path for entry in entries if entry.path in faults]
        order += [path for path in faults if path not in listed]
        named = [f"{path.rpartition('/')[2]} {faults[path]}" for path in order]
        more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        raise ProductError(
            f"{source.label}: {len(named)} of {len(entries)} files are not as {_MANIFEST} says: "
            f"{'; '.join(named[:_NAMED])}{more}: fetch the product again"
        )
    return Verified(source=VerifiedSource(source, blocks), remarks=remarks)


def parse_manifest(data: bytes, where: str) -> list[ManifestEntry]:
    """Read the files that a manifest lists, each once.

    Raises
    ------
    ProductError
        If it is malformed, lists no band, leads out of the product, or uses a checksum that is not known.
    """
    entries: dict[str, ManifestEntry] = {}
    streams = (element for element in parse_xml(data, where).iter() if element.tag.rpartition("}")[2] == "byteStream")
    for stream in streams:
        entry = _entry(stream, where)
        if entries.setdefault(entry.path, entry) != entry:
            raise ProductError(f"{where} lists {entry.path} twice, with different checksums or sizes")
    if not any(entry.is_needed for entry in entries.values()):
        raise ProductError(f"{where} lists {len(entries)} files, none of them a band: it is incomplete")
    return list(entries.values())


def _entry(stream: Element, where: str) -> ManifestEntry:
    """Read one ``byteStream`` element."""
    # Its own, not those of elements inside: each byteStream of many in one another would look through all the others.
    inside = {element.tag.rpartition("}")[2]: element for element in reversed(stream)}
    location, checksum = inside.get("fileLocation"), inside.get("checksum")
    if location is None or checksum is None:
        raise ProductError(f"{where}: a byteStream has no fileLocation or no checksum")
    path = checked_path(location.get("href", ""), said_by=f"{where}: fileLocation")
    name = checksum.get("checksumName", "")
    algorithm, digits = _ALGORITHMS.get(name.lower().replace("-", "").replace("_", ""), ("", 0))
    text, size = (checksum.text or "").strip().lower(), stream.get("size", "")
    if not algorithm:
        raise ProductError(f"{where}: {path} has a checksum named {name[:40]!r}, known are {', '.join(_ALGORITHMS)}")
    if len(text) != digits or not set(text) <= set("0123456789abcdef"):
        raise ProductError(f"{where}: {path} has the {name} checksum {text[:80]!r}, not {digits} hexadecimal digits")
    if not (size.isascii() and size.isdigit() and len(size) <= _MOST_DIGITS):
        raise ProductError(f"{where}: {path} has the size {size[:40]!r}, not a number of bytes")
    return ManifestEntry(path=path, size=int(size), algorithm=algorithm, checksum=text)


async def _compare(
    source: Source,
    entries: Sequence[ManifestEntry],
    listing: Mapping[str, int],
    blocks: dict[str, array[int]],
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Return path -> what is wrong, for files that are there; a file of another size is not read.

    Parameters
    ----------
    blocks : takes path -> checksums of the blocks, of what masks are made from.
    """
    faults = {
        entry.path: f"has {listing[entry.path]} bytes, not {entry.size}"
        for entry in entries
        if listing[entry.path] != entry.size
    }
    readable = [entry for entry in entries if entry.path not in faults]
    done, total = 0, sum(entry.size for entry in readable)
    waiting = iter(readable)

    def count(length: int) -> None:
        nonlocal done
        done += length
        if on_progress is not None:
            on_progress(done, total)

    async def worker() -> None:
        for entry in waiting:
            try:
                found = await _checksum(source, entry, blocks, count)
            except ProductError as error:
                faults[entry.path] = f"cannot be read ({error})"
            else:
                if found != entry.checksum:
                    faults[entry.path] = f"has the {entry.algorithm} checksum {found}, not {entry.checksum}"

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_FILES_AT_ONCE):
                tasks.create_task(worker())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return faults


async def _checksum(
    source: Source, entry: ManifestEntry, blocks: dict[str, array[int]], count: Callable[[int], None]
) -> str:
    """Read a file chunk by chunk; reading and hashing are done in threads."""
    digest, ours = hashlib.new(entry.algorithm, usedforsecurity=False), array("I")

    def take(data: bytes) -> None:
        digest.update(data)
        if entry.is_needed:
            ours.extend(block_checksums(data))

    for start in range(0, entry.size, _CHUNK):
        data = await source.read(entry.path, start, min(_CHUNK, entry.size - start))
        await in_thread(None, take, data)
        count(len(data))
    if entry.is_needed:
        blocks[entry.path] = ours
    return digest.hexdigest()
