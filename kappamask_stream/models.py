"""Which served model a user means, and a connection to it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, get_args

from kappamask_stream.errors import ServerError, ServerUnavailableError, UsageError
from kappamask_stream.inference import TritonClient, connect, endpoint_of
from kappamask_stream.inference.pressure import MetricsPressure, Pressure, StatisticsPressure
from kappamask_stream.resources import ServedModel
from kappamask_stream.server import ServerEnvironment
from kappamask_stream.server.lease import lease_local_server
from kappamask_stream.threads import in_thread
from kappamask_stream.weights import WeightsCache, of_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.server.lease import LocalServer
    from kappamask_stream.settings import Settings

#: Seconds for which the first product waits for a server; for which the next ones take it for dead where that was in
#: vain; and for which one of them then waits again.
_FIRST_WAIT_S = 10.0
_DEAD_S = 10.0
_NEXT_WAIT_S = 1.0

Architecture = Literal["DeepLabv3Plus", "Unet"]
Precision = Literal["f32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """What a user asks for; the product's level completes it.

    Attributes
    ----------
    model : ``kappamask``, ``csmask``, or the name of any model that the server holds.
    architecture, precision : of KappaMask; None where not given.
    weights : a user's own weight file for the local server.
    levels : those that products may have; fewer than both where they are known before any is opened.
    remedy : what helps where there are no weights, for those who have no ``--weights`` and ``--model``.
    """

    model: str = "kappamask"
    architecture: Architecture | None = None
    precision: Precision | None = None
    weights: Path | None = None
    levels: tuple[str, ...] = ("L1C", "L2A")
    remedy: str = "give a file that you have with --weights FILE, or take --model csmask"

    def __post_init__(self) -> None:
        """Refuse words and combinations that mean nothing.

        Raises
        ------
        UsageError
            With the remedy.
        """
        words = (("--architecture", self.architecture, Architecture), ("--precision", self.precision, Precision))
        for flag, word, allowed in words:
            if word is not None and word not in get_args(allowed):
                raise UsageError(f"{flag} is {word!r}: allowed is {' or '.join(get_args(allowed))}")
        if self.model == "kappamask":
            return
        given: dict[str, object] = {"--architecture": self.architecture, "--weights": self.weights}
        if self.precision not in (None, "f32"):
            given["--precision"] = self.precision
        for flag, value in given.items():
            if value is not None:
                raise UsageError(f"{flag} {value} is for --model kappamask; the model here is {self.model}")

    def served_name(self, level: str) -> str:
        """Return the Triton model name for a product level (``L1C`` or ``L2A``)."""
        if self.model == "csmask":
            return f"csmask_{level.lower()}"
        if self.model != "kappamask":
            return self.model
        name = f"kappamask_{level.lower()}_{(self.architecture or 'DeepLabv3Plus').lower()}"
        return name if self.precision in (None, "f32") else f"{name}_{self.precision}"


class ModelPool:
    """The models that a process uses: connected once each, at a shared endpoint or on a server of our own.

    Use as an async context manager: leaving it closes channels and gives up the local server's leases.

    Raises
    ------
    UsageError
        If weights are given for a server elsewhere, its endpoint, TLS files or token cannot be used, the local server
        is to make KappaMask from none, or half precision is asked of it.

    State: by name, the client and what products share of it (the newest one where the server was given another model);
    until when the endpoint counts as dead, and of what; what tells how full the server is; and the local server, once
    it is leased.
    """

    def __init__(
        self,
        choice: ModelChoice,
        settings: Settings,
        *,
        keep_server: bool = False,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        if choice.weights is not None and settings.triton is not None:
            raise UsageError(
                "--weights is for the server that runs on this machine; a server at --triton holds its own weights: "
                "leave one of the two out"
            )
        endpoint_of(settings)
        self._choice, self._settings = choice, settings
        self._cache = WeightsCache.at(settings.weights_dir)
        name = choice.served_name(choice.levels[-1])
        if settings.triton is None and of_model(name) is not None and name.endswith("_fp16"):
            raise UsageError(
                f"{name} is for GPUs, the server that runs on this machine computes on the CPU: take --precision f32 "
                "or bf16, or name a server with --triton"
            )
        if settings.triton is None and not any(
            self._can_be_served(choice.served_name(level)) for level in choice.levels
        ):
            raise self._no_weights(name)
        self._keep_server, self._on_progress = keep_server, on_progress
        self._models: dict[str, tuple[TritonClient, ServedModel]] = {}
        self._dead: tuple[float, ServerUnavailableError] | None = None
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._pressure: Pressure | None = None
        self._local: LocalServer | None = None
        if settings.triton_metrics is not None:
            self._tell_pressure(MetricsPressure(settings.triton_metrics, ca=settings.triton_ca))

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def get(self, level: str) -> ServedModel:
        """Return the model for a product level, connecting (and starting a local server) the first time.

        Now and then, and after errors that hint at it, it is looked whether the server serves another model under the
        name by now: then it is that one that is returned, and products that were begun with the earlier one fail.

        Raises
        ------
        ServerError
            If there is no such model or no server, or several servers do not serve the same.
        UsageError
            If the local server is to make KappaMask from no weights.
        InputError
            If fetched weights are not what was recorded of them.
        """
        name = self._choice.served_name(level)
        async with self._lock:
            if name not in self._models:
                await self._connect_first(name)
            elif self._models[name][0].is_doubtful:
                try:
                    await self._renew(name)
                except ServerError as error:
                    if not error.retryable:  # else the tiles will tell, and have patience
                        raise
            return self._models[name][1]

    async def refresh(self, level: str) -> ServedModel:
        """Do what `get` does, and ask the server in any case: so this tells whether it could be worked with now.

        Raises
        ------
        ServerError
            As `get`, and where the server does not answer.
        """
        name = self._choice.served_name(level)
        async with self._lock:
            await (self._renew(name) if name in self._models else self._connect_first(name))
            return self._models[name][1]

    def connected(self, level: str) -> TritonClient:
        """Return the client of the model that `get` has returned for a product level; the pool closes it."""
        return self._models[self._choice.served_name(level)][0]

    @property
    def metrics_urls(self) -> tuple[str, ...]:
        """Where the server's metrics are: the local one's, once it is connected; else those set; empty: nobody said."""
        if self._local is not None:
            return (self._local.metrics_url,)
        named = (self._settings.triton_metrics or "").split(",")
        return tuple(url.strip() for url in named if url.strip())

    @property
    def memory_key(self) -> str | None:
        """The local server's key for shared memory, once it is connected; None for a server elsewhere."""
        return None if self._local is None else self._local.memory_key

    async def pending(self) -> float | None:
        """Return requests for the connected models that wait in the server, in each of several on average.

        None where nothing is known: nothing is connected, the server does not tell, or it was asked the first time.
        """
        clients = [client for client, _ in self._models.values()]
        if not clients:
            return None
        if self._pressure is None:
            self._tell_pressure(StatisticsPressure(clients[0].connection.one))
        assert self._pressure is not None  # noqa: S101 - for the type checker
        return await self._pressure.pending({client.contract.name for client in clients})

    def _tell_pressure(self, pressure: Pressure) -> None:
        self._pressure = pressure
        self._stack.push_async_callback(pressure.aclose)

    def _hold(self, name: str, client: TritonClient) -> None:
        """Take a client for a model; that its answers cannot be checked is said once."""
        if client.no_canary is not None and name not in self._models and self._on_progress is not None:
            self._on_progress(client.no_canary)
        model = ServedModel.of(client, self._settings.max_in_flight, client.new_tensors)
        self._models[name] = (client, replace(model, has_canary=client.no_canary is None))

    async def _connect_first(self, name: str) -> None:
        """Connect; an endpoint that was dead a moment ago is not waited for again by each product."""
        now = asyncio.get_running_loop().time
        if self._dead is not None and now() < self._dead[0]:
            raise ServerUnavailableError(str(self._dead[1])) from self._dead[1]
        patience = _FIRST_WAIT_S if self._dead is None else _NEXT_WAIT_S
        try:
            self._hold(name, await self._connect(name, min(patience, self._settings.server_wait_s)))
        except ServerUnavailableError as error:
            self._dead = (now() + _DEAD_S, error)
            raise
        self._dead = None

    async def _renew(self, name: str) -> None:
        """Take the model that is served now; on another connection where TLS files were replaced."""
        client, _ = self._models[name]
        if await in_thread(None, client.connection.has_other_files):
            self._hold(name, await self._connect(name, 0.0))
            return
        renewed = await client.renewed()
        if renewed is not client:
            self._hold(name, renewed)

    async def _connect(self, name: str, server_wait_s: float) -> TritonClient:
        settings = self._settings
        if settings.triton is not None:
            return await self._stack.enter_async_context(await connect(settings, name, server_wait_s=server_wait_s))
        if not self._can_be_served(name):
            raise self._no_weights(name)
        server = await self._stack.enter_async_context(
            lease_local_server(
                model=name,
                weights=self._choice.weights or await in_thread(None, self._cache.verified, name),
                env=settings.server_env,
                keep=self._keep_server,
                on_progress=self._on_progress,
            )
        )
        self._local = server
        if self._pressure is None:
            self._tell_pressure(MetricsPressure(server.metrics_url))
        client = await TritonClient.connect(
            f"grpc://{server.grpc_address}",
            server.model_name,
            infer_timeout_s=settings.infer_timeout_s,
            server_wait_s=server_wait_s,
            shared_memory=settings.shared_memory == "auto",
            memory_key=server.memory_key,
            priority=settings.priority or "interactive",
            canary_s=settings.canary_s,
        )
        return await self._stack.enter_async_context(client)

    def _can_be_served(self, name: str) -> bool:
        """Tell whether the local server has what it needs for a model: KappaMask's weights come with no package.

        Those that were fetched come before a model that was built before from others.
        """
        if not name.startswith("kappamask_") or self._choice.weights is not None or self._cache.fetched(name):
            return True
        repository = ServerEnvironment.at(self._settings.server_env).repository
        return (repository / name / "contract.json").is_file()

    def _no_weights(self, name: str) -> UsageError:
        published = of_model(name)
        fetch = f"fetch them with `kappamask-stream models fetch {published.model}`, " if published else ""
        return UsageError(
            f"{name} needs KappaMask's weights, which come with no package: {fetch}name a server that has them with "
            f"--triton, {self._choice.remedy}"
        )
