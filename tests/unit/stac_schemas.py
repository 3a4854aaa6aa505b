"""JSON schemas of STAC and its extensions, offline.

The core's are in the package `pystac-core`. Extensions' are in the recorded test traffic of source distributions that
``make stac-schemas`` fetches (constraints/stac-schemas.txt); tests that need them skip with a reason where they are not.
Nothing is ever looked up on the network: an unknown reference is an error.
"""

from __future__ import annotations

import json
import os
import tarfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft7Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

if TYPE_CHECKING:
    import io

_FOLDER = Path(os.environ.get("KAPPAMASK_STAC_SCHEMAS") or Path(__file__).resolve().parents[2] / ".venv-stac-schemas")
_CORE = "https://schemas.stacspec.org/v1.1.0"
_EXTENSIONS = "https://stac-extensions.github.io"

#: Extensions of which no package holds the version that we write: (ours, nearest that a package holds).
NEAREST = {
    f"{_EXTENSIONS}/processing/v1.2.0/schema.json": f"{_EXTENSIONS}/processing/v1.1.0/schema.json",
    f"{_EXTENSIONS}/mlm/v1.5.2/schema.json": f"{_EXTENSIONS}/mlm/v1.4.0/schema.json",
}
#: Of which no package holds any that would do: version 1 had other fields. Their rules are tested by hand.
BY_HAND = {f"{_EXTENSIONS}/raster/v2.0.0/schema.json"}
#: What the schemas above refer to in versions that no package holds, and what takes their place.
_STANDS_FOR = {
    f"{_EXTENSIONS}/classification/v1.1.0/schema.json": f"{_EXTENSIONS}/classification/v2.0.0/schema.json",
}


def validate(document: dict[str, Any]) -> set[str]:
    """Check a document against the core and every extension that it names; returns the extensions checked exactly."""
    kind = "collection" if document["type"] == "Collection" else "item"
    # As it would be read: JSON types only.
    document = json.loads(json.dumps(document))
    exact = set()
    _check(document, _core()[f"{kind}-spec/json-schema/{kind}.json"])
    for identifier in document["stac_extensions"]:
        if identifier in BY_HAND:
            continue
        schemas = extension_schemas()
        if identifier in schemas:
            exact.add(identifier)
            _check(document, schemas[identifier])
        else:
            nearest = NEAREST[identifier]
            _check(_renamed(document, identifier, nearest), schemas[nearest])
    return exact


def extension_schemas() -> dict[str, Any]:
    """Return the extensions' schemas by identifier; skips the test where they have not been fetched."""
    archives = sorted(_FOLDER.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"no schemas of STAC extensions in {_FOLDER}: run `make stac-schemas`")
    return _recorded(tuple(archives))


def _check(document: dict[str, Any], schema: dict[str, Any]) -> None:
    faults = list(Draft7Validator(schema, registry=_registry(), format_checker=FormatChecker()).iter_errors(document))
    assert not faults, "\n".join(f"{fault.json_path}: {fault.message[:500]}" for fault in faults)


def _renamed(document: dict[str, Any], ours: str, nearest: str) -> dict[str, Any]:
    names = [nearest if name == ours else name for name in document["stac_extensions"]]
    return {**document, "stac_extensions": names}


@cache
def _core() -> dict[str, Any]:
    """Return the core's schemas by their path below the schema server's root."""
    # By place, not by "$id": that of common.json is misspelt.
    found = {}
    for file in resources.files("pystac.validation.jsonschemas").joinpath("stac-spec/v1.1.0").iterdir():
        kind = file.name.removesuffix(".json")
        folder = f"{kind}-spec" if kind in {"catalog", "collection"} else "item-spec"
        found[f"{folder}/json-schema/{file.name}"] = json.loads(file.read_text(encoding="utf-8"))
    return found


@cache
def _recorded(archives: tuple[Path, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for archive in archives:
        with tarfile.open(archive) as members:
            for member in members:
                if "/cassettes/" in member.name and member.name.endswith(".yaml"):
                    file = members.extractfile(member)
                    assert file is not None
                    found |= _schemas_of(file)
    return found


def _schemas_of(file: io.BufferedReader) -> dict[str, Any]:
    """Return the schemas that a test's recorded traffic holds."""
    recorded = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["interactions"]
    return {
        exchange["request"]["uri"]: json.loads(exchange["response"]["body"]["string"])
        for exchange in recorded
        if exchange["request"]["uri"].endswith("schema.json") and exchange["response"]["status"]["code"] == 200
    }


@cache
def _registry() -> Registry:
    folder = resources.files("pystac.validation.jsonschemas.geojson")
    named = {
        f"https://geojson.org/schema/{name}.json": json.loads(folder.joinpath(f"{name}.json").read_text("utf-8"))
        for name in ("Feature", "Geometry")
    }
    named |= {f"{_CORE}/{path}": schema for path, schema in _core().items()}
    archives = tuple(sorted(_FOLDER.glob("*.tar.gz")))
    if archives:
        recorded = _recorded(archives)
        named |= recorded | {name: recorded[stand_in] for name, stand_in in _STANDS_FOR.items()}
        named |= {uri.replace("/en/latest/", "/"): schema for uri, schema in recorded.items() if "proj.org" in uri}
    return Registry().with_resources(
        [(uri, Resource(contents=schema, specification=DRAFT7)) for uri, schema in named.items()]
    )
