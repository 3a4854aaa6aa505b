"""`km-predict` as km_predict's users type it: what it reads, where it writes, what it says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rasterio

from kappamask_stream.cli.km_predict import masking_of
from kappamask_stream.km_predict import KmFlags, parse_config, translate
from kappamask_stream.models import ModelPool
from kappamask_stream.settings import Settings
from kappamask_stream.synth import write_product
from tests.stream.fakes import FakeInference
from tests.unit.test_cli import Ended, Pool, command

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.contract import ModelContract

__all__ = ["command"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("km"), size=600, seed=4).product


@pytest.fixture
def place(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kappamask_contract: ModelContract
) -> dict[str, Any]:
    """A working folder as km_predict's users have it, and the configuration in it."""
    monkeypatch.setattr(Pool, "client", FakeInference(kappamask_contract), raising=False)
    monkeypatch.setattr("kappamask_stream.models.ModelPool", Pool)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "data" / made.name)
    (tmp_path / "config").mkdir()
    document = {
        "cm_vsm": {"path": "cm_vsm", "env": {}},
        "folder_name": "data",
        "product_name": made.name.removesuffix(".SAFE"),
        "level_product": "L2A",
        "overlapping": 0.0625,
        "tile_size": 512,
        "resampling_method": "sinc",
        "architecture": "DeepLabv3Plus",
        "batch_size": 1,
    }
    write(document)
    return document


def write(document: dict[str, Any]) -> None:
    Path("config/config.json").write_text(json.dumps(document))


