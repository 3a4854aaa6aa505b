"""What a killed Triton leaves on a machine, recognised by names that only one state folder's server has.

A server of ours is always ended by SIGKILL to its process group (asked nicely it takes seconds, with requests queued
half a minute), so this is the ordinary way, not the exception. Where nobody is left to do that, a guard does it:

    python leftovers.py STATE/backends TRITON_PID [PIDFD]

waits until the tritonserver has ended, kills what is left of its group, and removes what that held. A process of its
own: stubs of the Python backend look after their parent themselves, but not while they hold their interpreter's lock
and wait for an answer of the parent, which is what a killed server's busy stubs do for ever; no thread of Python runs
in them then. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory
#: Triton's Python backend makes one of these when it is loaded; the folder is fixed there, TMPDIR changes nothing.
_SCRATCH = Path("/tmp"), "python_env_*"  # noqa: S108
_NOTES = "scratch.txt"
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 5.0
#: Between two looks of a guard where the system has no pidfd.
_LOOK_S = 2.0


def region_prefix(state: Path) -> str:
    """Return the prefix of the shared memory regions of a state folder's server."""
    return f"triton_python_backend_shm_region_{hashlib.sha256(str(state).encode()).hexdigest()[:12]}_"


def remove_leftovers(state: Path) -> None:
    """Remove the shared memory regions and scratch folders of a state folder's server, which has ended."""
    for path in _SHARED_MEMORY.glob(region_prefix(state) + "*"):
        with contextlib.suppress(OSError):
            path.unlink()
    notes = state / _NOTES
    with contextlib.suppress(FileNotFoundError):
        for name in notes.read_text().splitlines():
            with contextlib.suppress(OSError):  # gone, or somebody's who keeps something in it
                (_SCRATCH[0] / name).rmdir()
        notes.unlink()


def guard(state: Path, triton: int) -> subprocess.Popen[bytes]:
    """Start a state folder's guard, which ends soon after the tritonserver, a child of this process.

    It names the state folder's backends, so the next supervisor ends it before it makes anything of the same names.
    """
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(state / "backends"), str(triton)]
    with contextlib.ExitStack() as stack:
        watched = []
        with contextlib.suppress(AttributeError, OSError):  # a Python or a kernel without
            watched.append(os.pidfd_open(triton))
            stack.callback(os.close, watched[0])
        return subprocess.Popen(
            [*command, *map(str, watched)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd="/", pass_fds=watched, start_new_session=True,
        )  # fmt: skip


def _guard(backends: str, triton: str, watched: str | None = None) -> None:
    if watched is not None:
        ends = select.poll()
        ends.register(int(watched), select.POLLIN)  # when it has ended, even where nobody has waited for it
        ends.poll()
    while is_running(int(triton)):
        time.sleep(_LOOK_S)
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _running_in(triton)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    remove_leftovers(Path(backends).parent)


def _running_in(group: str) -> list[int]:
    """Return the processes of a group that are no zombies: those last until somebody waits for them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if its_group == group and state != "Z":
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def scratch_noted(state: Path) -> Iterator[None]:
    """Note the scratch folder that Triton's Python backend makes within this block.

    Its name is random. One that another server makes at the same moment is noted too, but only ever removed empty.
    """
    folder, pattern = _SCRATCH
    before = set(folder.glob(pattern))
    try:
        yield
    finally:
        with (state / _NOTES).open("a") as notes:
            notes.writelines(f"{path.name}\n" for path in set(folder.glob(pattern)) - before)


def end_stragglers(state: Path) -> None:
    """Kill processes of a state folder's former server whose supervisor was killed, and wait until they are gone.

    Call with the supervisor's lock held: all that name the folder's backends are then left-overs.
    """
    mark = os.fsencode(state / "backends")
    deadline = time.monotonic() + _PATIENCE_S
    while (found := _processes_naming(mark)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes_naming(*marks: bytes) -> list[int]:
    """Return this user's processes whose command line holds all of `marks`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == os.getuid():
                line = (entry / "cmdline").read_bytes()
                if all(mark in line for mark in marks):
                    found.append(int(entry.name))
    return found


def stubs_of(state: Path, model: Path) -> list[int]:
    """Return the Python backend's processes that serve a model folder for a state folder's server."""
    return _processes_naming(os.fsencode(state / "backends"), os.fsencode(model) + b"/")


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def adopt_orphans() -> None:
    """Make this process the parent of its descendants' orphans: stubs of a dead tritonserver can be waited for."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_group(group: int) -> None:
    """Kill a process group of descendants and wait until all of it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            reaped, _ = os.waitpid(-group, os.WNOHANG)
        except ChildProcessError:
            return
        if not reaped:
            time.sleep(0.01)


def hide_argument(pid: int, secret: str) -> bool:
    """Overwrite a secret in a child's command line, which every user of the machine can read in ``/proc``.

    Returns False where the system does not let a parent write its child's memory; the child has read it by then.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: proc(5) counts from 1 and from the pid
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            at = memory.read(end - start).find(secret.encode())
            if at < 0:
                return False
            memory.seek(start + at)
            memory.write(b"*" * len(secret))
    except (OSError, ValueError, IndexError):
        return False
    return True


if __name__ == "__main__":
    _guard(*sys.argv[1:])
