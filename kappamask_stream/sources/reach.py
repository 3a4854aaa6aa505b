"""How far into a network requests may lead: an Item from outside does not make this machine ask inside.

Addresses are sorted as browsers do it (Private Network Access, https://wicg.github.io/private-network-access/): public,
private, of this machine. What a person names may be anywhere; what an Item links, and where a server redirects to, is
never further inside than where the Item, or the redirect, came from. So a catalogue on this machine or in an intranet
works, and one on the internet cannot have an instance's metadata service or a neighbour's port asked.

The address is looked at that is connected to, not the name: a name that means another address at the next look
(DNS rebinding), an address written as one number, or an IPv4 address in an IPv6 one, lead nowhere else.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

import aiohttp

from kappamask_stream.errors import ProductError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: IPv6 addresses that stand for an IPv4 one: NAT64 (RFC 6052). Mapped ones and 6to4 are known to `ipaddress`.
_NAT64 = IPv6Network("64:ff9b::/96")


class Space(IntEnum):
    """Where an address is, seen from this machine; what is larger is further inside."""

    PUBLIC = 0
    PRIVATE = 1
    LOCAL = 2


def space_of(address: str) -> Space:
    """Return where an IP address is.

    Of this machine are loopback, the unspecified address, and link-local ones: there cloud providers answer with
    credentials of the instance.

    Parameters
    ----------
    address : IPv4 or IPv6, with or without a zone.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            return space_of(socket.inet_ntoa(ip.packed[-4:]))
        if inner is not None:
            return space_of(str(inner))
    if ip.is_loopback or ip.is_unspecified or ip.is_link_local:
        return Space.LOCAL
    return Space.PUBLIC if ip.is_global else Space.PRIVATE


class FurtherInsideError(OSError):
    """An address is further inside than may be reached; aiohttp takes it for one that cannot be connected to."""


@dataclass
class Visit:
    """How far one request, with its redirects, may lead, and how far it has led.

    Attributes
    ----------
    space : the furthest that may be reached; None: anywhere, for the first place. Afterwards that of the place that
        answered: a redirect is said by it.
    is_proxied : the next connection is to a proxy of the environment's, which looks for the place itself.
    """

    space: Space | None = None
    is_proxied: bool = False

    def may_reach(self, found: Space) -> bool:
        """Tell whether a place may be asked."""
        return self.space is None or found <= self.space

    def arrive(self, found: Space) -> None:
        """Take note of the place that is asked."""
        self.space = found if self.space is None else min(self.space, found)


_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)


@contextmanager
def on_visit(visit: Visit | None) -> Iterator[None]:
    """Have `ReachConnector` hold requests of the block to a visit; None: they may lead anywhere."""
    token = _VISIT.set(visit)
    try:
        yield
    finally:
        _VISIT.reset(token)


def is_too_far(error: BaseException) -> bool:
    """Tell whether aiohttp's error is that of a place that may not be asked."""
    return isinstance(error.__cause__, FurtherInsideError)


def no_further(shown: str) -> ProductError:
    """Return the error for what would be asked.

    Parameters
    ----------
    shown : which file.
    """
    return ProductError(
        f"{shown} is not read: it leads to an address of this machine or of a private network, and who says so is "
        "outside; if you trust the Item, save it as a file and give that"
    )


class ReachConnector(aiohttp.TCPConnector):
    """Connects as far as the visit at hand may reach: see `on_visit`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(socket_factory=_socket, **options)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,
    ) -> Any:
        """Return a connection; one that was open already is looked at as a new one is."""
        visit = _VISIT.get()
        if visit is None:
            return await super().connect(req, traces, timeout)
        visit.is_proxied = req.proxy is not None
        if visit.is_proxied and not visit.may_reach(_space_of_host(req.url.host or "")):
            raise FurtherInsideError(f"{req.url.host} may not be asked")
        connection = await super().connect(req, traces, timeout)
        peer = None if connection.transport is None else connection.transport.get_extra_info("peername")
        found = _space_of_host(req.url.host or "") if visit.is_proxied or not peer else space_of(peer[0])
        if not visit.may_reach(found):
            connection.release()
            raise FurtherInsideError(f"{req.url.host} may not be asked")
        visit.arrive(found)
        return connection


def _socket(address: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
    """Make the socket for an address that a name has; nothing is sent to one that may not be asked."""
    family, kind, protocol, _, where = address
    visit = _VISIT.get()
    if visit is not None and not visit.is_proxied and not visit.may_reach(space_of(where[0])):
        raise FurtherInsideError(f"{where[0]} may not be asked")
    return socket.socket(family=family, type=kind, proto=protocol)


def _space_of_host(host: str) -> Space:
    """Return where a host is that a proxy will look for: of a name that is not known here."""
    if host.rstrip(".").lower().rpartition(".")[2] == "localhost":
        return Space.LOCAL
    try:
        return space_of(host)
    except ValueError:
        pass
    try:
        return space_of(socket.inet_ntoa(socket.inet_aton(host)))  # one number, octal, fewer parts than four
    except OSError:
        return Space.PUBLIC
