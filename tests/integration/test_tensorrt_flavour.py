"""Flavour `tensorrt`: what is written is what Triton's backend takes, and the ensemble answers like one model.

There is no TensorRT here. Its part is played by onnxruntime on the CPU in Triton's Python backend: configuration,
cut and ensemble are those that are written, the rounding is not TensorRT's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from tests.integration.local_state import CLI, ROOT
from tests.networks.in_server_env import run_script

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.integration.conftest import Start

pytestmark = pytest.mark.integration

NAME = "kappamask_l2a_unet_fp16"
PARTS = ("preprocessing", "network", "classes")
NETWORK = f"{NAME}-network"
#: Keys that NVIDIA's backend knows, typed from its README once more: the list in the code is not its own witness.
KNOWN = {
    "max_workspace_size_bytes", "trt_engine_cache_enable", "trt_engine_cache_path", "trt_timing_cache_enable",
    "trt_timing_cache_path", "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes",
}  # fmt: skip


def cli(server_env: Path, *arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [str(CLI), "models", *map(str, arguments)],
        env=os.environ | {"KAPPAMASK_SERVER_ENV": str(server_env)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def in_server_env(server_env: Path, code: str, *arguments: object) -> str:
    command = [str(server_env / "bin" / "python"), "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def tables(server_env: Path) -> dict[str, list[str]]:
    """What the code holds to be known to the backend and to TensorRT."""
    code = "import json\nfrom server_models import tensorrt as t\n"
    code += "print(json.dumps([sorted(t.BACKEND_OPTIONS), sorted(t.SUPPORTED_IN_FLOAT16)]))"
    return dict(zip(("options", "operators"), json.loads(in_server_env(server_env, code)), strict=True))


@pytest.fixture(scope="module")
def weights(shared_dir: Path) -> Path:
    return shared_dir / "data" / "kappamask" / "l2a_unet_8filters.hdf5"


@pytest.fixture(scope="module")
def repository(server_env: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy it before changing it."""
    folder = tmp_path_factory.mktemp("models")
    cli(server_env, "build", NAME, "--flavour", "tensorrt", "--repository", folder, "--weights", weights)
    return folder


def parsed(folder: Path) -> pb.ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())


def accelerators(config: pb.ModelConfig) -> dict[str, dict[str, str]]:
    entries = config.optimization.execution_accelerators.gpu_execution_accelerator
    return {entry.name: dict(entry.parameters) for entry in entries}


def tensors(config: pb.ModelConfig, side: str) -> dict[str, tuple[int, list[int]]]:
    return {entry.name: (entry.data_type, list(entry.dims)) for entry in getattr(config, side)}


# What is written


def test_the_ensemble_is_what_clients_know(repository: Path) -> None:
    config = parsed(repository / NAME)
    contract = ModelContract.from_json(config.parameters[PARAMETER_KEY].string_value)
    assert contract.to_json() == (repository / NAME / "contract.json").read_text()
    assert (config.name, config.platform, config.max_batch_size) == (NAME, "ensemble", contract.max_batch)
    expected = {g.tensor: (pb.TYPE_UINT16, [len(g.bands), g.tile, g.tile]) for g in contract.inputs}
    expected |= {name: (pb.TYPE_FP32, [len(contract.channels)]) for name in ("OFFSET", "SCALE")}
    assert tensors(config, "input") == expected
    size, classes = contract.tile_size, len(contract.probability_classes)
    outputs = {"LABELS": (pb.TYPE_UINT8, [size, size]), "PROBABILITIES": (pb.TYPE_UINT8, [classes, size, size])}
    assert tensors(config, "output") == outputs
    assert [step.model_name for step in config.ensemble_scheduling.step] == [f"{NAME}-{part}" for part in PARTS]


def test_every_step_of_the_ensemble_is_a_model_with_these_tensors(repository: Path) -> None:
    config = parsed(repository / NAME)
    known = tensors(config, "input")
    for step in config.ensemble_scheduling.step:
        part = parsed(repository / step.model_name)
        assert (part.backend, part.max_batch_size) == ("onnxruntime", config.max_batch_size)
        assert dict(step.input_map) == {name: name for name in tensors(part, "input")}
        assert {name: known[name] for name in step.input_map} == tensors(part, "input")
        assert dict(step.output_map) == {name: name for name in tensors(part, "output")}
        known |= tensors(part, "output")
    assert known.items() >= tensors(config, "output").items()


