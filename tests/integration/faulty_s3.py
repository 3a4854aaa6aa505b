"""An S3 store over a real socket that cuts, resets, stalls, refuses, lies and replaces objects as it is told.

It signs nothing and lists in one page; what it is asked, with all headers, is recorded.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
import urllib.parse
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.integration.tls_files import Pair

PATIENCE_S = 60.0
_PIECE = 16 * 1024
_DRIP_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one GET (or PUT) of an object instead of a right answer.

    Attributes
    ----------
    status, code, message, region, headers : the answer is this refusal and nothing else.
    after : bytes of the body after which it stops.
    until : after them, wait until this holds (so that the client has what was sent).
    then : ``close`` the connection, ``reset`` it, ``stall`` until the client goes, ``drip`` the rest, a byte now and then,
        or ``go on``.
    announce : Content-Length, whatever the body is; -1 announces none.
    whole : True: the range is ignored, the whole object comes with status 200.
    flip : the byte at this place of the body comes wrong.
    first : called before the answer; replaces the object, say.
    """

    status: int | None = None
    code: str = ""
    message: str = "as told"
    region: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int | None = None
    until: Callable[[], object] = lambda: True
    then: Literal["close", "reset", "stall", "drip", "go on"] = "go on"
    announce: int | None = None
    whole: bool = False
    flip: int | None = None
    first: Callable[[], object] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class FaultyS3:
    """Use as a context manager.

    Parameters
    ----------
    tls : certificate and key, where it speaks HTTPS.

    Attributes
    ----------
    endpoint : its URL.
    objects : ``bucket/key`` -> bytes.
    faults : one for each coming request of an object, in order; then all goes well.
    accept : decides from a request whether its credentials are good.
    requests : what was asked, in order.
    hold : cleared, it keeps requests from being answered.
    at_once : requests that are not answered yet.
    """

    def __init__(self, objects: Mapping[str, bytes] | None = None, *, tls: Pair | None = None) -> None:
        self.objects = dict(objects or {})
        self.faults: deque[Fault] = deque()
        self.accept: Callable[[Request], bool] = lambda _: True
        self.extra_headers: dict[str, str] = {}
        self.requests: list[Request] = []
        self.hold = threading.Event()
        self.hold.set()
        self._at_once = 0
        self._counting = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.store = self
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tls.certificate, tls.key)
            # Shaken hands with in the connection's own thread.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    @property
    def ranges(self) -> list[str | None]:
        """Ranges of the GETs of objects."""
        return [r.range for r in self.requests if r.method == "GET" and "list-type" not in r.query]

    def begin(self, request: Request) -> None:
        with self._counting:
            self.requests.append(request)
            self._at_once += 1

    def end(self) -> None:
        with self._counting:
            self._at_once -= 1

    @property
    def at_once(self) -> int:
        return self._at_once


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    store: FaultyS3

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is what tests want."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def store(self) -> FaultyS3:
        assert isinstance(self.server, _Server)
        return self.server.store

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        asked = Request(method=self.command, path=urllib.parse.unquote(url.path), query=query, headers=headers)
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self.store.begin(asked)
        try:
            assert self.store.hold.wait(PATIENCE_S)
            self._answer(asked, body)
        finally:
            self.store.end()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _answer(self, asked: Request, body: bytes) -> None:
        name = asked.path.lstrip("/")
        if not self.store.accept(asked):
            return self._refuse(400, "ExpiredToken", "The provided token has expired.")
        if asked.method == "GET" and "list-type" in asked.query:
            return self._list(name, asked.query["prefix"][0])
        fault = self.store.faults.popleft() if self.store.faults else Fault()
        fault.first()
        if fault.status is not None:
            return self._refuse(fault.status, fault.code, fault.message, fault.headers, fault.region)
        if asked.method == "PUT":
            self.store.objects[name] = body
            return self._send(200, {"ETag": etag(body)})
        if name not in self.store.objects:
            return self._refuse(404, "NoSuchKey", "The specified key does not exist.")
        return self._object(asked, self.store.objects[name], fault)

    def _object(self, asked: Request, data: bytes, fault: Fault) -> None:
        if asked.headers.get("if-match", etag(data)) != etag(data):
            return self._refuse(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
        status, headers, first, end = 200, {"ETag": etag(data), **self.store.extra_headers}, 0, len(data)
        if asked.range and not fault.whole:
            low, _, high = asked.range.removeprefix("bytes=").partition("-")
            status, first, end = 206, int(low), min(int(high) + 1, len(data))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        body = bytearray(data[first:end])
        if fault.flip is not None:
            body[fault.flip] ^= 1
        announced = len(body) if fault.announce is None else fault.announce
        headers["Content-Length"] = "" if announced < 0 else str(announced)
        self._send(status, headers)
        if asked.method != "HEAD":
            self._body(bytes(body), fault)
        return None

    def _body(self, body: bytes, fault: Fault) -> None:
        with suppress(OSError):
            for start in range(0, len(body[: fault.after]), _PIECE):
                self.wfile.write(body[: fault.after][start : start + _PIECE])
            self.wfile.flush()
            for _ in range(int(PATIENCE_S / 0.005)):
                if fault.until():
                    break
                threading.Event().wait(0.005)
            if fault.then == "stall":
                self.connection.settimeout(PATIENCE_S)
                self.connection.recv(1)  # returns when the client goes
            if fault.then == "drip":
                for place in range(len(body[: fault.after]), len(body)):
                    self.wfile.write(body[place : place + 1])  # raises when the client goes
                    threading.Event().wait(_DRIP_S)
            if fault.then == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault.then != "go on":
            self.close_connection = True

    def _list(self, bucket: str, prefix: str) -> None:
        found = [
            f"<Contents><Key>{escape(key.partition('/')[2])}</Key><Size>{len(data)}</Size>"
            f"<ETag>{escape(etag(data))}</ETag></Contents>"
            for key, data in sorted(self.store.objects.items())
            if key.startswith(f"{bucket.rstrip('/')}/{prefix}")
        ]
        self._xml(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(found)}</ListBucketResult>")

    def _refuse(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, region: str = ""
    ) -> None:
        where = f"<Region>{region}</Region>" if region else ""
        self._xml(
            status, f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{where}</Error>", headers or {}
        )

    def _xml(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        data = b"" if self.command == "HEAD" else text.encode()
        self._send(status, {"Content-Type": "application/xml", "Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def _send(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        sent: Iterable[tuple[str, str]] = ({"Content-Length": "0"} | dict(headers)).items()
        for name, value in sent:
            if name != "Content-Length" or value:
                self.send_header(name, value)
        self.end_headers()
