"""What keeps a search at the STAC API that was named, and its answers within bounds.

An API says itself where its next page is, how that is asked for and with which headers; and its pages are read as a
whole, unpacked. One that is not to be trusted has so nobody else asked, and fills no memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from kappamask_stream.sources.hrefs import shown_url

if TYPE_CHECKING:
    from requests import Response, Session

#: Of an answer, unpacked: a hundred Items have 2 to 8 MB.
MOST_BYTES = 64 << 20
_PIECE = 1 << 16
_METHODS = {"GET", "POST"}


class RefusedAnswerError(Exception):
    """What an API answers is not read; says why."""


def require_own(url: str, api: str, *, method: object = "GET") -> None:
    """Return where a link stays at the API's host, and only asks.

    Parameters
    ----------
    url : absolute.
    api : of the landing page.
    method : of HTTP, as the link says it.

    Raises
    ------
    RefusedAnswerError
        If it does not.
    """
    try:
        parts, host = urlsplit(url), urlsplit(api).hostname
        is_own = parts.scheme in {"http", "https"} and parts.hostname == host
    except ValueError:
        is_own = False
    if not is_own:
        raise RefusedAnswerError(
            f"it leads to {shown_url(url)[:200]!r}, another host: give the API there, if it is one"
        )
    if method not in _METHODS:
        raise RefusedAnswerError(f"a link is to be asked by {ascii(method)[:40]}, GET or POST is expected")


def hold(session: Session, api: str) -> None:
    """Have a session follow redirects on the API's host only, and read no more than `MOST_BYTES`."""
    session.hooks["response"].append(partial(_look, api))


def _look(api: str, response: Response, *_: Any, **__: Any) -> None:
    try:
        if response.is_redirect:
            require_own(urljoin(response.url, response.headers["location"]), api)
        else:
            response._content = _read(response)  # noqa: SLF001 - what requests would read without a bound
    except BaseException:
        response.close()
        raise


def _read(response: Response) -> bytes:
    data = bytearray()
    for piece in response.iter_content(_PIECE):
        data += piece
        if len(data) > MOST_BYTES:
            raise RefusedAnswerError(f"an answer has more than {MOST_BYTES} bytes")
    return bytes(data)
