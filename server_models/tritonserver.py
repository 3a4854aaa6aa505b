"""The tritonserver process: its files, its command line, its process group."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from kappamask_stream.errors import ServerSetupError
from server_models.leftovers import adopt_orphans, end_group, guard, hide_argument, region_prefix, remove_leftovers
from server_models.tether import tethered

_ALLOCATION_POOL = 64
_LOG_LIMIT = 8 * 1024 * 1024
#: How Triton begins a line of its log; what the dynamic linker says may stand before the first one.
_SAID, _FIRST_BYTES = re.compile(rb"^[IWE]\d{4} ", re.MULTILINE), 64 * 1024
#: What only the supervisor may do: loading (a model is code), writing logs and traces to files.
RESTRICTED = ("model-repository", "trace", "logging")


def triton_files() -> Path:
    """Return the folder of the wheel nvidia-pytriton that carries NVIDIA's server.

    Raises
    ------
    ServerSetupError
        If the wheel is not installed.
    """
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise ServerSetupError(
            "nvidia-pytriton is not installed in the server's environment: run `kappamask-stream server install`"
        )
    return Path(found.submodule_search_locations[0]) / "tritonserver"


def triton_program() -> Path:
    """Return NVIDIA's tritonserver.

    Raises
    ------
    ServerSetupError
        If it is not there.
    """
    program = triton_files() / "bin" / "tritonserver"
    if not os.access(program, os.X_OK):
        raise ServerSetupError(
            f"Triton's program {program} is missing or cannot be run: run `kappamask-stream server install` again"
        )
    return program


def libpython_folder() -> Path:
    """Return the folder of the interpreter's shared libpython, which Triton's Python stub needs.

    Raises
    ------
    ServerSetupError
        If this Python was built without one.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib", "/usr/lib/x86_64-linux-gnu"]
    for folder in folders:
        if folder and (Path(folder) / name).exists():
            return Path(folder)
    raise ServerSetupError(
        f"{sys.executable} has no shared {name} (looked in {', '.join(str(f) for f in folders if f)}): "
        "use a Python built with --enable-shared (your distribution's package, e.g. libpython3.11)"
    )


def free_ports(count: int) -> list[int]:
    """Return loopback TCP ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def require_free(port: int, log: Path) -> None:
    """Refuse a port on which somebody listens, or that this user may not use.

    Raises
    ------
    ServerSetupError
        With the port, the system's reason and the remedy.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Triton does: old connections are no bar
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerSetupError(
                f"Triton cannot listen on port {port} of 127.0.0.1 ({os.strerror(error.errno or 0).lower()}): choose "
                f"another with --port, or leave --port out to take a free one; Triton's log: {log}"
            ) from error


