"""XML of strangers: what an XML parser can be made to do, and metadata that is well formed and lies."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.manifest import parse_manifest, verify
from kappamask_stream.metadata import XML_LIMIT, parse_xml, product_metadata, tile_metadata
from kappamask_stream.product import open_product
from kappamask_stream.sources import DirectorySource
from tests.unit.safe_product import SafeProduct, manifest_xml

if TYPE_CHECKING:
    from pathlib import Path

MTD, TL = "X.SAFE/MTD_MSIL2A.xml", "X.SAFE/GRANULE/x/MTD_TL.xml"
_PRODUCT = SafeProduct()


def mtd(*changes: tuple[str, str], level: str = "L2A") -> bytes:
    return _changed(SafeProduct(level=level).product_xml(), changes)


def tl(*changes: tuple[str, str]) -> bytes:
    return _changed(_PRODUCT.tile_xml(), changes)


def _changed(text: str, changes: tuple[tuple[str, str], ...]) -> bytes:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text.encode()


# What a parser can be made to do.

_QUADRATIC = f'<!DOCTYPE l [<!ENTITY a "{"a" * 50_000}">]><l>{"&a;" * 50_000}</l>'
DECLARED = {
    "quadratic blow-up": _QUADRATIC,
    "entity of a web server": '<!DOCTYPE l [<!ENTITY x SYSTEM "http://127.0.0.1:9/x">]><l>&x;</l>',
    "entity in an attribute": '<!DOCTYPE l [<!ENTITY x "y">]><l a="&x;"/>',
    "entities that hold each other": '<!DOCTYPE l [<!ENTITY a "&b;"><!ENTITY b "&a;">]><l>&a;</l>',
    "parameter entity that declares one": "<!DOCTYPE l [<!ENTITY % p \"<!ENTITY x 'y'>\">%p;]><l>&x;</l>",
    "attributes by default": '<!DOCTYPE l [<!ATTLIST l resolution CDATA "10">]><l/>',
    "notation": '<!DOCTYPE l [<!NOTATION n SYSTEM "file:///bin/sh">]><l/>',
    "UTF-16": '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE l><l/>',
    "a name of 100 KB": f'<!DOCTYPE {"l" * 100_000} SYSTEM "{"x" * 100_000}"><l/>',
}


@pytest.mark.parametrize("what", DECLARED)
def test_what_declares_anything_is_not_read(what: str) -> None:
    data = DECLARED[what].encode("utf-16" if what == "UTF-16" else "utf-8")
    with pytest.raises(ProductError, match=r"^X\.SAFE/MTD_MSIL2A\.xml declares a document type or entities") as caught:
        parse_xml(data, MTD)
    assert len(str(caught.value)) < 400


ENCODINGS = {
    "UTF-7": (b'<?xml version="1.0" encoding="UTF-7"?>+ADw-a/+AD4-', "no well-formed XML"),
    "UTF-16 that is none": (_PRODUCT.product_xml().replace("UTF-8", "UTF-16").encode(), "no well-formed XML"),
    "UTF-8 that is UTF-16": (_PRODUCT.product_xml().encode("utf-16-le"), "no well-formed XML"),
    "UTF-8 that is Latin-1": ("<?xml version='1.0' encoding='UTF-8'?><a>\xfc</a>".encode("latin-1"), "no well-formed"),
    "UTF-32": (_PRODUCT.product_xml().replace("UTF-8", "UTF-32").encode("utf-32"), "no well-formed XML"),
    "EBCDIC": (_PRODUCT.product_xml().replace("UTF-8", "cp037").encode("cp037"), "no well-formed XML"),
    "of a name of 100 KB": (b'<?xml version="1.0" encoding="' + 100_000 * b"Y" + b'"?><a/>', "no well-formed XML"),
    "a null character": (b"<a>\0</a>", "no well-formed XML"),
    "a null by its number": (b"<a>&#0;</a>", "no well-formed XML"),
    "a surrogate": (b"<a>&#xD800;</a>", "no well-formed XML"),
    "two roots": (b"<a/><b/>", "no well-formed XML"),
    "the same attribute twice": (b"<a b='1' b='2'/>", "no well-formed XML"),
    "a prefix that nobody declared": (b"<n1:a/>", "no well-formed XML"),
    "two byte order marks": (b"\xef\xbb\xbf" * 2 + b"<a/>", "no well-formed XML"),
}


@pytest.mark.parametrize("what", ENCODINGS)
def test_encodings_that_lie(what: str) -> None:
    data, says = ENCODINGS[what]
    with pytest.raises(ProductError, match=rf"^X\.SAFE/MTD_MSIL2A\.xml is {says}") as caught:
        product_metadata(data, MTD)
    assert len(str(caught.value)) < 400


def test_a_byte_order_mark_and_latin_1_that_is_latin_1_are_read() -> None:
    text = _PRODUCT.product_xml()
    for data in (b"\xef\xbb\xbf" + text.encode(), text.replace("UTF-8", "ISO-8859-1").encode("latin-1")):
        assert product_metadata(data, MTD).level == "L2A"


LARGE = {
    "a million attributes": b"<r " + b" ".join(b'a%x=""' % number for number in range(700_000)) + b"/>",
    "namespaces": b"<r " + b" ".join(b'xmlns:a%x="u"' % number for number in range(400_000)) + b"/>",
    "as many attributes as are read": b"<r " + b" ".join(b'a%x=""' % number for number in range(49_990)) + b"/>",
    "as many elements and attributes as are read": b"<r>" + b'<Size resolution="10">9</Size>' * 49_900 + b"</r>",
    "a million elements": b"<r>" + b"<a/>" * 1_000_000 + b"</r>",
    "a hundred thousand levels": b"<a>" * 100_000,
    "an attribute of 8 MB": b'<r a="' + b"x" * (XML_LIMIT - 9) + b'"/>',
    "a comment of 8 MB": b"<r><!--" + b"x" * (XML_LIMIT - 15) + b"--></r>",
    "a name of 8 MB": b"<" + b"x" * (XML_LIMIT - 3) + b"/>",
    "elements of one kind in each other": b"<r>" + b"<Size>" * 60 + b"<a/>" * 190_000 + b"</Size>" * 60 + b"</r>",
    "a number of a million digits": b"<r><PROCESSING_LEVEL>" + b"9" * 1_000_000 + b"x</PROCESSING_LEVEL></r>",
}
#: Limits the child's memory and CPU time: beyond them it is killed, which fails the test.
_CHILD = """
    import sys, time
    from kappamask_stream.errors import ProductError
    from kappamask_stream.metadata import product_metadata, tile_metadata
    from kappamask_stream.result import peak_rss_bytes
    data = sys.stdin.buffer.read()
    peak, begin = peak_rss_bytes(), time.process_time()
    for parse in (product_metadata, tile_metadata):
        try:
            parse(data, "X.xml")
        except ProductError as error:
            assert str(error).startswith("X.xml"), error
            assert len(str(error)) < 500
        else:
            raise SystemExit("it was read")
    print(time.process_time() - begin, (peak_rss_bytes() - peak) >> 20)
