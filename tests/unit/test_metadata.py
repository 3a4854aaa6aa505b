"""The XML of real products of all baselines, and hostile or broken XML."""

import time
from pathlib import Path

import pytest

from kappamask_stream.errors import ProductError
from kappamask_stream.metadata import BAND_IDS, XML_LIMIT, parse_xml, product_metadata, tile_metadata
from tests.unit.safe_product import SafeProduct

#: Folder in shared/data/metadata -> level, baseline, satellite, tile, EPSG, upper-left corner, offset of all bands.
REAL = {
    "S2A_MSIL1C_20200717T221941_R029_T01LAC_20200717T234135.SAFE": (
        "L1C", "02.09", "Sentinel-2A", "T01LAC", 32701, (99960, 8300020), 0
    ),
    "S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248.SAFE": (
        "L1C", "03.01", "Sentinel-2A", "T46RER", 32646, (499980, 3100020), 0
    ),
    "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE": (
        "L2A", "02.12", "Sentinel-2A", "T07HFE", 32707, (600000, 6500020), 0
    ),
    "esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500.SAFE": (
        "L2A", "02.14", "Sentinel-2B", "T22HBD", 32722, (199980, 5900020), 0
    ),
    "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE": (
        "L2A", "04.00", "Sentinel-2B", "T33XWJ", 32633, (499980, 8900040), -1000
    ),
    "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825.SAFE": (
        "L2A", "05.09", "Sentinel-2A", "T01KAB", 32701, (99960, 8200000), -1000
    ),
    "S2A_OPER_MSI_L2A_TL_VGS1_20220401T110010_A035382_T34LBQ": (
        "L2A", "04.00", "Sentinel-2A", "T34LBQ", 32734, (199980, 8900020), -7000
    ),
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("folder", REAL)
def test_real_metadata_of_every_baseline(shared_dir: Path, folder: str) -> None:
    level, baseline, satellite, tile_id, epsg, corner, offset = REAL[folder]
    root = shared_dir / "data" / "metadata" / folder
    product_xml = next(root.glob("MTD_MSI*.xml"), root / "product_metadata.xml")
    product = product_metadata(product_xml.read_bytes(), product_xml.name)
    assert (product.level, product.baseline, product.satellite) == (level, baseline, satellite)
    bands = [band for band in BAND_IDS if band != "B10" or level == "L1C"]
    assert product.offsets == dict.fromkeys(bands, float(offset))
    atmosphere = {"AOT": 1000.0, "WVP": 1000.0} if level == "L2A" else {}
    assert product.quantification == dict.fromkeys(bands, 10000.0) | atmosphere
    assert product.sensing_time in product.uri
    assert len(product.image_files) >= 14
    tile_xml = next(root.glob("GRANULE/*/MTD_TL.xml"), root / "metadata.xml")
    tile = tile_metadata(tile_xml.read_bytes(), tile_xml.name)
    assert (tile.tile_id, tile.epsg, (tile.ulx, tile.uly)) == (tile_id, epsg, corner)
    assert tile.sizes == {10: (10980, 10980), 20: (5490, 5490), 60: (1830, 1830)}
    assert tile.sun_zenith_deg is not None
    assert 0 < tile.sun_zenith_deg < 90


def replaced(old: str, new: str, level: str = "L2A") -> bytes:
    text = SafeProduct(level=level).product_xml()
    assert old in text
    return text.replace(old, new).encode()


def tile_replaced(old: str, new: str) -> bytes:
    text = SafeProduct().tile_xml()
    assert old in text
    return text.replace(old, new).encode()


def test_rows_and_columns_keep_their_order() -> None:
    assert tile_metadata(SafeProduct().tile_xml().encode(), "x").sizes == {10: (120, 240), 20: (60, 120), 60: (20, 40)}


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("offset", [None, -1000, 0, 250])
def test_offsets_are_what_the_metadata_says_whatever_the_baseline(level: str, offset: int | None) -> None:
    for baseline in ("02.04", "04.00", "05.11", "99.99"):
        xml = SafeProduct(level=level, offset=offset, baseline=baseline).product_xml().encode()
        assert set(product_metadata(xml, "x").offsets.values()) == {float(offset or 0)}


def test_each_band_has_its_own_offset() -> None:
    text = SafeProduct(level="L1C").product_xml()
    for number in range(13):
        text = text.replace(f'band_id="{number}">-1000<', f'band_id="{number}">{-1000 - number}.5<')
    offsets = product_metadata(text.encode(), "x").offsets
    assert list(offsets.values()) == [-1000.5 - number for number in range(13)]
    assert (offsets["B08"], offsets["B8A"], offsets["B09"]) == (-1007.5, -1008.5, -1009.5)


def test_an_l2a_list_may_leave_b10_out_and_no_other() -> None:
    product_metadata(replaced('<BOA_ADD_OFFSET band_id="10">-1000</BOA_ADD_OFFSET>', ""), "x")
    with pytest.raises(ProductError, match=r"MTD.*BOA_ADD_OFFSET_VALUES_LIST has no BOA_ADD_OFFSET for B11"):
        product_metadata(replaced('<BOA_ADD_OFFSET band_id="11">-1000</BOA_ADD_OFFSET>', ""), "MTD")


def test_an_offset_of_the_other_level_is_no_offset() -> None:
    with pytest.raises(ProductError, match="BOA_ADD_OFFSET_VALUES_LIST has no BOA_ADD_OFFSET"):
        product_metadata(replaced("BOA_ADD_OFFSET band", "RADIO_ADD_OFFSET band").replace(
            b"</BOA_ADD_OFFSET>", b"</RADIO_ADD_OFFSET>"), "x")  # fmt: skip


@pytest.mark.parametrize("namespace", ["https://psd-15.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd", "urn:x"])
def test_any_namespace(namespace: str) -> None:
    text = SafeProduct().product_xml()
    psd = "https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd"
    assert product_metadata(text.replace(psd, namespace).encode(), "x") == product_metadata(text.encode(), "x")
    default = text.replace(f'xmlns:n1="{psd}"', f'xmlns="{namespace}"').replace("n1:", "")
    assert product_metadata(default.encode(), "x") == product_metadata(text.encode(), "x")


def test_psd_14_2_of_2017() -> None:
    text = SafeProduct(offset=None).product_xml()
    for old, new in (
        ("PRODUCT_URI>", "PRODUCT_URI_2A>"),
        ("IMAGE_FILE>", "IMAGE_FILE_2A>"),
        ("Level-2A</PROCESSING_LEVEL>", "Level-2Ap</PROCESSING_LEVEL>"),
        *((f"{band}_QUANT", f"L2A_{band}_QUANT") for band in ("BOA", "AOT", "WVP")),
    ):
        text = text.replace(old, new)
    old, new = (
        product_metadata(text.encode(), "x"),
        product_metadata(SafeProduct(offset=None).product_xml().encode(), "x"),
    )
    assert old == new
    tile = SafeProduct().tile_xml().replace("TILE_ID>", "TILE_ID_2A>")
    assert tile_metadata(tile.encode(), "x").tile_id == "T29UNU"


def test_unneeded_fields_may_be_missing() -> None:
    product = product_metadata(
        replaced("<GENERATION_TIME>2022-10-05T16:44:54.000000Z</GENERATION_TIME>", "").replace(b"AOT_QUANT", b"XXX"),
        "x",
    )
    assert product.generation_time is None
    assert "AOT" not in product.quantification
    tile = tile_metadata(tile_replaced("Mean_Sun_Angle", "Other_Angle"), "x")
    assert (tile.sun_zenith_deg, tile.sun_azimuth_deg) == (None, None)
    assert tile_metadata(tile_replaced(">57.8<", ">NaN<"), "x").sun_zenith_deg is None


def test_saying_the_same_twice_is_no_fault() -> None:
    twice = replaced("<PROCESSING_BASELINE>", "<PROCESSING_BASELINE>04.00</PROCESSING_BASELINE><PROCESSING_BASELINE>")
    assert product_metadata(twice, "x").baseline == "04.00"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<PROCESSING_LEVEL>Level-2A<", "<PROCESSING_LEVEL>Level-1B<", "PROCESSING_LEVEL is 'Level-1B', not Level-1C or"),
        ("PROCESSING_LEVEL>", "LEVEL>", "PROCESSING_LEVEL is missing or empty"),
        ("PRODUCT_URI>", "URI>", "PRODUCT_URI is missing or empty"),
        ("<SPACECRAFT_NAME>", "<SPACECRAFT_NAME>Sentinel-2B</SPACECRAFT_NAME><SPACECRAFT_NAME>", "has 2 different values"),
        (">Sentinel-2A<", ">Landsat-8<", "SPACECRAFT_NAME is 'Landsat-8'"),
        (">04.00<", "><", "PROCESSING_BASELINE is missing or empty"),
        (">04.00<", ">four<", "PROCESSING_BASELINE is 'four', not two digits"),
        ("2022-10-05T11:54:11.024Z", "yesterday", "DATATAKE_SENSING_START is 'yesterday'"),
        ('"3">-1000<', '"3">minus one thousand<', "BOA_ADD_OFFSET is 'minus one thousand', not a number"),
        ('"3">-1000<', '"3">nan<', "BOA_ADD_OFFSET is 'nan', not a number"),
        ('"3">-1000<', '"3">1e999<', "BOA_ADD_OFFSET is '1e999', not a number"),
        ('"3">-1000<', '"3">-1_000<', "BOA_ADD_OFFSET is '-1_000', not a number"),
        ('"3">-1000<', '"3"><', "BOA_ADD_OFFSET is '', not a number"),
        ('"3">-1000<', '"3">-1000000<', "BOA_ADD_OFFSET of B04 is -1e[+]06, beyond ±65535"),
        ('"3">-1000<', '"2">-999<', "BOA_ADD_OFFSET of B03 is -999 and -1000"),
        ('"3">-1000<', '"13">-1000<', "BOA_ADD_OFFSET has band_id '13', not 0 to 12"),
        ('"3">-1000<', '"-1">-1000<', "BOA_ADD_OFFSET has band_id '-1'"),
        ('band_id="3">', ">", "BOA_ADD_OFFSET has band_id ''"),
        ("BOA_QUANTIFICATION", "X_QUANTIFICATION", "BOA_QUANTIFICATION_VALUE is missing or empty"),
        (">10000<", ">0<", "BOA_QUANTIFICATION_VALUE is '0', not positive"),
        (">10000<", ">-5<", "BOA_QUANTIFICATION_VALUE is '-5', not positive"),
        ("<IMAGE_FILE>GRANULE", "<IMAGE_FILE>../../etc", "IMAGE_FILE: .* is no path inside a product"),
        ("<IMAGE_FILE>GRANULE", "<IMAGE_FILE>/etc", "IMAGE_FILE: .* is no path inside a product"),
    ],
)  # fmt: skip
def test_nonsense_names_file_and_field(old: str, new: str, says: str) -> None:
    with pytest.raises(ProductError, match=f"(?s)^P/MTD_MSIL2A.xml: .*{says}"):
        product_metadata(replaced(old, new), "P/MTD_MSIL2A.xml")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("TILE_ID>", "ID>", "TILE_ID is missing"),
        ("_T29UNU_N04.00", "", "TILE_ID is 'S2A_OPER"),
        ("EPSG:32629", "EPSG:4326", "HORIZONTAL_CS_CODE is 'EPSG:4326', not a UTM zone"),
        ("EPSG:32629", "EPSG:32661", "HORIZONTAL_CS_CODE is"),
        ("HORIZONTAL_CS_CODE>", "X>", "HORIZONTAL_CS_CODE is missing"),
        ("<NROWS>120<", "<NROWS>-120<", "Size at 10 m: NROWS is '-120', not a whole number from 1"),
        ("<NROWS>120<", "<NROWS>0<", "Size at 10 m: NROWS is '0'"),
        ("<NROWS>120<", "<NROWS>1.5<", "Size at 10 m: NROWS is '1.5'"),
        ("<NROWS>120<", "<NROWS>99999999<", "Size at 10 m: NROWS is '99999999'"),
        ("<NCOLS>240</NCOLS>", "", "Size at 10 m: NCOLS is missing"),
        ('Size resolution="60"', 'Size resolution="20"', "Size has resolution '20' a second time"),
        ('Size resolution="60"', 'Size resolution="30"', "Size has resolution '30', not 10, 20 or 60"),
        ("Size ", "Sizes ", "no well-formed XML"),
        ('Geoposition resolution="60"', 'Geoposition resolution="10"', "Geoposition has resolution '10' a second time"),
        ("<XDIM>20<", "<XDIM>10<", "Geoposition at 20 m: XDIM and YDIM are 10 and -20, not ±20"),
        ("<YDIM>-60<", "<YDIM>60<", "Geoposition at 60 m: XDIM and YDIM are 60 and 60"),
        ("<ULX>499980</ULX><ULY>5900040</ULY><XDIM>20<", "<ULX>0</ULX><ULY>5900040</ULY><XDIM>20<", "one is expected"),
        ("<ULX>499980", "<ULX>4e300", "one is expected"),
        ("<ULX>499980", "<ULX>inf", "ULX is 'inf', not a number"),
        (">57.8<", ">high<", "ZENITH_ANGLE is 'high', not a number"),
    ],
)  # fmt: skip
def test_nonsense_of_a_tile_names_file_and_field(old: str, new: str, says: str) -> None:
    with pytest.raises(ProductError, match=f"(?s)^P/MTD_TL.xml.*{says}"):
        tile_metadata(tile_replaced(old, new), "P/MTD_TL.xml")


