"""What a zip archive says it holds, and whether to believe it. Sans-I/O: bytes in, members out.

Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.4. The central directory is parsed by `zipfile`. An archive
comes from strangers: anything that a Sentinel-2 product has no use for is refused, not worked around.
"""

from __future__ import annotations

import io
import stat
import struct
import unicodedata
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.names import checked_path

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCAL_HEADER_BYTES = 30
_MOST_MEMBERS = 20_000
#: 20,000 members with names of 300 bytes; a product's directory has 40 KB.
_LARGEST_DIRECTORY = 8 * 1024 * 1024
#: A product has up to 1.5 GB, a band 0.2.
_LARGEST_MEMBER, _LARGEST_TOTAL = 4 * 1024**3, 64 * 1024**3
#: No deflated byte makes more than 1032 (zlib's documentation); a large file of a product makes 1.1, XML 20.
_MOST_EVER, _MOST_OF_LARGE, _LARGE = 1032, 100, 16 * 1024 * 1024
_ENCRYPTED, _DESCRIPTOR, _STRONG, _UTF8, _MASKED = 0x1, 0x8, 0x40, 0x800, 0x2000
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ZIP64_ID = 0x0001
_UNSAID = 0xFFFFFFFF
#: How what is read from a product's archive ends.
_OF_PRODUCTS = (".xml", ".jp2", ".safe")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of an archive.

    Attributes
    ----------
    path : relative POSIX path.
    raw_name : as it stands in the directory.
    size : bytes of the file.
    packed_size : bytes it has in the archive.
    crc : CRC-32 of the file.
    is_deflated : False where it is stored as it is.
    has_descriptor : True where its sizes may follow it instead of standing before it.
    header_offset : byte of the archive at which its local header starts.
    end_limit : byte of the archive at which the next member's header, or the directory, starts.
    """

    path: str
    raw_name: bytes
    size: int
    packed_size: int
    crc: int
    is_deflated: bool
    has_descriptor: bool
    header_offset: int
    end_limit: int


class MissingBytes(Exception):  # noqa: N818 - a question, not an error
    """More of the archive is needed: (first byte, length)."""

    def __init__(self, start: int, length: int) -> None:
        super().__init__(start, length)
        self.start, self.length = start, length


class _Tail(io.RawIOBase):
    """The end of an archive as a file; asks for what lies before it."""

    def __init__(self, label: str, size: int, start: int, data: bytes) -> None:
        self._label, self._size, self._start, self._data, self._at = label, size, start, data, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError("before the first byte")  # what zipfile expects of a file
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        if length > _LARGEST_DIRECTORY:
            raise ProductError(
                f"{self._label}: its directory says {size} bytes, at most {_LARGEST_DIRECTORY} are read: it is no "
                "product's archive, or damaged"
            )
        if length and self._at < self._start:
            raise MissingBytes(self._at, length)
        at = self._at - self._start
        self._at += length
        return self._data[at : at + length]


def parse_directory(label: str, size: int, start: int, tail: bytes) -> dict[str, Member]:
    """Read and check the central directory of an archive of `size` bytes, of which `tail` begins at byte `start`.

    Raises
    ------
    MissingBytes
        If it begins before `start`: call again with those bytes before `tail`.
    ProductError
        If it is no zip archive, is damaged, or holds what no product needs.
    """
    # Before each takes a kilobyte of memory: every entry begins with these bytes.
    if (seen := tail.count(b"PK\1\2")) > _MOST_MEMBERS:
        raise ProductError(f"{label} has {seen} members, at most {_MOST_MEMBERS} are read: it is no product's")
    try:
        with zipfile.ZipFile(_Tail(label, size, start, tail)) as archive:
            infos, directory_start = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error, OSError, ValueError) as error:
        raise ProductError(
            f"{label} is no zip archive that can be read ({error}; it has {size} bytes): it is truncated or "
            "corrupt, fetch it again"
        ) from error
    infos.sort(key=lambda info: info.header_offset)
    starts = [*(info.header_offset for info in infos), directory_start]
    members = [_member(label, info, end) for info, end in zip(infos, starts[1:], strict=True)]
    files: dict[str, Member] = {}
    # Where case does not count, or letters have several codes, these are one file. What is never read may be double.
    alike: dict[str, str] = {}
    for member, info in zip(members, infos, strict=True):
        folded = unicodedata.normalize("NFKC", member.path).casefold()
        other = alike.setdefault(folded, member.path) if folded.endswith(_OF_PRODUCTS) else member.path
        if member.path in files or other != member.path:
            what = "twice" if member.path in files else f"and {other}"
            raise ProductError(f"{label} holds {member.path} {what}: it cannot be told which one is meant")
        if not info.is_dir():
            files[member.path] = member
    _check_total(label, files.values())
    _check_folders(label, files)
    return files


def _member(label: str, info: zipfile.ZipInfo, end_limit: int) -> Member:
    path = checked_path(info.orig_filename.removesuffix("/"), said_by=f"a member of {label}")
    if reason := _refusal(info):
        raise ProductError(f"{label}: {path} {reason}")
    # Letters of ASCII are the same in both, and some twenty times quicker in UTF-8.
    is_utf8 = info.flag_bits & _UTF8 or info.orig_filename.isascii()
    member = Member(
        path=path,
        raw_name=info.orig_filename.encode("utf-8" if is_utf8 else "cp437"),
        size=info.file_size,
        packed_size=info.compress_size,
        crc=info.CRC,
        is_deflated=info.compress_type == zipfile.ZIP_DEFLATED,
        has_descriptor=bool(info.flag_bits & _DESCRIPTOR),
        header_offset=info.header_offset,
        end_limit=end_limit,
    )
    least_end = member.header_offset + LOCAL_HEADER_BYTES + len(member.raw_name) + member.packed_size
    if member.header_offset < 0 or least_end > end_limit:
        raise ProductError(
            f"{label}: {path} takes bytes {member.header_offset} to {least_end}, what follows it starts at "
            f"{end_limit}: its members overlap, fetch it again"
        )
    _check_sizes(label, member, is_folder=info.is_dir())
    return member


def _refusal(info: zipfile.ZipInfo) -> str | None:
    """Say why a member is none of a product."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & (_ENCRYPTED | _STRONG | _MASKED):
        return "is encrypted: products are not, unpack it yourself"
    if info.compress_type not in _METHODS:
        return f"is compressed by method {info.compress_type}, 0 (stored) and 8 (deflated) are read: pack it again"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > info.is_dir():
        what = "a symbolic link" if kind == stat.S_IFLNK else f"of file type {kind:#o}"
        return f"is {what}, a product has files and folders only: pack it again"
    return None


