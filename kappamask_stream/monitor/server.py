"""The monitor's web server: metrics, health, and the status page. It only answers questions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Self

from aiohttp import hdrs, web
from prometheus_client.exposition import choose_encoder

from kappamask_stream.errors import UsageError
from kappamask_stream.monitor.status import status

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from kappamask_stream.monitor.addresses import ListenAddress
    from kappamask_stream.monitor.board import Board
    from kappamask_stream.monitor.loop_lag import LoopLag
    from kappamask_stream.monitor.metrics import Metrics
    from kappamask_stream.monitor.readiness import Readiness

#: The loop's sampler is called each 50 ms; later than this it has died.
_LIVE_S = 30.0
#: However many look at the page, its state is put together as often as this.
_STATUS_FRESH_S = 0.5
_QUICKLOOK = re.compile(r"(?P<number>[1-9]\d{0,17})\.png", re.ASCII)


class MonitorServer:
    """Serves what `Metrics`, `Board` and `Readiness` know; an async context manager.

    GET and HEAD only. Nothing is asked of anybody else by the page, and no other site may frame or read it.

    Attributes
    ----------
    url : of the status page, once entered.

    Parameters
    ----------
    name, model : of the worker, for people.

    State: the sockets; the status that was sent last, and when it was made.
    """

    def __init__(
        self,
        address: ListenAddress,
        *,
        metrics: Metrics,
        board: Board,
        readiness: Readiness,
        lag: LoopLag,
        name: str,
        model: str,
    ) -> None:
        self._address = address
        self._metrics, self._board, self._readiness, self._lag = metrics, board, readiness, lag
        self._name, self._model = name, model
        self._runner: web.AppRunner | None = None
        self._made_at, self._status = float("-inf"), b""
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[_guard(self._address)], client_max_size=1024)
        app.add_routes([
            web.get("/", self._page),
            web.get("/status.json", self._status_json),
            web.get("/metrics", self._metrics_text),
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/quicklooks/{name}", self._quicklook),
        ])  # fmt: skip
        app.on_response_prepare.append(_secure)
        runner = self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        # Cancelled in the middle, asyncio would lose a socket that listens already: it is let come to its end.
        starting = asyncio.create_task(self._start(runner), name="begin to listen")
        try:
            await asyncio.shield(starting)
        except BaseException:
            await asyncio.wait([starting])
            await runner.cleanup()
            raise
        self.url = self._address.url(runner.addresses[0][1])
        return self

    async def _start(self, runner: web.AppRunner) -> None:
        await runner.setup()
        try:
            await web.TCPSite(runner, self._address.host, self._address.port).start()
        except OSError as error:
            raise UsageError(
                f"nothing can listen at {self._address.host}:{self._address.port} for metrics and status: "
                f"{error.strerror or error}; choose another place with --listen HOST:PORT, or none"
            ) from error

    async def __aexit__(self, *exc_info: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _page(self, _: web.Request) -> web.Response:
        page, policy = page_and_policy()
        headers = {"Content-Security-Policy": policy}
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    async def _status_json(self, _: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        if now - self._made_at >= _STATUS_FRESH_S:
            self._board.count_pixels()
            said = status(self._board, self._readiness.last, name=self._name, model=self._model)
            self._status, self._made_at = json.dumps(said).encode(), now
        return web.Response(body=self._status, content_type="application/json")

    async def _metrics_text(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        return web.Response(body=encode(self._metrics.registry), headers={hdrs.CONTENT_TYPE: content_type})

    async def _healthz(self, _: web.Request) -> web.Response:
        seen = self._lag.seen_at
        ago = None if seen is None else asyncio.get_running_loop().time() - seen
        is_live = ago is not None and ago <= _LIVE_S
        reason = None if is_live else "the event loop's sampler does not run"
        return _health(is_well=is_live, document={"live": is_live, "reason": reason})

    async def _readyz(self, _: web.Request) -> web.Response:
        parts = dict(await self._readiness.parts())
        parts["worker"] = parts.get("worker") or self._no_worker_yet_or_any_more()
        is_ready = all(why is None for why in parts.values())
        return _health(is_well=is_ready, document={"ready": is_ready, "parts": parts})

    def _no_worker_yet_or_any_more(self) -> str | None:
        """Say what the worker does instead of its work. Pauses are not here: of those, the probe knows the bad ones."""
        state = self._board.state
        if state.phase in ("taking", "paused"):
            return None
        return state.phase if state.reason is None else f"{state.phase}: {self._board.shown(state.reason)}"

    async def _quicklook(self, request: web.Request) -> web.Response:
        found = _QUICKLOOK.fullmatch(request.match_info["name"])
        png = None if found is None else self._board.quicklooks.get(int(found["number"]))
        if png is None:
            raise web.HTTPNotFound(text="there is no such picture, or no longer\n")
        return web.Response(body=png, content_type="image/png")


def _guard(address: ListenAddress) -> Middleware:
    """Return what lets only questions through, and only those that are meant for us."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
            raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_GET, hdrs.METH_HEAD])
        if not address.answers(request.headers.get(hdrs.HOST)):
            raise web.HTTPMisdirectedRequest(text="this server answers to localhost only\n")
        return await handler(request)

    return guard


def _health(*, is_well: bool, document: dict[str, object]) -> web.Response:
    code = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
    return web.json_response(document, status=code)


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    response.headers.update({
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Server": "kappamask-stream",
    })  # fmt: skip


@cache
def page_and_policy() -> tuple[bytes, str]:
    """Return the page, with its own style and script in it, and the policy that lets only these two work."""
    folder = resources.files("kappamask_stream.monitor") / "page"
    page, style, script = ((folder / f"status.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.replace("{{ style }}", style).replace("{{ script }}", script).encode(), policy


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
