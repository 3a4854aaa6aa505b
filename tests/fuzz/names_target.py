"""Names of products, files, tiles and masks: `kappamask_stream.names`, `kappamask_stream.mgrs`."""

from __future__ import annotations

import string

from kappamask_stream.errors import ProductError
from kappamask_stream.mgrs import place_of_tile
from kappamask_stream.names import (
    band_of_file,
    checked_path,
    mask_name,
    parse_product_name,
    same_scene,
    scene_of_file,
    version_order,
)
from tests.fuzz.told import require_telling

_NAME = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
_PLAIN = set(string.ascii_uppercase + string.digits + "_")
_BANDS = {"AOT", "WVP", "SCL", *(f"B{number:02d}" for number in range(100)), *(f"B{number}A" for number in range(10))}


def seeds() -> list[bytes]:
    """Return names, and what looks like one."""
    paths = (
        "GRANULE/x/IMG_DATA/R10m/T29UNU_20221005T115411_B02_10m.jp2",
        "IMG_DATA/L2A_T29UNU_20221005T115411_AOT_60m.jp2",
    )
    alike = (_NAME.replace("0", "\uff10"), _NAME.replace("S", "\u017f"), _NAME.replace("A", "\u0410"), _NAME + "/../x")
    return [text.encode() for text in (_NAME, f" {_NAME}.safe\n", *paths, "../x", "a\\b", "./a//b", "T29UNU", *alike)]


def large() -> dict[str, bytes]:
    """Return texts of a megabyte that are nearly names."""
    return {
        "names": _NAME.encode() * 16_000,
        "folders": b"a/" * 500_000,
        "upwards": b"../" * 330_000,
        "digits": b"S2A_MSIL2A_" + b"2" * 1_000_000,
        "underscores": b"T29UNU" + b"_" * 1_000_000 + b"B02.jp2",
        "spaces": b" " * 1_000_000 + _NAME.encode(),
        "case": "\u0130".encode() * 400_000,
    }


def one_input(data: bytes) -> None:
    """Read a name, whatever it is."""
    text = data.decode(errors="surrogateescape")
    _path(text)
    place_of_tile(text)
    try:
        name = parse_product_name(text)
    except ProductError as error:
        require_telling(error, "is no Sentinel-2 product name")
        return
    assert set(name.text) <= _PLAIN
    assert name.text == text.strip().upper().removesuffix(".SAFE")
    assert set(mask_name(name, "KZ", 10)) <= _PLAIN | {"m"}
    assert same_scene(name, name)
    assert version_order(name) == version_order(parse_product_name(name.text))


def _path(text: str) -> None:
    band = band_of_file(text)
    assert band is None or (band[0] in _BANDS and band[1] in {10, 20, 60})
    scene = scene_of_file(text)
    assert scene is None or (set("".join(scene)) <= _PLAIN)
    try:
        path = checked_path(text, said_by="x")
    except ProductError as error:
        require_telling(error, "is no path inside a product")
        return
    assert path.isprintable()
    assert not {"", ".", ".."} & set(path.split("/"))
    assert checked_path(path, said_by="x") == path