def test_a_tile_without_sizes_or_places() -> None:
    with pytest.raises(ProductError, match="Size is missing"):
        tile_metadata(SafeProduct().tile_xml().replace("Size", "Sise").encode(), "x")
    text = SafeProduct().tile_xml()
    one_less = text.replace(text[text.index('<Geoposition resolution="60"') : text.index("</Tile_Geocoding>")], "")
    with pytest.raises(ProductError, match=r"Geoposition is given for \[10, 20\] m, Size for other"):
        tile_metadata(one_less.encode(), "x")


LAUGHS = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)
)
HOSTILE = {
    "billion laughs": f"{LAUGHS}]><l>&a11;</l>",
    "external entity": '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><l>&x;</l>',
    "external document type": '<?xml version="1.0"?><!DOCTYPE l SYSTEM "http://127.0.0.1:9/x.dtd"><l/>',
    "parameter entity": '<!DOCTYPE l [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><l/>',
    "bare document type": "<!DOCTYPE l><l/>",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_document_types_and_entities_are_refused(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(ProductError, match=r"P/x\.xml declares a document type or entities"):
        parse_xml(text.encode(), "P/x.xml")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "data",
    [
        b"", b"not xml", b"<a>", b"<a></b>", b"<a/><b/>", b"\x00\x01\x02", b"<a>\xff</a>", b"<a>&unknown;</a>",
        b'<?xml version="1.0" encoding="nonsense"?><a/>', b"<html><br></html>",
        SafeProduct().product_xml().encode()[:900],
    ],
)  # fmt: skip
def test_damaged_xml(data: bytes) -> None:
    with pytest.raises(ProductError, match=r"P/x\.xml is no well-formed XML"):
        parse_xml(data, "P/x.xml")


def test_other_encodings() -> None:
    text = SafeProduct().product_xml().replace("UTF-8", "UTF-16")
    assert product_metadata(text.encode("utf-16"), "x").level == "L2A"


@pytest.mark.parametrize(
    "text", ["<a>" * 1000 + "</a>" * 1000, "<r>" + "<a/>" * 300_000 + "</r>"], ids=["deep", "many"]
)
def test_trees_are_bounded(text: str) -> None:
    assert len(text) < XML_LIMIT
    with pytest.raises(ProductError, match=r"P/x\.xml has more than 50000 elements or nests them deeper than 64"):
        parse_xml(text.encode(), "P/x.xml")


def test_a_long_value_is_not_repeated_to_people() -> None:
    with pytest.raises(ProductError) as caught:
        product_metadata(replaced(">04.00<", f">{'9' * 1_000_000}<"), "x")
    assert len(str(caught.value)) < 300
