"""The proxy injects what it says: tests of faults lean on it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = bytes(range(256)) * 400


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """Before a server that answers each connection's first byte with BODY and ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(ConnectionError):
                if client.recv(1):
                    client.sendall(BODY)

    thread = threading.Thread(target=serve)
    thread.start()
    with FaultProxy(f"127.0.0.1:{listener.getsockname()[1]}") as one:
        yield one
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def answer(proxy: FaultProxy) -> bytes:
    host, _, port = proxy.address.rpartition(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"?")
        while data := client.recv(1 << 16):
            got += data
    return got


def test_without_a_fault_everything_passes(proxy: FaultProxy) -> None:
    assert answer(proxy) == BODY
    assert (proxy.connections, proxy.cuts, proxy.corrupted) == (1, 0, 0)
    assert proxy.passed == len(BODY) + 1


def test_connections_are_refused_and_let_in_again(proxy: FaultProxy) -> None:
    proxy.refuses = True
    with pytest.raises(ConnectionError):
        answer(proxy)
    proxy.refuses = False
    assert answer(proxy) == BODY
    assert proxy.cuts == 1


def test_a_connection_is_reset_after_so_many_bytes(proxy: FaultProxy) -> None:
    proxy.cut_after = 1000
    with pytest.raises(ConnectionError):
        answer(proxy)
    assert proxy.cuts == 1


def test_bytes_are_changed_on_their_way(proxy: FaultProxy) -> None:
    proxy.corrupt = lambda to_server, data: data if to_server else bytes([data[0] ^ 1]) + data[1:]
    got = answer(proxy)
    assert len(got) == len(BODY)
    assert got[0] == 1
    assert proxy.corrupted >= 1


def test_latency_delays_bytes_and_does_not_slow_them_down(proxy: FaultProxy) -> None:
    """Of two chunks, the second is under way while the first one is: 1.2 s there and back, not 0.6 s more a chunk."""
    proxy.latency_s = 0.6
    began = time.monotonic()
    assert answer(proxy) == BODY
    assert 1.2 <= time.monotonic() - began < 1.8


def test_new_connections_go_where_they_are_told(proxy: FaultProxy) -> None:
    with FaultProxy("127.0.0.1:1", listen="127.0.0.2:0") as other:
        assert other.address.startswith("127.0.0.2:")
        with pytest.raises(ConnectionError):
            answer(other)
        other.server = proxy.server
        assert answer(other) == BODY


def test_a_stall_holds_bytes_back_until_it_ends(proxy: FaultProxy) -> None:
    proxy.stall()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(answer(proxy)))
    thread.start()
    while not proxy.connections:
        pass
    assert proxy.passed == 0
    proxy.go_on()
    thread.join()
    assert got == [BODY]


def test_open_connections_are_cut_when_told(proxy: FaultProxy) -> None:
    host, _, port = proxy.address.rpartition(":")
    proxy.stall()
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"?")
        while not (cut := proxy.cut()):
            pass
        assert cut == 1
        with pytest.raises(ConnectionError):
            client.recv(1)
    proxy.go_on()
    assert answer(proxy) == BODY
