"""Model repositories: what is written is what Triton's own protocol buffer reads, and what the contract says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from tests.integration.canaries import without_canary
from tests.integration.conftest import build
from tests.integration.local_state import CLI, ROOT, LocalState

pytestmark = pytest.mark.integration

BUILT = [
    ("csmask_l1c", "python"),
    ("csmask_l2a", "onnxruntime"),
    ("null_l2a", "python"),
    ("null_l2a", "onnxruntime"),
]
GENERATED = ROOT / "triton" / "generated"
EXAMPLES = sorted(path.relative_to(GENERATED) for path in GENERATED.glob("*/*/config.pbtxt"))
#: Four configurations each, checked in test_tensorrt_flavour.
ENSEMBLES = [path for path in EXAMPLES if path.parts[0] == "tensorrt"]


@pytest.fixture(scope="module")
def folders(server_env: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every model built with the command, into a repository per flavour."""
    root = tmp_path_factory.mktemp("repositories")
    return {(model, flavour): build(server_env, model, root / flavour, flavour) for model, flavour in BUILT}


@pytest.fixture(params=BUILT, ids="-".join)
def built(request: pytest.FixtureRequest, folders: dict[tuple[str, str], Path]) -> Path:
    return folders[request.param]


_UNSURE = """
import sys
from pathlib import Path
from server_models import repository

repository.answer_to_canary = lambda contract, graph: None
repository.build_model("null_l2a", Path(sys.argv[1]), say=print)
"""


