"""An HTTP relay before a real S3 store that passes requests on and loses answers: what is written, nobody hears of."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: What becomes of a request: done, but the connection is reset before the answer, or the answer is another one; or
#: refused instead. A function is called when it has been done, before its answer is passed on.
Fate = Literal["reset after", "500 after", "403 instead", "none"]
_REFUSALS = {
    "500 after": (500, "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"),
    "403 instead": (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
}
_WRITES = ("PUT", "POST", "DELETE")


class LosingRelay:
    """Use as a context manager.

    Attributes
    ----------
    endpoint : its URL.
    fate : given the number, from 1, of a request that writes, returns what becomes of it.
    done : called with that number when the request has been done.
    uncounted : texts; what is written to a path that holds one of them is passed on and not counted.
    written : the requests that write, method and path.
    lost : how many met a fate.
    """

    def __init__(self, store: str) -> None:
        self.fate: Callable[[int], Fate] = lambda _: "none"
        self.done: Callable[[int], object] = lambda _: None
        self.uncounted: Sequence[str] = ()
        self.lost, self.written = 0, list[str]()
        self.counting = threading.Lock()
        relay = self

        class Handler(_Handler):
            losing, store_address = relay, store.removeprefix("http://")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def begin(self, fate: Callable[[int], Fate], done: Callable[[int], object] = lambda _: None) -> None:
        """Count anew."""
        self.fate, self.done, self.lost, self.written = fate, done, 0, []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    losing: LosingRelay
    store_address: str

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate, number, losing = "none", 0, self.losing
        if self.command in _WRITES and not any(text in self.path for text in losing.uncounted):
            with losing.counting:
                losing.written.append(f"{self.command} {self.path}")
                number = len(losing.written)
                fate = losing.fate(number)
                losing.lost += fate != "none"
        if fate == "403 instead":
            return self._refuse(fate)
        answer, data = self._done(body)
        if number:
            losing.done(number)
        if fate == "reset after":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return None
        if fate == "500 after":
            return self._refuse(fate)
        return self._send(
            answer.status, {**dict(answer.getheaders()), "Content-Length": self._length(answer, data)}, data
        )

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _done(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.store_address, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def _length(self, answer: http.client.HTTPResponse, data: bytes) -> str:
        return answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))

    def _refuse(self, fate: str) -> None:
        status, text = _REFUSALS[fate]
        self._send(status, {"Content-Type": "application/xml", "Content-Length": str(len(text))}, text.encode())

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
