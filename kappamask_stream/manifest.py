"""Checksums of a product's files against its manifest.safe: the only defence against flipped bytes."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import XML_LIMIT, parse_xml

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.sources import Source

_MANIFEST = "manifest.safe"
_CHUNK = 4 * 1024 * 1024
_NAMED = 5
#: Checksum names that manifests use -> hashlib's.
_ALGORITHMS = {"MD5": "md5", "SHA3-256": "sha3_256", "SHA-256": "sha256", "SHA256": "sha256", "SHA-512": "sha512"}


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One file of the manifest: path, size in bytes, checksum in lower-case hexadecimal and its algorithm."""

    path: str
    size: int
    algorithm: str
    checksum: str

    @property
    def is_needed(self) -> bool:
        """True for pixels and metadata; pages, previews and quality reports may be missing."""
        return "/IMG_DATA/" in self.path or self.path.rpartition("/")[2].startswith("MTD_")


def parse_manifest(data: bytes, name: str) -> list[ManifestEntry]:
    """Read the files with checksums out of a manifest.

    Raises
    ------
    ProductError
        If it is malformed, lists nothing, or uses a checksum that is not known.
    """
    entries = []
    for stream in parse_xml(data, name).iter("byteStream"):
        location, checksum = stream.find("fileLocation"), stream.find("checksum")
        if location is None or checksum is None:
            continue
        path = (location.get("href") or "").removeprefix("./")
        algorithm = _ALGORITHMS.get((checksum.get("checksumName") or "").upper())
        size = stream.get("size") or ""
        if algorithm is None or not size.isdigit():
            raise ProductError(f"{name}: {path} has checksum {checksum.get('checksumName')!r} and size {size!r}")
        entries.append(
            ManifestEntry(
                path=path, size=int(size), algorithm=algorithm, checksum=(checksum.text or "").strip().lower()
            )
        )
    if not entries:
        raise ProductError(f"{name} lists no file with a checksum")
    return entries


async def verify(source: Source, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Compare all files with the manifest; calls ``on_progress(files done, files)``.

    Returns
    -------
    Remarks about files that a mask does not need and that are missing or differ.

    Raises
    ------
    ProductError
        Naming the first files whose size or checksum differs or that are missing.
    """
    listing = await source.files()
    name = f"{_MANIFEST} of {source.label}"
    entries = parse_manifest(await source.read_all(_MANIFEST, limit=XML_LIMIT), name)
    faults: list[str] = []
    remarks: list[str] = []
    for number, entry in enumerate(entries):
        fault = await _fault(source, entry, listing.get(entry.path))
        if fault is not None:
            (faults if entry.is_needed else remarks).append(fault)
        if on_progress is not None:
            on_progress(number + 1, len(entries))
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise ProductError(
            f"{source.label} differs from its manifest: {'; '.join(faults[:_NAMED])}{more}: fetch these files again"
        )
    return remarks


async def _fault(source: Source, entry: ManifestEntry, size: int | None) -> str | None:
    """Say how a file differs from its entry, None where it does not."""
    if size is None:
        return f"{entry.path} is missing"
    if size != entry.size:
        return f"{entry.path} has {size} bytes, the manifest says {entry.size}"
    digest = hashlib.new(entry.algorithm)
    for start in range(0, size, _CHUNK):
        data = await source.read(entry.path, start, min(_CHUNK, size - start))
        await asyncio.to_thread(digest.update, data)
    if digest.hexdigest() != entry.checksum:
        return f"{entry.path} has checksum {digest.hexdigest()[:16]}…, the manifest says {entry.checksum[:16]}…"
    return None
