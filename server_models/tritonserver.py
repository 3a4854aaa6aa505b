"""The tritonserver process: its files, its command line, its process group."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path

from kappamask_stream.errors import ServerSetupError

_PR_SET_PDEATHSIG = 1
#: Seconds between SIGTERM and SIGKILL: with requests queued, tritonserver takes half a minute to leave by itself.
_GRACE_S = 1.5
_ALLOCATION_POOL = 64


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


@dataclass
class TritonProcess:
    """A tritonserver on loopback ports, in a process group of its own, serving nothing until told to.

    Attributes
    ----------
    repository : model repository.
    private : folder of this server only: backend directory, log.
    grpc_port, metrics_port : on 127.0.0.1.
    key : header value without which model control is refused.
    """

    repository: Path
    private: Path
    grpc_port: int = 0
    metrics_port: int = 0
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    process: subprocess.Popen[bytes] | None = None

    #: Name of the header that carries `key`.
    KEY_HEADER = "triton-grpc-protocol-kappamask-key"

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
        files = triton_files()
        backends = self._private_backends(files)
        if not self.grpc_port:
            self.grpc_port, self.metrics_port = free_ports(2)
        command = [
            str(files / "bin" / "tritonserver"),
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
            f"--grpc-restricted-protocol=model-repository,shared-memory:kappamask-key={self.key}",
            f"--grpc-infer-allocation-pool-size={_ALLOCATION_POOL}",
            "--backend-config=python,shm-default-byte-size=16777216",
            "--disable-auto-complete-config",
            "--exit-timeout-secs=5",
        ]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(files),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one thread runs here
            )

    def stop(self) -> None:
        """End the whole process group, with patience first; returns when all of it is gone."""
        if self.process is None:
            return
        group = self.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                break
            time.sleep(0.02)
        _remove_shared_memory()

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
        shutil.copy2(stub / "triton_python_backend_stub", target / "triton_python_backend_stub")
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


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent is gone, whatever way."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _remove_shared_memory() -> None:
    """Remove regions that a killed Python backend left: their names carry no owner, so those nobody maps any more."""
    shm = Path("/dev/shm")  # noqa: S108 - POSIX shared memory
    regions = [path for path in shm.glob("triton_python_backend_shm_region_*") if path.stat().st_uid == os.getuid()]
    if not regions:
        return
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            text = maps.read_text()
            mapped |= {path for path in regions if str(path) in text}
    for path in set(regions) - mapped:
        with contextlib.suppress(OSError):
            path.unlink()
