"""Sees to it that servers answer rightly: they are sent a tile whose answer the contract knows, now and then."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING, Any

from kappamask_stream.canary import canary_tile, compare, compare_likeliest, has_known_answer, known_labels
from kappamask_stream.errors import (
    CanaryError,
    InferenceError,
    InferenceTimeoutError,
    ServerError,
    ServerFaultError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from kappamask_stream.inference.channel import Connection
from kappamask_stream.inference.types import TileRequest
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.inference.types import InferResult

#: Servers behind one name that are asked at most, and as many as are asked where nobody tells how many there are.
_MOST_SERVERS = 16
_UNKNOWN_SERVERS = 4
#: Seconds after which a server that has not answered is asked again.
_BRIEFLY_S = 30.0
#: Why the canary may not be answered by a server that answers rightly when it answers.
PASSING = (ServerUnavailableError, ServerOverloadedError, InferenceTimeoutError, ServerFaultError)


class _Canary:
    """What is sent and what is expected; takes a moment to make.

    It asks for PROBABILITIES whatever tiles ask for: a server may compute them wrongly and LABELS rightly.

    Raises
    ------
    ContractError
        As `known_labels`.
    """

    def __init__(self, contract: ModelContract) -> None:
        known = known_labels(contract)
        assert known is not None  # noqa: S101 - else it is never due
        self._contract, self._known = contract, known
        tile = canary_tile(contract)
        self.request = TileRequest(
            name="the canary",
            tensors=tile.tensors,
            offset=tile.offset,
            scale=tile.scale,
            probabilities=True,
            urgent=True,
        )

    def fault_in(self, answer: InferResult) -> str | None:
        """Say what is wrong with an answer, None where nothing is; takes a moment, too."""
        by_labels = compare(self._contract, answer.labels, self._known)
        if not by_labels.is_right:
            return str(by_labels)
        assert answer.probabilities is not None  # noqa: S101 - they were asked for, for the type checker
        by_chances = compare_likeliest(self._contract, answer.probabilities, self._known)
        if by_chances is None or by_chances.is_right:
            return None
        return f"by the largest of PROBABILITIES {by_chances}"


class CanaryWatch:
    """Knows when a client's servers are to be asked for the canary, and asks them.

    Where several addresses are given each server is asked on a connection of its own. Behind a name requests go to the
    servers in turn: as many are sent as the name has addresses, and which servers they reach, nobody says. One that is
    away, full, late or faulty does not keep the others from work: it is asked again soon, and before a mask is written.

    Parameters
    ----------
    connection : to the servers.
    contract : with the known answer; without one nothing is ever due.
    infer : sends one tile over a connection and returns the checked answer.
    every_s : seconds after which a right answer is too old; 0: never, but where there is reason to doubt; None: nothing
        is ever due.
    infer_timeout_s : of connections to single servers.

    State: the tile and its answer, once they were needed; when each server's last right answer was asked for, and when
    the last answers that still count were; who did not give one, and when he was asked; how often there was reason to
    doubt; how often servers were asked, and what failed the last time.
    """

    def __init__(
        self,
        connection: Connection,
        contract: ModelContract,
        infer: Callable[[Connection, TileRequest], Awaitable[InferResult]],
        *,
        every_s: float | None,
        infer_timeout_s: float = 120.0,
    ) -> None:
        self._connection, self._contract, self._infer, self._every_s = connection, contract, infer, every_s
        self._infer_timeout_s = infer_timeout_s
        self._canary: _Canary | None = None
        self._right_at: dict[str, float] = {}
        self._counts_from = self._missed_at = -math.inf
        self._missing: dict[Endpoint, ServerError] = {}
        self._doubts = self._asked = 0
        self._failure: ServerError | None = None
        self._lock = asyncio.Lock()

    @property
    def why_not(self) -> str | None:
        """Why nothing is ever asked, in words; None where the contract has an answer to compare with."""
        if has_known_answer(self._contract):
            return None
        lacks = "knows no tile's answer" if self._contract.canary is None else "knows the answer to another tile only"
        return (
            f"whether {self._connection.endpoint} answers rightly cannot be checked: the contract of "
            f"{self._contract.name} {lacks}; `kappamask-stream models build` writes one that does, where the network "
            "is sure enough of what it answers"
        )

    @property
    def is_due(self) -> bool:
        """True where it is time to ask: the first time, after `doubt`, and where the last right answer is too old.

        Also where somebody has not answered, after a short while.
        """
        return bool(self._due())

    @property
    def _is_all_due(self) -> bool:
        if self._every_s is None or not has_known_answer(self._contract):
            return False
        age = asyncio.get_running_loop().time() - self._counts_from
        return age == math.inf or 0 < self._every_s <= age

    def _due(self, *, missing: bool = False) -> tuple[Endpoint, ...]:
        """Return who is to be asked; with `missing`, those who have not answered even if that is only just so."""
        if self._is_all_due:
            return self._connection.endpoint.servers()
        waited = asyncio.get_running_loop().time() - self._missed_at
        return tuple(self._missing) if missing or waited >= _BRIEFLY_S else ()

    def doubt(self) -> None:
        """Have the servers asked again before anything else: others may answer by now, or they have gone wrong."""
        self._doubts += 1
        self._counts_from = -math.inf

    async def check(self, *, everybody: bool = False) -> None:
        """Ask, where it is due; whoever comes meanwhile waits, and shares what comes of it.

        Where only those are asked who did not answer before, tiles do not wait for them.

        Parameters
        ----------
        everybody : True, before a mask is written, asks those at once who did not answer before. One that is away, or
            does not answer in time, is let off then: it can hardly have answered tiles. One that is full can.

        Raises
        ------
        CanaryError
            If a server answers wrongly, with what was found and what is needed.
        ServerError
            If nothing was learnt, as `InferenceClient.infer`, and marked `is_of_canary`: it is still due then.
        """
        asked = self._asked
        if not everybody and self._lock.locked() and not self._is_all_due:
            return
        async with self._lock:
            is_shared = self._asked > asked
            if due := self._due(missing=everybody and not is_shared):
                # On a server that hangs everybody would else wait in turn. What is wrong stays wrong: `TritonClient`.
                if self._failure is not None and (is_shared or isinstance(self._failure, CanaryError)):
                    raise _again(self._failure)
                await self._ask_those(due)
            full = (error for error in self._missing.values() if isinstance(error, ServerOverloadedError))
            if everybody and (error := next(full, None)) is not None:
                raise _again(error)

    async def _ask_those(self, servers: tuple[Endpoint, ...]) -> None:
        began, doubts, is_all = asyncio.get_running_loop().time(), self._doubts, self._is_all_due
        self._failure = None
        try:
            missing = await self._missing_of(servers)
            if is_all and len(missing) == len(servers) and not self._has_answered_since(began):
                raise _again(next(iter(missing.values())))
        except ServerError as error:
            self._failure, self._counts_from = error, -math.inf
            raise
        finally:
            self._asked += 1
        self._missing, self._missed_at = missing, asyncio.get_running_loop().time()
        if is_all and doubts == self._doubts:  # else a connection was lost meanwhile: it may have been another server
            self._counts_from = began

    def _has_answered_since(self, began: float) -> bool:
        return any(asked_at >= began for asked_at in self._right_at.values())

    async def _missing_of(self, servers: tuple[Endpoint, ...]) -> dict[Endpoint, ServerError]:
        """Ask servers; returns those that have not answered, and what they said."""
        if self._canary is None:
            self._canary = await in_thread(None, _Canary, self._contract)
        if len(self._connection.endpoint.servers()) == 1:
            asked = [(servers[0], failure) for failure in await self._ask_in_turn(self._canary)]
        else:
            failures = await _all([self._ask_alone(server, self._canary) for server in servers])
            asked = list(zip(servers, failures, strict=True))
        grave = [failure for _, failure in asked if failure is not None and not isinstance(failure, PASSING)]
        if grave:
            raise next((failure for failure in grave if isinstance(failure, CanaryError)), grave[0])
        missing: dict[Endpoint, ServerError] = {}
        for server, failure in asked:
            if isinstance(failure, PASSING) and not isinstance(missing.get(server), ServerOverloadedError):
                missing[server] = failure
        return missing

    async def _ask_in_turn(self, canary: _Canary) -> list[BaseException | None]:
        """Ask as many servers as are behind the endpoint; the first one makes the connections that the others take."""
        count = await _servers_behind(self._connection.endpoint)
        first = await _all([self._ask(self._connection, canary)])
        return first + await _all([self._ask(self._connection, canary) for _ in range(count - 1)])

    async def _ask_alone(self, server: Endpoint, canary: _Canary) -> None:
        connection = Connection.open(
            server, self._connection.security, infer_timeout_s=self._infer_timeout_s, shared_memory=False
        )
        try:
            connection.expect(self._contract.answer_bytes)
            await self._ask(connection, canary)
        finally:
            await connection.aclose()

    async def _ask(self, connection: Connection, canary: _Canary) -> None:
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._infer(connection, canary.request)
        except InferenceError as error:
            raise CanaryError(self._message(connection, f"its answer cannot be used: {error}")) from error
        fault = await in_thread(None, canary.fault_in, answer)
        if fault is not None:
            raise CanaryError(self._message(connection, fault))
        self._right_at[connection.endpoint.text] = began

    def _message(self, connection: Connection, found: str) -> str:
        name, endpoint = self._contract.name, connection.endpoint
        said = (
            f"{endpoint} answers wrongly for {name}: of the canary, a tile whose answer is known, {found}; nothing "
            f"that it answers can be relied on, so no mask is written: see what `kappamask-stream models check {name} "
            f"--triton {endpoint}` says, deploy the model again or start the server again"
        )
        if endpoint.text not in self._right_at:
            return said
        age = asyncio.get_running_loop().time() - self._right_at[endpoint.text]
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


async def _all(asking: list[Coroutine[Any, Any, None]]) -> list[BaseException | None]:
    """Run all at once; returns what each failed with."""
    return await asyncio.gather(*asking, return_exceptions=True)


def _again(error: ServerError) -> ServerError:
    """Return a canary's failure, to be raised to one more who waits for it."""
    same = type(error)(str(error))
    same.is_of_canary = True
    return same
