"""A proxy before a real SQS and SNS that refuses, breaks off, holds and changes answers as it is told."""

from __future__ import annotations

import json
import urllib.parse
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_NOT_PASSED_ON = {"host", "content-length", "transfer-encoding", "connection", "date", "server"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request.

    Attributes
    ----------
    operation : of the requests that it is for; others pass by.
    status, code, message : the answer is this refusal, as SQS writes it; the service is not asked.
    then : the service is asked, and the connection is closed without its answer; or a page comes instead of it.
    change : changes the answer, a JSON document.
    hold : the service is asked, its answer waits for this.
    """

    operation: str
    status: int | None = None
    code: str = ""
    message: str = "as told"
    then: Literal["close", "page", "answer"] = "answer"
    change: Callable[[dict[str, Any]], None] = lambda _: None
    hold: asyncio.Event | None = None


@dataclass(kw_only=True)
class Request:
    """One request, with its parameters and the bytes of its body."""

    operation: str
    params: dict[str, Any]
    size: int
    headers: dict[str, str] = field(default_factory=dict)


class FaultyQueues:
    """Use as an async context manager.

    Attributes
    ----------
    endpoint : its URL.
    faults : the first one that is for a request's operation befalls it, and is used up.
    always : asked for the fault of each request that none of `faults` befell, as long as it is set.
    befallen : requests that a fault befell.
    requests : what was asked, in order.
    answered : of these, so many are.
    at_once, most_at_once : requests that are not answered yet; the most there ever were.
    """

    def __init__(self, behind: str) -> None:
        self._behind = behind
        self.faults: deque[Fault] = deque()
        self.always: Callable[[Request], Fault | None] | None = None
        self.befallen = 0
        self.requests: list[Request] = []
        self.answered = self.at_once = self.most_at_once = 0
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        application = web.Application(client_max_size=4 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.endpoint = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for fault in self.faults:
            if fault.hold is not None:
                fault.hold.set()
        await self._runner.cleanup()
        await self._client.close()

    def of(self, operation: str) -> list[Request]:
        return [request for request in self.requests if request.operation == operation]

    async def _serve(self, asked: web.Request) -> web.StreamResponse:
        body = await asked.read()
        if target := asked.headers.get("X-Amz-Target"):
            operation, params = target.partition(".")[2], json.loads(body)
        else:  # SNS's query protocol
            params = dict(urllib.parse.parse_qsl(body.decode()))
            operation = params["Action"]
        request = Request(operation=operation, params=params, size=len(body), headers=dict(asked.headers.items()))
        self.requests.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(asked, request, body)
        finally:
            self.at_once -= 1
            self.answered += 1

    def _fault_of(self, request: Request) -> Fault | None:
        fault = next((fault for fault in self.faults if fault.operation == request.operation), None)
        if fault is not None:
            self.faults.remove(fault)
        elif self.always is not None:
            fault = self.always(request)
        self.befallen += fault is not None
        return fault

    async def _answer(self, asked: web.Request, request: Request, body: bytes) -> web.StreamResponse:
        fault = self._fault_of(request)
        if fault is None:
            return await self._pass_on(asked, body)
        if fault.status is not None:
            headers = {"x-amzn-query-error": f"{fault.code};Sender"}
            return web.json_response(
                {"__type": f"com.amazonaws.sqs#{fault.code}", "message": fault.message}, status=fault.status,
                headers=headers,
            )  # fmt: skip
        answer = await self._pass_on(asked, body)
        if fault.hold is not None:
            await fault.hold.wait()
        if fault.then == "close":
            assert asked.transport is not None
            asked.transport.abort()
        if fault.then == "page":
            return web.Response(text="<html>Log in to the network</html>", content_type="text/html")
        if answer.body:
            document = json.loads(bytes(answer.body))  # type: ignore[arg-type]
            fault.change(document)
            answer.body = json.dumps(document).encode()
        return answer

    async def _pass_on(self, asked: web.Request, body: bytes) -> web.Response:
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in _NOT_PASSED_ON}
        url = f"{self._behind}{asked.rel_url}"
        async with self._client.request(asked.method, url, data=body, headers=headers) as answer:
            passed = {n: v for n, v in answer.headers.items() if n.lower() not in _NOT_PASSED_ON}
            return web.Response(status=answer.status, headers=passed, body=await answer.read())
