"""What keeps requests to the places that may be read, also when a server redirects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kappamask_stream.sources.hrefs import require_readable

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse

    from kappamask_stream.sources.hrefs import MayRead


def guard(may_read: MayRead | None, shown: str) -> tuple[ClientMiddlewareType, ...]:
    """Return the middlewares of a request; aiohttp calls them for each redirect, too, before it connects.

    Parameters
    ----------
    may_read : None: everything may be read.
    shown : what is asked for, as it may be shown.

    Raises
    ------
    ProductError
        From the request, where a URL may not be read.
    """
    if may_read is None:
        return ()

    async def refuse(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        require_readable(str(request.url), may_read, said_by=shown)
        return await handler(request)

    return (refuse,)
