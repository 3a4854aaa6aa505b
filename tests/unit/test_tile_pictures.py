"""Where tiles' own masks lie, and a list of them that strangers may have written."""

import json

import pytest

from kappamask_stream.tile_pictures import TileList, list_name, picture_name

STEM = "L2A_T29UNU_20221005T115411_KZ_10m"


def test_kappamasks_layout_is_km_predicts_and_others_share_no_folder() -> None:
    assert picture_name(STEM, 2, 31) == "tile_31_2/prediction.png"
    others = {picture_name(STEM.replace("KZ", other), 2, 31) for other in ("CS", "NULL", "KZX", "XKZ")}
    assert len(others) == 4
    stem = STEM.replace("KZ", "CS")
    assert picture_name(stem, 2, 31, "pgw") == f"{stem}_tiles/tile_31_2/prediction.pgw"


@pytest.mark.parametrize("fingerprint", ["ab" * 32, None])
def test_a_list_is_read_as_it_was_written(fingerprint: str | None) -> None:
    listed = TileList(stem=STEM, fingerprint=fingerprint, tiles=((0, 1), (2, 0)))
    assert TileList.read(STEM, listed.encode()) == listed
    assert json.loads(listed.encode())["tiles"][1] == {"row": 2, "column": 0, "file": "tile_0_2/prediction.png"}
    assert listed.files == [f"tile_{at}/prediction.{ending}" for at in ("1_0", "0_2") for ending in ("pgw", "png")]
    assert listed.name == list_name(STEM) == f"{STEM}_subtiles.json"


@pytest.mark.parametrize(
    "tiles",
    [
        [{"row": "../..", "column": 0}], [{"row": -1, "column": 0}], [{"row": 0}], [{"row": True, "column": 1}], 5,
        [{"row": 0.5, "column": 1}], [{"row": [], "column": 1}], [7], None, [{"row": 0, "column": i} for i in range(100_001)],
    ],
)  # fmt: skip
def test_a_list_that_makes_no_sense_lists_nothing_and_is_no_masks(tiles: object) -> None:
    data = json.dumps({"fingerprint": "ab" * 32, "tiles": tiles}).encode()
    assert TileList.read(STEM, data) == TileList(stem=STEM, fingerprint=None, tiles=())
    assert TileList.read(STEM, data[:-1]) == TileList(stem=STEM, fingerprint=None, tiles=())


def test_names_come_from_rows_and_columns_only() -> None:
    tile = {"row": 1, "column": 2, "file": "../../secret"}
    data = json.dumps({"fingerprint": "ab" * 32, "tiles": [tile]}).encode()
    assert TileList.read(STEM, data).files == ["tile_2_1/prediction.pgw", "tile_2_1/prediction.png"]