def _check_sizes(label: str, member: Member, *, is_folder: bool) -> None:
    """Refuse sizes that contradict each other, and those of a zip bomb."""
    size, packed, where = member.size, member.packed_size, f"{label}: {member.path}"
    if is_folder and size:
        raise ProductError(f"{where} is a folder of {size} bytes, folders have 0: the archive is corrupt")
    if not member.is_deflated and size != packed:
        raise ProductError(f"{where} is stored, with {size} bytes in {packed}: the archive is corrupt, fetch it again")
    if size > _LARGEST_MEMBER:
        raise ProductError(f"{where} says {size} bytes, at most {_LARGEST_MEMBER} are read: it is no product's")
    if size > packed * _MOST_EVER or (size > _LARGE and size > packed * _MOST_OF_LARGE):
        raise ProductError(
            f"{where} says {size} bytes, packed into {packed}: no file of a product is packed so well, "
            "it is not unpacked (zip bomb)"
        )


def _check_total(label: str, members: Iterable[Member]) -> None:
    total = sum(member.size for member in members)
    if total > _LARGEST_TOTAL:
        raise ProductError(f"{label} says it unpacks to {total} bytes, at most {_LARGEST_TOTAL} are read")


def _check_folders(label: str, files: Iterable[str]) -> None:
    """Refuse a file that other files say they lie in, at a cost that does not grow with how deep they lie."""
    # In this order what lies in a folder follows the folder's own name at once: no path holds a NUL.
    ordered = sorted(files, key=lambda path: path.replace("/", "\0"))
    for path, following in pairwise(ordered):
        if following.startswith(f"{path}/"):
            raise ProductError(f"{label}: {path} is a file and the folder of {following}: the archive is corrupt")


def data_offset(label: str, member: Member, header: bytes) -> int:
    """Return the byte of the archive at which a member's data starts.

    Parameters
    ----------
    header : the archive from ``member.header_offset`` on: the fixed part, the name, and the extra fields or as many
        of them as hold the sizes.

    Raises
    ------
    ProductError
        If the local header says something else than the directory.
    """
    if len(header) < LOCAL_HEADER_BYTES or header[:4] != b"PK\3\4":
        raise _differs(label, member, "starts with", header[:4].hex() or "nothing", "504b0304")
    fields: tuple[int, ...] = struct.unpack_from("<5H3I2H", header, 4)
    _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    name_end = LOCAL_HEADER_BYTES + name_length
    start = member.header_offset + name_end + extra_length
    if header[LOCAL_HEADER_BYTES:name_end] != member.raw_name:
        raise _differs(label, member, "is named", repr(header[LOCAL_HEADER_BYTES:name_end]), repr(member.raw_name))
    expected = zipfile.ZIP_DEFLATED if member.is_deflated else zipfile.ZIP_STORED
    if method != expected or flags & _ENCRYPTED:
        raise _differs(label, member, "has method and flags", f"{method}, {flags:#x}", f"{expected}, not encrypted")
    if start + member.packed_size > member.end_limit:
        raise _differs(label, member, "ends at byte", start + member.packed_size, member.end_limit)
    if _UNSAID in (packed, size):
        size, packed = _zip64_sizes(header[name_end : name_end + extra_length], size, packed)
    for what, said, listed in (
        ("CRC", crc, member.crc),
        ("size", size, member.size),
        ("packed", packed, member.packed_size),
    ):
        # With a descriptor behind the data, the header may say 0 or nothing.
        if said != listed and not (member.has_descriptor and said in (0, _UNSAID)):
            raise _differs(label, member, f"says {what}", said, listed)
    return start


def _zip64_sizes(extra: bytes, size: int, packed: int) -> tuple[int, int]:
    """Return the sizes out of the zip64 field (APPNOTE 4.5.3); in a local header it has both."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64_ID and length >= 16 and at + 20 <= len(extra):  # noqa: PLR2004 - two sizes of 8 bytes
            size64, packed64 = struct.unpack_from("<QQ", extra, at + 4)
            return size64, packed64
        at += 4 + length
    return size, packed


def _differs(label: str, member: Member, what: str, said: object, listed: object) -> ProductError:
    return ProductError(
        f"{label}: the header of {member.path} at byte {member.header_offset} {what} {said}, the archive's directory "
        f"has {listed}: it is truncated or corrupt, fetch it again"
    )
