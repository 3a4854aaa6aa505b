"""One owner of a process's connections to stores, so that limits hold for all products together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from kappamask_stream.s3.client import S3Client
from kappamask_stream.s3.connections import configured_endpoint
from kappamask_stream.s3.limits import RequestLimits
from kappamask_stream.s3.options import CDSE, S3Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from kappamask_stream.sources.http import HttpStore


class Stores:
    """The S3 clients of a process, and its connections to web servers; an async context manager that closes them.

    Parameters
    ----------
    options : what people ask for; presets fill in what they leave out. Patience and connections are those of web
        servers, too.
    outputs : the same for the store that outputs go to; None: as `options`.
    on_retry : told the cause, and in words, of each request that failed and is sent again: see `retry.persist`.
    processes : that read the same stores for one user: this one takes its part of the requests at once and a minute.

    State: a client per set of options, limits per store and credentials, the pool for HTTP.
    """

    def __init__(
        self,
        options: S3Options | None = None,
        outputs: S3Options | None = None,
        *,
        on_retry: Callable[[str, str], None] = lambda _cause, _text: None,
        processes: int = 1,
    ) -> None:
        self._processes = processes
        self.options = options or S3Options()
        self.outputs = outputs or self.options
        self._on_retry = on_retry
        #: What was asked for -> with the preset of the store that it turned out to mean.
        self._resolved: dict[S3Options, S3Options] = {}
        self._clients: dict[S3Options, S3Client] = {}
        self._limits: dict[tuple[str | None, str | None, bool], RequestLimits] = {}
        self._http: HttpStore | None = None
        self._making = asyncio.Lock()
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Stores {', '.join(map(repr, self._clients.values())) or 'not used yet'}>"

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._clients.clear()
        self._http = None
        await self._stack.aclose()

    @property
    def http(self) -> HttpStore:
        """The pool for web servers; it belongs to this owner."""
        if self._http is None:
            from kappamask_stream.sources.http import HttpStore  # here: it is built on this package

            options = self.options
            self._http = HttpStore(
                connections=self._part(options.connections), patience=options.patience, on_retry=self._on_retry
            )
            self._stack.push_async_callback(self._http.aclose)
        return self._http

    async def client(self, preset: S3Options | None = None) -> S3Client:
        """Return the client for what people ask for over a preset; it belongs to this owner.

        CDSE's quota is taken as well where people name its endpoint themselves: by an option, a variable, a profile.
        """
        return await self._client(self.options if preset is None else self.options.over(preset))

    async def output_client(self) -> S3Client:
        """Return the client for the store that outputs go to; it belongs to this owner."""
        return await self._client(self.outputs)

    async def _client(self, asked: S3Options) -> S3Client:
        async with self._making:
            if asked not in self._resolved:
                endpoint = asked.endpoint_url or await configured_endpoint(asked)
                is_cdse = endpoint is not None and endpoint.rstrip("/") == CDSE.endpoint_url
                self._resolved[asked] = replace(asked, endpoint_url=None).over(CDSE) if is_cdse else asked
            options = self._resolved[asked]
            if options not in self._clients:
                key = (options.endpoint_url, options.profile, options.anonymous)
                if key not in self._limits:
                    a_minute = options.requests_per_minute
                    self._limits[key] = RequestLimits(
                        self._part(options.connections), None if a_minute is None else self._part(a_minute)
                    )
                client = S3Client(options, self._limits[key], self._on_retry)
                self._clients[options] = await self._stack.enter_async_context(client)
            return self._clients[options]

    def _part(self, limit: int) -> int:
        return max(1, limit // self._processes)
