"""Sees to it that servers answer rightly: they are sent a tile whose answer the contract knows, now and then."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING

from kappamask_stream.canary import canary_tile, compare, known_labels
from kappamask_stream.errors import (
    CanaryError,
    InferenceError,
    ServerError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference.channel import Connection
from kappamask_stream.inference.types import TileRequest
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.inference.types import InferResult

#: Servers behind one name that are asked at most, and as many as are asked where nobody tells how many there are.
_MOST_SERVERS = 16
_UNKNOWN_SERVERS = 4


class CanaryWatch:
    """Knows when a client's servers are to be asked for the canary, and asks them.

    Where several addresses are given each server is asked on a connection of its own. Behind a name requests go to the
    servers in turn: as many are sent as the name has addresses, and which servers they reach, nobody says.

    Parameters
    ----------
    connection : to the servers.
    contract : with the known answer; without one nothing is ever due.
    infer : sends one tile over a connection and returns the checked answer.
    every_s : seconds after which a right answer is too old; 0: never, but where there is reason to doubt; None: nothing
        is ever due.

    State: the tile, once it was needed; when the last right answer was asked for, and when the last one that still
    counts was; how often there was reason to doubt it; how often servers were asked, and what failed the last time.
    """

    def __init__(
        self,
        connection: Connection,
        contract: ModelContract,
        infer: Callable[[Connection, TileRequest], Awaitable[InferResult]],
        *,
        every_s: float | None,
    ) -> None:
        self._connection, self._contract, self._infer, self._every_s = connection, contract, infer, every_s
        self._known = known_labels(contract)
        self._request: TileRequest | None = None
        self._right_at = self._counts_from = -math.inf
        self._doubts = self._asked = 0
        self._failure: ServerError | None = None
        self._lock = asyncio.Lock()

    @property
    def why_not(self) -> str | None:
        """Why nothing is ever asked, in words; None where the contract has an answer to compare with."""
        if self._known is not None:
            return None
        lacks = "knows no tile's answer" if self._contract.canary is None else "knows the answer to another tile only"
        return (
            f"whether {self._connection.endpoint} answers rightly cannot be checked: the contract of "
            f"{self._contract.name} {lacks}; `kappamask-stream models build` writes one that does"
        )

    @property
    def is_due(self) -> bool:
        """True where it is time to ask: the first time, after `doubt`, and where the last right answer is too old."""
        if self._known is None or self._every_s is None:
            return False
        age = asyncio.get_running_loop().time() - self._counts_from
        return age == math.inf or 0 < self._every_s <= age

    def doubt(self) -> None:
        """Have the servers asked again before anything else: others may answer by now, or they have gone wrong."""
        self._doubts += 1
        self._counts_from = -math.inf

    async def check(self) -> None:
        """Ask, where it is due; whoever comes meanwhile waits, and shares what comes of it.

        Raises
        ------
        CanaryError
            If a server answers wrongly, with what was found and what is needed.
        ServerError
            If nothing was learnt, as `InferenceClient.infer`: it is still due then.
        """
        asked = self._asked
        async with self._lock:
            if not self.is_due:
                return
            # On a server that hangs everybody would else wait in turn. What is wrong stays wrong: see `TritonClient`.
            if self._failure is not None and (self._asked > asked or isinstance(self._failure, CanaryError)):
                raise type(self._failure)(str(self._failure))
            began, doubts = asyncio.get_running_loop().time(), self._doubts
            self._failure = None
            try:
                await self._ask_all(await self._tile())
            except ServerError as error:
                self._failure = error
                raise
            finally:
                self._asked += 1
            self._right_at = began
            if doubts == self._doubts:  # else a connection was lost meanwhile: it may have been another server
                self._counts_from = began

    async def _tile(self) -> TileRequest:
        if self._request is None:
            tile = await in_thread(None, canary_tile, self._contract)
            self._request = TileRequest(
                name="the canary", tensors=tile.tensors, offset=tile.offset, scale=tile.scale, urgent=True
            )
        return self._request

    async def _ask_all(self, request: TileRequest) -> None:
        endpoint = self._connection.endpoint
        alone = endpoint.servers()
        if len(alone) == 1:
            for _ in range(await _servers_behind(endpoint)):
                await self._ask(self._connection, request)
            return
        asked = [self._ask_alone(server, request) for server in alone]
        failures = [error for error in await asyncio.gather(*asked, return_exceptions=True) if error is not None]
        # No tile goes to one that is away, and one that is full answers the next time. One that answered must be right.
        away = [e for e in failures if isinstance(e, (ServerUnavailableError, ServerOverloadedError))]
        for error in failures:
            if error not in away or len(away) == len(alone):
                raise error

    async def _ask_alone(self, server: Endpoint, request: TileRequest) -> None:
        connection = Connection.open(server, self._connection.security, shared_memory=False)
        try:
            await self._ask(connection, request)
        finally:
            await connection.aclose()

    async def _ask(self, connection: Connection, request: TileRequest) -> None:
        assert self._known is not None  # noqa: S101 - else it is never due
        try:
            answer = await self._infer(connection, request)
        except InferenceError as error:
            raise CanaryError(self._message(connection, f"its answer cannot be used: {error}")) from error
        found = compare(self._contract, answer.labels, self._known)
        if not found.is_right:
            raise CanaryError(self._message(connection, str(found)))

    def _message(self, connection: Connection, found: str) -> str:
        name, endpoint = self._contract.name, connection.endpoint
        said = (
            f"{endpoint} answers wrongly for {name}: of the canary, a tile whose answer is known, {found}; nothing "
            f"that it answers can be relied on, so no mask is written: see what `kappamask-stream models check {name} "
            f"--triton {endpoint}` says, deploy the model again or start the server again"
        )
        if self._right_at == -math.inf:
            return said
        age = asyncio.get_running_loop().time() - self._right_at
        return f"{said}. Its last right answer was {age:.0f} s ago: masks that were finished since then are in doubt"


async def _servers_behind(endpoint: Endpoint) -> int:
    """Return how many servers an endpoint of one name or address has, as far as its name tells."""
    if endpoint.is_one_server:
        return 1
    if not endpoint.system_names:
        return _UNKNOWN_SERVERS
    host, port = endpoint.hosts[0]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return 1
    return max(1, min(_MOST_SERVERS, len({address for *_, address in found})))
