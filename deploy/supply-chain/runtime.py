"""Which packages of an environment the client needs when it runs: it, what it requires, what those require."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from pathlib import Path

ROOT = "kappamask-stream"


def canonical(name: str) -> str:
    """Return a package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(environment: Path) -> dict[str, Distribution]:
    """Return all packages of a virtual environment by canonical name."""
    (folder,) = environment.glob("lib/python3.*/site-packages")
    found = MetadataPathFinder.find_distributions(DistributionFinder.Context(path=[str(folder)]))
    return {canonical(distribution.metadata["Name"]): distribution for distribution in found}


def runtime(installed: dict[str, Distribution], root: str = ROOT) -> dict[str, Distribution]:
    """Return those of `installed` that `root` needs when it runs, itself first.

    Markers are those of the interpreter that runs this, which is of the same version as the environment's.

    Raises
    ------
    KeyError
        If one is not installed.
    """
    found: dict[str, Distribution] = {}
    pending: list[tuple[str, frozenset[str]]] = [(canonical(root), frozenset())]
    seen = set(pending)
    while pending:
        name, extras = pending.pop()
        found[name] = installed[name]
        for text in installed[name].requires or ():
            requirement = Requirement(text)
            asked = (canonical(requirement.name), frozenset(requirement.extras))
            if asked not in seen and _applies(requirement, extras):
                seen.add(asked)
                pending.append(asked)
    return found


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
