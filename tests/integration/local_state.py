"""A local server's state apart from all others, and what the machine holds of it: processes, shared memory, files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
CLI = Path(sys.executable).with_name("kappamask-stream")
HOLDER = Path(__file__).with_name("lease_holder.py")
PATIENCE_S = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll for a condition; the patience is for a busy machine and decides nothing."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@dataclass
class Holder:
    """A client process that holds a lease until its standard input ends."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def until(self, event: str) -> dict[str, Any]:
        """Read its output up to an event, ``progress: …`` or ``ready``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            said = json.loads(line)
            if said["event"] == event or f"{said['event']}: {said.get('text')}" == event:
                return said
        raise AssertionError(f"ended with {self.process.wait()} before {event!r}: {self.lines}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)

    def release(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class LocalState:
    """One environment's server in a runtime folder of its own."""

    def __init__(self, runtime: Path, environment: Path) -> None:
        self.runtime, self.environment = runtime, environment
        self.variables = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(runtime),
            "KAPPAMASK_SERVER_ENV": str(environment),
        }
        self._holders: list[Holder] = []

    @property
    def folder(self) -> Path:
        name = hashlib.sha256(str(self.environment).encode()).hexdigest()[:10]
        return self.runtime / f"kappamask-stream-{os.getuid()}-{name}"

    def cli(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `kappamask-stream`; the exit code is checked."""
        ended = subprocess.run(
            [str(CLI), *arguments], env=self.variables, cwd="/", capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def holder(self, model: str = "null_l2a", *options: str) -> Holder:
        """Start a client that holds a lease."""
        process = subprocess.Popen(
            [sys.executable, str(HOLDER), model, *options],
            env=self.variables, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        made = Holder(process)
        self._holders.append(made)
        return made

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cli("server", "status", "--json").stdout)
        return found

    def processes(self) -> list[psutil.Process]:
        """Processes of this state that run: supervisor, builds, tritonserver, stubs; zombies are gone."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if self._is_ours(line) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def _is_ours(self, command_line: str) -> bool:
        """Builds name the environment's repository only: they are ours where the environment is."""
        ours = [str(self.folder)]
        if self.environment.is_relative_to(self.runtime):
            ours.append(f"--repository {self.environment}")
        return any(mark in command_line for mark in ours)

    def tritonservers(self) -> list[psutil.Process]:
        return [p for p in self.processes() if p.name() == "tritonserver"]

    def stubs(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it may end at any moment
                # One that has ended and was not waited for has none.
                found += [process] if "triton_python_backend_stub" in "".join(process.cmdline()[:1]) else []
        return found

    def regions(self) -> list[str]:
        """This state's shared memory regions."""
        prefix = f"triton_python_backend_shm_region_{hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]}_"
        return [path.name for path in Path("/dev/shm").glob(prefix + "*")]

    def remains(self) -> list[str]:
        """What an ended server must not leave; its logs and its lock stay."""
        kept = {"lock", "supervisor.log", "tritonserver.log"}
        files = [p.name for p in self.folder.iterdir() if p.name not in kept] if self.folder.exists() else []
        builds = [p.name for p in (self.environment / "models").glob(".*")]
        return [repr(p) for p in self.processes()] + self.regions() + files + builds

    def wait_until_gone(self) -> None:
        wait_until(lambda: not self.remains(), "nothing left of the server")

    def log(self) -> str:
        path = self.folder / "tritonserver.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> list[str]:
        """End all clients and what is kept; returns what was left in spite of that."""
        for holder in self._holders:
            holder.close()
        if self.processes() and self.status().get("hold"):
            self.cli("server", "stop")
        deadline = time.monotonic() + PATIENCE_S
        while (left := self.remains()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in self.processes():
            process.kill()
        return left
