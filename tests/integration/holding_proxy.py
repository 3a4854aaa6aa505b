"""A TCP proxy before a server that lets a client connect and ask, and holds back its first tile until told."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

#: Bytes: asking for a model's configuration and statistics takes less, one tile takes more.
_ENOUGH = 64 * 1024


class HoldingProxy:
    """Use as a context manager.

    Attributes
    ----------
    address : ``127.0.0.1:PORT``.
    held : is set when a tile is held back.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.held = threading.Event()
        self._let_go = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()

    def let_go(self) -> None:
        """Pass everything on from now on."""
        self._let_go.set()

    def cut(self) -> None:
        """End all connections and take no new ones, as a server that dies."""
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._let_go.set()

    def _start(self, work: object, *args: object) -> None:
        self._threads.append(threading.Thread(target=work, args=args))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self._start(self._pass_on, client, server, _ENOUGH)
                self._start(self._pass_on, server, client, None)

    def _pass_on(self, source: socket.socket, target: socket.socket, enough: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                passed += len(data)
                if enough is not None and passed > enough and not self._let_go.is_set():
                    self.held.set()
                    self._let_go.wait()
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
