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
from typing import TYPE_CHECKING

from kappamask_stream import canary
from kappamask_stream.contract import ModelContract
from kappamask_stream.errors import ContractError, InputError, OutputError, UsageError
from server_models import tensorrt
from server_models.canary_answer import answer_to_canary, why_none
from server_models.configuration import config_pbtxt, templates
from server_models.digest import file_sha256
from server_models.float16_cut import NETWORK, PART_NAMES
from server_models.reference import REFERENCE, reference_graph
from server_models.registry import find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server_models.configuration import Flavour
    from server_models.registry import KnownModel

#: Flavours that run in Triton's Python backend, and the folder with what it runs.
_BACKENDS: dict[Flavour, str] = {"python": "python_backend", "torch": "torch_backend"}
#: Batch and instances where the contract's, which are for a CPU, are not right. Torch: those that served most tiles on
#: an H200 (docs/performance.md).
BATCH_AND_INSTANCES: dict[Flavour, tuple[int, int]] = {
    "torch": (8, 8),
    "tensorrt": (tensorrt.MAX_BATCH, tensorrt.INSTANCES),
}

_STAMP = "built.json"
_REMEDY = "remove the model (`kappamask-stream models remove`) and build it again"
#: In the folder of a model that is a part of an ensemble: the ensemble's name. `models remove` takes both.
PART_OF = "part_of"
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
    "configuration",
    "examples",
    "leftovers",
    "loading",
    "model_check",
    "onnx_reading",
    "openvino_engine",
    "pinned",
    "published_widths",
    "reference",
    "repository",
    "selfcheck",
    "serving",
    "supervisor",
    "tensorrt",
    "tether",
    "torch_engine",
    "torch_kernels",
    "torch_network",
    "torch_plan",
    "torch_preprocess",
    "torch_ways",
    "tritonserver",
}


