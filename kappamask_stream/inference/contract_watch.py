"""Sees to it that servers go on serving the model that a mask was begun with."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from kappamask_stream.errors import ContractError, ModelChangedError, ServerUnavailableError
from kappamask_stream.inference.first_contract import contract_of
from kappamask_stream.inference.served import decisive_differences

if TYPE_CHECKING:
    from collections.abc import Callable

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.errors import CanaryError
    from kappamask_stream.inference.channel import Connection

#: Seconds after which it is looked again whether the servers still serve the model of the contract.
_CONFIRM_S = 30.0


class ContractWatch:
    """Knows when it is to be looked whether a contract still holds, looks, and remembers that it does not.

    Parameters
    ----------
    connection : to the servers.
    contract : that was read on connecting.
    on_doubt : called where there is reason to doubt that the same servers answer as before.

    State: why the client is of no more use, once it was found out; when the contract was last seen to hold, how often
    there was reason to doubt it, and how often the connection had been lost by then.
    """

    def __init__(self, connection: Connection, contract: ModelContract, on_doubt: Callable[[], None]) -> None:
        self._connection, self._contract, self._on_doubt = connection, contract, on_doubt
        self._outdated: ContractError | CanaryError | None = None
        self._confirmed_at = asyncio.get_running_loop().time()
        self._doubts = 0
        self._reconnects = connection.reconnects.count

    def __repr__(self) -> str:
        return f"<ContractWatch of {self._contract.name}{', outdated' if self.is_outdated else ''}>"

    @property
    def is_outdated(self) -> bool:
        """True once it was found that the contract holds no longer, or that answers are wrong."""
        return self._outdated is not None

    @property
    def is_due(self) -> bool:
        """True where it is time to `confirm` the contract, or where it holds no longer, or answers are wrong."""
        age = asyncio.get_running_loop().time() - self._confirmed_at
        return self.is_outdated or age > _CONFIRM_S or self._reconnects != self._connection.reconnects.count

    def doubt(self) -> None:
        """Have the contract looked at before anything else."""
        self._doubts += 1
        self._confirmed_at = -math.inf
        self._on_doubt()

    def end(self, error: ContractError | CanaryError) -> None:
        """Take note of why no answer counts any more."""
        self._outdated = error

    def require_current(self) -> None:
        """Raise the error that `end` was told, if it was; a new one, as each has a traceback of its own."""
        if self._outdated is not None:
            raise type(self._outdated)(str(self._outdated))

    async def confirm(self, reads: int) -> None:
        """Look whether servers serve what the contract says; else no later call returns.

        Parameters and errors are those of `TritonClient.confirm`, which has the canary answered, too.
        """
        self.require_current()
        if self._reconnects != (count := self._connection.reconnects.count):
            self._reconnects = count
            self.doubt()
        began, doubts = asyncio.get_running_loop().time(), self._doubts
        try:
            served = await contract_of(self._connection, self._contract.name, reads)
        except ContractError as error:
            self.end(error)
            raise
        except ServerUnavailableError:
            self.doubt()
            raise
        if differences := decisive_differences(self._contract, served):
            changed = ModelChangedError(
                f"{self._connection.endpoint.text} serves another {self._contract.name} than before: "
                f"{'; '.join(differences)}; what was begun with the one cannot be ended with the other: start it again"
            )
            self.end(changed)
            raise changed
        if doubts == self._doubts:  # else a connection was lost meanwhile: what was read may be of the time before
            self._confirmed_at = began
