"""The process that owns the local Triton: it lives as long as somebody holds a lease.

Protocol: a Unix socket in a private folder, one JSON object a line. A client sends one request; for ``lease`` the
connection itself is the lease, so it ends with the client, whatever way the client ends.

    {"op": "lease", "model": NAME, "weights": PATH or null, "hold": bool}
        -> {"event": "progress", "text": …} …, {"event": "ready", …} or {"event": "error", …}
    {"op": "status"} -> {"event": "status", …}
    {"op": "stop"}   -> {"event": "stopping"}

A hold is a lease without a connection: ``stop`` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import KappaMaskError, ServerSetupError
from server_models import selfcheck
from server_models.repository import built_contract, is_current
from server_models.tritonserver import TritonProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str], None]

_FIRST_LEASE_S = 30.0
_READY_S = 60.0
_RESTARTS = 3
_LOG_LIMIT = 8 * 1024 * 1024
_SOCKET = "lease.sock"


class Supervisor:
    """State: the leases (open connections), the hold, loaded models, the server, restarts left."""

    def __init__(self, state: Path, repository: Path) -> None:
        self._state = state
        self._server = TritonProcess(repository, state)
        self._leases: set[asyncio.StreamWriter] = set()
        self._hold = False
        self._models: list[str] = []
        self._changing = asyncio.Lock()
        self._over = asyncio.Event()
        self._restarts = _RESTARTS

    async def run(self) -> None:
        """Serve until the last lease is gone, then end the server and leave nothing behind."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        path = self._state / _SOCKET
        path.unlink(missing_ok=True)
        listener = await asyncio.start_unix_server(self._serve, path)
        first_lease = loop.call_later(_FIRST_LEASE_S, self._end_if_unused)
        watch = asyncio.create_task(self._watch())
        try:
            await self._over.wait()
        finally:
            path.unlink(missing_ok=True)
            first_lease.cancel()
            watch.cancel()
            listener.close()
            self._server.stop()
            shutil.rmtree(self._state / "backends", ignore_errors=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(**event: Any) -> None:
            writer.write(json.dumps(event).encode() + b"\n")

        try:
            request = json.loads(await reader.readline() or b"{}")
            if request.get("op") == "lease":
                await self._lease(request, reader, writer, send)
            elif request.get("op") == "status":
                send(event="status", **self._status())
            elif request.get("op") == "stop":
                send(event="stopping")
                await writer.drain()
                self._over.set()
            else:
                send(event="error", kind="UsageError", message=f"unknown request {request!r}")
        except (ConnectionError, json.JSONDecodeError):
            pass
        finally:
            self._leases.discard(writer)
            with contextlib.suppress(ConnectionError):
                writer.close()
            self._end_if_unused()

    async def _lease(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, send: Any
    ) -> None:
        self._leases.add(writer)
        preparing = asyncio.create_task(self._prepare(request, lambda text: send(event="progress", text=text)))
        gone = asyncio.create_task(reader.read())
        await asyncio.wait([preparing, gone], return_when=asyncio.FIRST_COMPLETED)
        if not preparing.done():  # the client left while the model was being built
            preparing.cancel()
        try:
            model = await preparing
        except asyncio.CancelledError:
            return
        except KappaMaskError as error:
            send(event="error", kind=type(error).__name__, message=str(error))
            await writer.drain()
            gone.cancel()
            return
        self._hold = self._hold or bool(request.get("hold"))
        send(event="ready", model=model, **self._status())
        await gone

    async def _prepare(self, request: dict[str, Any], say: Say) -> str:
        """Build, start and load what a lease needs; returns the name under which the model is served."""
        async with self._changing:
            model = await self._built(str(request["model"]), request.get("weights"), say)
            if not self._server.is_alive:
                await self._start(say)
            if model not in self._models:
                await self._load(model, say)
                self._models.append(model)
            return model

    async def _built(self, model: str, weights: str | None, say: Say) -> str:
        """Build a model in a process of its own, unless it is there as this version would build it."""
        repository = self._server.repository
        if await asyncio.to_thread(_is_built, model, repository, weights):
            return model
        if model in self._models:
            raise ServerSetupError(
                f"the server on this machine serves {model} with other weights than {weights}: end those runs "
                "(`kappamask-stream server stop`), then try again"
            )
        say(f"building {model}")
        command = ["-m", "server_models", "build", model, "--repository", str(repository)]
        command += ["--weights", weights] if weights is not None else []
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            output, complaint = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        event = json.loads(output.splitlines()[-1]) if output.strip() else {}
        if process.returncode or event.get("event") != "built":
            message = event.get("message") or complaint.decode(errors="replace")[-500:].strip()
            raise ServerSetupError(f"cannot build {model}: {message}")
        return str(event["model"])

    async def _start(self, say: Say) -> None:
        """Start Triton and wait until it is ready; ports that somebody took meanwhile are chosen anew."""
        _cap(self._server.log_path)
        say("starting Triton")
        for attempt in range(3):
            self._server.start()
            with contextlib.closing(self._client()) as client:
                if await self._is_ready(client):
                    return
            self._server.stop()
            if attempt < 2:  # noqa: PLR2004
                self._server.grpc_port = 0
        raise ServerSetupError(f"Triton did not start; its log says why: {self._server.log_path}")

    async def _is_ready(self, client: triton.InferenceServerClient) -> bool:
        deadline = time.monotonic() + _READY_S
        while self._server.is_alive and time.monotonic() < deadline:
            with contextlib.suppress(InferenceServerException):
                if await asyncio.to_thread(client.is_server_ready, client_timeout=2.0):
                    return True
            await asyncio.sleep(0.05)
        return False

    async def _load(self, model: str, say: Say) -> None:
        say(f"loading {model}")
        contract = await asyncio.to_thread(built_contract, model, self._server.repository)
        with contextlib.closing(self._client()) as client:
            try:
                headers = {TritonProcess.KEY_HEADER: self._server.key}
                await asyncio.to_thread(client.load_model, model, headers=headers, client_timeout=600.0)
            except InferenceServerException as error:
                raise ServerSetupError(
                    f"Triton cannot load {model}: {error.message()}; its log: {self._server.log_path}"
                ) from error
            if contract is None:
                raise ServerSetupError(f"{model} in {self._server.repository} has no readable contract: build it again")
            say(f"checking {model}")
            await asyncio.to_thread(selfcheck.check, client, contract)

    async def _watch(self) -> None:
        """Start Triton again, at the same address and with the same models, when it dies by itself."""
        while True:
            await asyncio.sleep(0.25)
            if self._server.process is None or self._server.is_alive or self._changing.locked():
                continue
            async with self._changing:
                self._server.stop()
                if not self._restarts:
                    self._over.set()
                    return
                self._restarts -= 1
                try:
                    await self._start(lambda _: None)
                    for model in self._models:
                        await self._load(model, lambda _: None)
                except KappaMaskError:
                    self._over.set()

    def _client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(f"127.0.0.1:{self._server.grpc_port}")

    def _status(self) -> dict[str, Any]:
        return {
            "running": self._server.is_alive,
            "grpc": f"127.0.0.1:{self._server.grpc_port}",
            "metrics": f"http://127.0.0.1:{self._server.metrics_port}/metrics",
            "models": self._models,
            "leases": len(self._leases),
            "hold": self._hold,
            "log": str(self._server.log_path),
            "pid": os.getpid(),
        }

    def _end_if_unused(self) -> None:
        if not self._leases and not self._hold:
            self._over.set()


def _is_built(model: str, repository: Path, weights: str | None) -> bool:
    """Tell whether a model is built as this version would, from these weights (None: whatever it was built from)."""
    if not is_current(model, repository):
        return False
    if weights is None:
        return True
    contract = built_contract(model, repository)
    try:
        with Path(weights).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ServerSetupError(f"cannot read the weights {weights}: {error.strerror}") from error
    return contract is not None and contract.weights_sha256 == digest


def supervise(state: Path, repository: Path) -> None:
    """Run the one supervisor of a state folder; returns at once where another one serves it."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        deadline = time.monotonic() + 20
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if _answers(state / _SOCKET):
                    return
                if time.monotonic() > deadline:
                    raise ServerSetupError(f"another supervisor holds {state / 'lock'} and does not answer") from None
                time.sleep(0.05)
        asyncio.run(Supervisor(state, repository).run())


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _cap(log: Path) -> None:
    """Keep the end of a long log."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.write_bytes(log.read_bytes()[-_LOG_LIMIT // 2 :])