@dataclass
class TritonProcess:
    """A tritonserver on loopback ports, in a process group of its own, serving nothing until told to.

    Attributes
    ----------
    repository : model repository.
    private : folder of this server only: backend directory, log.
    grpc_port, metrics_port : on 127.0.0.1; 0 is chosen at the start.
    restricted : parts of the protocol that want the key.
    key : header value without which they are refused.
    memory_key : header value for clients that share memory with the server, which holders of leases are told.
    backend_bytes : shared memory of each process of the Python backend at its start; it grows.
    """

    repository: Path
    private: Path
    grpc_port: int = 0
    metrics_port: int = 0
    restricted: tuple[str, ...] = RESTRICTED
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    memory_key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    backend_bytes: int = 16 * 2**20
    process: subprocess.Popen[bytes] | None = None
    _log_bytes: int = field(default=0, init=False, repr=False)
    _guard: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    #: Name of the header that carries `key`.
    KEY_HEADER = "triton-grpc-protocol-kappamask-key"
    #: Name of the header that carries `memory_key`; the same as `kappamask_stream.inference.server_memory.KEY_HEADER`.
    MEMORY_HEADER = "triton-grpc-protocol-kappamask-memory"

    @property
    def log_path(self) -> Path:
        """Where the server writes what it says."""
        return self.private / "tritonserver.log"

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process; call from the main thread (the kernel ends it with the thread that forked it).

        Raises
        ------
        ServerSetupError
            If files are missing.
        """
        files, program = triton_files(), triton_program()
        backends = self._private_backends(files)
        fresh = free_ports(2)
        self.grpc_port = self.grpc_port or fresh[0]
        self.metrics_port = self.metrics_port or fresh[1]
        adopt_orphans()
        _cap(self.log_path)
        self._log_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                tethered(self._command(program, backends), signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(files),
                start_new_session=True,
            )
        self._guard = guard(self.private, self.process.pid)

    def hide_keys(self) -> bool:
        """Take the keys out of the process list, once the server has read them: it says nothing before.

        Returns
        -------
        True where that is done; False where it is too early, done already, or the system does not let us.
        """
        if self.process is None or not self._has_read_options():
            return False
        hidden = [hide_argument(self.process.pid, key) for key in (self.key, self.memory_key)]
        return all(hidden)

    def _has_read_options(self) -> bool:
        with self.log_path.open("rb") as log:
            log.seek(self._log_bytes)
            return _SAID.search(log.read(_FIRST_BYTES)) is not None

    def stop(self) -> None:
        """End the whole process group at once; returns when all of it and what it left is gone.

        A tritonserver that is asked to end takes 3 s, with requests queued half a minute, and has nothing to save.
        """
        if self.process is None:
            return
        end_group(self.process.pid)
        self.process.wait()
        self.process = None
        remove_leftovers(self.private)
        if self._guard is not None:  # it has nothing left to do, and must not meet what the next server makes
            self._guard.kill()
            self._guard.wait()
            self._guard = None

    def _command(self, program: Path, backends: Path) -> list[str]:
        python = f"shm-default-byte-size={self.backend_bytes}", f"shm-region-prefix-name={region_prefix(self.private)}"
        return [
            str(program),
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",
            "--model-control-mode=explicit",
            "--allow-http=false",
            "--allow-grpc=true",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.grpc_port}",
            "--allow-metrics=true",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self.metrics_port}",
            "--allow-gpu-metrics=false",
            f"--grpc-restricted-protocol={','.join(self.restricted)}:kappamask-key={self.key}",
            f"--grpc-restricted-protocol=shared-memory:kappamask-memory={self.memory_key}",
            f"--grpc-infer-allocation-pool-size={_ALLOCATION_POOL}",
            *(f"--backend-config=python,{setting}" for setting in python),
            "--disable-auto-complete-config",
        ]

    def _private_backends(self, files: Path) -> Path:
        """Make a backend directory with the stub of the running Python beside Triton's Python backend."""
        source, target = files / "backends" / "python", self.private / "backends" / "python"
        stub = files / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
        if not (stub / "triton_python_backend_stub").exists():
            raise ServerSetupError(
                f"nvidia-pytriton has no stub for Python {sys.version_info.major}.{sys.version_info.minor}: "
                "install the server's environment with Python 3.11 or 3.12"
            )
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.is_file():
                link = target / path.name
                link.unlink(missing_ok=True)
                link.symlink_to(path)
        # The stub is looked for beside the backend by its real path, so it is copied.
        copied = target / "triton_python_backend_stub"
        copied.unlink(missing_ok=True)
        shutil.copy2(stub / "triton_python_backend_stub", copied)
        return target.parent

    def _environment(self, files: Path) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "TZ") if name in os.environ}
        libraries = [str(libpython_folder()), str(files.parent.parent / "nvidia_pytriton.libs")]
        return {
            **keep,
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PYTHONNOUSERSITE": "1",
            "OMP_NUM_THREADS": "1",
        }


def _cap(log: Path) -> None:
    """Keep the end of a long log."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.write_bytes(log.read_bytes()[-_LOG_LIMIT // 2 :])
