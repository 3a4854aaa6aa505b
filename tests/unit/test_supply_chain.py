"""What the client is made of: pinned, under licences that are accepted, and all of it in the bill of materials."""

from __future__ import annotations

import hashlib
import importlib
import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.documents import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = ROOT / "deploy" / "supply-chain"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a script of deploy/supply-chain as it finds its siblings when it runs."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "runtime", raising=False)
    return importlib.import_module


def distribution(folder: Path, name: str, *, requires: tuple[str, ...] = (), **fields: str | list[str]) -> Distribution:
    """A package that is installed in `folder`."""
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requires)]
    for field, values in fields.items():
        lines += [f"{field.replace('_', '-')}: {one}" for one in ([values] if isinstance(values, str) else values)]
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    return PathDistribution(info)


# ---------------------------------------------------------------- what is needed


def test_what_is_needed_is_followed_through_extras_and_markers(script: Callable[[str], Any], tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    wants = {
        "Root": ("one[fast]>=1", 'dev-tool; extra == "dev"', 'old; python_version < "3"'),
        "one": ('Quick_One; extra == "fast"', 'slow; extra == "slow"', "two"),
        "two": ("one",),  # a circle
        "quick.one": (),
        "dev-tool": (), "old": (), "slow": (), "unrelated": (),
    }  # fmt: skip
    for name, requires in wants.items():
        distribution(site, name, requires=requires)
    runtime = script("runtime")
    assert set(runtime.runtime(runtime.packages(tmp_path), "root")) == {"root", "one", "two", "quick-one"}


def test_what_is_not_installed_is_an_error(script: Callable[[str], Any], tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    distribution(site, "root", requires=("absent",))
    runtime = script("runtime")
    with pytest.raises(KeyError, match="absent"):
        runtime.runtime(runtime.packages(tmp_path), "root")


@pytest.fixture
def installed(script: Callable[[str], Any]) -> dict[str, Distribution]:
    """What the client needs, in the environment that runs these tests."""
    runtime = script("runtime")
    found: dict[str, Distribution] = runtime.runtime(runtime.packages(Path(sys.prefix)))
    return found


def test_what_the_client_needs_is_pinned_as_it_is_tested(
    installed: dict[str, Distribution], script: Callable[[str], Any]
) -> None:
    canonical = script("runtime").canonical
    lines = (ROOT / "constraints" / "client.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonical(name): version for name, version in pins.items()}
    wrong = [
        f"{found.metadata['Name']}=={found.version}"
        for name, found in sorted(installed.items())
        if name != "kappamask-stream" and pinned.get(name) != found.version
    ]
    assert wrong == [], "to be pinned in constraints/client.txt"


# ---------------------------------------------------------------- licences


def test_licences_of_all_that_the_client_needs_are_accepted(
    installed: dict[str, Distribution], script: Callable[[str], Any]
) -> None:
    licences = script("licences")
    assert len(installed) > 40
    assert [licences.wrong(name, found) for name, found in installed.items() if licences.wrong(name, found)] == []
    assert set(licences.ACCEPTED) <= set(installed), "accepted, but nobody needs it any more"


@pytest.mark.parametrize(
    ("text", "permissive"),
    [
        ("MIT", True),
        ("mit license", True),
        ("The MIT License", True),
        ("Apache-2.0 AND MIT", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("BSD-3-Clause AND (MIT OR GPL-2.0-only)", True),
        ("GPL-3.0-or-later OR MIT", True),
        ("ISC License (ISCL)", True),
        ("GPL-3.0-or-later", False),
        ("AGPL-3.0-only", False),
        ("LGPL-2.1-or-later", False),
        ("GNU General Public License v3 (GPLv3)", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", False),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR Apache-2.0) AND GPL-3.0-only", False),
        ("GPL-3.0-only WITH GCC-exception-3.1", False),
        ("MIT OR", False),
        ("MIT GPL-3.0-only", False),
        ("(MIT", False),
        ("", False),
        ("Proprietary", False),
    ],
)
def test_a_licence_is_permissive_or_not(script: Callable[[str], Any], text: str, permissive: bool) -> None:  # noqa: FBT001
    assert script("licences").is_permissive(text) is permissive


GPL = "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"
MIT = "License :: OSI Approved :: MIT License"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"License_Expression": "MIT"}, None),
        ({"License_Expression": "GPL-3.0-only", "Classifier": MIT}, "GPL-3.0-only: not known as permissive"),
        ({"Classifier": [MIT]}, None),
        ({"Classifier": [MIT, GPL]}, "GNU General Public License"),
        ({"Classifier": "License :: OSI Approved", "License": "BSD"}, None),
        ({"License": "BSD"}, None),
        ({"License": "my own"}, "my own: not known as permissive"),
        ({}, "says nothing about its licence"),
        ({"Classifier": "Programming Language :: Python"}, "says nothing about its licence"),
    ],
)
def test_the_most_precise_statement_counts(
    script: Callable[[str], Any], tmp_path: Path, fields: dict[str, Any], fault: str | None
) -> None:
    found = script("licences").wrong("some", distribution(tmp_path, "some", **fields))
    assert found is None if fault is None else fault in found


