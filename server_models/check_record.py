"""What is remembered of a check: ``check.json`` in the model's folder, good while all that it rests on is the same."""

from __future__ import annotations

import json
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server_models.digest import file_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD = "check.json"
#: What computes the answers: the graph, how it is served, by which code and which engine.
_FILES = ("config.pbtxt", "1/model.onnx", "1/model.py", "reference.onnx")
_CODE = ("openvino_engine.py", "check_tiles.py", "check_figures.py", "model_check.py", "reference.py")
_PACKAGES = ("nvidia-pytriton", "numpy", "onnxruntime", "openvino")
#: Features of an x86 CPU by which engines choose their kernels.
_FEATURES = ("avx", "amx", "fma", "f16c")


def identity(model: Path) -> dict[str, str]:
    """Return what a check of a model's folder rests on, by name; reads all of the graph.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    here = Path(__file__).parent
    found = {name: file_sha256(model / name) for name in _FILES if (model / name).exists()}
    found |= {name: file_sha256(here / name) for name in _CODE}
    return found | {name: _version(name) for name in _PACKAGES} | {"cpu": cpu()}


def cpu() -> str:
    """Return the CPU's name and those of its features by which engines choose their kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    facts = dict(reversed([(k.strip(), v.strip()) for k, colon, v in (line.partition(":") for line in lines) if colon]))
    features = sorted(name for name in facts.get("flags", "").split() if name.startswith(_FEATURES))
    return f"{facts.get('model name', 'unknown')}: {' '.join(features)}"


def write_record(model: Path, rests_on: Mapping[str, str], report: Mapping[str, Any]) -> None:
    """Write the record of a check; whoever reads sees the old one or the new one.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    text = json.dumps({"rests_on": dict(rests_on), "report": dict(report)}, indent=1)
    descriptor, name = tempfile.mkstemp(dir=model, prefix=f".{RECORD}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(model / RECORD)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def recorded(model: Path, rests_on: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the report of the last check, None where there was none or it rests on something else."""
    try:
        document = json.loads((model / RECORD).read_text())
        report = document["report"] if document["rests_on"] == rests_on else None
        return report if isinstance(report, dict) and isinstance(report["passed"], bool) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