def test_tensorrt_gets_the_network_only_with_options_that_the_backend_knows(
    repository: Path, tables: dict[str, list[str]]
) -> None:
    for part in PARTS:
        found = accelerators(parsed(repository / f"{NAME}-{part}"))
        assert list(found) == (["tensorrt", "cuda"] if part == "network" else ["cuda"])
        assert found["cuda"] == {"use_tf32": "0"}
    options = accelerators(parsed(repository / NETWORK))["tensorrt"]
    assert set(options) == KNOWN
    assert set(tables["options"]) >= KNOWN
    # Without a precision onnxruntime builds a strongly typed network; with one, float32 might be anything.
    assert "precision_mode" not in options


def test_the_profiles_are_the_contracts_shapes(repository: Path) -> None:
    """Every input of what TensorRT gets, none else: onnxruntime refuses the model or builds its engine each time."""
    config = parsed(repository / NETWORK)
    contract = ModelContract.from_json((repository / NAME / "contract.json").read_text())
    (image,) = config.input
    assert (image.data_type, list(image.dims)) == (pb.TYPE_FP16, [len(contract.channels), *[contract.tile_size] * 2])
    options = accelerators(config)["tensorrt"]
    shape = f"{len(contract.channels)}x{contract.tile_size}x{contract.tile_size}"
    batches = {"min": 1, "opt": contract.max_batch, "max": contract.max_batch}
    for bound, batch in batches.items():
        assert options[f"trt_profile_{bound}_shapes"] == f"{image.name}:{batch}x{shape}"


def test_every_batch_size_is_run_before_a_client_comes(repository: Path) -> None:
    for part in PARTS:
        config = parsed(repository / f"{NAME}-{part}")
        assert [entry.batch_size for entry in config.model_warmup] == list(range(1, config.max_batch_size + 1))
        for entry in config.model_warmup:
            found = {name: (i.data_type, list(i.dims)) for name, i in entry.inputs.items()}
            assert found == tensors(config, "input")


def test_the_arena_stays_as_small_as_asked_for(repository: Path) -> None:
    """The backend writes its default over the accelerator's option where a model has parameters, as all of ours do."""
    for part in PARTS:
        parameters = parsed(repository / f"{NAME}-{part}").parameters
        assert parameters["arena_extend_strategy"].string_value == "1"


def test_other_weights_get_another_engine(server_env: Path, repository: Path, tmp_path: Path) -> None:
    """onnxruntime names a cached engine after the graph's names, not its weights."""
    copy = shutil.copytree(repository, tmp_path / "models")
    graph = copy / NETWORK / "1" / "model.onnx"
    code = (
        "import sys, onnx\nm = onnx.load(sys.argv[1]); t = m.graph.initializer[0]\n"
        "t.raw_data = bytes([t.raw_data[0] ^ 1]) + t.raw_data[1:]; onnx.save(m, sys.argv[1])"
    )
    in_server_env(server_env, code, graph)
    code = (
        "import sys, pathlib\nfrom server_models.repository import built_contract, tensorrt_configurations\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "print(tensorrt_configurations(built_contract(sys.argv[2], folder), folder)[sys.argv[3]])"
    )
    text = in_server_env(server_env, code, copy, NAME, NETWORK)
    paths = [accelerators(config)["tensorrt"]["trt_engine_cache_path"]
             for config in (text_format.Parse(text, pb.ModelConfig()), parsed(repository / NETWORK))]  # fmt: skip
    assert paths[0] != paths[1]
    assert all(path.startswith(f"/var/cache/kappamask-tensorrt/{NAME}-") for path in paths)


# What the files hold


def check_parts(found: dict[str, Any], operators: list[str]) -> None:
    """Nothing but float16 for TensorRT, in operators that it has; every shape known at each batch size."""
    assert found["network"]["types"] == ["FLOAT16"]
    assert set(found["network"]["operators"]) <= set(operators)
    assert [found[part]["open_shapes"] for part in PARTS] == [[], [], []]
    assert "MatMul" in found["preprocessing"]["operators"]
    assert "ArgMax" in found["classes"]["operators"]


def test_tensorrt_gets_nothing_but_float16_of_deeplabv3plus(server_env: Path, tables: dict[str, list[str]]) -> None:
    found = run_script(server_env, "tensorrt_parts.py", "zeros", "DeepLabv3Plus")
    check_parts(found, tables["operators"])
    assert found["network"]["nodes"] > 150


def test_the_parts_say_bit_for_bit_what_the_whole_graph_says(
    server_env: Path, repository: Path, tables: dict[str, list[str]]
) -> None:
    found = run_script(server_env, "tensorrt_parts.py", repository, NAME)
    check_parts(found["structure"], tables["operators"])
    assert found["values"].pop("classes") > 2
    assert found["values"] == {"labels_equal": True, "probabilities_equal": True, "faults": [False, True]}


# Served


