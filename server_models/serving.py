"""What the supervisor does with its Triton: build, start, load, check, start again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tritonclient.utils import InferenceServerException

from kappamask_stream.errors import KappaMaskError, ServerSetupError
from server_models.admission import Admission, refusal
from server_models.building import build, is_up_to_date
from server_models.leftovers import is_running, stubs_of
from server_models.loading import Loader
from server_models.tritonserver import TritonProcess, require_free

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import tritonclient.grpc as triton

    from kappamask_stream.contract import ModelContract

    Say = Callable[[str], None]
    OnChecked = Callable[[dict[str, Any]], None]

_READY_S = 60.0
_STARTS, _WATCH_S = 3, 0.25
#: A Triton that dies oftener than so many times in so many seconds is not started again.
_CRASHES, _CRASH_WINDOW_S = 3, 600.0


class Serving:
    """A local Triton and the models in it.

    State: the process; the contracts of loaded models by name; those of them that failed a check while others used
    them; the Python backend's processes; when one of all these crashed lately. `_changing` is held while any of it
    changes.
    """

    def __init__(self, repository: Path, state: Path) -> None:
        self._server = TritonProcess(repository, state)
        self._loader = Loader(self._server, state)
        self._state = state
        self._loaded: dict[str, ModelContract] = {}
        self._failed: dict[str, dict[str, Any]] = {}
        self._stubs: set[int] = set()
        self._changing = asyncio.Lock()
        self._fixed_port: int | None = None
        self._crashes: deque[float] = deque(maxlen=_CRASHES)

    def status(self) -> dict[str, Any]:
        """Say where the server is and what it serves."""
        process = self._server.process
        return {
            "running": self._server.is_alive,
            "grpc": self._loader.endpoint,
            "metrics": f"http://127.0.0.1:{self._server.metrics_port}/metrics",
            "models": sorted(self._loaded),
            "log": str(self._server.log_path),
            "triton_pid": process.pid if process else None,
        }

    @property
    def memory_key(self) -> str:
        """With which a client may share memory with the server; for holders of leases only."""
        return self._server.memory_key

    async def prepare(
        self,
        request: dict[str, Any],
        say: Say,
        *,
        alone: Callable[[], bool],
        on_checked: OnChecked,
    ) -> str:
        """Build, start, load and check what a lease needs; returns the name under which the model is served.

        Parameters
        ----------
        alone : tells whether nobody else uses the server now: a model may be replaced then.
        on_checked : is handed the report of a check that the request asks for, passed or not.

        Raises
        ------
        KappaMaskError
            Saying what is wrong, where to read more and what to do.
        """
        model, weights = str(request["model"]), request.get("weights")
        if self._changing.locked():
            # Somebody else's check may take minutes; who wants what is served already need not wait for it.
            if request.get("check") is None and request.get("port") is None and await self._serves(model, weights):
                return model
            say("waiting for another run's model")
        async with self._changing:
            try:
                self._require_port(request.get("port"))
                await self._build(model, weights, say, alone=alone())
                if not self._server.is_alive:
                    await self._start(say)
                check = request.get("check")
                if model not in self._loaded:
                    await self._load(model, say, check, on_checked)
                elif check is not None:
                    await self._check_again(model, check.get("tiles"), say, on_checked, alone=alone)
                if model in self._failed:
                    raise refusal(model, self._server.repository, self._failed[model])
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

    async def _serves(self, model: str, weights: str | None) -> bool:
        """Tell whether a model is loaded, not refused, and as it would be built now."""
        loaded = self._loaded.get(model)
        return (
            loaded is not None
            and await is_up_to_date(model, self._server.repository, weights, loaded)
            and (model in self._loaded and model not in self._failed and self._is_whole())
        )

    def _is_whole(self) -> bool:
        return self._server.is_alive and all(is_running(pid) for pid in self._stubs)

    async def _restart(self, say: Say) -> None:
        """End Triton and start it at the same address with the same models."""
        models = list(self._loaded)
        failed = {model: report for model, report in self._failed.items() if model in self._loaded}
        self._server.stop()
        await self._start(say, same_address=True)
        for model in models:
            if model in failed:  # still in use by who had it before it failed its check
                self._hold(model, await self._loader.load(model, say))
            else:
                await self._load(model, say)
        self._failed |= failed

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
        """Have a model in the repository as this version would build it; a loaded one that is not is replaced."""
        repository, loaded = self._server.repository, self._loaded.get(model)
        if await is_up_to_date(model, repository, weights, loaded):
            return
        # Not to be handed out while it is being replaced: see `_serves`.
        self._loaded.pop(model, None)
        try:
            await build(model, repository, weights, say, others=None if alone else loaded)
        except BaseException:
            if loaded is not None:
                self._loaded[model] = loaded
            raise
        if loaded is not None:
            await self._restart(say)

    async def _start(self, say: Say, *, same_address: bool = False) -> None:
        """Start Triton and wait until it is ready; a free port that somebody took meanwhile is chosen anew."""
        if self._fixed_port is not None:
            require_free(self._fixed_port, self._server.log_path)
            self._server.grpc_port = self._fixed_port
        say("starting Triton")
        for known in (self._loaded, self._failed, self._stubs):
            known.clear()
        for _ in range(_STARTS):
            self._server.start()
            try:
                with contextlib.closing(self._loader.client()) as client:
                    if await self._is_ready(client):
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
        deadline, is_hidden = time.monotonic() + _READY_S, False
        while self._server.is_alive and time.monotonic() < deadline:
            is_hidden = is_hidden or self._server.hide_keys()
            with contextlib.suppress(InferenceServerException):
                if await asyncio.to_thread(client.is_server_ready, client_timeout=2.0):
                    if not is_hidden:
                        self._server.hide_keys()
                    return True
            await asyncio.sleep(0.02)
        return False

    async def _load(
        self, model: str, say: Say, check: dict[str, Any] | None = None, on_checked: OnChecked | None = None
    ) -> None:
        """Load a model; it is handed out once it has passed a check: now because of `check`, or on record."""
        admission = await Admission.of(model, self._server.repository)
        if check is None:
            admission.require_not_failed()
        try:
            contract = await self._loader.load(model, say)
            if check is not None:
                say(f"checking {model} at every batch size")
                report = await admission.check(self._loader.endpoint, check.get("tiles"), say)
                (on_checked or _ignore)(report)
                admission.require_passed(report)
            elif admission.needs_check:
                say(f"checking {model} at every batch size (once)")
                admission.require_passed(await admission.check(self._loader.endpoint, None, say))
        except BaseException:  # also where who asked is gone
            await asyncio.shield(self._unload(model))
            raise
        self._hold(model, contract)

    def _hold(self, model: str, contract: ModelContract) -> None:
        """Note a loaded model and its processes."""
        self._loaded[model] = contract
        self._stubs |= set(stubs_of(self._state, self._server.repository / model))

    async def _check_again(
        self, model: str, tiles: str | None, say: Say, on_checked: OnChecked, *, alone: Callable[[], bool]
    ) -> None:
        """Check a model that is in use; one that fails is not handed out any more.

        It stays for those who use it already: a run must not break because somebody else's tiles show something.
        """
        say(f"checking {model} at every batch size")
        admission = await Admission.of(model, self._server.repository)
        report = await admission.check(self._loader.endpoint, tiles, say)
        on_checked(report)
        self._failed.pop(model, None)
        if report["passed"]:
            return
        if alone():
            await self._unload(model)
        else:
            self._failed[model] = report
        admission.require_passed(report)

    async def _unload(self, model: str) -> None:
        self._stubs -= set(stubs_of(self._state, self._server.repository / model))
        self._loaded.pop(model, None)
        await self._loader.unload(model)


def _ignore(_: dict[str, Any]) -> None:
    pass
