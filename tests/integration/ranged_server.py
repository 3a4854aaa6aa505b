"""A web server over a real socket that serves files in ranges, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

_DRIP_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request instead of the right answer.

    Attributes
    ----------
    status : the answer is this status, with `headers` and nothing else.
    after : bytes of the body after which the connection is cut; None: all.
    drips : it is not cut then: the rest comes a byte now and then.
    short : the body ends so many bytes early, as if that were all.
    shift : the range begins so many bytes later than asked for, and says so.
    whole : the range is ignored: status 200 and all.
    encoding : said to be the encoding of the body.
    replace : the file has this content from now on.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None
    drips: bool = False
    short: int = 0
    shift: int = 0
    whole: bool = False
    encoding: str | None = None
    replace: bytes | None = None


@dataclass
class RangedServer:
    """Serves `files` by path. Use as an async context manager.

    Attributes
    ----------
    etags : ``strong``, ``weak`` or ``none``.
    ranges : ``yes``; ``no``: whole files only; ``as 200``: the range, with status 200 and Content-Range.
    length : False: chunked, without Content-Length.
    faults : for the next requests, one each; None is no fault.
    requests : path and Range of each.
    versions : If-Range of each.
    redirects : path -> URL.
    address : on which it listens.
    """

    files: dict[str, bytes]
    etags: str = "strong"
    ranges: str = "yes"
    length: bool = True
    faults: deque[Fault | None] = field(default_factory=deque)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    versions: list[str | None] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._get)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, 0)
        await site.start()
        self.port: int = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str) -> str:
        return f"http://{self.address}:{self.port}/{path}"

    @property
    def sent_ranges(self) -> list[str | None]:
        return [range_ for _, range_ in self.requests]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.requests.append((path, request.headers.get("Range")))
        self.versions.append(request.headers.get("If-Range"))
        fault = (self.faults.popleft() if self.faults else None) or Fault()
        if fault.replace is not None:
            self.files[path] = fault.replace
        if fault.status is not None:
            return web.Response(status=fault.status, headers=fault.headers)
        if path in self.redirects:
            raise web.HTTPFound(self.redirects[path])
        if path not in self.files:
            return web.Response(status=404)
        return await self._answer(request, self.files[path], fault)

    async def _answer(self, request: web.Request, content: bytes, fault: Fault) -> web.StreamResponse:
        headers, etag = {}, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.etags != "none":
            headers["ETag"] = ("W/" if self.etags == "weak" else "") + etag
        if fault.encoding:
            headers["Content-Encoding"] = fault.encoding
        status, body = 200, content
        asked = request.headers.get("Range")
        is_same = request.headers.get("If-Range") in {None, etag}
        if asked and is_same and not fault.whole and self.ranges != "no":
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first) + fault.shift, min(int(last) + 1 + fault.shift, len(content))
            if start >= len(content):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
            status, body = (200 if self.ranges == "as 200" else 206), content[start:end]
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = body[: len(body) - fault.short]
        if self.length:
            headers["Content-Length"] = str(len(body))
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        await response.write(body[: fault.after])
        if fault.drips:
            for place in range(len(body[: fault.after]), len(body)):
                await response.write(body[place : place + 1])  # raises when the client goes
                await asyncio.sleep(_DRIP_S)
        if fault.after is not None and request.transport is not None:
            request.transport.close()
            await asyncio.sleep(0)
        await response.write_eof()
        return response
