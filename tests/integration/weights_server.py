"""A publisher of weights over a real socket, which cuts, stalls, refuses, changes its file and lies as it is told."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 60.0
_PIECE = 16 * 1024


def hdf5_like(size: int, seed: int = 0, *, own_size: int | None = None) -> bytes:
    """Make bytes that begin like HDF5 (superblock version 0, which names the file's end), and random ones."""
    superblock = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
    superblock += struct.pack("<QQQQ", 0, 2**64 - 1, own_size or size, 2**64 - 1)
    return superblock + random.Random(seed).randbytes(size - len(superblock))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request instead of a whole answer.

    Attributes
    ----------
    status : the answer is this status and nothing else.
    after : bytes of the body after which it stops.
    until : after them, wait until this holds (so that the client has written what it received).
    then : ``close`` the connection, ``reset`` it, or ``stall``: nothing until the client has gone.
    """

    status: int | None = None
    after: int = 0
    until: Callable[[], object] = lambda: True
    then: Literal["close", "reset", "stall"] = "close"


@dataclass
class Request:
    """One request and what was sent for it."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class WeightsServer:
    """Serves `content` under every path. Use as a context manager.

    Attributes
    ----------
    etag : None sends none; a date is sent if `modified` is set.
    ranges : ``yes``; ``ignored``: 200 and the whole; ``as 200``: the rest with status 200, with or without saying so
        (``as 200, silent``); ``shifted``: a range that was not asked for.
    length : ``yes``, ``chunked``, ``none`` (the end of the connection is the end of the file), or a number: a lie.
    faults : for the next requests, one each; an int is a status.
    """

    content: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    encoding: str | None = None
    ranges: str = "yes"
    length: str | int = "yes"
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        owner = self

        class Handler(_Handler):
            server_state = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for the answers in work

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/model_weights"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [request.range for request in self.requests]

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()


class _Handler(BaseHTTPRequestHandler):
    server_state: WeightsServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        state = self.server_state
        self.close_connection = True
        asked = Request(self.path, self.headers["Range"], self.headers["If-Range"])
        fault = state.faults.popleft() if state.faults else None
        state.requests.append(asked)
        if fault and fault.status:
            asked.status = fault.status
            self.send_error(fault.status)
            return
        with suppress(ConnectionError):  # the client has gone: what it was promised is no matter
            self._answer(asked, fault)

    def _answer(self, asked: Request, fault: Fault | None) -> None:
        state = self.server_state
        body, total = state.content, len(state.content)
        start = 0
        is_same = asked.if_range is None or asked.if_range in (state.etag, state.modified)
        if asked.range and is_same and state.ranges != "ignored":
            match = re.fullmatch(r"bytes=(\d+)-", asked.range)
            assert match, asked.range
            start = int(match[1])
            if start >= total:
                asked.status = 416
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            is_shifted = state.ranges == "shifted"
            start -= is_shifted
            body = body[start : total - is_shifted]
            asked.status = 200 if state.ranges.startswith("as 200") else 206
        else:
            asked.status = 200
        self.send_response(asked.status)
        if asked.status == 206 or (start and state.ranges == "as 200"):
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
        self._headers_of(len(body))
        self._send(body, asked, fault)

    def _headers_of(self, length: int) -> None:
        state = self.server_state
        self.send_header("Content-Type", "binary/octet-stream")
        if state.encoding:
            self.send_header("Content-Encoding", state.encoding)
        if state.etag:
            self.send_header("ETag", state.etag)
        if state.modified:
            self.send_header("Last-Modified", state.modified)
        if state.length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif state.length != "none":
            self.send_header("Content-Length", str(length if state.length == "yes" else state.length))
        self.end_headers()

    def _send(self, body: bytes, asked: Request, fault: Fault | None) -> None:
        is_chunked = self.server_state.length == "chunked"
        end = len(body) if fault is None else fault.after
        for at in range(0, end, _PIECE):
            piece = body[at : min(at + _PIECE, end)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            asked.sent += len(piece)
        if fault is None:
            self.wfile.write(b"0\r\n\r\n" if is_chunked else b"")
            return
        self.wfile.flush()
        self._wait(fault.until)
        if fault.then == "stall":
            self._wait(self._client_has_gone)
        if fault.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _wait(self, condition: Callable[[], object]) -> None:
        pause, waited = 0.01, 0.0
        while not condition() and not self.server_state.is_closing:
            assert waited < PATIENCE_S, "the client did not do what the test waits for"
            self.server_state._closing.wait(pause)
            waited += pause

    def _client_has_gone(self) -> bool:
        self.connection.settimeout(0.01)
        try:
            return self.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
