import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappamask_stream.errors import ContractError, ProductError
from kappamask_stream.names import band_of_file, checked_path, mask_name, parse_product_name

NAME = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"


@pytest.mark.parametrize("text", [NAME, NAME + ".SAFE", NAME.lower(), NAME + ".safe", f" {NAME}\n"])
def test_fields(text: str) -> None:
    name = parse_product_name(text)
    assert name.text == NAME
    assert (name.satellite, name.level, name.sensing_time) == ("S2A", "L2A", "20221005T115411")
    assert (name.baseline, name.relative_orbit, name.tile_id) == ("04.00", 23, "T29UNU")
    assert name.discriminator == "20221005T164454"


def test_the_baseline_may_be_absent() -> None:
    name = parse_product_name("S2A_MSIL1C_20200717T221941_R029_T01LAC_20200717T234135.SAFE")
    assert (name.baseline, name.tile_id, name.level) == (None, "T01LAC", "L1C")


@given(st.sampled_from(string.ascii_uppercase))
def test_any_satellite(letter: str) -> None:
    assert parse_product_name(f"S2{letter}{NAME[3:]}").satellite == f"S2{letter}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "S2A",
        NAME.replace("L2A", "L1B"),
        NAME.replace("S2A", "S3A"),
        NAME.replace("S2A", "S2"),
        NAME.replace("T29UNU", "T9UNU"),
        NAME.replace("20221005T115411", "20221305T115411"),
        NAME.replace("R023", "R\u0660\u0662\u0663"),
        NAME + "/../x",
        "../" + NAME,
        NAME + "\0",
        "x" * 100_000,
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ProductError, match="is no Sentinel-2 product name") as caught:
        parse_product_name(text)
    assert len(str(caught.value)) < 2000


@given(st.text(alphabet=NAME + "./\\\0é", max_size=90))
def test_a_name_that_passes_is_safe_in_a_path(text: str) -> None:
    try:
        name = parse_product_name(text)
    except ProductError:
        return
    assert set(name.text) <= set(string.ascii_uppercase + string.digits + "_")


def test_masks_are_named_as_km_predict_names_them() -> None:
    assert mask_name(parse_product_name(NAME), "KZ", 10) == "L2A_T29UNU_20221005T115411_KZ_10m"
    assert mask_name(parse_product_name(NAME), "CS", 20) == "L2A_T29UNU_20221005T115411_CS_20m"


@pytest.mark.parametrize(("suffix", "gsd_m"), [("", 10), ("../x", 10), ("K/Z", 10), ("KZ", 0), ("K" * 17, 10)])
def test_a_served_contract_cannot_name_other_paths(suffix: str, gsd_m: int) -> None:
    with pytest.raises(ContractError, match="names masks"):
        mask_name(parse_product_name(NAME), suffix, gsd_m)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("GRANULE/L2A_T29UNU_A038058_20221005T115407/IMG_DATA/R10m/T29UNU_20221005T115411_B02_10m.jp2", ("B02", 10)),
        ("GRANULE/x/IMG_DATA/R20m/T29UNU_20221005T115411_B8A_20m.jp2", ("B8A", 20)),
        ("GRANULE/x/IMG_DATA/R60m/L2A_T29UNU_20170823T094031_AOT_60m.jp2", ("AOT", 60)),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_B02.jp2", ("B02", 10)),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_B11.jp2", ("B11", 20)),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_B10.jp2", ("B10", 60)),
        ("R20m/B02.jp2", ("B02", 20)),
        ("B09.jp2", ("B09", 60)),
        ("GRANULE/x/IMG_DATA/R20m/T29UNU_20221005T115411_SCL_20m.jp2", ("SCL", 20)),
        ("GRANULE/x/IMG_DATA/T29UNU_20221005T115411_SCL.jp2", None),
        ("GRANULE/x/IMG_DATA/R10m/T29UNU_20221005T115411_TCI_10m.jp2", None),
        ("GRANULE/x/IMG_DATA/T46RER_20210908T042701_TCI.jp2", None),
        ("GRANULE/x/QI_DATA/MSK_CLDPRB_20m.jp2", None),
        ("GRANULE/x/IMG_DATA/R20m/T29UNU_20221005T115411_B02_30m.jp2", None),
        ("GRANULE/x/IMG_DATA/R20m/T29UNU_20221005T115411_B02_20m (copy).jp2", None),
        ("x/.jp2", None),
        ("", None),
    ],
)
def test_bands_of_files(path: str, expected: tuple[str, int] | None) -> None:
    assert band_of_file(path) == expected


def test_paths_are_shortened() -> None:
    assert checked_path("./GRANULE//x/./B02.jp2", said_by="manifest") == "GRANULE/x/B02.jp2"


@given(st.text(alphabet="ab./\\\0\n", max_size=20))
def test_a_path_that_passes_stays_inside(path: str) -> None:
    try:
        checked = checked_path(path, said_by="x")
    except ProductError:
        return
    parts = checked.split("/")
    assert parts
    assert not {"", ".", ".."} & set(parts)
