"""Put models into a running Triton of ours and take them out again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tritonclient.utils import InferenceServerException

from kappamask_stream.contract import PARAMETER_KEY, ModelContract
from kappamask_stream.errors import ContractError, ServerSetupError
from server_models import selfcheck
from server_models.access import open_client
from server_models.leftovers import scratch_noted
from server_models.tritonserver import TritonProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import tritonclient.grpc as triton

#: Seconds that a network may take to load.
_LOAD_S = 600.0
_TOO_LATE = "StatusCode.DEADLINE_EXCEEDED"


class Loader:
    """The part of Triton's protocol that wants the key.

    Parameters
    ----------
    server : a started process.
    state : its private folder.
    """

    def __init__(self, server: TritonProcess, state: Path) -> None:
        self._server, self._state = server, state

    @property
    def endpoint(self) -> str:
        """Address of the server's gRPC, ``HOST:PORT``."""
        return f"127.0.0.1:{self._server.grpc_port}"

    def client(self) -> triton.InferenceServerClient:
        """Return a new client, which the caller closes."""
        return open_client(self.endpoint)

    async def load(self, model: str, say: Callable[[str], None]) -> ModelContract:
        """Load a model, have it answer a tile, and return its contract.

        Raises
        ------
        ServerSetupError, ContractError
            If it cannot be loaded, carries no contract, or answers nonsense.
        """
        say(f"loading {model}")
        with contextlib.closing(self.client()) as client:
            try:
                with scratch_noted(self._state):
                    await asyncio.to_thread(client.load_model, model, headers=self._key(), client_timeout=_LOAD_S)
                config = (await asyncio.to_thread(client.get_model_config, model, client_timeout=_LOAD_S)).config
            except InferenceServerException as error:
                if str(error.status()) == _TOO_LATE:
                    raise ServerSetupError(
                        f"Triton has not loaded {model} within {_LOAD_S:g} s, and may still be at it; its log: "
                        f"{self._server.log_path}"
                    ) from error
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
        return contract

    async def unload(self, model: str) -> None:
        """Take a model out; its process ends. One that is not there, or a server that has died, is no error."""
        with contextlib.closing(self.client()) as client, contextlib.suppress(InferenceServerException):
            await asyncio.to_thread(client.unload_model, model, headers=self._key(), client_timeout=_LOAD_S)

    def _key(self) -> dict[str, str]:
        return {TritonProcess.KEY_HEADER: self._server.key}


def _first_line(message: str | None) -> str:
    """Shorten what Triton says: a traceback of the Python backend goes over many lines, all of them in the log."""
    return (message or "no reason given").strip().splitlines()[0].rstrip(";")