def test_a_model_without_a_canary_is_said_when_it_is_built(server_env: Path, tmp_path: Path) -> None:
    """A network that is sure of almost no pixel never gets one, however often it is built."""
    said = subprocess.run(
        [str(server_env / "bin" / "python"), "-I", "-c", _UNSURE, str(tmp_path)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.strip() == (
        "null_l2a has no canary: on less than 20% of it the network's likeliest class leads the next one by 3 of 255; "
        "clients cannot see whether a server answers rightly"
    )
    assert '"canary"' not in (tmp_path / "null_l2a" / "contract.json").read_text()


def parsed(config: Path) -> pb.ModelConfig:
    return text_format.Parse(config.read_text(), pb.ModelConfig())


def contract_of(config: pb.ModelConfig) -> ModelContract:
    return ModelContract.from_json(config.parameters[PARAMETER_KEY].string_value)


def check_configuration(config: pb.ModelConfig) -> None:
    """Everything that a configuration must say, against the contract that it carries."""
    contract, flavour = contract_of(config), config.backend
    assert config.name == contract.name
    assert flavour in {"python", "onnxruntime"}
    assert config.max_batch_size == contract.max_batch

    expected = {g.tensor: (pb.TYPE_UINT16, [len(g.bands), g.tile, g.tile]) for g in contract.inputs}
    expected |= {name: (pb.TYPE_FP32, [len(contract.channels)]) for name in ("OFFSET", "SCALE")}
    assert {i.name: (i.data_type, list(i.dims)) for i in config.input} == expected
    size = contract.tile_size
    assert {o.name: (o.data_type, list(o.dims)) for o in config.output} == {
        "LABELS": (pb.TYPE_UINT8, [size, size]),
        "PROBABILITIES": (pb.TYPE_UINT8, [len(contract.probability_classes), size, size]),
    }

    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == []
    assert 0 < batching.max_queue_delay_microseconds <= 10_000
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    queue = batching.default_queue_policy
    assert queue.timeout_action == pb.ModelQueuePolicy.REJECT
    assert queue.allow_timeout_override
    assert queue.default_timeout_microseconds == 600_000_000
    # Bounded, yet several clients' windows (2 x batch x instances each) fit.
    assert queue.max_queue_size == 16 * contract.max_batch * contract.instances

    (group,) = config.instance_group
    kinds = {"python": pb.ModelInstanceGroup.KIND_CPU, "onnxruntime": pb.ModelInstanceGroup.KIND_GPU}
    assert (group.count, group.kind) == (contract.instances, kinds[flavour])
    assert config.version_policy.latest.num_versions == 1

    # An engine that plans per batch size must have seen all of them before the first client comes.
    sizes = [1] if flavour == "python" else list(range(1, contract.max_batch + 1))
    assert [warm_up.batch_size for warm_up in config.model_warmup] == sizes
    for warm_up in config.model_warmup:
        assert {name: (i.data_type, list(i.dims)) for name, i in warm_up.inputs.items()} == expected
        assert all(i.zero_data for i in warm_up.inputs.values())

    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    if flavour == "python":
        assert list(accelerators) == []
    else:
        (cuda,) = accelerators
        assert cuda.name == "cuda"
        assert dict(cuda.parameters) == {"use_tf32": "0"}
        # The backend writes its default over that option of the accelerator where a model has parameters.
        assert config.parameters["arena_extend_strategy"].string_value == "1"


def test_a_built_models_configuration_says_what_its_contract_says(built: Path) -> None:
    config = parsed(built / "config.pbtxt")
    assert config.name == built.name
    check_configuration(config)


def test_a_built_model_is_a_whole_folder(built: Path) -> None:
    config = parsed(built / "config.pbtxt")
    files = {"config.pbtxt", "contract.json", "built.json", "1/model.onnx"}
    files |= {"1/model.py"} if config.backend == "python" else set()
    assert {str(p.relative_to(built)) for p in built.rglob("*") if p.is_file()} == files
    assert (built / "contract.json").read_text() == config.parameters[PARAMETER_KEY].string_value
    assert [p.name for p in built.parent.glob(".*")] == []


def test_the_contract_survives_the_journey_through_the_configuration(built: Path) -> None:
    contract = contract_of(parsed(built / "config.pbtxt"))
    assert contract.to_json() == (built / "contract.json").read_text()
    assert ModelContract.from_json(contract.to_json()) == contract
    assert len(contract.weights_sha256) == 64


@pytest.mark.parametrize("example", sorted(set(EXAMPLES) - set(ENSEMBLES)), ids=str)
def test_the_examples_on_disk_are_good_configurations(example: Path) -> None:
    config = parsed(GENERATED / example)
    assert (config.backend, config.name) == example.parts[:2]
    check_configuration(config)


def test_what_is_on_disk_is_what_is_generated(
    server_env: Path, tmp_path: Path, folders: dict[tuple[str, str], Path]
) -> None:
    """`python -m server_models configs triton/generated` writes the examples; so does building the models."""
    command = [str(server_env / "bin" / "python"), "-I", "-m", "server_models", "configs", str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(Path(json.loads(line)["path"]).relative_to(tmp_path) for line in said) == written
    assert written == EXAMPLES
    assert (len(EXAMPLES), len(ENSEMBLES)) == (8, 4)
    for path in EXAMPLES:
        assert (tmp_path / path).read_bytes() == (GENERATED / path).read_bytes(), f"generate {path} again"
    for (model, flavour), folder in folders.items():
        if model.startswith("csmask"):
            expected = (GENERATED / flavour / model / "config.pbtxt").read_bytes()
            # The canary's answer is computed where the model is built: in examples of any machine there is none.
            assert without_canary((folder / "config.pbtxt").read_text()).encode() == expected


def test_the_backend_on_disk_is_the_backend_that_is_served(folders: dict[tuple[str, str], Path]) -> None:
    served = folders["csmask_l1c", "python"] / "1" / "model.py"
    assert served.read_bytes() == (ROOT / "triton" / "python_backend" / "model.py").read_bytes()


def test_both_flavours_hold_the_same_graph(folders: dict[tuple[str, str], Path]) -> None:
    """What is shown of a graph on this machine is true of the one for NVIDIA's container."""
    python, onnxruntime = (folders["null_l2a", flavour] for flavour in ("python", "onnxruntime"))
    assert (python / "1" / "model.onnx").read_bytes() == (onnxruntime / "1" / "model.onnx").read_bytes()


# Built, current, edited


def states(state: LocalState, *options: str) -> dict[str, dict[str, object]]:
    lines = state.cli("models", "list", "--json", *options).stdout.splitlines()
    return {model["name"]: model for model in map(json.loads, lines)}


@pytest.fixture
def own(state: LocalState, folders: dict[tuple[str, str], Path]) -> Path:
    """The null model in a repository of one's own."""
    folder = state.environment / "models" / "null_l2a"
    shutil.copytree(folders["null_l2a", "python"], folder)
    return folder


EDITS = {
    "1/model.py": lambda text: text + "\n# edited\n",
    "config.pbtxt": lambda text: text.replace("max_queue_size: 128", "max_queue_size: 0"),
    "contract.json": lambda text: text.replace('"max_batch":8', '"max_batch":4'),
    "built.json": lambda text: text.replace('"recipe_sha256": "', '"recipe_sha256": "0'),
}


@pytest.mark.parametrize("path", EDITS)
def test_a_model_that_was_edited_is_not_current(state: LocalState, own: Path, path: str) -> None:
    assert states(state)["null_l2a"] | {"built": True, "current": True} == states(state)["null_l2a"]
    before = (own / path).read_text()
    (own / path).write_text(EDITS[path](before))
    assert (own / path).read_text() != before
    found = states(state)["null_l2a"]
    assert (found["built"], found["current"]) == (True, False)


@pytest.mark.parametrize("path", ["1/model.py", "config.pbtxt", "contract.json", "built.json", "1/model.onnx"])
def test_a_model_of_which_a_file_is_missing_is_not_current(state: LocalState, own: Path, path: str) -> None:
    (own / path).unlink()
    assert not states(state)["null_l2a"]["current"]


def test_a_model_that_is_not_current_is_built_again_before_it_is_served(state: LocalState, own: Path) -> None:
    before = {path: (own / path).read_text() for path in EDITS}
    for path, edit in EDITS.items():
        (own / path).write_text(edit(before[path]))
    holder = state.holder()
    assert holder.until("progress: building null_l2a")
    holder.until("ready")
    assert {path: (own / path).read_text() for path in EDITS} == before
    assert states(state)["null_l2a"]["current"]


def test_a_model_as_it_was_built_is_not_built_again(state: LocalState, own: Path) -> None:
    before = (own / "1" / "model.onnx").stat().st_mtime_ns
    holder = state.holder()
    holder.until("ready")
    assert not any("building" in line for line in holder.lines)
    assert (own / "1" / "model.onnx").stat().st_mtime_ns == before


def test_a_model_rebuilt_beside_a_running_server_is_taken_up_by_the_next_client_alone(
    state: LocalState, own: Path
) -> None:
    """While others use the old one, the new one is refused in words."""
    first = state.holder()
    address = first.until("ready")["address"]
    (own / "1" / "model.py").write_text((own / "1" / "model.py").read_text() + "\n# edited\n")
    second = state.holder()
    told = second.until("error")
    assert "serves null_l2a as it was built before" in told["message"]
    assert "`kappamask-stream server stop`" in told["message"]
    state.cli("server", "start", "--model", "null_l2a", code=4)
    first.release()
    state.wait_until_gone()
    state.cli("models", "build", "null_l2a")
    state.cli("server", "start", "--model", "null_l2a")
    pid = state.status()["triton_pid"]
    (own / "config.pbtxt").write_text("")
    again = state.holder()
    assert again.until("progress: building null_l2a")
    assert again.until("ready")["address"] == state.status()["grpc"]
    assert state.status()["triton_pid"] != pid
    assert address


def test_flavours_are_told_apart_in_a_list(state: LocalState, folders: dict[tuple[str, str], Path]) -> None:
    for flavour in ("python", "onnxruntime"):
        repository = folders["null_l2a", flavour].parent
        found = states(state, "--repository", str(repository))
        assert found["null_l2a"] | {"built": True, "current": True} == found["null_l2a"]
        assert not found["kappamask_l2a_unet"]["built"]


def test_remove_takes_only_what_was_built(state: LocalState, own: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    for name in ("precious", "../precious", "nothing"):
        told = state.cli("models", "remove", name, "--repository", str(tmp_path), code=2).stderr
        assert "is no model that kappamask-stream built" in told
    assert (tmp_path / "precious").exists()
    assert state.cli("models", "remove", "null_l2a").stdout == f"removed {own}\n"
    assert not own.exists()


def test_two_builds_of_one_model_at_the_same_time_leave_one_whole_model(server_env: Path, tmp_path: Path) -> None:
    command = [str(CLI), "models", "build", "null_l2a", "--repository", str(tmp_path)]
    variables = {**os.environ, "KAPPAMASK_SERVER_ENV": str(server_env)}
    both = [subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(60) for process in both] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["null_l2a"]
    check_configuration(parsed(tmp_path / "null_l2a" / "config.pbtxt"))


# In a wheel


def test_templates_and_requirements_are_found_in_a_wheel(server_env: Path, tmp_path: Path) -> None:
    """The layout that pyproject.toml's force-include gives, from another folder and without the checkout."""
    site = tmp_path / "site"
    for package in ("kappamask_stream", "server_models"):
        shutil.copytree(ROOT / package, site / package)
    shutil.copytree(ROOT / "triton", site / "server_models" / "_triton")
    (site / "server_models" / "_constraints").mkdir()
    shutil.copy(ROOT / "constraints" / "server.txt", site / "server_models" / "_constraints")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from server_models import examples\n"
        f"print(examples.__file__); print(examples.write_examples(__import__('pathlib').Path({str(tmp_path)!r})))"
    )
    answer = subprocess.run(
        [str(server_env / "bin" / "python"), "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.startswith(str(site))
    for path in EXAMPLES:
        assert (tmp_path / path).read_bytes() == (GENERATED / path).read_bytes()
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from kappamask_stream.server.environment import requirements_path; print(requirements_path())"
    )
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(site / "server_models" / "_constraints" / "server.txt")