def test_what_is_accepted_has_a_reason(script: Callable[[str], Any], tmp_path: Path) -> None:
    licences = script("licences")
    assert licences.wrong("certifi", distribution(tmp_path, "certifi", License="MPL-2.0")) is None
    assert all(len(reason.split()) > 3 for reason in licences.ACCEPTED.values())


# ---------------------------------------------------------------- bill of materials


def bill() -> dict[str, Any]:
    components = [{"bom-ref": f"{name}==1.0", "name": name, "externalReferences": []} for name in ("One", "two", "dev")]
    return {
        "metadata": {"component": {"bom-ref": "root", "name": "kappamask-stream"}},
        "components": components,
        "dependencies": [
            {"ref": "root", "dependsOn": ["One==1.0", "dev==1.0"]},
            {"ref": "One==1.0", "dependsOn": ["two==1.0"]},
            {"ref": "two==1.0"},
            {"ref": "dev==1.0", "dependsOn": ["two==1.0"]},
        ],
    }


def test_the_bill_leaves_out_what_only_tests_need(script: Callable[[str], Any], tmp_path: Path) -> None:
    needed = {name: distribution(tmp_path, name) for name in ("kappamask-stream", "one", "two")}
    kept = script("sbom").pruned(bill(), needed)
    assert [component["name"] for component in kept["components"]] == ["One", "two"]
    assert kept["metadata"]["component"]["version"] == "1.0"
    assert {entry["ref"]: entry["dependsOn"] for entry in kept["dependencies"]} == {
        "root": ["One==1.0"], "One==1.0": ["two==1.0"], "two==1.0": [],
    }  # fmt: skip


def test_a_bill_that_lacks_something_is_an_error(script: Callable[[str], Any], tmp_path: Path) -> None:
    needed = {name: distribution(tmp_path, name) for name in ("kappamask-stream", "one", "three")}
    with pytest.raises(ValueError, match="lacks three"):
        script("sbom").pruned(bill(), needed)


def test_native_libraries_of_wheels_are_in_the_bill(script: Callable[[str], Any], tmp_path: Path) -> None:
    found = distribution(tmp_path, "shapely")
    library = tmp_path / "shapely.libs" / "libgeos-1.so"
    library.parent.mkdir()
    library.write_bytes(b"code")
    (tmp_path / "shapely-1.0.dist-info" / "RECORD").write_text(
        "shapely.libs/libgeos-1.so,,\nshapely/__init__.py,,\nshapely.libs/gone.so,,\n"
    )
    assert script("sbom").native_libraries(found) == [
        {
            "type": "file",
            "name": "shapely.libs/libgeos-1.so",
            "bom-ref": "file:shapely.libs/libgeos-1.so",
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(b"code").hexdigest()}],
        }
    ]


# ---------------------------------------------------------------- vulnerabilities


def test_what_is_known_is_told_with_what_mends_it(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = script("audit")
    answer = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": [{"id": "X-1", "aliases": ["CVE-1"], "fix_versions": ["2", "3"]}]},
            {"name": "b", "version": "1", "vulns": [{"id": "X-2", "aliases": [], "fix_versions": []}]},
            {"name": "c", "version": "1", "vulns": []},
            {"name": "d", "skip_reason": "not found"},
        ]
    }
    assert audit.vulnerabilities(answer) == [("a 1: X-1 CVE-1, fixed in 2, 3", None), ("b 1: X-2, not fixed yet", None)]
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "not reached from here")
    assert audit.vulnerabilities(answer)[0][1] == "not reached from here"
