"""Why a connection ends at once: gRPC says "Socket closed" for three mistakes with TLS that people make."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.inference.security import Security

_PATIENCE_S = 2.0
#: With this and an empty SETTINGS frame an HTTP/2 client begins (RFC 9113, section 3.4); a server answers with its own.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


async def handshake_fault(endpoint: Endpoint, security: Security) -> str | None:
    """Try a handshake of our own, and say what the server takes amiss; None where nothing can be learnt.

    A client's certificate is looked at when the client takes the handshake for done, and gRPC's servers then close the
    connection without a word. Where the server has no TLS, or its certificate is refused, gRPC itself says so.
    """
    if not endpoint.system_names:
        return None
    host, port = endpoint.hosts[0]
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=security.context(), server_hostname=host)
            is_open = await _is_open(reader, writer)
    except (OSError, TimeoutError):
        return None
    if not endpoint.tls:
        return f"the server at {endpoint} speaks TLS: give grpcs://{host}:{port}"
    return None if is_open else _refused(endpoint, security)


async def _is_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Tell whether the server goes on after the handshake."""
    try:
        writer.write(_PREFACE)
        return bool(await reader.read(1))
    except OSError:  # ssl.SSLError is one: an alert
        return False
    finally:
        writer.transport.abort()  # a polite end would wait for the server's
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _refused(endpoint: Endpoint, security: Security) -> str:
    if security.certificate is None:
        return (
            f"the server at {endpoint} wants a certificate of its clients: give --triton-certificate and --triton-key"
        )
    return (
        f"the server at {endpoint} refuses this client's certificate {security.certificate}: is it of a CA that the "
        "server trusts, and still valid?"
    )
