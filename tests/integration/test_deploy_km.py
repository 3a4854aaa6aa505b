"""km_predict's entry points, as the containers hold them: the same words in, real masks of a narrow DeepLabv3+ out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import rasterio

from kappamask_stream.synth import write_product
from tests.integration.conftest import overlay_environment
from tests.integration.local_state import PATIENCE_S, ROOT, LocalState
from tests.integration.s3_servers import KEY_ID, SECRET
from tests.integration.session import short_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.s3_servers import MotoStore
    from tests.integration.session import SessionServer

pytestmark = pytest.mark.integration

BIN = ROOT / "deploy" / "containers" / "bin"
WEIGHTS = "l2a_deeplabv3plus.hdf5"
NAME = "S2A_MSIL2A_20200509T094041_N0214_R036_T35VME_20200509T111504"


@pytest.fixture(scope="module")
def kept(server_env: Path) -> Iterator[LocalState]:
    """A server of this module's own: the network is built and checked once."""
    with short_folder() as runtime:
        state = LocalState(runtime, overlay_environment(runtime / "env", server_env))
        yield state
        assert not state.close()


@pytest.fixture(scope="module")
def weights(server_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a DeepLabv3+ with a sixteenth of the published width, in km_predict's format."""
    path = tmp_path_factory.mktemp("weights") / WEIGHTS
    script = "import sys, pathlib, weights_writing as w; w.written(pathlib.Path(sys.argv[1]), w.deeplab()).close()"
    places = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "networks")))
    subprocess.run(
        [str(server_env / "bin" / "python"), "-c", script, str(path)], check=True,
        env=os.environ | {"PYTHONPATH": places},
    )  # fmt: skip
    return path


@pytest.fixture
def data(weights: Path, tmp_path: Path) -> Path:
    """A volume as km_predict's users mount it."""
    (tmp_path / "weights").mkdir()
    shutil.copy(weights, tmp_path / "weights")
    return tmp_path


def entry_point(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "COPERNICUS_", "KAPPAMASK_"))}
    return subprocess.run(
        [sys.executable, str(BIN / name), *arguments], env=env | variables, capture_output=True, text=True,
        check=False, timeout=PATIENCE_S * 5,
    )  # fmt: skip


def at_server(state: LocalState, data: Path, **more: str) -> dict[str, str]:
    names = ("XDG_RUNTIME_DIR", "KAPPAMASK_SERVER_ENV")
    return {name: state.variables[name] for name in names} | {"KM_DATA": str(data), **more}


def test_km_local_masks_a_product_of_the_volume(kept: LocalState, data: Path) -> None:
    product = write_product(data, size=480, seed=31).product
    name = product.name.removesuffix(".SAFE")
    ended = entry_point("km_local", name, "-cpu", **at_server(kept, data))
    assert ended.returncode == 0, ended.stderr
    level, sensed, tile = name.split("_")[1][3:], name.split("_")[2], name.split("_")[5]
    mask = f"{level}_{tile}_{sensed}_KZ_10m.tif"
    assert ended.stdout.splitlines()[-1] == f"KAPPAMASK_OUTPUT_PRODUCT {mask}"
    assert (data / mask).read_bytes() == (data / "prediction" / name / mask).read_bytes()
    with rasterio.open(data / mask) as opened:
        assert (opened.width, opened.tags()["RADIOMETRY"]) == (480, "km_predict")
        assert opened.tags()["MODEL"] == "kappamask_l2a_deeplabv3plus"
    assert (data / "prediction" / name / "tile_0_0" / "prediction.png").is_file()
    assert "km_predict's -cpu: " in ended.stderr
    assert mask in (data / "km_predict.log").read_text()
    left = {path.name for path in data.iterdir()}
    truth = {path.name for path in data.glob("*_truth*")}
    assert left == {product.name, "weights", "prediction", "km_predict.log", mask} | truth