def build_model(
    name: str,
    repository: Path,
    flavour: Flavour = "python",
    *,
    weights: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ModelContract:
    """Build a model and put it into a repository: whoever reads sees a whole folder, the old one or the new one.

    Parameters
    ----------
    say : told what is remarkable about it.

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
                made = Path(folder) / "made"
                contract = _write(model, made, flavour, weights, say)
                _replace(name, repository, made, Path(folder) / "replaced")
    except OSError as error:
        raise OutputError(
            f"cannot write {name} into the model repository {repository}: {error.strerror} ({error.filename})"
        ) from error
    return contract


def _replace(name: str, repository: Path, made: Path, replaced: Path) -> None:
    """Put what was made in the place of what was there: the model's parts first, those of an earlier build away."""
    replaced.mkdir()
    for part in _parts(name, repository):
        part.rename(replaced / part.name)
    for folder in sorted(made.iterdir(), key=lambda folder: folder.name == name):
        target = repository / folder.name
        if target.exists():
            target.rename(replaced / target.name)
        folder.rename(target)


def _parts(name: str, repository: Path) -> list[Path]:
    """Return the folders of the models that a built ensemble is made of."""
    return [mark.parent for mark in repository.glob(f"{name}-*/{PART_OF}") if mark.read_text() == name]


def _require_precision(model: KnownModel, flavour: Flavour) -> None:
    """Refuse what the flavour's engine would not compute as the name says."""
    if flavour == "python" and model.precision != "f32":
        import openvino

        from server_models.openvino_engine import require_precision

        require_precision(model.precision, openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if flavour == "torch" and not model.name.startswith("kappamask_"):
        raise UsageError(f"{model.name}: the PyTorch engine is for KappaMask's networks: take --flavour onnxruntime")
    if flavour == "tensorrt" and model.precision == "f32":
        raise UsageError(
            f"{model.name} is float32, which TensorRT rounds to TF32: take a model that ends in _fp16, or --flavour "
            "onnxruntime, which computes in float32"
        )
    if flavour != "python" and model.precision == "bf16":
        raise UsageError(
            f"{model.name} is for CPUs that have bfloat16 (--flavour python): for GPUs build the model in f32 or fp16"
        )


def _write(
    model: KnownModel, made: Path, flavour: Flavour, weights: Path | None, say: Callable[[str], None]
) -> ModelContract:
    """Write the model's folder, and those of its parts, into `made`."""
    folder = made / model.name
    version = folder / "1"
    version.mkdir(parents=True)
    contract = model.build(version / "model.onnx", weights)
    if flavour in BATCH_AND_INSTANCES:
        max_batch, instances = BATCH_AND_INSTANCES[flavour]
        contract = replace(contract, max_batch=max_batch, instances=instances)
    if model.make_reference is not None:
        model.make_reference(folder / REFERENCE, weights)
    graph = reference_graph(folder, contract)
    contract = replace(contract, canary=None if graph is None else answer_to_canary(contract, graph))
    if contract.canary is None:
        say(why_none(contract, has_graph=graph is not None))
    if flavour == "tensorrt":
        _write_parts(contract, made)
    for name, text in _configurations(contract, flavour, made).items():
        (made / name / "config.pbtxt").write_text(text)
    (folder / "contract.json").write_text(contract.to_json())
    (folder / _STAMP).write_text(json.dumps(_stamp(flavour)))
    if flavour in _BACKENDS:
        shutil.copy(_backend(flavour), version / "model.py")
    return contract


def _write_parts(contract: ModelContract, repository: Path) -> None:
    """Cut a model's graph into the graphs of an ensemble's models."""
    import onnx

    from server_models.float16_cut import cut
    from server_models.onnx_reading import read_onnx

    whole = read_onnx(repository / contract.name / "1" / "model.onnx", remedy=_REMEDY)
    for part, graph in cut(whole).items():
        folder = repository / tensorrt.part_name(contract.name, part)
        (folder / "1").mkdir(parents=True)
        onnx.save(graph, folder / "1" / "model.onnx")
        (folder / PART_OF).write_text(contract.name)


def _configurations(contract: ModelContract, flavour: Flavour, repository: Path) -> dict[str, str]:
    """Return the configurations that belong to a model whose graphs are in a repository, by folder."""
    if flavour != "tensorrt":
        return {contract.name: config_pbtxt(contract, flavour)}
    return tensorrt_configurations(contract, repository)


def tensorrt_configurations(contract: ModelContract, repository: Path, **changes: int) -> dict[str, str]:
    """Return the configurations of an ensemble and its models, by folder.

    Parameters
    ----------
    repository : with the graphs of the ensemble's models.
    changes : of `tensorrt.configurations`.
    """
    from server_models.onnx_reading import read_onnx

    graphs = {part: repository / tensorrt.part_name(contract.name, part) / "1" / "model.onnx" for part in PART_NAMES}
    models = {part: read_onnx(path, remedy=_REMEDY) for part, path in graphs.items()}
    return tensorrt.configurations(contract, models, file_sha256(graphs[NETWORK]), **changes)


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
        expected_configs = _configurations(contract, flavour, repository)
        configs = {part: (repository / part / "config.pbtxt").read_text() for part in expected_configs}
        graph = (folder / "1" / "model.onnx").stat().st_size
        if contract.precision == "fp16":
            (folder / REFERENCE).stat()
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return False
    expected = _backend(flavour).read_bytes() if flavour in _BACKENDS else b""
    return bool(graph and stamp == _stamp(flavour) and backend == expected and configs == expected_configs)


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


def _stamp(flavour: Flavour) -> dict[str, str | int]:
    """Return what a built model rests on beside its contract."""
    return {"flavour": flavour, "recipe_sha256": _recipe_sha256(), "canary": canary.RECIPE}


def _recipe_sha256() -> str:
    """Digest of the modules that make graphs: a graph made by others is made again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _SERVING:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
