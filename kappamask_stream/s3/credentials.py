"""Sessions of AWS, and the usual chain of credentials, walked again when a store says that they have expired."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Callable


class RenewableCredentials(AioCredentials):  # type: ignore[misc]
    """What a botocore client signs with: always the latest credentials of the chain.

    botocore renews those that say when they end (roles, instances, SSO) ahead of time; those in variables and files
    say nothing, and are read anew only on `renew`.

    Parameters
    ----------
    new_session : makes an aiobotocore session that has read no credentials yet.

    State: the credentials, and how often they were read.
    """

    def __init__(self, new_session: Callable[[], Any]) -> None:
        super().__init__("read", "later")  # botocore asks for the frozen ones before each signature
        self._new_session = new_session
        self._current: Any = None
        self._reading = asyncio.Lock()
        self.generation = 0

    def __repr__(self) -> str:
        return f"<RenewableCredentials, read {self.generation} times>"

    async def get_frozen_credentials(self) -> Any:
        """Return the credentials of this moment.

        Raises
        ------
        NoCredentialsError
            If the chain has none.
        CredentialRetrievalError
            If it has none that are valid by this machine's clock.
        """
        if self._current is None:
            await self.renew(0)
        try:
            return await self._current.get_frozen_credentials()
        except RuntimeError as error:  # botocore's only word for new ones that are past their end already
            method = getattr(self._current, "method", None) or "the chain"
            remedy = "is this machine's clock right?"
            raise CredentialRetrievalError(provider=method, error_msg=f"{error} {remedy}") from error

    async def renew(self, seen: int) -> None:
        """Walk the chain again, unless somebody has since `generation` was `seen`."""
        async with self._reading:
            if self.generation != seen:
                return
            found = await self._new_session().get_credentials()
            if found is None:
                raise NoCredentialsError
            self._current = found
            self.generation += 1

    async def load_credentials(self) -> RenewableCredentials:
        """Be botocore's chain, too: it asks here for what to sign with."""
        return self


def new_session(profile: str | None) -> AioSession:
    """Return a session that has read no credentials yet; all sessions of a process share botocore's models.

    Its region is that of AWS_REGION, as in the other SDKs of AWS; botocore itself knows AWS_DEFAULT_REGION only.
    """
    session = AioSession(profile=profile)
    session.register_component("data_loader", _loader())
    if region := os.environ.get("AWS_REGION"):
        session.set_config_variable("region", region)
    return session


@cache
def _loader() -> Any:
    """Return botocore's models, read once in a process: 100 ms for the first client, 7 for each later one."""
    return AioSession().get_component("data_loader")
