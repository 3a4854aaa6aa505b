"""Where a process id, or a lock on a file, means something: on this machine, since it was started, in its container."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def boot() -> str:
    """Return 32 digits that no other running machine has; zeros where the system has none (it is no Linux).

    Machines, and containers on them, may share a name.
    """
    with suppress(OSError):
        return _BOOT.read_text().strip().replace("-", "")
    return "0" * 32


def pid_namespace() -> int:
    """Return the number of this process's namespace of process ids; 0 where the system has none (it is no Linux)."""
    with suppress(OSError):
        return _NAMESPACE.stat().st_ino
    return 0
