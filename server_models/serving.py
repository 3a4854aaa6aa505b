"""What the supervisor does with its Triton: build, start, load, check, start again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from kappamask_stream.errors import ContractError, KappaMaskError, ServerSetupError, UsageError, error_kinds
from server_models import selfcheck
from server_models.leftovers import is_running, scratch_noted, stubs_of
from server_models.registry import known_models
from server_models.repository import built_contract, is_built
from server_models.tether import tethered
from server_models.tritonserver import TritonProcess, require_free

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Say = Callable[[str], None]

_READY_S, _LOAD_S, _BUILD_ENDS_S = 60.0, 600.0, 5.0
_STARTS, _WATCH_S = 3, 0.25
#: A Triton that dies oftener than so many times in so many seconds is not started again.
_CRASHES, _CRASH_WINDOW_S = 3, 600.0


class Serving:
    """A local Triton and the models in it.

    State: the process; the contracts of loaded models by name; the Python backend's processes; when one of all these
    crashed lately. `_changing` is held while any of it changes.
    """

    def __init__(self, repository: Path, state: Path) -> None:
        self._server = TritonProcess(repository, state)
        self._state = state
        self._loaded: dict[str, ModelContract] = {}
        self._stubs: set[int] = set()
        self._changing = asyncio.Lock()
        self._fixed_port: int | None = None
        self._crashes: deque[float] = deque(maxlen=_CRASHES)

    def status(self) -> dict[str, Any]:
        """Say where the server is and what it serves."""
        process = self._server.process
        return {
            "running": self._server.is_alive,
            "grpc": f"127.0.0.1:{self._server.grpc_port}",
            "metrics": f"http://127.0.0.1:{self._server.metrics_port}/metrics",
            "models": sorted(self._loaded),
            "log": str(self._server.log_path),
            "triton_pid": process.pid if process else None,
        }

    async def prepare(self, request: dict[str, Any], say: Say, *, alone: Callable[[], bool]) -> str:
        """Build, start and load what a lease needs; returns the name under which the model is served.

        Parameters
        ----------
        alone : tells whether nobody else uses the server now: a model may be replaced then.

        Raises
        ------
        KappaMaskError
            Saying what is wrong, where to read more and what to do.
        """
        model, weights = str(request["model"]), request.get("weights")
        if self._changing.locked():
            say("waiting for another run's model")
        async with self._changing:
            try:
                self._require_port(request.get("port"))
                await self._build(model, weights, say, alone=alone())
                if not self._server.is_alive:
                    await self._start(say)
                await self._load(model, say)
            except OSError as error:
                raise ServerSetupError(
                    f"cannot prepare {model} in {self._server.repository}: {error.strerror} ({error.filename})"
                ) from error
        return model

    async def keep_alive(self) -> str:
        """Start Triton again whenever it or a model's process dies, at the same address and with the same models.

        Triton itself does not start a dead stub of its Python backend again. Returns why it cannot be kept alive.
        """
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._server.process is None or self._is_whole() or self._changing.locked():
                continue
            async with self._changing:
                self._crashes.append(time.monotonic())
                if len(self._crashes) == _CRASHES and self._crashes[-1] - self._crashes[0] < _CRASH_WINDOW_S:
                    often = f"{_CRASHES} times within {_CRASH_WINDOW_S:g} s"
                    return f"Triton or its backend died {often}; its log: {self._server.log_path}"
                try:
                    await self._restart(lambda _: None)
                except (KappaMaskError, OSError) as error:
                    return str(error)

    def _is_whole(self) -> bool:
        return self._server.is_alive and all(is_running(pid) for pid in self._stubs)

    async def _restart(self, say: Say) -> None:
        """End Triton and start it at the same address with the same models."""
        models = list(self._loaded)
        self._server.stop()
        await self._start(say, same_address=True)
        for model in models:
            await self._load(model, say)

    def stop(self) -> None:
        """End the server."""
        self._server.stop()

    def _require_port(self, port: int | None) -> None:
        """Take a wish for a port: before the start it is followed, afterwards it can only be compared."""
        if port is None:
            return
        if not self._server.is_alive:
            self._fixed_port = port
        elif port != self._server.grpc_port:
            raise ServerSetupError(
                f"the local server runs on port {self._server.grpc_port} already, not on {port}: end it with "
                "`kappamask-stream server stop`, or leave --port out"
            )

    async def _build(self, model: str, weights: str | None, say: Say, *, alone: bool) -> None:
        """Build a model in a process of its own, unless it is there as this version would build it.

        A model that the registry does not know is its owner's: a folder in the repository is all that it needs.
        """
        repository = self._server.repository
        own = repository / model / "config.pbtxt"
        if model not in known_models() and own.parent.parent == repository and own.exists():
            if weights is not None:
                raise UsageError(f"{model} in {repository} is not built by kappamask-stream: it takes no weights file")
            return
        if await asyncio.to_thread(is_built, model, repository, weights):
            built = await asyncio.to_thread(built_contract, model, repository)
            if self._loaded.get(model, built) == built:
                return
        if model in self._loaded and not alone:
            raise ServerSetupError(
                f"the local server serves {model} as it was built before, with weights "
                f"{self._loaded[model].weights_sha256[:12]}, to other runs: let them end, or end them with "
                "`kappamask-stream server stop`, then try again"
            )
        if not await asyncio.to_thread(is_built, model, repository, weights):
            say(f"building {model}")
            await _built_apart(model, repository, weights)
        if self._loaded.pop(model, None) is not None:
            await self._restart(say)

    async def _start(self, say: Say, *, same_address: bool = False) -> None:
        """Start Triton and wait until it is ready; a free port that somebody took meanwhile is chosen anew."""
        if self._fixed_port is not None:
            require_free(self._fixed_port, self._server.log_path)
            self._server.grpc_port = self._fixed_port
        say("starting Triton")
        self._loaded.clear()
        self._stubs.clear()
        for _ in range(_STARTS):
            self._server.start()
            try:
                with contextlib.closing(self._client()) as client:
                    if await self._is_ready(client):
                        self._server.hide_key()
                        return
            except asyncio.CancelledError:  # who asked is gone; whoever waits must not find half a server
                self._server.stop()
                raise
            self._server.stop()
            self._server.metrics_port = 0
            if self._fixed_port is None and not same_address:
                self._server.grpc_port = 0
        raise ServerSetupError(
            f"Triton did not start, tried {_STARTS} times; its log says why: {self._server.log_path}"
        )

    async def _is_ready(self, client: triton.InferenceServerClient) -> bool:
        deadline = time.monotonic() + _READY_S
        while self._server.is_alive and time.monotonic() < deadline:
            with contextlib.suppress(InferenceServerException):
                if await asyncio.to_thread(client.is_server_ready, client_timeout=2.0):
                    return True
            await asyncio.sleep(0.05)
        return False

    async def _load(self, model: str, say: Say) -> None:
        """Load a model and check one inference, unless it is loaded."""
        if model in self._loaded:
            return
        say(f"loading {model}")
        headers = {TritonProcess.KEY_HEADER: self._server.key}
        with contextlib.closing(self._client()) as client:
            try:
                with scratch_noted(self._state):
                    await asyncio.to_thread(client.load_model, model, headers=headers, client_timeout=_LOAD_S)
                config = (await asyncio.to_thread(client.get_model_config, model, client_timeout=_LOAD_S)).config
            except InferenceServerException as error:
                raise ServerSetupError(
                    f"Triton cannot load {model}: {_first_line(error.message())}; if its files are damaged, "
                    f"`kappamask-stream models remove {model}` lets the next run build them again; "
                    f"its log: {self._server.log_path}"
                ) from error
            if PARAMETER_KEY not in config.parameters:
                raise ContractError(
                    f"{self._server.repository / model} has no contract in its configuration (parameter "
                    f"{PARAMETER_KEY!r}): see docs/models.md"
                )
            contract = ModelContract.from_json(config.parameters[PARAMETER_KEY].string_value)
            say(f"checking {model}")
            await asyncio.to_thread(selfcheck.check, client, contract, self._server.log_path)
        self._loaded[model] = contract
        self._stubs |= set(stubs_of(self._state, self._server.repository / model))

    def _client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(f"127.0.0.1:{self._server.grpc_port}")


async def _built_apart(model: str, repository: Path, weights: str | None) -> None:
    """Build a model in a process of its own: it needs memory for a moment only, and can be ended."""
    command = [sys.executable, "-I", "-m", "server_models", "build", model, "--repository", str(repository)]
    command += ["--weights", weights] if weights is not None else []
    process = await asyncio.create_subprocess_exec(
        *tethered(command, signal.SIGTERM), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, complaint = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()  # it removes what it has half written
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _BUILD_ENDS_S)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    event = json.loads(output.splitlines()[-1]) if output.strip() else {}
    if process.returncode or event.get("event") != "built":
        message = event.get("message") or complaint.decode(errors="replace").strip()[-500:] or "no reason given"
        raise error_kinds().get(event.get("kind", ""), ServerSetupError)(f"cannot build {model}: {message}")


def _first_line(message: str | None) -> str:
    """Shorten what Triton says: a traceback of the Python backend goes over many lines, all of them in the log."""
    return (message or "no reason given").strip().splitlines()[0].rstrip(";")
