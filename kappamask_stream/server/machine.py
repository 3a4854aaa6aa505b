"""What a machine and a Python must have for NVIDIA's wheel of Triton."""

from __future__ import annotations

import platform
import sys
import sysconfig

from kappamask_stream.errors import ServerSetupError

_LEAST_GLIBC = (2, 35)
_PYTHONS = ((3, 11), (3, 12))


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
