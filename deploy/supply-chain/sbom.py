"""A software bill of materials (CycloneDX 1.6, JSON) of what the client needs when it runs: `make sbom`.

cyclonedx-bom describes the client's environment; what is only there for tests is left out; native libraries that wheels
carry are added below their package, each with its SHA-256, because no package metadata tells of them. The result is
validated against the schema. The same environment gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import ROOT, canonical, packages, runtime

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_VERSION = "1.6"


def main() -> int:
    """Write the bill; 1 where it is not valid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("environment", type=Path, help="virtual environment of the client")
    parser.add_argument("pyproject", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    installed = packages(given.environment)
    needed = runtime(installed)
    bill = pruned(described(given.environment, given.pyproject), needed)
    text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
    if fault := invalid(text):
        print(f"the bill of materials is not valid CycloneDX {_VERSION}: {fault}", file=sys.stderr)
        return 1
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text)
    libraries = sum(len(component.get("components", ())) for component in bill["components"])
    print(
        f"{given.output}: CycloneDX {_VERSION}, valid; {len(bill['components'])} packages, {libraries} native libraries"
    )
    return 0


def described(environment: Path, pyproject: Path) -> dict[str, Any]:
    """Return what cyclonedx-bom says of the whole environment; it is validated when it is complete."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(pyproject), "--sv", _VERSION]
    command += ["--output-reproducible", "--of", "JSON", "-o", "-", "--no-validate", str(environment)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"cyclonedx-bom failed on {environment}:\n{ended.stderr}")
    bill: dict[str, Any] = json.loads(ended.stdout)
    return bill


def pruned(bill: dict[str, Any], needed: dict[str, Distribution]) -> dict[str, Any]:
    """Leave packages in that are needed when the client runs, and add the native libraries that they carry.

    Raises
    ------
    ValueError
        If the bill lacks one of them.
    """
    kept = [component for component in bill["components"] if canonical(component["name"]) in needed]
    missing = set(needed) - {canonical(component["name"]) for component in kept} - {ROOT}
    if missing:
        raise ValueError(f"the bill of materials lacks {', '.join(sorted(missing))}")
    for component in kept:
        component.pop("externalReferences", None)  # pages of projects, which take most of the time to validate
        if libraries := native_libraries(needed[canonical(component["name"])]):
            component["components"] = libraries
    root = bill["metadata"]["component"]
    root["version"] = needed[ROOT].version
    refs = {component["bom-ref"] for component in kept} | {root["bom-ref"]}
    graph = [
        {**entry, "dependsOn": [ref for ref in entry.get("dependsOn", ()) if ref in refs]}
        for entry in bill["dependencies"]
        if entry["ref"] in refs
    ]
    return {**bill, "components": kept, "dependencies": graph}


def native_libraries(distribution: Distribution) -> list[dict[str, Any]]:
    """Return shared libraries of others that a wheel carries, which auditwheel puts into ``NAME.libs``."""
    found = []
    for file in sorted(distribution.files or (), key=str):
        path = Path(str(distribution.locate_file(file)))
        if file.parts[0].endswith(".libs") and path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            hashes = [{"alg": "SHA-256", "content": digest}]
            found.append({"type": "file", "name": str(file), "bom-ref": f"file:{file}", "hashes": hashes})
    return found


def invalid(text: str) -> str | None:
    """Return why a bill does not fit its schema; None where it does."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.from_version(_VERSION)).validate_str(text)
    return None if fault is None else str(fault)[:1000]


if __name__ == "__main__":
    raise SystemExit(main())
