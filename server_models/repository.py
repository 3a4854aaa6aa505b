"""Triton model repositories: a folder per model, its configuration generated from the contract."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal, get_args

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from kappamask_stream.errors import ContractError, OutputError, UsageError
from server_models import csmask
from server_models.digest import file_sha256
from server_models.reference import REFERENCE
from server_models.registry import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from server_models.registry import KnownModel

Flavour = Literal["python", "onnxruntime", "torch"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

#: Flavours that run in Triton's Python backend, and the folder with what it runs.
_BACKENDS: dict[Flavour, str] = {"python": "python_backend", "torch": "torch_backend"}
#: Batch and processes with which Triton and the PyTorch engine served most tiles on an H200 (docs/performance.md).
TORCH_MAX_BATCH, TORCH_INSTANCES = 8, 8

_STAMP = "built.json"
#: Modules that serve graphs and make none.
_SERVING = {
    "__main__",
    "admission",
    "apart",
    "building",
    "check_command",
    "check_figures",
    "check_record",
    "check_tiles",
    "leftovers",
    "loading",
    "model_check",
    "openvino_engine",
    "pinned",
    "reference",
    "repository",
    "selfcheck",
    "serving",
    "supervisor",
    "tether",
    "torch_engine",
    "torch_kernels",
    "torch_network",
    "torch_plan",
    "torch_preprocess",
    "torch_ways",
    "tritonserver",
}

#: Requests that may wait: several clients' windows; more are refused, and clients slow down.
_QUEUE_BATCHES = 16
_QUEUE_TIMEOUT_S = 600
_QUEUE_DELAY_US = 2000


def templates() -> Path:
    """Return the folder ``triton/``: beside this package in a checkout, inside it in a wheel."""
    here = Path(__file__).resolve().parent  # the environment sees this package through a link
    packaged = here / "_triton"
    return packaged if packaged.is_dir() else here.parent / "triton"


def config_pbtxt(contract: ModelContract, flavour: Flavour, engine: Mapping[str, str] | None = None) -> str:
    """Return the text of a model configuration (protobuf text format of Triton's ModelConfig).

    Parameters
    ----------
    engine : parameters of the Python backend: engine, engine_streams, engine_threads, engine_precision.
    """
    parameters = {PARAMETER_KEY: contract.to_json(), **(engine or {})}
    channels = len(contract.channels)
    inputs = [(g.tensor, "TYPE_UINT16", [len(g.bands), g.tile, g.tile]) for g in contract.inputs]
    inputs += [(name, "TYPE_FP32", [channels]) for name in ("OFFSET", "SCALE")]
    size = contract.tile_size
    outputs = [
        ("LABELS", "TYPE_UINT8", [size, size]),
        ("PROBABILITIES", "TYPE_UINT8", [len(contract.probability_classes), size, size]),
    ]
    template = Template((templates() / f"config.{flavour}.pbtxt.in").read_text())
    return template.substitute(
        name=contract.name,
        max_batch=contract.max_batch,
        instances=contract.instances,
        inputs=",\n".join(_tensor(*entry) for entry in inputs),
        outputs=",\n".join(_tensor(*entry) for entry in outputs),
        warm_up=",\n".join(_warm_up_input(*entry) for entry in inputs),
        parameters="\n".join(_parameter(key, value) for key, value in parameters.items()),
        queue_size=_QUEUE_BATCHES * contract.max_batch * contract.instances,
        queue_timeout_us=_QUEUE_TIMEOUT_S * 1_000_000,
        queue_delay_us=_QUEUE_DELAY_US,
    )


def _tensor(name: str, kind: str, dims: list[int]) -> str:
    return f'  {{ name: "{name}" data_type: {kind} dims: {dims} }}'


def _warm_up_input(name: str, kind: str, dims: list[int]) -> str:
    return f'    {{ key: "{name}" value: {{ data_type: {kind} dims: {dims} zero_data: true }} }}'


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(value)} }} }}'


def build_model(
    name: str, repository: Path, flavour: Flavour = "python", *, weights: Path | None = None
) -> ModelContract:
    """Build a model and put it into a repository: whoever reads sees a whole folder, the old one or the new one.

    Raises
    ------
    UsageError
        If there is no such model, it needs a weights file, or its precision is not for this flavour or this CPU.
    InputError
        If the weights file is damaged or of another network.
    OutputError
        If the repository cannot be written.
    """
    model = find(name)
    _require_precision(model, flavour)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _only_writer(repository):
            for abandoned in repository.glob(f".{name}.*"):  # by a build that was killed: we are the only writer
                shutil.rmtree(abandoned, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=repository) as folder:
                made = Path(folder) / name
                contract = _write(model, made, flavour, weights)
                target = repository / name
                if target.exists():
                    target.rename(Path(folder) / "replaced")
                made.rename(target)
    except OSError as error:
        raise OutputError(
            f"cannot write {name} into the model repository {repository}: {error.strerror} ({error.filename})"
        ) from error
    return contract


def _require_precision(model: KnownModel, flavour: Flavour) -> None:
    """Refuse what the flavour's engine would not compute as the name says."""
    if flavour == "python" and model.precision != "f32":
        import openvino

        from server_models.openvino_engine import require_precision

        require_precision(model.precision, openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if flavour == "torch" and not model.name.startswith("kappamask_"):
        raise UsageError(f"{model.name}: the PyTorch engine is for KappaMask's networks: take --flavour onnxruntime")
    if flavour != "python" and model.precision == "bf16":
        raise UsageError(
            f"{model.name} is for CPUs that have bfloat16 (--flavour python): for GPUs build the model in f32 or fp16"
        )


def _write(model: KnownModel, folder: Path, flavour: Flavour, weights: Path | None) -> ModelContract:
    version = folder / "1"
    version.mkdir(parents=True)
    contract = model.build(version / "model.onnx", weights)
    if flavour == "torch":
        contract = replace(contract, max_batch=TORCH_MAX_BATCH, instances=TORCH_INSTANCES)
    if model.make_reference is not None:
        model.make_reference(folder / REFERENCE, weights)
    (folder / "config.pbtxt").write_text(config_pbtxt(contract, flavour))
    (folder / "contract.json").write_text(contract.to_json())
    (folder / _STAMP).write_text(json.dumps({"flavour": flavour, "recipe_sha256": _recipe_sha256()}))
    if flavour in _BACKENDS:
        shutil.copy(_backend(flavour), version / "model.py")
    return contract


def _backend(flavour: Flavour) -> Path:
    """Return what Triton's Python backend runs for a flavour."""
    return templates() / _BACKENDS[flavour] / "model.py"


@contextlib.contextmanager
def _only_writer(repository: Path) -> Iterator[None]:
    """Wait for other builders of a repository: two states of one environment share it."""
    descriptor = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def built_contract(name: str, repository: Path) -> ModelContract | None:
    """Return the contract of a model in a repository, None where it is not built or not by this version."""
    try:
        return ModelContract.from_json((repository / name / "contract.json").read_text())
    except (OSError, ContractError):
        return None


def is_current(name: str, repository: Path) -> bool:
    """Tell whether a built model is what this version would build: graph recipe, backend and configuration."""
    contract, folder = built_contract(name, repository), repository / name
    if contract is None:
        return False
    try:
        stamp = json.loads((folder / _STAMP).read_text())
        flavour: Flavour = stamp["flavour"]
        backend = (folder / "1" / "model.py").read_bytes() if flavour in _BACKENDS else b""
        config = (folder / "config.pbtxt").read_text()
        graph = (folder / "1" / "model.onnx").stat().st_size
        if contract.precision == "fp16":
            (folder / REFERENCE).stat()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    expected = _backend(flavour).read_bytes() if flavour in _BACKENDS else b""
    return bool(
        graph
        and stamp.get("recipe_sha256") == _recipe_sha256()
        and backend == expected
        and config == config_pbtxt(contract, flavour)
    )


def is_built(name: str, repository: Path, weights: str | None) -> bool:
    """Tell whether a model is there as this version would build it from these weights (None: from any).

    Raises
    ------
    UsageError
        If the weights cannot be read.
    """
    if not is_current(name, repository):
        return False
    if weights is None:
        return True
    contract = built_contract(name, repository)
    try:
        digest = file_sha256(Path(weights))
    except OSError as error:
        raise UsageError(f"cannot read the weights {weights}: {error.strerror}") from error
    return contract is not None and contract.weights_sha256 == digest


def write_examples(folder: Path) -> list[Path]:
    """Write the configurations of csmask in the flavours that serve it, as examples to read."""
    written = []
    for flavour in ("python", "onnxruntime"):
        for level in ("L1C", "L2A"):
            contract = csmask.published_contract(level)
            path = folder / flavour / contract.name / "config.pbtxt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(config_pbtxt(contract, flavour))
            written.append(path)
    return written


def _recipe_sha256() -> str:
    """Digest of the modules that make graphs: a graph made by others is made again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _SERVING:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
