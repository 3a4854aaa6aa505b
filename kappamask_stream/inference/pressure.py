"""How many requests wait in the inference servers: from their metrics, or else from how long requests have waited.

Both tell of one server: where there are several, their mean. A client's own limits are for one server, too.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException
from yarl import URL

from kappamask_stream.errors import UsageError
from kappamask_stream.inference.served import CONTROL_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tritonclient.grpc.aio import InferenceServerClient

_METRIC = "nv_inference_pending_request_count"
_METRICS_TIMEOUT_S = 5.0
_LARGEST_METRICS = 8 * 2**20
#: Seconds over which the waiting is averaged, and the shortest time that says anything.
_WINDOW_S = 15.0
_SHORTEST_S = 0.5


class Pressure(Protocol):
    """Tells how full the servers are."""

    async def pending(self, models: Collection[str]) -> float | None:
        """Return requests for these models that wait in a server, those of all clients; None where nobody tells."""
        ...

    async def aclose(self) -> None:
        """Give back connections."""
        ...


class MetricsPressure:
    """Asks for Triton's metrics. A name in a URL may stand for several servers: all its addresses are asked.

    Parameters
    ----------
    urls : ``http://HOST:8002/metrics``, or several, divided by commas.
    ca : file of the CAs for ``https://``; None: the system's.

    Raises
    ------
    UsageError
        If one is no such URL.
    """

    def __init__(self, urls: str, *, ca: Path | None = None) -> None:
        self._urls = [_url(text) for text in urls.replace(",", " ").split()]
        if not self._urls:
            raise UsageError("setting triton_metrics is empty: give http://HOST:8002/metrics, or leave it out")
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def pending(self, models: Collection[str]) -> float | None:
        """See `Pressure`. Servers that do not answer, or serve none of these models, are left out."""
        places = [place for found in await asyncio.gather(*map(_places, self._urls)) for place in found]
        told = await asyncio.gather(*(self._of_one(url, host, models) for url, host in places))
        known = [value for value in told if value is not None]
        return sum(known) / len(known) if known else None

    async def aclose(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def _of_one(self, url: URL, host: str, models: Collection[str]) -> float | None:
        """Ask one server, at its address and by its name."""
        try:
            text = await self._read(url, host)
            return _pending_in(text, models)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    async def _read(self, url: URL, host: str) -> str:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._ca)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=_METRICS_TIMEOUT_S)
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
                if len(content) > _LARGEST_METRICS:
                    raise ValueError("no metrics are as long as this")
            return content.decode()


def _pending_in(text: str, models: Collection[str]) -> float | None:
    """Add up the pending requests of models in a server's metrics; other lines are not even parsed."""
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(_METRIC))
    values = [
        sample.value
        for family in text_string_to_metric_families(lines)
        for sample in family.samples
        if sample.name == _METRIC and sample.labels.get("model") in models
    ]
    return sum(values) if values else None


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


class StatisticsPressure:
    """Reckons from Triton's statistics extension by Little's law.

    Requests that wait on average = time that requests have waited, added up over all that were taken into work, by
    the time in which this came together. Requests that are not taken into work at all are not seen.

    Parameters
    ----------
    channel : to one server: counters of several cannot be compared.

    State: samples of the last `_WINDOW_S` seconds and one before, oldest first: when, and seconds waited in all; and
    the models that they are of.
    """

    def __init__(self, channel: InferenceServerClient) -> None:
        self._channel = channel
        self._models: frozenset[str] = frozenset()
        self._samples: deque[tuple[float, float]] = deque()

    async def pending(self, models: Collection[str]) -> float | None:
        """See `Pressure`; None the first time, and where the server denies its statistics."""
        try:
            answer = await self._channel.get_inference_statistics(client_timeout=CONTROL_TIMEOUT_S)
        except InferenceServerException:
            self._samples.clear()
            return None
        if self._models != frozenset(models):
            self._models = frozenset(models)
            self._samples.clear()
        waited = [model.inference_stats.queue.ns for model in answer.model_stats if model.name in models]
        now, seconds = time.monotonic(), sum(waited) * 1e-9
        if self._samples and seconds < self._samples[-1][1]:  # another server answers, or this one has started anew
            self._samples.clear()
        self._samples.append((now, seconds))
        while len(self._samples) > 1 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()
        begin, before = self._samples[0]
        return (seconds - before) / (now - begin) if now - begin >= _SHORTEST_S else None

    async def aclose(self) -> None:
        """Do nothing: the channel is somebody else's."""
