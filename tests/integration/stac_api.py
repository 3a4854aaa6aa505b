"""A STAC API over a real socket: a landing page and Item Search with pages, which fails as it is told.

After the STAC API specification 1.0: links to the next page as POST with a body, with or without ``merge``, and as GET.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CORE, SEARCH = "https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"
QUERY = "https://api.stacspec.org/v1.0.0/item-search#query"


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that is killed leaves its connection."""


@dataclass
class StacApi:
    """Serves `items` to every search. Use as a context manager.

    Attributes
    ----------
    items : STAC Items, or a function that makes the one of a number, of `count`.
    page : Items of a page.
    methods : of the search, as the landing page has them.
    paging : ``merge``, ``body`` or ``relative``: how the next page is linked; GET has it in the address.
    conforms_to : conformance classes.
    faults : for the next requests, one each: a status, or a text that is sent instead of the right one; None is no
        fault.
    searches : parameters of each search request, those of the page among them.
    holes : numbers of pages that have no Items, though others follow.
    back_to : number of a page that the last one leads to.
    on_search : called with the number of each search, before it is answered.
    """

    items: Sequence[dict[str, Any]] | Callable[[int], dict[str, Any]]
    count: int | None = None
    page: int = 3
    methods: tuple[str, ...] = ("GET", "POST")
    paging: str = "merge"
    conforms_to: tuple[str, ...] = (CORE, SEARCH, QUERY)
    faults: deque[int | str | None] = field(default_factory=deque)
    searches: list[dict[str, Any]] = field(default_factory=list)
    holes: frozenset[int] = frozenset()
    back_to: int | None = None
    on_search: Callable[[int], None] = lambda _: None

    def __enter__(self) -> Self:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._answer(parts.path, asked, "GET")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(urlsplit(self.path).path, json.loads(body), "POST")

            def _answer(self, path: str, asked: dict[str, Any], method: str) -> None:
                fault = api.faults.popleft() if api.faults else None
                status, text = 200, fault
                if isinstance(fault, int):
                    status, text = fault, json.dumps({"code": fault, "description": "no luck"})
                elif fault is None:
                    text = json.dumps(api.landing() if path == "/v1" else api.search(asked, method))
                data = str(text).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/geo+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def landing(self) -> dict[str, Any]:
        links = [{"rel": "search", "href": f"{self.url}/search", "method": method} for method in self.methods]
        return {
            "type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "for tests",
            "conformsTo": list(self.conforms_to), "links": [{"rel": "self", "href": self.url}, *links],
        }  # fmt: skip

    def search(self, asked: dict[str, Any], method: str) -> dict[str, Any]:
        self.on_search(len(self.searches))
        self.searches.append(asked)
        start = int(asked.get("token", 0))
        count = len(self.items) if self.count is None and not callable(self.items) else self.count or 0
        numbers = range(start, min(start + self.page, count))
        features = [self.items(n) if callable(self.items) else self.items[n] for n in numbers]
        features = [] if start // self.page in self.holes else features
        following = start + self.page if start + self.page < count else None
        if following is None and self.back_to is not None:
            following = self.back_to * self.page
        links = [] if following is None else [self._next(asked, method, following)]
        return {"type": "FeatureCollection", "features": features, "links": links}

    def _next(self, asked: dict[str, Any], method: str, token: int) -> dict[str, Any]:
        href = "./search" if self.paging == "relative" else f"{self.url}/search"
        if method == "GET":
            return {"rel": "next", "href": f"{href}?{urlencode({**asked, 'token': token})}", "method": "GET"}
        link = {"rel": "next", "href": href, "method": "POST"}
        if self.paging == "body":
            return {**link, "body": {**asked, "token": token}, "merge": False}
        return {**link, "body": {"token": token}, "merge": True}
