"""The one way from settings to servers: every command that asks a server elsewhere comes by here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError
from kappamask_stream.inference.endpoint import parse_endpoint
from kappamask_stream.inference.security import Security
from kappamask_stream.inference.triton import TritonClient

if TYPE_CHECKING:
    from kappamask_stream.inference.endpoint import Endpoint
    from kappamask_stream.settings import Settings


def endpoint_of(settings: Settings) -> Endpoint | None:
    """Return the endpoint that is set, None where the server runs on this machine; files for it are looked at, too.

    Raises
    ------
    UsageError
        If the endpoint is malformed, or its TLS files or token cannot be used.
    """
    if settings.triton is None:
        return None
    endpoint = parse_endpoint(settings.triton)
    Security.of(settings).check(endpoint)
    return endpoint


async def connect(settings: Settings, model: str, *, server_wait_s: float = 0.0, canary: bool = True) -> TritonClient:
    """Connect to a model at the endpoint that is set; see `TritonClient.connect` for the errors.

    Parameters
    ----------
    canary : False for those who look into a server that answers wrongly.
    """
    if settings.triton is None:
        raise UsageError("no server is named: give its endpoint with --triton")
    return await TritonClient.connect(
        settings.triton,
        model,
        security=Security.of(settings),
        infer_timeout_s=settings.infer_timeout_s,
        server_wait_s=server_wait_s,
        shared_memory=settings.shared_memory == "auto",
        canary_s=settings.canary_s if canary else None,
        priority=settings.priority or "interactive",
    )
