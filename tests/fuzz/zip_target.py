"""Zip archives: `kappamask_stream.sources.zip_directory` and `kappamask_stream.sources.inflating`, on bytes in memory."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from typing import TYPE_CHECKING

from kappamask_stream.errors import ProductError
from kappamask_stream.names import checked_path
from kappamask_stream.sources.inflating import Inflation
from kappamask_stream.sources.zip_directory import LOCAL_HEADER_BYTES, MissingBytes, data_offset, parse_directory
from tests.fuzz.told import require_telling
from tests.unit.zip_files import DEFLATED, STORED, pack, patched

if TYPE_CHECKING:
    import random

    from kappamask_stream.sources.zip_directory import Member

_LABEL = "X.zip"
#: A product's directory has 40 KB.
LONGEST = 1 << 16
#: More is inflated as well, at 100 MB/s: not in each of a million inputs.
_LARGEST = 4 * 1024 * 1024
_FILES = {
    "X.SAFE/MTD_MSIL2A.xml": b"<metadata/>" * 30,
    "X.SAFE/IMG/B02.jp2": bytes(300) + b"abcdefgh" * 9,
    "X.SAFE/e": b"",
}


def seeds() -> list[bytes]:
    """Return archives of each form, and ones that lie."""
    plain = pack(_FILES)
    forms = [
        pack(_FILES, method=method, streamed=streamed, zip64=zip64, comment=comment)
        for method in (STORED, DEFLATED)
        for streamed in (False, True)
        for zip64 in (False, True)
        for comment in (b"", b"PK\5\6 and so on")
    ]
    name = "X.SAFE/IMG/B02.jp2"
    lies: list[dict[str, int]] = [
        {"size": 10**6},
        {"packed": 3},
        {"crc": 1},
        {"offset": 0},
        {"method": 12},
        {"flags": 1},
    ]
    forms.append(pack({f"X.SAFE/{number}.xml": b"<a/>" for number in range(200)}, method=STORED))
    return [*forms, *(patched(plain, name, **lie) for lie in lies), b"before it" + plain, plain[:-9], plain + plain]


def large() -> dict[str, bytes]:
    """Return archives near the limits of 20,000 members and 8 MB of directory, and one that inflates a thousandfold."""
    many = pack({f"X.SAFE/{number:0290}.xml": b"" for number in range(19_990)}, method=STORED)
    return {
        "20,000 members": many,
        "20,000 members without end": many[:-30],
        "names of 60 KB": pack({f"X.SAFE/{number:060000}.xml": b"" for number in range(130)}, method=STORED),
        "folders in each other": pack({"a/" * 30_000 + f"{number}.xml": b"" for number in range(130)}, method=STORED),
        "4 MB of zeros": pack({f"X.SAFE/{number}.xml": bytes(_LARGEST) for number in range(5)}),
        "ends": b"PK\5\6" * 300_000,
        "signatures": b"PK\1\2" * 19_000 + many[-22:],
    }


def dictionary() -> list[bytes]:
    """Return signatures, and sizes that mean something else."""
    return [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"\xff\xff\xff\xff", b"\1\0\x10\0"]


#: Fields of a record of the directory, and of a local header: where, struct's letter; the same number is the same.
_CENTRAL = ((8, "H"), (10, "H"), (16, "I"), (20, "I"), (24, "I"), (28, "H"), (30, "H"), (38, "I"), (42, "I"))
_LOCAL = ((6, "H"), (8, "H"), (14, "I"), (18, "I"), (22, "I"), (26, "H"), (28, "H"))
_END = ((8, "H"), (12, "I"), (16, "I"), (20, "H"))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change numbers where an archive has them, now and then in a record and its header alike."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        signature, fields = rng.choice(((b"PK\1\2", _CENTRAL), (b"PK\3\4", _LOCAL), (b"PK\5\6", _END)))
        places = [found.start() for found in re.finditer(re.escape(signature), changed)]
        if not places:
            continue
        number = rng.randrange(len(fields))
        value = rng.choice((0, 1, 8, 12, 0x800, 0xFFFF, 0xFFFFFFFF, len(data), rng.randrange(400), rng.choice(places)))
        _put(changed, rng.choice(places), fields[number], value)
        if fields is _CENTRAL and number < len(_LOCAL):
            headers = [found.start() for found in re.finditer(b"PK\3\4", changed)]
            _put(changed, rng.choice(headers or [len(changed)]), _LOCAL[number], value)
    return bytes(changed)


def _put(data: bytearray, at: int, field: tuple[int, str], value: int) -> None:
    offset, letter = field
    if at + offset + 4 <= len(data):
        struct.pack_into("<" + letter, data, at + offset, value & (0xFFFF if letter == "H" else 0xFFFFFFFF))


def one_input(data: bytes) -> None:
    """Read an archive, whatever it is."""
    try:
        for member in _directory(data).values():
            if member.size <= _LARGEST:
                _read(data, member)
    except ProductError as error:
        require_telling(error, _LABEL)


def _directory(data: bytes) -> dict[str, Member]:
    """List the members, with no more of the archive's end than is asked for."""
    start = max(len(data) - 64, 0)
    while True:
        try:
            files = parse_directory(_LABEL, len(data), start, data[start:])
        except MissingBytes as more:
            start = more.start
        else:
            ends = sorted((m.header_offset, m.header_offset + m.packed_size) for m in files.values())
            assert all(end <= following for (_, end), (following, _) in itertools.pairwise(ends)), "overlap"
            assert all(checked_path(path, said_by="x") == path == member.path for path, member in files.items())
            return files


def _read(data: bytes, member: Member) -> None:
    header = data[member.header_offset : member.end_limit]
    start = data_offset(_LABEL, member, header)
    assert member.header_offset + LOCAL_HEADER_BYTES <= start <= start + member.packed_size <= member.end_limit
    packed = data[start : start + member.packed_size]
    if not member.is_deflated:
        assert len(packed) == member.size
        return
    inflation = Inflation(_LABEL, member, spacing=1000)
    whole = _inflated(inflation, packed, 0, member.size)
    assert len(whole) == member.size
    assert zlib.crc32(whole) == member.crc
    middle = member.size // 2
    assert _inflated(inflation, packed, middle, member.size) == whole[middle:]


def _inflated(inflation: Inflation, packed: bytes, start: int, end: int) -> bytes:
    cursor, pieces = inflation.take(start), list[bytes]()
    while not cursor.is_at(end):
        if cursor.needs_input:
            size = min(cursor.input_left(), 100_000)
            cursor.feed(packed[cursor.next_input : cursor.next_input + size])
        pieces += cursor.inflate(start, end)
    inflation.give_back(cursor)
    return b"".join(pieces)
