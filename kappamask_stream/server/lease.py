"""Leases on the local server: it runs while somebody holds one.

The supervisor (``python -m server_models supervise``) listens on a Unix socket; the connection is the lease, so the
kernel gives it back however this process ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import stat
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import ServerSetupError, error_kinds
from kappamask_stream.server.environment import ServerEnvironment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_SUPERVISOR_S = 30.0
_TRIES = 3
_SOCKET = "lease.sock"
#: The kernel's limit for the path of a Unix socket is 108 bytes with the zero at its end.
_LONGEST_SOCKET_PATH = 107
_LOG_LIMIT = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A leased server that serves the model asked for.

    Attributes
    ----------
    grpc_address : ``127.0.0.1:PORT``.
    metrics_url : Prometheus metrics.
    model_name : name of the served model.
    log_path : what Triton says.
    memory_key : with which the server lets its clients share memory with it, a secret of this user; None where it is
        of a version that has no such key.
    """

    grpc_address: str
    metrics_url: str
    model_name: str
    log_path: Path
    memory_key: str | None = field(repr=False)


def state_folder(environment: ServerEnvironment) -> Path:
    """Return the private folder of this user's server for an environment; short, for it holds a socket."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parent = Path(runtime if runtime and os.access(runtime, os.W_OK) else tempfile.gettempdir()).absolute()
    folder = parent / _state_name(str(environment.path))
    if len(os.fsencode(folder / _SOCKET)) > _LONGEST_SOCKET_PATH:
        folder = Path("/tmp") / _state_name(f"{environment.path}\0{parent}")  # noqa: S108 - private: see `_require_private`
    return folder


def _state_name(owner: str) -> str:
    return f"kappamask-stream-{os.getuid()}-{hashlib.sha256(owner.encode()).hexdigest()[:10]}"


@asynccontextmanager
async def lease_local_server(
    *,
    model: str,
    weights: Path | None = None,
    env: Path | None = None,
    keep: bool = False,
    port: int | None = None,
    on_progress: Callable[[str], None] | None = None,
    on_checked: Callable[[dict[str, Any]], None] | None = None,
    check_tiles: Path | None = None,
) -> AsyncIterator[LocalServer]:
    """Hold a lease on the local server, starting it and building the model where need be.

    Parameters
    ----------
    model : Triton model name.
    weights : weights file to build it from.
    env : the server's environment, None for the user's own.
    keep : True leaves the server running when all leases have ended.
    port : gRPC port on 127.0.0.1, None for any.
    on_progress : told what is being waited for.
    on_checked : where given, the model is checked at every batch size, whatever is on record, and this is handed the
        report before the lease begins or is refused.
    check_tiles : a user's file of tiles for that check; None for built-in ones.

    Raises
    ------
    ServerSetupError
        If the environment is not installed, the port is taken, the server or the model does not start, or the model
        has failed its check.
    UsageError, InputError, OutputError
        If the model cannot be built.
    """
    environment = ServerEnvironment.at(env)
    await asyncio.to_thread(environment.require)
    request: dict[str, Any] = {"op": "lease", "model": model, "weights": _absolute(weights), "hold": keep, "port": port}
    if on_checked is not None:
        request["check"] = {"tiles": _absolute(check_tiles)}
    for attempt in range(_TRIES):
        reader, writer = await _connect(environment, spawn=True)
        try:
            ready = await _until_ready(
                reader, writer, request, on_progress or (lambda _: None), on_checked or (lambda _: None)
            )
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
                memory_key=ready.get("memory_key"),
            )
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return


def _absolute(path: Path | None) -> str | None:
    """Name a file as the supervisor, which runs elsewhere, finds it."""
    return str(path.absolute()) if path else None


async def server_status(env: Path | None = None) -> dict[str, Any] | None:
    """Return what the supervisor says of the local server; None where none runs."""
    return await _ask(ServerEnvironment.at(env), "status")


async def stop_server(env: Path | None = None) -> bool:
    """End the local server, whoever holds leases, and wait until it is gone; returns False where none runs."""
    answer = await _ask(ServerEnvironment.at(env), "stop")
    if answer is None:
        return False
    await asyncio.to_thread(_wait_for_end, int(answer["pid"]))
    return True


def _wait_for_end(pid: int) -> None:
    """Wait for a process that is no child of this one."""
    with suppress(OSError):  # gone already
        descriptor = os.pidfd_open(pid)
        try:
            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)


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
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: dict[str, Any],
    say: Callable[[str], None],
    on_checked: Callable[[dict[str, Any]], None],
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
                raise error_kinds().get(event["kind"], ServerSetupError)(event["message"])
            if event["event"] == "checked":
                on_checked(event["report"])
            else:
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
    _require_private(state)
    path = str(state / _SOCKET)
    pid: int | None = None
    deadline = asyncio.get_running_loop().time() + _SUPERVISOR_S
    while True:
        try:
            return await asyncio.open_unix_connection(path)
        except OSError:
            if not spawn:
                raise
        ended = _exit_code(pid) if pid is not None else 0
        if ended not in (None, 0) or asyncio.get_running_loop().time() > deadline:
            break
        if ended == 0:  # none yet, or one that found another, which then left
            pid = _spawn(environment, state)
        await asyncio.sleep(0.05)
    raise ServerSetupError(f"the local server's supervisor did not start; its log: {state / 'supervisor.log'}")


def _require_private(state: Path) -> None:
    """Refuse a state folder that another user could have made: who owns its socket is trusted.

    Raises
    ------
    ServerSetupError
        With the remedy.
    """
    try:
        found = state.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ServerSetupError(f"{state} is no folder that only this user can enter: remove it, then try again")


def _spawn(environment: ServerEnvironment, state: Path) -> int:
    """Start a supervisor that outlives this process; a second one notices the first and leaves."""
    command = [str(environment.python), "-I", "-m", "server_models", "supervise"]
    command += ["--state", str(state), "--repository", str(environment.repository)]
    log = state / "supervisor.log"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(state)
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.unlink()
        return os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        raise ServerSetupError(f"cannot start the local server from {state}: {error.strerror}") from error


def _exit_code(pid: int) -> int | None:
    """Return how a supervisor that was started here has ended, None while it runs."""
    try:
        ended, code = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(code) if ended else None