"""


def _parsed_in_a_child(data: bytes) -> tuple[float, float]:
    """Return CPU seconds and megabytes that it takes to refuse an XML file, twice."""
    limits = {resource.RLIMIT_CPU: (20, 20)}

    def limited() -> None:
        for which, values in limits.items():
            resource.setrlimit(which, values)

    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CHILD)],
        input=data,
        capture_output=True,
        check=False,
        preexec_fn=limited,
    )
    assert child.returncode == 0, child.stderr[-500:] + child.stdout[-500:]
    seconds, megabytes = child.stdout.split()
    return float(seconds), float(megabytes)


@pytest.mark.parametrize("what", LARGE)
def test_large_files_take_little_memory_and_time(what: str) -> None:
    seconds, megabytes = _parsed_in_a_child(LARGE[what])
    assert megabytes < 256
    assert seconds < 2, "two parses, at most 1 s for each; quadratic ones took minutes"


def test_more_than_the_limit_is_not_read_into_memory(tmp_path: Path) -> None:
    root = _PRODUCT.write(tmp_path)
    with (root / "MTD_MSIL2A.xml").open("wb") as file:
        file.truncate(3 * 2**30)  # a hole: its bytes are not on the disk either
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProductError, match=rf"MTD_MSIL2A\.xml has 3221225472 bytes, at most {XML_LIMIT} are read"):
        asyncio.run(open_product(DirectorySource(root)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


# Metadata that is well formed, and wrong. Each message names the file, the field, and what it has.

_HUGE = "1" + "0" * 400
PRODUCT_LIES = [
    (('"3">-1000<', f'"3">{_HUGE}<'), "BOA_ADD_OFFSET is '1000.*', not a number"),
    (('"3">-1000<', '"3">-1e400<'), "BOA_ADD_OFFSET is '-1e400', not a number"),
    (('"3">-1000<', '"3">\u0661\u0662<'), "BOA_ADD_OFFSET is '\u0661\u0662', not a number"),
    (('"3">-1000<', '"3">\uff11<'), "BOA_ADD_OFFSET is '\uff11', not a number"),
    (('"3">-1000<', '"3">0x10<'), "BOA_ADD_OFFSET is '0x10', not a number"),
    (('"3">-1000<', '"3">-1,000<'), "BOA_ADD_OFFSET is '-1,000', not a number"),
    (('"3">-1000<', '"3">-1 000<'), "BOA_ADD_OFFSET is '-1 000', not a number"),
    (('"3">-1000<', '"3">-1<b/>000<'), "BOA_ADD_OFFSET holds other elements, a text is expected"),
    (('band_id="3"', 'band_id="\u0663"'), "BOA_ADD_OFFSET has band_id '\u0663', not 0 to 12"),
    (('band_id="3"', 'band_id="03"'), "BOA_ADD_OFFSET has band_id '03', not 0 to 12"),
    (('band_id="3"', 'band_id=" 3"'), "BOA_ADD_OFFSET has band_id ' 3', not 0 to 12"),
    ((">04.00<", ">5.11 <"), "PROCESSING_BASELINE is '5.11', not two digits"),
    ((">04.00<", ">\u0660\u0664.\u0660\u0660<"), "PROCESSING_BASELINE is '\u0660\u0664"),
    ((">10000<", ">1e308<"), "BOA_QUANTIFICATION_VALUE is '1e308', not 1 to 65535"),
    ((">10000<", ">1e-300<"), "BOA_QUANTIFICATION_VALUE is '1e-300', not 1 to 65535"),
    ((">10000<", ">-10000<"), "BOA_QUANTIFICATION_VALUE is '-10000', not positive"),
    ((">1000.0</AOT", ">0</AOT"), "AOT_QUANTIFICATION_VALUE is '0', not positive"),
    (("2022-10-05T11:54", "2022-13-05T11:54"), "DATATAKE_SENSING_START is '2022-13-05T11:54:11.024Z', not a time"),
    (("2022-10-05T11:54", "2022-02-30T11:54"), "DATATAKE_SENSING_START is '2022-02-30T11:54:11.024Z', not a time"),
    (("2022-10-05T11:54", "2022-10-05T25:54"), "DATATAKE_SENSING_START is '2022-10-05T25:54:11.024Z', not a time"),
    (
        ("<IMAGE_FILE>GRANULE", "<IMAGE_FILE>GRANULE/../.."),
        "IMAGE_FILE: 'GRANULE/../../.*' is no path inside a product",
    ),
    (("<IMAGE_FILE>GRANULE", "<IMAGE_FILE>C:\\GRANULE"), "IMAGE_FILE: .* is no path inside a product"),
    (("<IMAGE_FILE>GRANULE", "<IMAGE_FILE>GRANULE&#10;x"), r"IMAGE_FILE: 'GRANULE\\nx.*' is no path inside a product"),
    (("<IMAGE_FILE>GRANULE", f"<IMAGE_FILE>{'G' * 2000}"), "IMAGE_FILE: 'GGG.*' is no path inside a product"),
    (("<PRODUCT_URI>", "<PRODUCT_URI>S2B</PRODUCT_URI><PRODUCT_URI>"), "PRODUCT_URI has 2 different values"),
]


@pytest.mark.parametrize(("change", "says"), PRODUCT_LIES, ids=[f"{new[1][:24]!a}" for new, _ in PRODUCT_LIES])
def test_fields_of_a_product_that_no_product_has(change: tuple[str, str], says: str) -> None:
    with pytest.raises(ProductError, match=rf"(?s)^X\.SAFE/MTD_MSIL2A\.xml: {says}"):
        product_metadata(mtd(change), MTD)


TILE_LIES = [
    (("EPSG:32629", "EPSG:32600"), "HORIZONTAL_CS_CODE is 'EPSG:32600', not a UTM zone"),
    (("EPSG:32629", "EPSG:32661"), "HORIZONTAL_CS_CODE is 'EPSG:32661', not a UTM zone"),
    (("EPSG:32629", "EPSG:326\u0662\u0669"), "HORIZONTAL_CS_CODE is 'EPSG:326"),
    (("EPSG:32629", "http://127.0.0.1:9/"), "HORIZONTAL_CS_CODE is 'http://127.0.0.1:9/', not a UTM zone"),
    (("<NROWS>60<", "<NROWS>61<"), "Size is 61 x 120 at 20 m and 120 x 240 at 10 m, which are not of one extent"),
    (("<NCOLS>40<", "<NCOLS>4<"), "Size is 20 x 4 at 60 m and 120 x 240 at 10 m, which are not of one extent"),
    (("<NROWS>120<", "<NROWS>12<b/>0<"), "Size at 10 m: NROWS holds other elements"),
    (('<Size resolution="20">', '<Size resolution="20"><NROWS>7</NROWS>'), "Size at 20 m: NROWS has 2 different values"),
    (("<ULX>499980</ULX><ULY>5900040</ULY><XDIM>20<", "<ULX>499990</ULX><ULY>5900040</ULY><XDIM>20<"),
     r"ULX, ULY give the upper-left corners \[\(499980.0, 5900040.0\), \(499990.0, 5900040.0\)\], one is expected"),
    (("<YDIM>-20<", "<YDIM>-20.0001<"), "Geoposition at 20 m: XDIM and YDIM are 20 and -20.0001, not ±20"),
    (("<ULX>499980", "<ULX>\uff1499980"), "Geoposition at 10 m: ULX is '\uff1499980', not a number"),
    (("T29UNU_N", "T29UN_N"), "TILE_ID is 'S2A_OPER.*_T29UN_N04.00', not an identifier"),
    (("T29UNU_N", "T\u0662\u0669UNU_N"), "TILE_ID is 'S2A_OPER"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), TILE_LIES, ids=[f"{new[1][:24]!a}" for new, _ in TILE_LIES])
def test_fields_of_a_tile_that_no_tile_has(change: tuple[str, str], says: str) -> None:
    with pytest.raises(ProductError, match=rf"(?s)^X\.SAFE/GRANULE/x/MTD_TL\.xml: {says}"):
        tile_metadata(tl(change), TL)


def _opened(folder: Path, changes: dict[str, str], product: SafeProduct | None = None) -> tuple[str, ...]:
    """Return the notes of a product whose XML files were changed."""
    made = product or SafeProduct()
    made.replace = changes
    root = made.write(folder)
    return asyncio.run(open_product(DirectorySource(root))).notes


#: What is changed -> what contradicts it, in the message.
CONTRADICTED = {
    "zone": ({"EPSG:32629": "EPSG:32630"}, r"HORIZONTAL_CS_CODE is EPSG:32630, tile T29UNU lies in EPSG:32629"),
    "hemisphere": ({"EPSG:32629": "EPSG:32729"}, r"is EPSG:32729, tile T29UNU lies in EPSG:32629"),
    "easting": ({"<ULX>499980": "<ULX>509980"}, r"ULX, ULY are 509980, 5900040, tile T29UNU begins at 499980, 5900040"),
    "easting by a pixel of 120 m": ({"<ULX>499980": "<ULX>500100"}, r"ULX, ULY are 500100, 5900040, tile T29UNU"),
    "northing": ({"<ULY>5900040": "<ULY>5850040"}, r"ULX, ULY are 499980, 5850040, tile T29UNU begins at"),
    "northing by two squares": ({"<ULY>5900040": "<ULY>5700040"}, r"ULX, ULY are 499980, 5700040, tile T29UNU begins"),
    "off the grid": ({"<ULX>499980": "<ULX>499985"}, r"ULX, ULY are 499985, 5900040, tile T29UNU begins at .*whole"),
    "half a pixel": ({"<ULY>5900040": "<ULY>5900039.5"}, r"ULX, ULY are 499980, 5900039.5, tile T29UNU begins at"),
    "tile": ({"T29UNU_N04.00": "T30UNU_N04.00"}, r"MTD_TL\.xml is of tile T30UNU, the product is S2A_MSIL2A_.*_T29UNU"),
    "level": ({"Level-2A<": "Level-1C<", "BOA_ADD_OFFSET_VALUES_LIST": "X", "BOA_ADD_OFFSET": "RADIO_ADD_OFFSET",
               "BOA_QUANT": "QUANT"}, r"PROCESSING_LEVEL is L1C, the product's name is S2A_MSIL2A"),
    "time": ({"2022-10-05T11:54": "2021-10-05T11:54"}, r"DATATAKE_SENSING_START is 20211005T115411, the product's name"),
    "two files for one band": ({"R20m/T29UNU_20221005T115411_B05_20m": "T29UNU_20221005T115411_B8A_20m"},
                               r"IMAGE_FILE names GRANULE/.*_B8A_20m\.jp2 and GRANULE/.*_B8A_20m\.jp2 for B8A at 20 m"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTED)
def test_a_lie_that_something_else_contradicts_is_refused(tmp_path: Path, what: str) -> None:
    changes, says = CONTRADICTED[what]
    with pytest.raises(ProductError, match=rf"(?s)\.SAFE.*{says}"):
        _opened(tmp_path, changes)


@pytest.mark.parametrize(("own", "other"), [("T29UNU", "T30UXX"), ("20221005T", "20221006T")])
@pytest.mark.parametrize("listed", [False, True])
def test_bands_of_another_product_are_refused(tmp_path: Path, own: str, other: str, *, listed: bool) -> None:
    band = "R20m/T29UNU_20221005T115411_B05_20m"
    alien = band.replace(own, other)
    root = SafeProduct(replace={band: alien} if listed else {}).write(tmp_path)
    path = next(root.rglob("*_B05_20m.jp2"))
    path.rename(path.with_name(path.name.replace(own, other)))
    with pytest.raises(ProductError, match=rf"{alien}\.jp2 is no file of S2A_MSIL2A_.*: files of two products"):
        asyncio.run(open_product(DirectorySource(root)))


#: What nothing else in a product tells of: a mask is made, and says what is unusual. Docs: docs/reliability.md.
REMARKED = {
    "another offset": (">-1000<", ">-900<", "offsets are -900 DN, products of baseline 04.00 have -1000"),
    "offsets 0": (">-1000<", ">0<", "offsets are 0 DN, products of baseline 04.00 have -1000"),
    "one band's offset": ('"3">-1000<', '"3">0<', "offsets are -1000, 0 DN, products of baseline 04.00 have -1000"),
    "offsets before their time": ("<PROCESSING_BASELINE>04.00", "<PROCESSING_BASELINE>02.14",
                                  "offsets are -1000 DN, products of baseline 02.14 have 0"),
    "another baseline": ("<PROCESSING_BASELINE>04.00", "<PROCESSING_BASELINE>05.00",
                         "PROCESSING_BASELINE is 05.00, the product's name is S2A_MSIL2A_20221005T115411_N0400"),
    "quantification": (">10000<", ">1000<", "quantification value of B01 is 1000, products have 10000"),
    "quantification of WVP": (">1000.0</WVP", ">100</WVP", "quantification value of WVP is 100, products have 1000"),
}  # fmt: skip


@pytest.mark.parametrize("what", REMARKED)
def test_a_lie_that_nothing_contradicts_is_remarked(tmp_path: Path, what: str) -> None:
    old, new, says = REMARKED[what]
    notes = _opened(tmp_path, {old: new})
    assert any(says in note for note in notes), notes


def test_a_baseline_with_offsets_and_no_list_of_them_is_remarked(tmp_path: Path) -> None:
    notes = _opened(tmp_path, {}, SafeProduct(offset=None))
    assert len(notes) == 1
    assert "offsets are 0 DN, products of baseline 04.00 have -1000: the mask rests on them" in notes[0]


def test_nothing_is_remarked_on_what_products_have(tmp_path: Path) -> None:
    assert _opened(tmp_path / "a", {}) == ()
    assert _opened(tmp_path / "b", {}, SafeProduct(baseline="02.14", offset=None)) == ()
    assert _opened(tmp_path / "c", {}, SafeProduct(baseline="99.99", offset=-1000)) == ()


# The manifest.


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('size="1"', f'size="{"9" * 5000}"', r"MTD_MSIL2A\.xml has the size '999.*', not a number of bytes"),
        ('size="1"', 'size="\u0661"', r"MTD_MSIL2A\.xml has the size '\u0661', not a number of bytes"),
        ('href="./MTD', 'href="/etc/MTD', "fileLocation: '/etc/MTD.*' is no path inside a product"),
        ('href="./MTD', 'href="..\\MTD', "fileLocation: .* is no path inside a product"),
        ('href="./MTD', 'href="./\u202eMTD', r"fileLocation: .*\\u202e.* is no path inside a product"),
    ],
)
def test_a_manifest_that_lies(old: str, new: str, says: str) -> None:
    text = manifest_xml({"MTD_MSIL2A.xml": b"a", "GRANULE/x/IMG_DATA/T29UNU_20221005T115411_B02.jp2": b"b"}, "MD5")
    assert old in text
    with pytest.raises(ProductError, match=rf"^X/manifest\.safe:? .*{says}"):
        parse_manifest(text.replace(old, new).encode(), "X/manifest.safe")


def test_a_band_that_the_manifest_leaves_out_is_not_verified_in_silence(tmp_path: Path) -> None:
    root = _PRODUCT.write(tmp_path)
    manifest = (root / "manifest.safe").read_text()
    objects = manifest.split("<dataObject>")
    left_out = [piece for piece in objects if "_B8A_20m" not in piece]
    assert len(left_out) == len(objects) - 1
    (root / "manifest.safe").write_text("<dataObject>".join(left_out))
    with pytest.raises(ProductError, match=r"1 of 20 files .*_B8A_20m\.jp2 is not listed there"):
        asyncio.run(verify(DirectorySource(root)))