def test_km_s3_takes_from_copernicus_what_amazon_does_not_have(
    kept: LocalState, data: Path, moto_store: MotoStore
) -> None:
    product = write_product(data / "elsewhere", size=480, seed=32).product
    name, sensed = product.name.removesuffix(".SAFE"), product.name.split("_")[2]
    prefix = f"Sentinel-2/MSI/L2A/{sensed[:4]}/{sensed[4:6]}/{sensed[6:8]}/{product.name}"
    files = {path.relative_to(product): path.read_bytes() for path in product.rglob("*") if path.is_file()}
    moto_store.fill("sentinel-s2-l2a", {"unrelated": b""})
    moto_store.fill("eodata", {f"{prefix}/{path}": content for path, content in files.items()})
    moto_store.fill("km-results", {})
    keys = {
        "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY": KEY_ID, "AWS_SECRET_KEY": SECRET,
        "COPERNICUS_ACCESS_KEY_ID": "copernicus", "COPERNICUS_SECRET_ACCESS_KEY": "secret-of-copernicus",
        "COPERNICUS_OAUTH_ACCESS_KEY_ID": "sh-no-longer-needed", "AWS_CONFIG_FILE": str(data / "none"),
        "KAPPAMASK_S3_ENDPOINT": moto_store.endpoint, "KAPPAMASK_OUTPUT_S3_ENDPOINT": moto_store.endpoint,
    }  # fmt: skip
    ended = entry_point("km_s3", name, "s3://km-results/out/", "-cpu", **at_server(kept, data, **keys))
    assert ended.returncode == 0, ended.stderr
    mask = f"out/{name}/L2A_{name.split('_')[5]}_{sensed}_KZ_10m"
    for ending in (".tif", ".png"):
        assert moto_store.content("km-results", mask + ending)
    assert f"s3://km-results/{mask}.tif (" in ended.stdout
    said = ended.stderr.index(f"s3://sentinel-s2-l2a has no {name}"), ended.stderr.index("trying Copernicus Data Space")
    assert said == tuple(sorted(said))
    assert "km_s3: -cpu no longer applies" in ended.stderr
    for secret in (SECRET, "secret-of-copernicus"):
        assert secret not in ended.stdout + ended.stderr


AWS = {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY": "a", "AWS_SECRET_KEY": "b"}


@pytest.mark.parametrize(
    ("command", "arguments", "variables", "code", "said"),
    [
        ("km_local", [], {}, 2, "Usage: km_local PRODUCT_NAME"),
        ("km_local", ["--help"], {}, 0, "Usage: km_local PRODUCT_NAME"),
        ("km_local", ["../../etc/passwd"], {}, 2, "km_local: 'passwd' is no Sentinel-2 product name"),
        ("km_local", [f'{NAME}"; rm -rf /'], {}, 2, "is no Sentinel-2 product name"),
        ("km_local", [NAME], {"KM_DATA": "/nowhere"}, 2, "/nowhere is no folder that user"),
        ("km_local", [NAME], {}, 3, f"{NAME}.SAFE"),
        ("km_s3", [NAME], AWS, 2, "Usage: km_s3 PRODUCT_NAME OUTPUT_S3_PATH"),
        ("km_s3", [NAME, "/data/out"], AWS, 2, "OUTPUT_S3_PATH is '/data/out': it must begin with s3://"),
        ("km_s3", [NAME, "s3://b"], {"AWS_REGION": "x"}, 2, "km_s3: AWS_ACCESS_KEY, AWS_SECRET_KEY must be set"),
        (
            "km_s3",
            [NAME, "s3://b"],
            {**AWS, "COPERNICUS_ACCESS_KEY_ID": "c"},
            2,
            "only COPERNICUS_ACCESS_KEY_ID is set",
        ),
        ("km_s3", [NAME, "s3://b", "--what"], AWS, 2, "unrecognized arguments: --what"),
    ],
)
def test_mistakes_are_said(
    command: str, arguments: list[str], variables: dict[str, str], code: int, said: str, tmp_path: Path
) -> None:
    server = {"KAPPAMASK_TRITON": "grpc://127.0.0.1:9", "KAPPAMASK_SERVER_WAIT_S": "0.1"}
    ended = entry_point(command, *arguments, **{"KM_DATA": str(tmp_path), **server, **variables})
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr


@pytest.mark.usefixtures("csmask_address")
def test_km_test_shows_that_an_image_works(session_server: SessionServer, tmp_path: Path) -> None:
    variables = at_server(session_server.state, tmp_path, TMPDIR=str(tmp_path))
    ended = entry_point("km_test", "--size", "480", **variables)
    assert ended.returncode == 0, ended.stderr
    assert "agreement with the truth: 0." in ended.stdout
    assert not list(tmp_path.iterdir())