@pytest.fixture(scope="module")
def on_cpu(server_env: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same repository for batches of up to 2, with the Python backend in the place of the onnxruntime backend."""
    folder = shutil.copytree(repository, tmp_path_factory.mktemp("cpu") / "models")
    code = (
        "import sys, pathlib, dataclasses\n"
        "from server_models.repository import built_contract, tensorrt_configurations\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "contract = dataclasses.replace(built_contract(sys.argv[2], folder), max_batch=2, instances=1)\n"
        "for name, text in tensorrt_configurations(contract, folder).items():\n"
        "    (folder / name / 'config.pbtxt').write_text(text)"
    )
    in_server_env(server_env, code, folder, NAME)
    for part in PARTS:
        path = folder / f"{NAME}-{part}"
        config = parsed(path)
        config.backend, config.instance_group[0].kind = "python", pb.ModelInstanceGroup.KIND_CPU
        config.ClearField("optimization")
        (path / "config.pbtxt").write_text(text_format.MessageToString(config))
        shutil.copy(ROOT / "tests" / "integration" / "onnxruntime_on_cpu.py", path / "1" / "model.py")
    return folder


def test_the_ensemble_is_checked_and_counted_like_one_model(
    server_env: Path, on_cpu: Path, private_triton: Start
) -> None:
    server = private_triton(on_cpu, [NAME])
    said = cli(server_env, "check", NAME, "--triton", f"grpc://{server.address}", "--repository", on_cpu, "--json")
    report = json.loads(said.strip().splitlines()[-1])
    assert report["faults"] == []
    assert [row["batch"] for row in report["batches"]] == [1, 2]
    assert all(row["agreement"] >= 0.994 for row in report["batches"])

    with triton.InferenceServerClient(server.address) as client:
        statistics = client.get_inference_statistics(as_json=True)["model_stats"]
    answered = {entry["name"]: entry.get("inference_stats", {}).get("success", {}) for entry in statistics}
    assert int(answered[NAME]["count"]) > 0
    # Two batch sizes to warm up, then what was asked for.
    assert all(int(answered[f"{NAME}-{part}"]["count"]) >= int(answered[NAME]["count"]) for part in PARTS)


# Refused, replaced, removed


@pytest.mark.parametrize("name", ["csmask_l2a", "kappamask_l2a_unet"])
def test_float32_is_refused_because_tensorrt_rounds_it(
    server_env: Path, weights: Path, tmp_path: Path, name: str
) -> None:
    given = ["--weights", weights] if name.startswith("kappamask") else []
    told = cli(server_env, "build", name, "--flavour", "tensorrt", "--repository", tmp_path, *given, code=2)
    assert f"{name} is float32, which TensorRT rounds to TF32" in told
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_refused(server_env: Path, weights: Path, tmp_path: Path) -> None:
    name = "kappamask_l2a_unet_bf16"
    arguments = ("--flavour", "tensorrt", "--repository", tmp_path, "--weights", weights)
    assert "is for CPUs that have bfloat16" in cli(server_env, "build", name, *arguments, code=2)


def test_a_part_that_was_edited_or_is_missing_makes_the_model_another(
    server_env: Path, repository: Path, tmp_path: Path
) -> None:
    code = (
        "import json, sys, pathlib\nfrom server_models.repository import is_current\n"
        "print(json.dumps([is_current(sys.argv[1], pathlib.Path(folder)) for folder in sys.argv[2:]]))"
    )
    folders = [shutil.copytree(repository, tmp_path / "as_built")]
    for part in ("", *(f"-{part}" for part in PARTS)):
        folders += [shutil.copytree(repository, tmp_path / f"{kind}{part}") for kind in ("edited", "missing")]
        with (folders[-2] / f"{NAME}{part}" / "config.pbtxt").open("a") as config:
            config.write("\n")
        shutil.rmtree(folders[-1] / f"{NAME}{part}")
    assert json.loads(in_server_env(server_env, code, NAME, *folders)) == [True, *[False] * 8]


def test_another_flavour_and_remove_leave_no_parts(
    server_env: Path, repository: Path, weights: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(repository, tmp_path / "models")
    others = [copy / f"{NAME}-mine", copy / f"{NAME}_b-network"]
    for other in others:
        other.mkdir()
    said = cli(server_env, "remove", NAME, "--repository", copy)
    assert said.splitlines() == [f"removed {copy / NAME}", *(f"removed {copy / NAME}-{part}" for part in sorted(PARTS))]
    assert sorted(copy.iterdir()) == sorted(others)

    copy = shutil.copytree(repository, tmp_path / "again")
    cli(server_env, "build", NAME, "--flavour", "onnxruntime", "--repository", copy, "--weights", weights)
    assert [path.name for path in copy.iterdir()] == [NAME]
