"""Triton model repositories: a folder per model, its configuration generated from the contract."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from kappamask_stream.errors import ContractError
from server_models.registry import find

if TYPE_CHECKING:
    from collections.abc import Mapping

Flavour = Literal["python", "onnxruntime"]

#: Requests that may wait: several clients' windows; more are refused, and clients slow down.
_QUEUE_BATCHES = 16
_QUEUE_TIMEOUT_S = 600
_QUEUE_DELAY_US = 2000


def templates() -> Path:
    """Return the folder ``triton/``: beside this package in a checkout, inside it in a wheel."""
    packaged = Path(__file__).parent / "_triton"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "triton"


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
    """Build a model and put it into a repository, all at once: a reader sees the old folder or the new one.

    Raises
    ------
    UsageError
        If there is no such model, or it needs a weights file.
    InputError
        If the weights file is damaged or of another network.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=repository) as folder:
        made = Path(folder) / name
        version = made / "1"
        version.mkdir(parents=True)
        contract = find(name).build(version / "model.onnx", weights)
        (made / "config.pbtxt").write_text(config_pbtxt(contract, flavour))
        (made / "contract.json").write_text(contract.to_json())
        if flavour == "python":
            shutil.copy(templates() / "python_backend" / "model.py", version / "model.py")
        target = repository / name
        if target.exists():
            target.rename(Path(folder) / "replaced")
        made.rename(target)
    return contract


def built_contract(name: str, repository: Path) -> ModelContract | None:
    """Return the contract of a model in a repository, None where it is not built or not by this version."""
    try:
        return ModelContract.from_json((repository / name / "contract.json").read_text())
    except (OSError, ContractError):
        return None


def is_current(name: str, repository: Path) -> bool:
    """Tell whether a built model has the backend and configuration that this version would write."""
    contract = built_contract(name, repository)
    if contract is None:
        return False
    folder = repository / name
    try:
        backend = (folder / "1" / "model.py").read_bytes()
        config = (folder / "config.pbtxt").read_text()
    except OSError:
        return False
    expected = (templates() / "python_backend" / "model.py").read_bytes()
    return backend == expected and config == config_pbtxt(contract, "python") and os.access(folder, os.R_OK)
