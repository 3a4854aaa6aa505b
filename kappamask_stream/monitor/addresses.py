"""Where the monitor listens, and by which names it answers. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from kappamask_stream.errors import UsageError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>\d{1,5})", re.ASCII)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]+))(?::\d*)?", re.ASCII)
_MOST = 65_535


@dataclass(frozen=True, kw_only=True)
class ListenAddress:
    """A place to listen at.

    Attributes
    ----------
    host : name or address, without brackets.
    port : 0 lets the system choose one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress | None:
        """Read ``HOST:PORT`` or ``[IPV6]:PORT``; ``none`` gives None.

        Raises
        ------
        UsageError
            If it is neither.
        """
        if text.strip().lower() == "none":
            return None
        found = _ADDRESS.fullmatch(text.strip())
        if found is None or int(found["port"]) > _MOST:
            raise UsageError(
                f"--listen is {text!r}: HOST:PORT with a port up to {_MOST} is expected, as in 127.0.0.1:9108, "
                "[::1]:9108 or 0.0.0.0:9108; none for no metrics, health and status page"
            )
        # One address of the two that localhost has: with port 0 each would get a port of its own.
        host = "127.0.0.1" if found["host"] == "localhost" else found["v6"] or found["host"]
        return cls(host=host, port=int(found["port"]))

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can ask."""
        return _is_loopback(self.host)

    def url(self, port: int) -> str:
        """Return the address of the status page.

        Parameters
        ----------
        port : that was given.
        """
        return f"http://[{self.host}]:{port}/" if ":" in self.host else f"http://{self.host}:{port}/"

    def answers(self, host_header: str | None) -> bool:
        """Tell whether a request with this Host header is meant for us.

        A page of a stranger whose name he lets point to 127.0.0.1 could otherwise read, in a browser on this machine,
        what is meant for this machine only. Listening elsewhere, names are the business of whoever routes to us.
        """
        if host_header is None or not self.is_loopback:
            return True
        found = _HOST.fullmatch(host_header.strip())
        return found is not None and _is_loopback(found["v6"] or found["host"])


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
