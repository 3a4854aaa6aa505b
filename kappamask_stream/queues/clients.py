"""One owner of a process's connections to SQS and SNS: calls with patience, and receives that lose nothing.

botocore's own retries are off: each attempt that fails is told.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiobotocore.config import AioConfig
from botocore.exceptions import NoRegionError  # type: ignore[import-untyped]

from kappamask_stream.errors import KappaMaskError, QueueError, QueueUnavailableError, StoreError, UsageError
from kappamask_stream.queues.addresses import is_amazon
from kappamask_stream.queues.failures import FOREIGN, meant
from kappamask_stream.queues.options import QueueOptions
from kappamask_stream.s3.credentials import RenewableCredentials, new_session
from kappamask_stream.s3.retry import ExpiredError, TryLaterError, persist

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from kappamask_stream.queues.addresses import Place

T = TypeVar("T")

#: What stores call their failures -> as retries of queues are counted.
_CAUSES = {"SlowDown": "Throttling", "StoreUnavailableError": QueueUnavailableError.__name__}
#: Services that are not Amazon's are indifferent to it, but the signature names one.
_ANY_REGION = "us-east-1"
#: Seconds after those that a receive waits, in which what it brought is given back when nobody wants it any more.
_GIVE_BACK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Call:
    """One operation of a service.

    Attributes
    ----------
    place : where it goes.
    operation : as botocore's clients name it.
    what : names the queue or topic, for messages.
    params : as botocore wants them.
    waits_s : seconds that the service itself may take.
    """

    place: Place
    operation: str
    what: str
    params: dict[str, Any]
    waits_s: float = 0.0


class QueueClients:
    """Connections to SQS and SNS with one set of credentials; an async context manager that closes them.

    Nothing is connected, and no credentials are looked for, before the first call. Leaving it waits for receives that
    were cancelled, as long as they wait for messages: see `receive`.

    Parameters
    ----------
    on_retry : told the cause (``Throttling``, ``QueueUnavailableError``, ``ExpiredCredentials``), and in words, of each
        attempt that failed and is followed by another.

    State: a client per place, the credentials, receives that were cancelled.
    """

    def __init__(
        self,
        options: QueueOptions | None = None,
        *,
        on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
    ) -> None:
        self.options = options or QueueOptions()
        self._on_retry = on_retry
        self._credentials = RenewableCredentials(lambda: new_session(self.options.profile))
        self._clients: dict[Place, Any] = {}
        self._making = asyncio.Lock()
        self._left: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        who = self.options.profile or "default credentials"
        return f"<QueueClients {self.options.endpoint_url or 'AWS'}, {who}>"

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.gather(*self._left)  # cancelled, it cancels them and waits for their end
        finally:
            self._clients.clear()
            await self._stack.aclose()

    async def call(self, call: Call) -> dict[str, Any]:
        """Call an operation, again while it is worth it.

        Raises
        ------
        QueueError, QueueUnavailableError, UsageError
            If the service refuses; if it cannot be reached, or fails again and again; if the region is unknown.
        """
        return await self.persist(lambda: self.attempt(call), call.what)

    async def receive(
        self, call: Call, give_back: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> tuple[dict[str, Any], float]:
        """Call an operation whose answer must not be lost when the caller is cancelled.

        The service goes on with a request whose connection is closed, and gives messages away that nobody gets. So the
        request goes on when the caller is cancelled (which does not wait for it), and its answer is given back.

        Returns
        -------
        The answer, and ``time.monotonic()`` of the moment when it was asked for: nothing in it is older.
        """
        asked = 0.0

        async def attempt() -> dict[str, Any]:
            nonlocal asked
            asked = time.monotonic()
            request = asyncio.create_task(self.attempt(call))
            try:
                return await asyncio.shield(request)
            except asyncio.CancelledError:
                self._leave(request, give_back, call.waits_s)
                raise

        return await self.persist(attempt, call.what), asked

    def tell(self, cause: str, text: str) -> None:
        """Tell of something that is not as it should be, as of an attempt that is followed by another."""
        self._on_retry(cause, text)

    def _leave(
        self,
        request: asyncio.Task[dict[str, Any]],
        give_back: Callable[[dict[str, Any]], Awaitable[None]],
        waits_s: float,
    ) -> None:
        async def finish() -> None:
            # What cannot be given back comes back by itself.
            with suppress(KappaMaskError, TryLaterError, ExpiredError, TimeoutError):
                async with asyncio.timeout(waits_s + _GIVE_BACK_S):
                    await give_back(await request)

        left = asyncio.create_task(finish())
        self._left.add(left)
        left.add_done_callback(self._left.discard)

    async def attempt(self, call: Call) -> dict[str, Any]:
        """Call an operation once, for `persist`.

        Raises
        ------
        TryLaterError, ExpiredError
            Where another attempt may succeed.
        QueueError, UsageError
            Where none will.
        """
        try:
            async with asyncio.timeout(self.options.patience.read_s + call.waits_s):
                client = await self._client(call)
                answer: dict[str, Any] = await getattr(client, call.operation)(**call.params)
        except FOREIGN as error:
            raise meant(error, call.what) from error
        return answer

    async def persist(self, attempt: Callable[[], Awaitable[T]], what: str) -> T:
        """Try again while it is worth it, with new credentials where they have expired: see `s3.retry.persist`."""
        used = 0

        async def attempt_noting_credentials() -> T:
            nonlocal used
            used = self._credentials.generation or 1  # 0: it reads them itself
            return await attempt()

        async def renew() -> None:
            try:
                await self._credentials.renew(used)
            except FOREIGN as error:
                raise meant(error, what) from error

        try:
            return await persist(
                attempt_noting_credentials,
                what=what,
                patience=self.options.patience,
                renew=renew,
                on_retry=lambda cause, text: self._on_retry(_CAUSES.get(cause, cause), text),
            )
        except StoreError as error:
            kind = QueueUnavailableError if error.retryable else QueueError
            raise kind(str(error)) from error

    async def _client(self, call: Call) -> Any:
        place = call.place
        async with self._making:
            await self._credentials.renew(0)  # reads them, if nobody has
            if place not in self._clients:
                try:
                    self._clients[place] = await self._made(place)
                except ValueError as error:  # botocore's word for names that are none
                    raise UsageError(f"{call.what}: {error}: correct --queue-endpoint or --queue-region") from error
            return self._clients[place]

    async def _made(self, place: Place) -> Any:
        """Return a connected client: of the endpoint that options or the configuration name, else of the place's."""
        async with AsyncExitStack() as making:
            client = await making.enter_async_context(self._new_client(place, self.options.endpoint_url))
            if place.endpoint and not self.options.endpoint_url and is_amazon(client.meta.endpoint_url):
                await making.aclose()
                client = await making.enter_async_context(self._new_client(place, place.endpoint))
            self._stack.push_async_exit(making.pop_all())
        return client

    def _new_client(self, place: Place, endpoint: str | None) -> Any:
        """Return a new botocore client, an async context manager."""
        session = new_session(self.options.profile)
        session.register_component("credential_provider", self._credentials)
        config = AioConfig(
            max_pool_connections=self.options.max_connections,
            connect_timeout=self.options.patience.connect_s,
            read_timeout=None,  # an answer's time is that of `attempt`
            retries={"total_max_attempts": 1, "mode": "standard"},
            warm_up_loader_caches=True,  # reads a megabyte of JSON in a thread
        )
        region = self.options.region or place.region or session.get_config_variable("region")
        if region is None:
            if endpoint is None and place.endpoint is None:
                raise NoRegionError
            region = _ANY_REGION
        return session.create_client(place.service, region_name=region, endpoint_url=endpoint, config=config)
