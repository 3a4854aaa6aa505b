"""Where and with what a benchmark runs: nothing that names a machine, a person or a place."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Self

import kappamask_stream
from kappamask_stream.bench.types import Environment

if TYPE_CHECKING:
    from kappamask_stream.bench.types import BenchReport

#: Packages whose versions decide the figures.
_PACKAGES = ("imagecodecs", "numpy", "tritonclient", "grpcio")
#: Folders of a checkout that hold what is measured.
_CODE = ("kappamask_stream", "server_models", "triton")
_TELLS_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What is to be noted before anything is measured: until the end the code may be another.

    Attributes
    ----------
    commit, time : as `Environment` has them.
    """

    commit: str | None
    time: str

    @classmethod
    def now(cls) -> Self:
        """Look at the clock and the checkout."""
        return cls(commit=commit(), time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"))

    def noted_in(self, report: BenchReport) -> BenchReport:
        """Return a report whose environment says this, in place of what was so when it was made."""
        return replace(report, environment=replace(report.environment, commit=self.commit, time=self.time))


def environment(*, server: str | None, has_local_gpu: bool) -> Environment:
    """Look at this machine, as far as this process may use it.

    Parameters
    ----------
    server : name and version as the server says; None where it is unknown.
    has_local_gpu : True looks for the server's GPU here; it may be somewhere else, or not used.
    """
    now = Begun.now()
    return Environment(
        cpu=cpu_name(),
        gpu=gpu_name() if has_local_gpu else None,
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        system=" ".join((platform.system(), _short(platform.release()), platform.machine())),
        versions=_versions(server),
        commit=now.commit,
        time=now.time,
    )


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str | None:
    """Return the processor's name, None where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    found = re.search(r"^(?:model name|Processor|cpu model)\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or None


def gpu_name() -> str | None:
    """Return the name of this machine's NVIDIA GPU, of several kinds all; None without one."""
    said = _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    names = dict.fromkeys(line.strip() for line in (said or "").splitlines() if line.strip())
    return ", ".join(names) or None


def commit(package: Path | None = None) -> str | None:
    """Return the commit of this package, with ``+`` where its code is not as committed.

    Outside a checkout what KAPPAMASK_COMMIT says, for sources that were copied without their history; else None.

    Parameters
    ----------
    package : folder to ask for; None: where this package lies. An installed package that lies within some other
        checkout is none of that.
    """
    root = (package or Path(kappamask_stream.__file__).parent).resolve().parent
    top = _said("git", "-C", str(root), "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != root:
        return os.environ.get("KAPPAMASK_COMMIT") or None
    found = _said("git", "-C", str(root), "rev-parse", "HEAD")
    changes = _said("git", "-C", str(root), "status", "--porcelain", "--", *_CODE)
    return None if found is None else found.strip() + ("" if changes == "" else "+")


def _versions(server: str | None) -> dict[str, str]:
    versions = {"kappamask-stream": kappamask_stream.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions | ({"server": server} if server else {})


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _short(release: str) -> str:
    """Shorten a kernel's release to its first two numbers: what follows may name who built it, and where."""
    found = re.match(r"\d+(?:\.\d+)?", release)
    return found[0] if found else "unknown"


def _said(*command: str) -> str | None:
    """Return what a program says; None where there is no such program, or it fails."""
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=_TELLS_S,
            stdin=subprocess.DEVNULL,
            # Looking must not lock, or write, anything; a hook's variables would name another checkout.
            env={n: v for n, v in os.environ.items() if not n.startswith("GIT_")} | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout
