"""Triton's metrics, read over HTTP: the texts, and the numbers in them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from kappamask_stream.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from prometheus_client.samples import Sample

_TIMEOUT_S = 5.0
_LARGEST = 8 * 2**20


class MetricsReader:
    """Asks servers for their metrics. A name in a URL may stand for several servers: all its addresses are asked.

    Parameters
    ----------
    urls : ``http://HOST:8002/metrics``, one or several.
    ca : file of the CAs for ``https://``; None: the system's.

    Raises
    ------
    UsageError
        If one is no such URL, or there is none.
    """

    def __init__(self, urls: Iterable[str], *, ca: Path | None = None) -> None:
        self._urls = [_url(text) for text in urls]
        if not self._urls:
            raise UsageError("setting triton_metrics is empty: give http://HOST:8002/metrics, or leave it out")
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def samples(self, names: Collection[str]) -> list[list[Sample]]:
        """Return the values of these metrics, a list per server; those that do not answer are left out."""
        places = [place for found in await asyncio.gather(*map(_places, self._urls)) for place in found]
        told = await asyncio.gather(*(self._of_one(url, host, names) for url, host in places))
        return [values for values in told if values is not None]

    async def aclose(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def _of_one(self, url: URL, host: str, names: Collection[str]) -> list[Sample] | None:
        """Ask one server, at its address and by its name."""
        try:
            return samples_in(await self._read(url, host), names)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    async def _read(self, url: URL, host: str) -> str:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._ca)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
            )
        name = f"[{host}]" if ":" in host else host
        headers = {"Host": f"{name}:{url.explicit_port}" if url.explicit_port else name}
        asked = self._session.get(url, headers=headers, server_hostname=host, allow_redirects=False)
        async with asked as answer:
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"answered {answer.status}")
            content = bytearray()
            async for chunk in answer.content.iter_chunked(1 << 16):
                content += chunk
                if len(content) > _LARGEST:
                    raise ValueError("no metrics are as long as this")
            return content.decode()


def samples_in(text: str, names: Collection[str]) -> list[Sample]:
    """Read the values of some metrics out of a server's text; other lines are not even parsed.

    Raises
    ------
    ValueError
        If one of the lines is malformed.
    """
    begins = tuple(names)
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(begins))
    return [
        sample for family in text_string_to_metric_families(lines) for sample in family.samples if sample.name in names
    ]


def _url(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not _is_name(url.raw_host or "") or url.user or url.password:
        raise UsageError(
            "setting triton_metrics must be http://HOST:8002/metrics, or several, divided by commas, without user and "
            f"password; there is {text.rpartition('@')[2]!r}"
        )
    return url


def _is_name(host: str) -> bool:
    """Tell whether a host is one that can be asked for: no label is empty or longer than names have them."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host != ""


async def _places(url: URL) -> list[tuple[URL, str]]:
    """Return a URL for each address that its host stands for, and the host; none where nobody knows it."""
    host, loop = url.host or "", asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, url.port or 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [(url.with_host(address), host) for address in dict.fromkeys(str(info[4][0]) for info in found)]
