"""The local server's Python environment: where it is, making it, running code in it.

It is another environment than the client's: Triton's Python backend needs numpy < 2. It sees the very code of this
client through two links, so the two never differ in version.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import InputError, KappaMaskError, OutputError, ServerSetupError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LEAST_GLIBC = (2, 35)
_PYTHONS = ((3, 11), (3, 12))
_STAMP = "kappamask-stream.json"
_KINDS: dict[str, type[KappaMaskError]] = {
    kind.__name__: kind for kind in (UsageError, InputError, OutputError, ServerSetupError)
}


def data_home() -> Path:
    """Return the user's data folder of this program."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "kappamask-stream"


def cache_home() -> Path:
    """Return the user's cache folder of this program."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kappamask-stream"


@dataclass(frozen=True, kw_only=True)
class ServerEnvironment:
    """A virtual environment with Triton, an engine and the export code.

    Attributes
    ----------
    path : of the virtual environment.
    """

    path: Path

    @classmethod
    def at(cls, path: Path | None) -> ServerEnvironment:
        """Return the environment at `path`, or the user's own."""
        return cls(path=(path or data_home() / "server-env").absolute())

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin" / "python"

    @property
    def repository(self) -> Path:
        """The model repository of the local server."""
        return self.path / "models"

    @property
    def is_installed(self) -> bool:
        """True where `install` has finished with the same requirements as now."""
        try:
            stamp = json.loads((self.path / _STAMP).read_text())
        except (OSError, ValueError):
            return False
        return bool(stamp.get("requirements_sha256") == _requirements_sha256()) and self.python.exists()

    def require(self) -> None:
        """Refuse to go on without the environment.

        Raises
        ------
        ServerSetupError
            With the remedy.
        """
        check_platform()
        if not self.is_installed:
            raise ServerSetupError(
                f"the local server's environment is not installed at {self.path} (or by another version): "
                "run `kappamask-stream server install`, or name a server with --triton grpc://HOST:PORT"
            )

    def install(self, say: Callable[[str], None]) -> None:
        """Make the environment; quick where it is there already.

        Raises
        ------
        ServerSetupError
            If the platform or this Python cannot run Triton, or a package cannot be installed.
        """
        check_platform()
        check_python()
        if self.is_installed:
            self._link_code()
            say(f"{self.path} is installed already")
            return
        log = self.path / "install.log"
        (self.path / _STAMP).unlink(missing_ok=True)
        say(f"making {self.path}")
        self._step([sys.executable, "-m", "venv", "--clear", str(self.path)], None)
        say("installing Triton, OpenVINO, ONNX Runtime and csmask's weights (about 350 MB)")
        pip = [
            str(self.python),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]
        self._step([*pip, "-r", str(requirements_path())], log)
        self._link_code()
        say("verifying")
        self.call(["verify"])
        stamp = {"requirements_sha256": _requirements_sha256()}
        (self.path / _STAMP).write_text(json.dumps(stamp))

    def call(self, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """Run ``python -m server_models`` in the environment and return the JSON objects that it prints.

        Raises
        ------
        KappaMaskError
            Of the kind that it reports.
        """
        ended = subprocess.run(
            [str(self.python), "-m", "server_models", *arguments], capture_output=True, text=True, check=False
        )
        events = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
        if ended.returncode:
            last = events[-1] if events else {}
            message = last.get("message") or ended.stderr.strip()[-800:]
            raise _KINDS.get(str(last.get("kind")), ServerSetupError)(message)
        return events

    def _step(self, command: list[str], log: Path | None) -> None:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if log is not None:
            log.write_text(ended.stdout + ended.stderr)
        if ended.returncode:
            reason = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
            where = f"; the whole output: {log}" if log is not None else ""
            raise ServerSetupError(f"`{' '.join(command[:4])} …` failed: {' '.join(reason)}{where}")

    def _link_code(self) -> None:
        """Make this client's packages importable there, and nothing else of its environment."""
        code = Path(__file__).resolve().parents[2]
        links = self.path / "code"
        links.mkdir(exist_ok=True)
        for package in ("kappamask_stream", "server_models"):
            link = links / package
            link.unlink(missing_ok=True)
            link.symlink_to(code / package)
        (site,) = self.path.glob("lib/python3.*/site-packages")
        (site / "kappamask_stream_code.pth").write_text(f"{links}\n")


def check_platform() -> None:
    """Refuse platforms that NVIDIA's wheel does not run on.

    Raises
    ------
    ServerSetupError
        With the two versions and the remedy.
    """
    remedy = "use a server elsewhere with --triton grpc://HOST:PORT"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ServerSetupError(
            f"Triton runs on this machine only if it is Linux x86-64; "
            f"this is {sys.platform} {platform.machine()}: {remedy}"
        )
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if name != "glibc" or numbers < _LEAST_GLIBC:
        raise ServerSetupError(
            f"Triton needs glibc 2.35 or newer; this system has {name or 'no glibc'} {version}: {remedy}"
        )


def check_python() -> None:
    """Refuse Pythons for which there is no stub, or that have no shared library.

    Raises
    ------
    ServerSetupError
        With the remedy.
    """
    if sys.version_info[:2] not in _PYTHONS:
        raise ServerSetupError(
            f"the local server needs Python 3.11 or 3.12; this is {platform.python_version()}: "
            "install kappamask-stream with one of those, or use --triton"
        )
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        raise ServerSetupError(
            f"{sys.executable} has no shared libpython, which Triton's Python backend needs: use your distribution's "
            "Python, or one built with --enable-shared"
        )


def requirements_path() -> Path:
    """Return the pinned requirements: beside the packages in a checkout, inside server_models in a wheel."""
    root = Path(__file__).resolve().parents[2]
    packaged = root / "server_models" / "_constraints" / "server.txt"
    return packaged if packaged.exists() else root / "constraints" / "server.txt"


def _requirements_sha256() -> str:
    return hashlib.sha256(requirements_path().read_bytes()).hexdigest()
