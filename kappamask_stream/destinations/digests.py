"""Sizes and checksums of files that are about to be published."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Executor

    from kappamask_stream.destinations import OutputFile

#: Bytes that are read and hashed in one go: a cancellation waits for them.
_CHUNK = 8 * 1024 * 1024
#: Code of sha2-256 and its length in bytes, as the multihash format puts them before the digest.
_MULTIHASH = "1220"


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What can be said of a file without knowing where it will lie.

    Attributes
    ----------
    name : relative to the product's folder.
    media_type : as in `OutputFile`.
    size : bytes.
    sha256 : lower-case hexadecimal.
    """

    name: str
    media_type: str
    size: int
    sha256: str

    @property
    def multihash(self) -> str:
        """The checksum as ``file:checksum`` has it."""
        return _MULTIHASH + self.sha256


async def file_facts(file: OutputFile, workers: Executor | None) -> FileFacts:
    """Read a file and describe it; `workers` do the hashing."""
    digest, size = hashlib.sha256(), 0
    if isinstance(file.content, Path):
        length = (await in_thread(workers, file.content.stat)).st_size
        while size < length:
            size += await in_thread(workers, _hash_chunk, file.content, size, digest)
    else:
        for chunk in _chunks(file.content):
            await in_thread(workers, _hash_pieces, chunk, digest)
        size = sum(map(len, file.content))
    return FileFacts(name=file.name, media_type=file.media_type, size=size, sha256=digest.hexdigest())


def _chunks(pieces: Iterable[bytes]) -> Iterator[list[memoryview]]:
    """Put pieces, which may be small and many, or large, together to what is hashed in one go."""
    chunk: list[memoryview] = []
    room = _CHUNK
    for piece in pieces:
        view, at = memoryview(piece), 0
        while at < len(view):
            chunk.append(view[at : at + room])
            at, room = at + len(chunk[-1]), room - len(chunk[-1])
            if not room:
                yield chunk
                chunk, room = [], _CHUNK
    if chunk:
        yield chunk


def _hash_pieces(pieces: Iterable[memoryview], digest: hashlib._Hash) -> None:
    for piece in pieces:
        digest.update(piece)


def _hash_chunk(path: Path, start: int, digest: hashlib._Hash) -> int:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(_CHUNK)
    digest.update(data)
    return len(data)
