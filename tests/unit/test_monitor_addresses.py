"""Where the monitor listens, and whose questions it answers."""

from __future__ import annotations

import pytest

from kappamask_stream.errors import UsageError
from kappamask_stream.monitor.addresses import ListenAddress


@pytest.mark.parametrize(
    ("text", "host", "port", "url", "is_loopback"),
    [
        ("127.0.0.1:9108", "127.0.0.1", 9108, "http://127.0.0.1:9108/", True),
        ("[::1]:0", "::1", 0, "http://[::1]:0/", True),
        ("localhost:80", "127.0.0.1", 80, "http://127.0.0.1:80/", True),
        ("127.8.8.8:1", "127.8.8.8", 1, "http://127.8.8.8:1/", True),
        ("0.0.0.0:9108", "0.0.0.0", 9108, "http://0.0.0.0:9108/", False),
        ("[::]:65535", "::", 65535, "http://[::]:65535/", False),
        (" worker-1.internal:9108 ", "worker-1.internal", 9108, "http://worker-1.internal:9108/", False),
    ],
)
def test_places_are_read(text: str, host: str, port: int, url: str, *, is_loopback: bool) -> None:
    address = ListenAddress.parse(text)
    assert address is not None
    assert (address.host, address.port, address.url(port), address.is_loopback) == (host, port, url, is_loopback)


@pytest.mark.parametrize("text", ["none", "None", " NONE "])
def test_nothing_listens_where_none_is_wanted(text: str) -> None:
    assert ListenAddress.parse(text) is None


@pytest.mark.parametrize(
    "text",
    ["", "9108", ":9108", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:9108", "[::1]", "[::1]9108",
     "http://127.0.0.1:9108", "host:http", "a b:1", "127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}", "127.0.0.1:9108/x"],
)  # fmt: skip
def test_what_is_no_place_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--listen is .*HOST:PORT .* 127\.0\.0\.1:9108"):
        ListenAddress.parse(text)


@pytest.mark.parametrize("listen", ["127.0.0.1:9108", "[::1]:9108", "localhost:9108"])
@pytest.mark.parametrize(
    ("header", "is_ours"),
    [
        ("127.0.0.1:9108", True), ("localhost", True), ("LOCALHOST:80", True), ("[::1]:9108", True), ("127.9.9.9:1", True),
        (None, True),
        ("evil.example", False), ("evil.example:9108", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example:9108", False),
        ("[fe80::1]:9108", False), ("10.0.0.1:9108", False), ("0.0.0.0:9108", False), ("", False), ("127.0.0.1:x", False),
        ("2130706433:9108", False), ("127.0.0.1@evil.example", False),
    ],
)  # fmt: skip
def test_on_a_loopback_address_only_its_own_names_are_answered(
    listen: str, header: str | None, *, is_ours: bool
) -> None:
    address = ListenAddress.parse(listen)
    assert address is not None
    assert address.answers(header) is is_ours


def test_elsewhere_names_are_the_networks_business() -> None:
    address = ListenAddress.parse("0.0.0.0:9108")
    assert address is not None
    assert address.answers("worker.monitoring.svc:9108")
