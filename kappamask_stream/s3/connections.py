"""What requests are sent with: botocore's clients, one per region that buckets are found in, and a pool for bytes."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.config import AioConfig
from botocore import UNSIGNED  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

from kappamask_stream.errors import UsageError
from kappamask_stream.s3.credentials import RenewableCredentials, new_session
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from typing import Self

    from kappamask_stream.s3.options import S3Options

_BUFFER = 256 * 1024


class Connections:
    """Clients and connections of one store and one set of credentials; an async context manager.

    botocore follows a bucket to its region in calls, but signs URLs for the region that it began with.

    Attributes
    ----------
    credentials : None for anonymous requests.

    State: what has been made so far, and the regions of buckets.
    """

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self.credentials = None if options.anonymous else RenewableCredentials(self._new_session)
        self._http: aiohttp.ClientSession | None = None
        self._clients: dict[str | None, Any] = {}
        self._regions: dict[str, str] = {}
        self._making = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._http = None
        self._clients.clear()
        await self._stack.aclose()

    def learn_region(self, bucket: str, region: str | None) -> bool:
        """Note where a store says that a bucket is; returns True where this is news."""
        if region is None or region == self._regions.get(bucket, self._options.region):
            return False
        self._regions[bucket] = region
        return True

    async def client(self, bucket: str) -> Any:
        """Return botocore's client for a bucket; at the first call credentials are read.

        Raises
        ------
        UsageError
            If endpoint or region are none.
        """
        region = self._regions.get(bucket, self._options.region)
        async with self._making:
            if self.credentials is not None:
                await self.credentials.renew(0)  # reads them, if nobody has
            if region not in self._clients:
                try:
                    self._clients[region] = await self._stack.enter_async_context(self.new_client(region))
                except ValueError as error:  # botocore's word for names that are none
                    raise UsageError(f"s3://{bucket}: {error}: correct --s3-endpoint or --s3-region") from error
            return self._clients[region]

    async def http(self) -> aiohttp.ClientSession:
        """Return the pool for bytes."""
        async with self._making:
            if self._http is None:
                self._http = await self._stack.enter_async_context(await self._new_http())
            return self._http

    def _new_session(self) -> Any:
        return new_session(self._options.profile)

    def new_client(self, region: str | None) -> Any:
        """Return a new botocore client, an async context manager."""
        session = self._new_session()
        if self.credentials is not None:
            session.register_component("credential_provider", self.credentials)
        config = AioConfig(
            signature_version="s3v4" if self.credentials else UNSIGNED,
            max_pool_connections=self._options.connections,
            connect_timeout=self._options.patience.connect_s,
            read_timeout=self._options.patience.read_s,
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            warm_up_loader_caches=True,  # reads a megabyte of JSON in a thread
        )
        return session.create_client("s3", region_name=region, endpoint_url=self._options.endpoint_url, config=config)

    async def _new_http(self) -> aiohttp.ClientSession:
        bundle = self._new_session().get_config_variable("ca_bundle")
        # Reading certificates takes tens of milliseconds.
        context = await in_thread(None, lambda: ssl.create_default_context(cafile=bundle))
        patience = self._options.patience
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._options.connections, ssl=context),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.read_s),
            headers={"Accept-Encoding": "identity"},  # lengths and ranges count the bytes on the wire
            auto_decompress=False,
            read_bufsize=_BUFFER,
        )


async def configured_endpoint(options: S3Options) -> str | None:
    """Return the endpoint that botocore takes from variables or the profile; None where it cannot tell yet.

    Nothing is connected, no credentials are read.
    """
    try:
        async with Connections(options).new_client(options.region) as client:
            return str(client.meta.endpoint_url)
    except (BotoCoreError, ValueError, OSError):  # said at the first request, with its URL
        return None
