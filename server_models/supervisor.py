"""The process that owns the local Triton: it lives as long as somebody holds a lease.

Protocol: a Unix socket in a private folder, one JSON object a line. A client sends one request; for ``lease`` the
connection itself is the lease, so it ends with the client, whatever way the client ends.

    {"op": "lease", "model": NAME, "weights": PATH or null, "hold": bool, "port": PORT or null,
     "check": {"tiles": PATH or null} or null}
        -> {"event": "progress", "text": …} …, with a check {"event": "checked", "report": …},
           {"event": "ready", …} or {"event": "error", "kind": …, "message": …}
    {"op": "status"} -> {"event": "status", …}
    {"op": "stop"}   -> {"event": "stopping", "pid": …}; when that process has ended, everything has

A hold is a lease without a connection: ``stop`` ends it. A connection that ends before ``ready`` without an ``error``
met a supervisor that was leaving: the client asks the next one.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import KappaMaskError, ServerSetupError
from server_models.leftovers import end_stragglers, remove_leftovers
from server_models.serving import Serving

if TYPE_CHECKING:
    from pathlib import Path

#: A supervisor whose client is gone before it asked for a lease ends.
_FIRST_LEASE_S = 5.0
_SOCKET = "lease.sock"


class Supervisor:
    """State: leases (open connections), the hold, tasks that answer connections, the end and its reason."""

    def __init__(self, state: Path, repository: Path) -> None:
        self._state = state
        self._serving = Serving(repository, state)
        self._leases: set[asyncio.StreamWriter] = set()
        self._hold = False
        self._answering: set[asyncio.Task[Any]] = set()
        self._over = asyncio.Event()
        self._last_words: str | None = None

    async def run(self) -> None:
        """Serve until the last lease is gone, then end the server and leave nothing behind."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, f"the local server was ended by {number.name}")
        path = self._state / _SOCKET
        path.unlink(missing_ok=True)
        listener = await asyncio.start_unix_server(self._serve, path)
        first_lease = loop.call_later(_FIRST_LEASE_S, self._end_if_unused)
        watch = asyncio.create_task(self._watch())
        try:
            await self._over.wait()
        finally:
            # Off the file system first: who comes from now on starts another supervisor, which waits for the lock.
            path.unlink(missing_ok=True)
            listener.close()
            first_lease.cancel()
            for task in (watch, *self._answering):
                task.cancel()
            await asyncio.gather(watch, *self._answering, return_exceptions=True)
            self._serving.stop()
            shutil.rmtree(self._state / "backends", ignore_errors=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._answering.add(task)

        def send(**event: Any) -> None:
            writer.write(json.dumps(event).encode() + b"\n")

        try:
            request = json.loads(await reader.readline() or b"{}")
            operation = request.get("op")
            if self._over.is_set():
                return
            if operation == "lease":
                await self._lease(request, reader, writer, send)
            elif operation == "status":
                send(event="status", **self._status())
            elif operation == "stop":
                send(event="stopping", pid=os.getpid())
                self._end("the local server was stopped with `kappamask-stream server stop`")
            else:
                send(event="error", kind="UsageError", message=f"unknown request {request!r}")
        except (ConnectionError, ValueError, asyncio.CancelledError):
            pass  # gone; no JSON object a line; the end, which asyncio would log as an error
        finally:
            self._answering.discard(task)
            writer.close()  # what was sent is flushed first

    async def _lease(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, send: Any
    ) -> None:
        """Prepare what a lease asks for and keep the lease until the client is gone."""
        self._leases.add(writer)
        gone = asyncio.create_task(reader.read())
        preparing = asyncio.create_task(
            self._serving.prepare(
                request,
                lambda text: send(event="progress", text=text),
                alone=lambda: len(self._leases) == 1,
                on_checked=lambda report: send(event="checked", report=report),
            )
        )
        try:
            await asyncio.wait([preparing, gone], return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done():  # the client left while the model was being prepared
                return
            model = preparing.result()
            self._hold = self._hold or bool(request.get("hold"))
            send(event="ready", model=model, memory_key=self._serving.memory_key, **self._status())
            await gone
        except asyncio.CancelledError:
            if not preparing.done() and self._last_words is not None:
                send(event="error", kind=ServerSetupError.__name__, message=self._last_words)
            raise
        except KappaMaskError as error:
            send(event="error", kind=type(error).__name__, message=str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not look like a supervisor that leaves
            traceback.print_exc()
            said = f"the local server's supervisor failed: {error!r}; its log: {self._state / 'supervisor.log'}"
            send(event="error", kind=ServerSetupError.__name__, message=said)
        finally:
            for task in (preparing, gone):
                task.cancel()
            await asyncio.gather(preparing, gone, return_exceptions=True)
            self._leases.discard(writer)
            self._end_if_unused()

    async def _watch(self) -> None:
        """End when Triton cannot be kept alive."""
        self._end(await self._serving.keep_alive())

    def _status(self) -> dict[str, Any]:
        return {**self._serving.status(), "leases": len(self._leases), "hold": self._hold, "pid": os.getpid()}

    def _end(self, reason: str) -> None:
        """End, with a reason for the log and for clients that wait."""
        self._last_words = reason
        sys.stderr.write(reason + "\n")
        self._over.set()

    def _end_if_unused(self) -> None:
        if not self._leases and not self._hold:
            self._over.set()


def supervise(state: Path, repository: Path) -> None:
    """Run the one supervisor of a state folder; returns at once where another one serves it."""
    os.chdir("/")  # no folder of a client is kept busy
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
        # A supervisor before us may have been killed: its server is dead or dying, and nobody has cleaned up.
        end_stragglers(state)
        remove_leftovers(state)
        asyncio.run(Supervisor(state, repository).run())


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
