"""Leases on the local server: it runs while somebody holds one.

The supervisor (``python -m server_models supervise``) listens on a Unix socket; the connection is the lease, so the
kernel gives it back however this process ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import InputError, KappaMaskError, OutputError, ServerSetupError, UsageError
from kappamask_stream.server.environment import ServerEnvironment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_SUPERVISOR_S = 30.0
_TRIES = 3
_KINDS: dict[str, type[KappaMaskError]] = {
    kind.__name__: kind for kind in (UsageError, InputError, OutputError, ServerSetupError)
}


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A leased server that serves the model asked for.

    Attributes
    ----------
    grpc_address : ``127.0.0.1:PORT``.
    metrics_url : Prometheus metrics.
    model_name : name of the served model.
    log_path : what Triton says.
    """

    grpc_address: str
    metrics_url: str
    model_name: str
    log_path: Path


def state_folder(environment: ServerEnvironment) -> Path:
    """Return the private folder of this user's server for an environment; short, for it holds a socket."""
    name = f"kappamask-stream-{os.getuid()}-{hashlib.sha256(str(environment.path).encode()).hexdigest()[:10]}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime if runtime and os.access(runtime, os.W_OK) else tempfile.gettempdir()) / name


@asynccontextmanager
async def lease_local_server(
    *,
    model: str,
    weights: Path | None = None,
    env: Path | None = None,
    keep: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> AsyncIterator[LocalServer]:
    """Hold a lease on the local server, starting it and building the model where need be.

    Parameters
    ----------
    model : Triton model name.
    weights : weights file to build it from.
    env : the server's environment, None for the user's own.
    keep : True leaves the server running when all leases have ended.
    on_progress : told what is being waited for.

    Raises
    ------
    ServerSetupError
        If the environment is not installed, or the server or the model does not start.
    """
    environment = ServerEnvironment.at(env)
    await asyncio.to_thread(environment.require)
    request = {"op": "lease", "model": model, "weights": _absolute(weights), "hold": keep}
    for attempt in range(_TRIES):
        reader, writer = await _connect(environment, spawn=True)
        try:
            ready = await _until_ready(reader, writer, request, on_progress or (lambda _: None))
            if ready is None:  # the supervisor was just leaving
                if attempt + 1 < _TRIES:
                    continue
                raise ServerSetupError(
                    f"the local server's supervisor ended; its log: {state_folder(environment) / 'supervisor.log'}"
                )
            yield LocalServer(
                grpc_address=ready["grpc"],
                metrics_url=ready["metrics"],
                model_name=ready["model"],
                log_path=Path(ready["log"]),
            )
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return


def _absolute(weights: Path | None) -> str | None:
    """Name a weights file as the supervisor, which runs elsewhere, finds it."""
    return str(weights.absolute()) if weights else None


async def server_status(env: Path | None = None) -> dict[str, Any] | None:
    """Return what the supervisor says of the local server; None where none runs."""
    return await _ask(ServerEnvironment.at(env), "status")


async def stop_server(env: Path | None = None) -> bool:
    """End the local server, whoever holds leases; returns False where none runs."""
    environment = ServerEnvironment.at(env)
    answer = await _ask(environment, "stop")
    if answer is None:
        return False
    await asyncio.to_thread(_wait_for_end, state_folder(environment) / "lock")
    return True


def _wait_for_end(lock: Path) -> None:
    """Wait until the supervisor has ended: it holds its lock for life."""
    with suppress(FileNotFoundError), lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


async def _ask(environment: ServerEnvironment, operation: str) -> dict[str, Any] | None:
    try:
        reader, writer = await _connect(environment, spawn=False)
    except OSError:
        return None
    try:
        writer.write(json.dumps({"op": operation}).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
        return json.loads(line) if line else None
    except ConnectionError:
        return None
    finally:
        writer.close()


async def _until_ready(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Send the request and follow events until the model is ready; None where the connection ends before."""
    with suppress(ConnectionError):
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        while line := await reader.readline():
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "ready":
                return event
            if event["event"] == "error":
                raise _KINDS.get(event["kind"], ServerSetupError)(event["message"])
            say(event["text"])
    return None


async def _connect(environment: ServerEnvironment, *, spawn: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the supervisor, starting it if `spawn`.

    Raises
    ------
    OSError
        If none runs and none is to be started.
    ServerSetupError
        If it does not come up.
    """
    state = state_folder(environment)
    path = str(state / "lease.sock")
    try:
        return await asyncio.open_unix_connection(path)
    except OSError:
        if not spawn:
            raise
    process = await asyncio.to_thread(_spawn, environment, state)
    deadline = asyncio.get_running_loop().time() + _SUPERVISOR_S
    while asyncio.get_running_loop().time() < deadline:
        with suppress(OSError):
            return await asyncio.open_unix_connection(path)
        if process.poll() not in (None, 0):
            break
        await asyncio.sleep(0.05)
    raise ServerSetupError(f"the local server's supervisor did not start; its log: {state / 'supervisor.log'}")


def _spawn(environment: ServerEnvironment, state: Path) -> subprocess.Popen[bytes]:
    """Start a supervisor that outlives this process; a second one notices the first and leaves."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if state.stat().st_uid != os.getuid() or state.stat().st_mode & 0o077:
            raise ServerSetupError(f"{state} is not private to this user: remove it")
        with (state / "supervisor.log").open("wb") as log:
            return subprocess.Popen(
                [
                    str(environment.python), "-m", "server_models", "supervise",
                    "--state", str(state), "--repository", str(environment.repository),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise ServerSetupError(f"cannot start the local server from {state}: {error.strerror}") from error
