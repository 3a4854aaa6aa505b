"""Making the local server's environment: once, at one time, and anew where it is half made or damaged."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kappamask_stream.errors import KappaMaskError, ServerSetupError
from kappamask_stream.server.environment import STAMP, requirements_path, requirements_sha256
from kappamask_stream.server.machine import check_platform, check_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kappamask_stream.server.environment import ServerEnvironment

    Say = Callable[[str], None]


def install_environment(environment: ServerEnvironment, say: Say, *, in_use: Callable[[], bool]) -> None:
    """Make the environment; quick where it is there already and sound.

    Parameters
    ----------
    say : told what is being done.
    in_use : tells whether a server runs from it; it is not taken away from under one.

    Raises
    ------
    ServerSetupError
        If the platform or this Python cannot run Triton, the folder cannot be written or holds what is not ours, a
        server runs from it, or a package cannot be installed.
    """
    check_platform()
    check_python()
    path = environment.path
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _only_installer(path, say) as lock:
            if environment.is_installed and _is_sound(environment, say):
                say(f"{path} is installed already")
                return
            _require_ours(path)
            if in_use():
                raise ServerSetupError(
                    f"the server that runs on this machine uses {path}, which must be made again: end it with "
                    "`kappamask-stream server stop`, then try again"
                )
            _make(environment, say, lock)
    except OSError as error:
        raise ServerSetupError(
            f"cannot make the server's environment {path}: {error.strerror} ({error.filename})"
        ) from error


@contextmanager
def _only_installer(path: Path, say: Say) -> Iterator[int]:
    """Wait for another installation of the same environment, or what is left of one; gives the lock's descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process installs {path}; waiting")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_sound(environment: ServerEnvironment, say: Say) -> bool:
    """Tell whether a finished environment still holds what serving needs."""
    try:
        environment.link_code()
        environment.call(["verify"])
    except (KappaMaskError, OSError) as error:
        say(f"{environment.path} is damaged, making it again: {str(error).splitlines()[-1]}")
        return False
    return True


def _require_ours(path: Path) -> None:
    """Refuse a folder with other contents: making an environment empties it."""
    names = {entry.name for entry in path.iterdir()}
    bare = {"bin", "include", "lib", "lib64", "pyvenv.cfg"}
    packages = {entry.name.split("-")[0] for entry in path.glob("lib/python3.*/site-packages/*")}
    is_bare = names <= bare and packages <= {"pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils"}
    if STAMP not in names and not is_bare:
        raise ServerSetupError(
            f"{path} holds what `kappamask-stream server install` did not make, and would be emptied: name a new or an "
            "empty folder with --env or KAPPAMASK_SERVER_ENV"
        )


def _make(environment: ServerEnvironment, say: Say, lock: int) -> None:
    """Empty the folder but for built models and fill it; its stamp is there from the first moment, so it is ours."""
    path = environment.path
    (path / STAMP).write_text("{}")
    say(f"making {path}")
    for entry in path.iterdir():
        if entry in (path / STAMP, environment.repository):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    _step([sys.executable, "-m", "venv", str(path)], None, lock)
    say("installing Triton, OpenVINO, ONNX Runtime and csmask's weights (about 350 MB)")
    pip = [str(environment.python), "-I", "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary=:all:", "-r", str(requirements_path())]
    _step(pip, path / "install.log", lock)
    environment.link_code()
    say("verifying")
    environment.call(["verify"])
    (path / STAMP).write_text(json.dumps({"requirements_sha256": requirements_sha256()}))


def _step(command: Sequence[str], log: Path | None, lock: int) -> None:
    """Run a step, which inherits the lock: should we be killed, it goes on, and the next installation waits for it."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=(lock,))
    if log is not None:
        log.write_text(ended.stdout + ended.stderr)
    if ended.returncode:
        reason = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
        where = f"; the whole output: {log}" if log is not None else ""
        raise ServerSetupError(f"`{' '.join(command[:5])} …` failed: {' '.join(reason)}{where}")
