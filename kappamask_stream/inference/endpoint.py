"""Where inference servers are: what users write, and what gRPC is given."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NoReturn
from urllib.parse import urlsplit

from kappamask_stream.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")
_FORMS = (
    "give grpc://HOST:PORT, e.g. grpc://127.0.0.1:8001, grpcs://HOST:PORT for TLS, dns:///NAME:PORT, or several "
    "addresses, grpc://10.0.0.1:8001,10.0.0.2:8001"
)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One server, or several that serve the same.

    Attributes
    ----------
    text : as users write it; no secrets.
    target : as gRPC takes it.
    tls : True where the connection is encrypted, and the server's certificate checked.
    hosts : names or addresses with ports; requests go in turn to all addresses that they stand for.
    system_names : True where names are resolved as the system does it, not by a name server that `text` names.
    """

    text: str
    target: str
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    system_names: bool = True

    def __str__(self) -> str:
        return self.text

    @property
    def is_one_server(self) -> bool:
        """True where there can be one server only: its address is given."""
        return len(self.hosts) == 1 and _address(self.hosts[0][0]) is not None

    def servers(self) -> tuple[Endpoint, ...]:
        """Return an endpoint for each address where several are given, else this one alone."""
        if len(self.hosts) == 1:
            return (self,)
        return tuple(
            replace(self, text=f"grpc://{_bracketed(host)}:{port}", target=_target((host, port)), hosts=((host, port),))
            for host, port in self.hosts
        )

    @property
    def is_loopback(self) -> bool:
        """True where nothing leaves this machine."""
        addresses = [_address(host) for host, _ in self.hosts]
        return self.system_names and all(
            host == "localhost" or (address is not None and address.is_loopback)
            for (host, _), address in zip(self.hosts, addresses, strict=True)
        )


def parse_endpoint(text: str) -> Endpoint:
    """Read ``grpc://HOST:PORT``, ``grpcs://HOST:PORT``, ``dns://[SERVER]/HOST:PORT``, or several addresses.

    A scheme may be left out (``HOST:PORT``), and need not be repeated (``grpc://10.0.0.1:8001,10.0.0.2:8001``).

    Raises
    ------
    UsageError
        Where it is none of these, or asks for what gRPC cannot do: a list with names, of both address families, or
        over TLS.
    """
    if text.startswith("dns:"):
        return _by_name_server(text)
    parts = [part if "//" in part else f"grpc://{part}" for part in text.split(",")]
    scheme = "grpcs" if parts[0].startswith("grpcs://") else "grpc"
    hosts = tuple(_host(re.sub(rf"^(grpc|{scheme})://", "", part), text) for part in parts)
    if len(hosts) == 1:
        return Endpoint(text=text, target=_target(hosts[0]), tls=scheme == "grpcs", hosts=hosts)
    addresses = [_address(host) for host, _ in hosts]
    if scheme == "grpcs":
        raise UsageError(
            f"--triton {text!r}: certificates are checked against one name; give the servers one DNS name with several "
            "addresses, grpcs://NAME:PORT"
        )
    if None in addresses:
        raise UsageError(
            f"--triton {text!r}: gRPC takes several addresses, but one name only; give the servers one DNS name with "
            "several addresses, dns:///NAME:PORT"
        )
    if len({type(address) for address in addresses}) > 1:
        raise UsageError(f"--triton {text!r}: gRPC takes several IPv4 or several IPv6 addresses, not both at once")
    family, _, first = _target(hosts[0]).partition(":")
    target = ",".join([f"{family}:{first}", *(_target(host).partition(":")[2] for host in hosts[1:])])
    return Endpoint(text=text, target=target, tls=False, hosts=hosts)


def _by_name_server(text: str) -> Endpoint:
    """Read gRPC's own ``dns:`` form; the server that resolves the name may stand between the slashes."""
    match = re.fullmatch(r"dns://([^/]*)/([^/]+)", text)
    if match is None:
        _refuse(text)
    server, place = match.groups()
    if server and _address(re.sub(r":\d+$", "", server).strip("[]")) is None:
        _refuse(text)
    host = _host(place, text)
    target = f"dns://{server}/{_bracketed(host[0])}:{host[1]}"
    return Endpoint(text=text, target=target, tls=False, hosts=(host,), system_names=not server)


def _host(place: str, text: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; there may be nothing else."""
    try:
        parts = urlsplit(f"//{place.removesuffix('/')}")
        host, port = parts.hostname or "", parts.port or 0
    except ValueError:
        _refuse(text)
    if parts.netloc != place.removesuffix("/") or {"@", "%"} & set(place) or port == 0:
        _refuse(text)
    if _address(host) is None and _NAME.fullmatch(host) is None:
        _refuse(text)
    return host, port


def _refuse(text: str) -> NoReturn:
    # Somebody may have tried to give a password: it is not repeated.
    shown = re.sub(r"//[^/]*@", "//…@", text)
    raise UsageError(f"--triton {shown!r} is no endpoint: {_FORMS}")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _target(host: tuple[str, int]) -> str:
    """Return the gRPC target of one host: literal addresses need no resolver."""
    address = _address(host[0])
    scheme = "dns:///" if address is None else f"ipv{address.version}:"
    return f"{scheme}{_bracketed(host[0])}:{host[1]}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