def test_it_writes_where_km_predict_wrote(command: Callable[..., Ended], place: dict[str, Any]) -> None:
    ended = command("km-predict", "-c", "config/config.json")
    name = place["product_name"]
    stem = f"prediction/{name}/L2A_T32ZZZ_{name.split('_')[2]}_KZ_10m"
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{stem}.tif (")
    with rasterio.open(f"{stem}.tif") as mask, rasterio.open(f"{stem}.png") as picture:
        classes, grey = mask.read(1), picture.read()
        assert mask.tags()["RADIOMETRY"] == "km_predict"
        assert (mask.shape, picture.shape) == ((600, 600), (600, 600))
    assert (grey[0][classes == 4] == 255).all()
    assert (grey[0][classes == 1] == 66).all()
    assert Path(f"prediction/{name}/tile_0_0/prediction.png").is_file()
    assert "km_predict's cm_vsm " in ended.err
    assert "km_predict's batch_size 1: the server forms batches" in ended.err


def test_all_flags_at_once(command: Callable[..., Ended], place: dict[str, Any], tmp_path: Path) -> None:
    name = place.pop("product_name")
    write(place)
    with rasterio.open(next(Path("data").rglob("*_B02_10m.jp2"))) as band:
        west, _, _, north = band.bounds
    area = f"SRID=32632;POLYGON(({west} {north},{west + 900} {north},{west} {north - 900},{west} {north}))"
    ended = command(
        "km-predict", "-c", "config/config.json", "-product", name, "-t", "-f", "-g", area, "-O", tmp_path / "tiles",
        "-l", "km.log", "-v", "2", "-cpu", "--no-subtiles",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for flag in ("-t: ", f"-O {tmp_path}"[:20], "-cpu: ", "-g: "):
        assert f"km_predict's {flag}" in ended.err
    (mask,) = Path("prediction").rglob("*_KZ_10m.tif")
    with rasterio.open(mask) as file:
        assert file.shape == (90, 90)
        assert file.read(1)[-1, -1] == 5
    log = Path("km.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: INFO: KMP: ", line) for line in log)
    assert any("km_predict's -cpu: the server" in line for line in log)
    assert log[-1].endswith(ended.out.rstrip("\n"))
    assert not (tmp_path / "tiles").exists()
    assert not list(Path("prediction").rglob("tile_*"))


def test_a_mask_by_km_predict_is_replaced_when_forced(command: Callable[..., Ended], place: dict[str, Any]) -> None:
    target = Path("prediction") / place["product_name"]
    target.mkdir(parents=True)
    mask = target / f"L2A_T32ZZZ_{target.name.split('_')[2]}_KZ_10m.tif"
    mask.write_bytes(b"of another origin")
    refused = command("km-predict", "-c", "config/config.json", "-v", "0")
    assert (refused.code, refused.out) == (5, "")
    assert "--overwrite" in refused.err
    assert mask.read_bytes() == b"of another origin"
    assert command("km-predict", "-c", "config/config.json", "-f", "-v", "0").code == 0
    with rasterio.open(mask) as file:
        assert file.shape == (600, 600)


def test_quiet_says_results_and_what_no_longer_applies(command: Callable[..., Ended], place: dict[str, Any]) -> None:
    ended = command("km-predict", "-c", "config/config.json", "-v", "0")
    assert all(line.startswith("km_predict's ") for line in ended.err.splitlines())
    again = command("km-predict", "-c", "config/config.json", "-v", "0", "--json")
    assert json.loads(again.out)["status"] == "skipped"


@pytest.mark.parametrize(
    ("changes", "arguments", "says"),
    [
        (
            {"architecture": "ResNet"},
            [],
            'config/config.json: architecture is "ResNet": allowed is DeepLabv3Plus or Unet',
        ),
        ({"aoi_geometry": "POLYGON"}, [], "the area of interest (-g, or aoi_geometry in the configuration): "),
        ({}, ["-g", "here"], "the area of interest (-g, or aoi_geometry in the configuration): "),
        ({}, ["-v", "3"], "'-v'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    command: Callable[..., Ended], place: dict[str, Any], changes: dict[str, Any], arguments: list[str], says: str
) -> None:
    write({**place, **changes})
    ended = command("km-predict", "-c", "config/config.json", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("prediction").exists()


def test_a_log_that_cannot_be_written_is_an_output_error(command: Callable[..., Ended], place: dict[str, Any]) -> None:
    ended = command("km-predict", "-c", "config/config.json", "-l", "nowhere/km.log")
    assert (ended.code, ended.out) == (5, "")
    assert "nowhere/km.log" in ended.err


def test_the_log_has_the_error_that_ended_it(command: Callable[..., Ended], place: dict[str, Any]) -> None:
    write({**place, "architecture": "ResNet"})
    ended = command("km-predict", "-c", "config/config.json", "-l", "km.log")
    assert ended.code == 2
    assert re.search(r" ERROR: KMP: " + re.escape(ended.err), Path("km.log").read_text())
    write({**place, "folder_name": "elsewhere"})
    lost = command("km-predict", "-c", "config/config.json", "-l", "km.log")
    assert lost.code == 3
    assert Path("km.log").read_text().splitlines()[-1].endswith("does not exist: check the path to the product")


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_without_weights_it_says_what_this_command_has(
    command: Callable[..., Ended], place: dict[str, Any], monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr("kappamask_stream.models.ModelPool", ModelPool)
    write({**place, "product_name": place["product_name"].replace("L2A", level), "level_product": level})
    ended = command("km-predict", "-c", "config/config.json", "-l", "km.log", "-v", "0")
    assert (ended.code, ended.out) == (2, "")
    assert f"error: kappamask_{level.lower()}_deeplabv3plus needs KappaMask's weights" in ended.err
    assert f"`kappamask-stream models fetch kappamask_{level.lower()}_deeplabv3plus`" in ended.err
    assert f"or put km_predict's own file at weights/{level.lower()}_deeplabv3plus.hdf5" in ended.err
    assert "--triton" in ended.err
    assert not re.search(r"--weights|--model", ended.err)
    assert "needs KappaMask's weights" in Path("km.log").read_text()


def test_masks_go_where_the_settings_say(
    command: Callable[..., Ended], place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAPPAMASK_OUTPUT", "elsewhere")
    assert command("km-predict", "-c", "config/config.json", "--no-subtiles").out.startswith("elsewhere/")
    ended = command("km-predict", "-c", "config/config.json", "--no-subtiles", "-o", "here")
    assert ended.out.startswith("here/")
    assert not Path("prediction").exists()


def test_a_product_that_is_not_there_is_named(command: Callable[..., Ended], place: dict[str, Any]) -> None:
    shutil.rmtree("data")
    ended = command("km-predict", "-c", "config/config.json")
    assert (ended.code, ended.out) == (3, "")
    assert f"data/{place['product_name']}.SAFE does not exist" in ended.err


def test_a_zip_is_taken_where_there_is_no_directory_and_weights_where_they_are(place: dict[str, Any]) -> None:
    job = translate(parse_config(json.dumps(place), where="c"), KmFlags())

    def where(**settings: Any) -> tuple[str, Path | None]:
        masking = masking_of(job, Settings(**settings))
        return masking.wheres[0], masking.choice.weights

    name = place["product_name"]
    assert where() == (f"data/{name}.SAFE", None)
    shutil.rmtree("data")
    Path("data").mkdir()
    Path(f"data/{name}.zip").touch()
    Path("weights").mkdir()
    Path("weights/l2a_deeplabv3plus.hdf5").touch()
    assert where() == (f"data/{name}.zip", Path("weights/l2a_deeplabv3plus.hdf5"))
    assert where(triton="grpc://gpu:8001") == (f"data/{name}.zip", None), "a server elsewhere holds its own weights"
