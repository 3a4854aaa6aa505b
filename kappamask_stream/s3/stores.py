"""One owner of a process's S3 clients, so that a store's limits hold for all products together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from kappamask_stream.s3.client import S3Client
from kappamask_stream.s3.limits import RequestLimits
from kappamask_stream.s3.options import CDSE, S3Options

if TYPE_CHECKING:
    from typing import Self


class Stores:
    """The S3 clients of a process; an async context manager that closes them.

    Parameters
    ----------
    options : what people ask for; presets fill in what they leave out.
    outputs : the same for the store that outputs go to; None: as `options`.

    State: a client per set of options, limits per store and credentials.
    """

    def __init__(self, options: S3Options | None = None, outputs: S3Options | None = None) -> None:
        self.options = options or S3Options()
        self.outputs = outputs or self.options
        self._clients: dict[S3Options, S3Client] = {}
        self._limits: dict[tuple[str | None, str | None, bool], RequestLimits] = {}
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Stores {', '.join(map(repr, self._clients.values())) or 'not used yet'}>"

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._clients.clear()
        await self._stack.aclose()

    async def client(self, preset: S3Options | None = None) -> S3Client:
        """Return the client for what people ask for over a preset; it belongs to this owner.

        CDSE's quota is taken as well where people name its endpoint themselves.
        """
        return await self._client(self.options if preset is None else self.options.over(preset))

    async def output_client(self) -> S3Client:
        """Return the client for the store that outputs go to; it belongs to this owner."""
        return await self._client(self.outputs)

    async def _client(self, options: S3Options) -> S3Client:
        if options.endpoint_url is not None and options.endpoint_url.rstrip("/") == CDSE.endpoint_url:
            options = options.over(CDSE)
        if options not in self._clients:
            key = (options.endpoint_url, options.profile, options.anonymous)
            if key not in self._limits:
                self._limits[key] = RequestLimits(options.connections, options.requests_per_minute)
            client = S3Client(options, self._limits[key])
            self._clients[options] = client
            await self._stack.enter_async_context(client)
        return self._clients[options]
