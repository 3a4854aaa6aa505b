"""A product's manifest.safe: `kappamask_stream.manifest.parse_manifest`."""

from __future__ import annotations

import hashlib

from kappamask_stream.errors import ProductError
from kappamask_stream.manifest import parse_manifest
from kappamask_stream.names import checked_path
from tests.fuzz.told import require_telling
from tests.fuzz.xml_edits import edited, edits
from tests.unit.safe_product import manifest_xml

_FILES = {
    "MTD_MSIL2A.xml": b"a",
    "GRANULE/x/IMG_DATA/R10m/T29UNU_20221005T115411_B02_10m.jp2": b"bb",
    "INSPIRE.xml": b"",
}
_TEMPLATES = {name: manifest_xml(_FILES, name).encode() for name in ("MD5", "SHA3-256")}
#: Real files have up to 80 KB.
LONGEST = 1 << 17
_VALUES = (b"../../etc/passwd", b"/x", b"9" * 5000, b"-1", b"", b"CRC32", b"md-5", b"0" * 32, b"a\nb", b"\xd9\xa1")


def seeds() -> list[bytes]:
    """Return whole files and edits of one."""
    return [*_TEMPLATES.values(), *(edits((number, text)) for number in range(2, 14) for text in _VALUES)]


def large() -> dict[str, bytes]:
    """Return files near the limits of 8 MB and 50,000 attributes: as many files, in one another, and one again and again."""
    one = manifest_xml({"a/IMG_DATA/T29UNU_20221005T115411_B02_10m.jp2": b"b"}, "MD5").encode()
    entry = one[one.index(b"<dataObject>") : one.index(b"</dataObjectSection>")]
    stream = entry.removeprefix(b"<dataObject>").removesuffix(b"</dataObject>")
    many = b"".join(entry.replace(b"T29", b"%06d" % number, 1) for number in range(8_000))
    inside = stream.removesuffix(b"</byteStream>") * 60 + b"</byteStream>" * 60
    return {
        "files": one.replace(entry, many),
        "the same file": one.replace(entry, entry * 8_000),
        "in one another": one.replace(entry, inside * 130),
        "a path of 8 MB": one.replace(b"./a/", b"./" + b"a/" * 4_100_000),
        "long paths": one.replace(entry, b"".join(
            entry.replace(b"./a/", b"./" + b"x/" * 4000 + b"%d/" % number) for number in range(1000)
        )),
    }  # fmt: skip


def dictionary() -> list[bytes]:
    """Return words of these files."""
    return [b"byteStream", b"fileLocation", b"checksum", b"checksumName", b"href", b"size", b"SHA3-256", b"/IMG_DATA/"]


def one_input(data: bytes) -> None:
    """Read a manifest, whatever it is."""
    template = _TEMPLATES["MD5" if data[:1] < b"\x80" else "SHA3-256"]
    try:
        entries = parse_manifest(edited(template, data), "manifest.safe")
    except ProductError as error:
        require_telling(error, "manifest.safe")
        return
    assert len({entry.path for entry in entries}) == len(entries)
    assert any(entry.is_needed for entry in entries)
    for entry in entries:
        assert checked_path(entry.path, said_by="x") == entry.path
        assert 0 <= entry.size < 10**15
        assert len(bytes.fromhex(entry.checksum)) == hashlib.new(entry.algorithm, usedforsecurity=False).digest_size
