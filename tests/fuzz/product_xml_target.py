"""The product's XML, MTD_MSIL1C.xml and MTD_MSIL2A.xml: `kappamask_stream.metadata.product_metadata`."""

from __future__ import annotations

import math

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import BAND_IDS, product_metadata, remarks
from kappamask_stream.names import checked_path, is_time, parse_product_name
from tests.fuzz.told import require_telling
from tests.fuzz.xml_edits import edited, edits
from tests.unit.safe_product import SafeProduct

_TEMPLATES = {level: SafeProduct(level=level).product_xml().encode() for level in ("L1C", "L2A")}
#: Real files have up to 60 KB.
LONGEST = 1 << 17
_NUMBERS = (b"0", b"-1", b"1e400", b"nan", b"\xd9\xa1\xd9\xa0", b"1_0", b"9" * 100, b"", b"<a/>1", b"5.11 ", b"99.99")


def seeds() -> list[bytes]:
    """Return whole files and edits of one."""
    files = [
        *_TEMPLATES.values(),
        SafeProduct(offset=None).product_xml().encode(),
        b'<!DOCTYPE l [<!ENTITY a "b">]><l>&a;</l>',
    ]
    return [*files, *(edits((number * 7 % 40, text)) for number, text in enumerate(_NUMBERS))]


def large() -> dict[str, bytes]:
    """Return files near the limits of 8 MB, 50,000 elements and as many attributes."""
    template = _TEMPLATES["L2A"]
    offset = b'<BOA_ADD_OFFSET band_id="3">-1000</BOA_ADD_OFFSET>'
    image = b"<IMAGE_FILE>GRANULE/L2A_T29UNU_A038058_20221005T115407/IMG_DATA/R10m/%06d_B02_10m</IMAGE_FILE>"
    uri = template[template.index(b"<PRODUCT_URI>") : template.index(b"</PRODUCT_URI>")]
    fitting = 8_380_000 - len(template)
    return {
        "offsets": template.replace(offset, offset * 49_900),
        "more offsets than are read": template.replace(offset, offset * (fitting // len(offset))),
        "other elements": template.replace(offset, offset + b'<a b="1"/>' * 49_900),
        "image files": template.replace(
            b"</Granule>", b"".join(image % number for number in range(49_900)) + b"</Granule>"
        ),
        "a name of 8 MB": template.replace(uri, b"<PRODUCT_URI>" + b"S2A_" * (fitting // 4)),
        "a number of 8 MB": template.replace(b">10000<", b">" + b"9" * fitting + b"<"),
        "spaces": template.replace(b">10000<", b">" + b" " * fitting + b"<"),
    }


def dictionary() -> list[bytes]:
    """Return words of these files."""
    return [
        b"band_id",
        b"RADIO_ADD_OFFSET",
        b"BOA_ADD_OFFSET",
        b"IMAGE_FILE",
        b"PRODUCT_URI",
        b"<![CDATA[",
        b"<!DOCTYPE",
        b"&#x0;",
    ]


def one_input(data: bytes) -> None:
    """Read a product's XML, whatever it is."""
    template = _TEMPLATES["L1C" if data[:1] < b"\x80" else "L2A"]
    try:
        found = product_metadata(edited(template, data), "MTD")
    except ProductError as error:
        require_telling(error, "MTD")
        return
    bands = {band for band in BAND_IDS if band != "B10" or found.level == "L1C"}
    assert found.offsets.keys() == bands
    assert found.quantification.keys() - {"AOT", "WVP"} == bands
    assert all(math.isfinite(value) and abs(value) <= 65535 for value in found.offsets.values())
    assert all(1 <= value <= 65535 for value in found.quantification.values())
    assert is_time(found.sensing_time)
    assert all(checked_path(path, said_by="x") == path for path in found.image_files)
    try:
        name = parse_product_name(found.uri)
    except ProductError:
        return
    assert all(len(remark) < 500 and remark.isprintable() for remark in remarks(name, found))
