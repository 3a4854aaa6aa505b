"""The local server's Python environment: where it is, whether it is there, running code in it.

It is another environment than the client's: Triton's Python backend needs numpy < 2. It sees the very code of this
client through two links, so the two never differ in version.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ServerSetupError, error_kinds
from kappamask_stream.server.machine import check_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

#: There from the first moment of an installation; holds the digest of the requirements when it is finished.
STAMP = "kappamask-stream.json"
_INSTALL_AGAIN = "run `kappamask-stream server install` again"


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
            stamp = json.loads((self.path / STAMP).read_text())
        except (OSError, ValueError):
            return False
        return bool(stamp.get("requirements_sha256") == requirements_sha256()) and self.python.exists()

    def require(self) -> None:
        """Refuse to go on without the environment, and let it run this client's code.

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
        self.link_code()

    def call(self, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """Run ``python -m server_models`` in the environment and return the JSON objects that it prints.

        Raises
        ------
        KappaMaskError
            Of the kind that it reports.
        """
        ended = subprocess.run(
            [str(self.python), "-I", "-m", "server_models", *arguments], capture_output=True, text=True, check=False
        )
        events = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
        if ended.returncode:
            last = events[-1] if events else {}
            message = last.get("message") or ended.stderr.strip()[-800:]
            raise error_kinds().get(str(last.get("kind")), ServerSetupError)(message)
        return events

    def link_code(self) -> None:
        """Make this client's packages importable there, and nothing else of its environment.

        Raises
        ------
        ServerSetupError
            If the environment has no place for packages, or is another user's and runs other code.
        """
        code, links = Path(__file__).resolve().parents[2], self.path / "code"
        sites = list(self.path.glob("lib/python3.*/site-packages"))
        if len(sites) != 1:
            raise ServerSetupError(f"{self.path} is damaged: it has no site-packages; {_INSTALL_AGAIN}")
        try:
            links.mkdir(exist_ok=True)
            for package in ("kappamask_stream", "server_models"):
                _link(links / package, code / package)
            path_file = sites[0] / "kappamask_stream_code.pth"
            if not path_file.exists() or path_file.read_text() != f"{links}\n":
                path_file.write_text(f"{links}\n")
        except OSError as error:
            raise ServerSetupError(
                f"{self.path} runs another version of kappamask-stream and cannot be changed ({error.strerror}): "
                "name an environment of your own with KAPPAMASK_SERVER_ENV"
            ) from error


def _link(link: Path, target: Path) -> None:
    """Point a link to `target`; others see the old one or the new one."""
    if not link.is_symlink() or link.readlink() != target:
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.symlink_to(target)
        fresh.replace(link)


def requirements_path() -> Path:
    """Return the pinned requirements: beside the packages in a checkout, inside server_models in a wheel."""
    root = Path(__file__).resolve().parents[2]
    packaged = root / "server_models" / "_constraints" / "server.txt"
    return packaged if packaged.exists() else root / "constraints" / "server.txt"


def requirements_sha256() -> str:
    """Return the digest by which an environment is known to be this version's."""
    return hashlib.sha256(requirements_path().read_bytes()).hexdigest()
