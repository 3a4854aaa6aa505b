"""The first word with servers: waiting for them to come up, and finding out why they do not talk to us."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kappamask_stream.errors import ContractError, ServerError
from kappamask_stream.inference.handshake import handshake_fault
from kappamask_stream.inference.served import READS, is_not_served, served_contract

if TYPE_CHECKING:
    from kappamask_stream.contract import ModelContract
    from kappamask_stream.inference.channel import Connection

_TRY_AGAIN_S = 0.5
#: What gRPC says where a server ended the connection.
_ENDED = ("socket closed", "connection reset", "broken pipe")


async def contract_of(connection: Connection, model: str, reads: int = READS) -> ModelContract:
    """Read a model's contract from the servers of a connection; raises as `served.served_contract` does.

    Parameters
    ----------
    reads : calls, where several servers may answer.
    """
    return await served_contract(connection, model, reads=1 if connection.endpoint.is_one_server else reads)


async def first_contract(connection: Connection, model: str, server_wait_s: float) -> ModelContract:
    """Ask for a model's contract until the server answers or `server_wait_s` are over.

    Raises
    ------
    ContractError
        If the server does not have the model, and as `served.served_contract` does.
    ServerError
        If nobody answers in time, or the server refuses; says why a connection was ended where that can be found out.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + server_wait_s
    while True:
        try:
            return await contract_of(connection, model)
        except ServerError as error:
            if is_not_served(error.__cause__):
                raise ContractError(
                    f"the server at {connection.endpoint} does not serve {model}: {error.__cause__}; deploy it there "
                    f"(`kappamask-stream models build {model}`) or name another with --model"
                ) from error
            if not error.retryable:
                raise
            if (fault := await _fault(connection, error)) is not None:
                raise ServerError(fault) from error
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(_TRY_AGAIN_S)


async def _fault(connection: Connection, error: ServerError) -> str | None:
    """Find out why a connection was ended, where it was."""
    if not any(text in str(error).lower() for text in _ENDED):
        return None
    return await handshake_fault(connection.endpoint, connection.security)
