"""Model folders for the PyTorch engine: written and read on any machine, served only where there is a GPU."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from kappamask_stream.contract import ModelContract
from tests.integration.local_state import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

NAME = "kappamask_l2a_unet_fp16"


def in_server_env(server_env: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [str(server_env / "bin" / "python"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def folder(server_env: Path, shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("models")
    weights = shared_dir / "data" / "kappamask" / "l2a_unet_8filters.hdf5"
    done = in_server_env(
        server_env, "-m", "server_models", "build", NAME, "--flavour", "torch", "--repository", str(repository),
        "--weights", str(weights),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return repository / NAME


def test_configuration_is_for_a_gpu_and_as_the_contract_says(folder: Path) -> None:
    config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    contract = ModelContract.from_json((folder / "contract.json").read_text())
    assert (config.name, config.backend) == (NAME, "python")
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (pb.ModelInstanceGroup.KIND_GPU, contract.instances)
    ]
    assert config.max_batch_size == contract.max_batch == 8
    assert config.model_warmup[0].batch_size == contract.max_batch
    assert (folder / "1" / "model.py").read_bytes() == (ROOT / "triton" / "torch_backend" / "model.py").read_bytes()


def test_folder_is_known_as_current_until_its_backend_is_another(server_env: Path, folder: Path) -> None:
    code = (
        "import sys, pathlib\nfrom server_models.repository import is_current\n"
        "print(is_current(sys.argv[1], pathlib.Path(sys.argv[2])))"
    )
    arguments = ("-c", code, NAME, str(folder.parent))
    assert in_server_env(server_env, *arguments).stdout.strip() == "True"
    backend = folder / "1" / "model.py"
    before = backend.read_bytes()
    backend.write_bytes(before + b"\n")
    try:
        assert in_server_env(server_env, *arguments).stdout.strip() == "False"
    finally:
        backend.write_bytes(before)


def test_what_is_no_network_of_kappamask_is_refused(server_env: Path, tmp_path: Path) -> None:
    done = in_server_env(
        server_env, "-m", "server_models", "build", "null_l2a", "--flavour", "torch", "--repository", str(tmp_path)
    )
    assert done.returncode != 0
    assert "the PyTorch engine is for KappaMask's networks" in json.dumps(done.stdout + done.stderr)
    assert not list(tmp_path.iterdir())
