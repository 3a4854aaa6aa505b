"""Configurations and flags of km_predict: what they mean here, what is named, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kappamask_stream.errors import UsageError
from kappamask_stream.km_predict import KmFlags, KmJob, parse_config, translate

L2A = "S2B_MSIL2A_20200401T093029_N0214_R136_T34UFA_20200401T122148"
L1C = "S2B_MSIL1C_20200401T093029_N0209_R136_T34UFA_20200401T113334"

#: The keys of the example that km_predict 2.4 is published with; values of our own.
EXAMPLE: dict[str, Any] = {
    "cm_vsm_executable": "/opt/cm-vsm/bin/cm_vsm",
    "folder_name": "archive",
    "product_name": L1C,
    "level_product": "L1C",
    "overlapping": 0.0625,
    "tile_size": 512,
    "resampling_method": "sinc",
    "architecture": "Unet",
    "batch_size": 4,
}
#: The keys that the scripts of its container write.
CONTAINER: dict[str, Any] = {
    "cm_vsm": {"path": "cm_vsm", "env": {"LD_LIBRARY_PATH": "/usr/local/lib"}},
    "folder_name": "/mnt/products",
    "product_name": L2A,
    "level_product": "L2A",
    "overlapping": 0.0625,
    "tile_size": 512,
    "resampling_method": "sinc",
    "architecture": "DeepLabv3Plus",
    "batch_size": 1,
}
#: The keys of its first releases.
FIRST: dict[str, Any] = {
    "cm_vsm_executable": "cm_vsm",
    "product_name": L2A,
    "weights": "unet.hdf5",
    "product": "L2A",
    "data_dir": ".SAFE",
    "overlapping": 32,
    "tile_size": 512,
    "features": ["AOT", "B01"],
    "RESAMPLING_METHOD": "sinc",
    "architecture": "Unet",
    "batch_size": 1,
}
HONOURED = {"folder_name", "product_name", "level_product", "architecture", "aoi_geometry"}
CONDITIONALLY = {"overlapping", "tile_size", "resampling_method"}
AREA = "SRID=4326;POLYGON((22.6 50.2, 23.6 50.3, 23.5 49.9, 22.6 50.2))"


def job(document: dict[str, Any], product: str | None = None, flags: KmFlags | None = None, **changes: object) -> KmJob:
    text = json.dumps({**document, **changes})
    return translate(parse_config(text, where="config.json", product=product), flags or KmFlags())


def names(translated: KmJob) -> list[str]:
    return [note.name for note in translated.notes]


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (EXAMPLE, ["cm_vsm_executable", "batch_size"]),
        (CONTAINER, ["cm_vsm", "batch_size"]),
        (
            FIRST,
            [
                "cm_vsm_executable", "weights", "product", "data_dir", "overlapping", "features", "RESAMPLING_METHOD",
                "batch_size",
            ],
        ),
    ],
    ids=["example", "container", "first"],
)  # fmt: skip
def test_every_key_is_honoured_or_named(document: dict[str, Any], named: list[str]) -> None:
    translated = job(document)
    assert names(translated) == named
    assert set(document) == set(named) | (set(document) & HONOURED) | (set(document) & CONDITIONALLY - set(named))
    assert all(note.why for note in translated.notes)


def test_the_published_example_is_this_job() -> None:
    translated = job(EXAMPLE)
    assert translated.product_name == L1C
    assert translated.places == (f"archive/{L1C}.SAFE", f"archive/{L1C}.zip", f"archive/{L1C}.SAFE.zip")
    assert (translated.level, translated.architecture) == ("L1C", "Unet")
    assert (translated.weights, translated.output) == ("weights/l1c_unet.hdf5", "prediction")
    assert (translated.aoi, translated.overwrite, translated.weights_source) == (None, False, None)


def test_the_containers_configuration_is_this_job() -> None:
    translated = job(CONTAINER)
    assert translated.places[0] == f"/mnt/products/{L2A}.SAFE"
    assert (translated.level, translated.weights) == ("L2A", "weights/l2a_deeplabv3plus.hdf5")


@pytest.mark.parametrize(
    ("folder", "place"), [(".", f"./{L2A}.SAFE"), ("", f"./{L2A}.SAFE"), ("/", f"/{L2A}.SAFE"), ("a/", f"a/{L2A}.SAFE")]
)
def test_the_product_is_a_path_in_its_folder(folder: str, place: str) -> None:
    """Never a bare name, which `run` would look for in an archive."""
    assert job(CONTAINER, folder_name=folder).places[0] == place


def test_without_a_folder_products_are_in_data_as_in_the_first_releases() -> None:
    assert job(FIRST).places[0] == f"data/{L2A}.SAFE"
    assert job(FIRST).level == "L2A"


@pytest.mark.parametrize("given", [L2A, f"{L2A}.SAFE", f"{L2A}.zip"])
def test_the_command_lines_product_wins_and_may_have_an_ending(given: str) -> None:
    assert job(CONTAINER, product=given, product_name="nothing").product_name == L2A
    del (without := dict(CONTAINER))["product_name"]
    assert job(without, product=given).product_name == L2A


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (KmFlags(), []),
        (KmFlags(force=True), []),
        (KmFlags(no_tiling=True), ["-t"]),
        (KmFlags(tiling_output="/tmp/tiles"), ["-O"]),
        (KmFlags(use_cpu=True), ["-cpu"]),
        (KmFlags(geometry=AREA), ["-g"]),
        (KmFlags(no_tiling=True, tiling_output="x", use_cpu=True, geometry=AREA), ["-t", "-O", "-cpu", "-g"]),
    ],
)
def test_every_flag_is_honoured_or_named(flags: KmFlags, named: list[str]) -> None:
    translated = job(CONTAINER, flags=flags)
    assert [name for name in names(translated) if name.startswith("-")] == named
    assert translated.overwrite is flags.force
    assert translated.aoi == flags.geometry


def test_the_area_is_the_files_unless_the_command_line_gives_another() -> None:
    translated = job(CONTAINER, aoi_geometry=AREA)
    assert (translated.aoi, names(translated)[-1]) == (AREA, "aoi_geometry")
    assert "outside it is MISSING" in translated.notes[-1].why
    other = AREA.replace("22.6", "22.7")
    assert job(CONTAINER, flags=KmFlags(geometry=other), aoi_geometry=AREA).aoi == other
    assert job(CONTAINER, aoi_geometry=None).aoi is None


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"tile_size": 256}, "tile_size 256: the networks are served with tiles of 512 pixels that overlap by 0.0625"),
        ({"overlapping": 0.125}, "overlapping 0.125: the networks are served with tiles of 512 pixels"),
        ({"overlapping": 0}, "overlapping 0: the networks are served"),
        (
            {"overlapping": 32},
            "overlapping 32: the networks are served with tiles of 512 pixels that overlap by 0.0625",
        ),
        ({"resampling_method": "box"}, "resampling_method box: bands of 20 m and 60 m are upsampled with sinc"),
        ({"batch_size": 8}, "batch_size 8: the server forms batches"),
        (
            {"model_weights_source": "http://mirror/w"},
            (
                "model_weights_source http://mirror/w: a run downloads nothing; `kappamask-stream models fetch "
                "kappamask_l2a_deeplabv3plus --url http://mirror/w` does"
            ),
        ),
        ({"colour": [1, 2]}, "colour [1, 2]: is no key of km_predict's"),
        ({"cm_vsm": {"path": "x" * 60}}, f'cm_vsm {{"path": "{"x" * 29}…: products are cut in memory'),
    ],
)
def test_a_note_says_what_happens_instead(changes: dict[str, Any], note: str) -> None:
    (found,) = [str(n) for n in job(CONTAINER, **changes).notes if n.name in changes]
    assert found.startswith(note)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "DeepLab"}, 'architecture is "DeepLab": allowed is DeepLabv3Plus or Unet'),
        ({"architecture": None}, "architecture is null: allowed is DeepLabv3Plus or Unet"),
        ({"architecture": ["Unet"]}, 'architecture is ["Unet"]: allowed is'),
        ({"level_product": "L3"}, 'level_product is "L3": allowed is L1C or L2A'),
        ({"level_product": "L1C"}, f'level_product is "L1C": allowed is L2A, the level of {L2A}'),
        ({"product_name": "T34UFA"}, 'product_name is "T34UFA": allowed is the name of a Sentinel-2 product'),
        ({"product_name": 7}, "product_name is 7: allowed is the name"),
        ({"tile_size": "512"}, 'tile_size is "512": allowed is a whole number from 1 to 1000000, e.g. 512'),
        ({"tile_size": 0}, "tile_size is 0: allowed is a whole number"),
        ({"tile_size": True}, "tile_size is true: allowed is a whole number"),
        ({"batch_size": 1.5}, "batch_size is 1.5: allowed is a whole number from 1 to 1000000, e.g. 1"),
        (
            {"overlapping": True},
            "overlapping is true: allowed is a share of the tile that is an even number of its 512",
        ),
        ({"overlapping": 512}, "overlapping is 512: allowed is a share"),
        ({"overlapping": -2}, "overlapping is -2: allowed is a share"),
        ({"overlapping": 0.001}, "overlapping is 0.001: allowed is a share"),
        ({"overlapping": float("nan")}, "overlapping is NaN: allowed is a share"),
        ({"folder_name": 1}, "folder_name is 1: allowed is a text"),
        ({"aoi_geometry": {"type": "Polygon"}}, 'aoi_geometry is {"type": "Polygon"}: allowed is a text'),
    ],
)
def test_a_wrong_value_is_refused_with_file_key_value_and_what_is_allowed(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        job(CONTAINER, **changes)
    assert str(refused.value).startswith(f"config.json: {says}")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("key", ["architecture", "product_name"])
def test_what_must_be_there_is_named(key: str) -> None:
    del (without := dict(CONTAINER))[key]
    with pytest.raises(UsageError, match=f"^config.json: {key} is missing: allowed is "):
        job(without)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"config\.json is no JSON: .*line 1 column 2"),
        ("[]", "config.json holds list: a configuration is one JSON"),
    ],
)
def test_what_is_no_configuration(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_config(text, where="config.json")


def test_the_command_lines_wrong_product_is_called_by_its_flag() -> None:
    with pytest.raises(UsageError, match=r'config\.json: -product is "nonsense"'):
        job(CONTAINER, product="nonsense")
