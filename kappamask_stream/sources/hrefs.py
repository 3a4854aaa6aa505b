"""Where an Item's links may lead: one owner of that rule. Pure.

An Item comes from strangers. It may name files on the web and on S3, and files beside itself, and nothing else: an
Item from afar never names files of this machine.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from yarl import URL

from kappamask_stream.errors import ProductError

#: Tells whether a place (``https://…``, ``s3://…``, a path) may be read; what comes from a stranger is asked for.
MayRead = Callable[[str], bool]

_LONGEST = 4096
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_S3 = re.compile(r"s3://(?P<bucket>[^/\s]+)/(?P<key>.+)", re.DOTALL)


def checked_href(href: str, base: str, *, said_by: str) -> str:
    """Return where a link leads: ``http(s)://...``, ``s3://BUCKET/KEY``, or an absolute path of this machine.

    Parameters
    ----------
    href : as the Item has it, absolute or relative.
    base : where the Item itself is: a URL, or an absolute path.
    said_by : which Item and asset, for the message.

    Raises
    ------
    ProductError
        If it leads anywhere else: other schemes, out of the folder of a local Item, from afar to this machine.
    """
    if not href.strip() or len(href) > _LONGEST or not href.isprintable() or "\\" in href:
        raise _refused(said_by, href, "it is no link")
    scheme = _SCHEME.match(href)
    if scheme is not None and scheme[0].lower() not in {"http:", "https:", "s3:"}:
        raise _refused(said_by, href, f"{scheme[0]} is not followed, there are https:, http:, s3: and relative links")
    if base.startswith("/") and scheme is None:
        return _beside(href, base, said_by)
    if scheme is not None and scheme[0].lower() == "s3:":
        return _on_s3(href, said_by)
    if scheme is None and base.startswith("s3://"):
        return _below_s3(href, base, said_by)
    return _on_the_web(href, base, said_by)


def require_readable(place: str, may_read: MayRead | None, *, said_by: str) -> None:
    """Return where a place may be read.

    Parameters
    ----------
    place : as `checked_href` returns it, or where a server redirects to.
    may_read : None: everything may.
    said_by : what leads there, for the message.

    Raises
    ------
    ProductError
        If it may not.
    """
    if may_read is not None and not may_read(place):
        raise _refused(said_by, place, "it is not among the places that may be read (--allow)")


def shown_url(where: str) -> str:
    """Return a URL as it may be shown and recorded: without user, password, and what a query may sign.

    What is no URL - a path, a product's name - is returned as it is, and so are keys on S3, which may have any
    character.
    """
    scheme = _SCHEME.match(where)
    if scheme is None and not where.startswith("//"):
        return where
    if scheme is not None and scheme[0].lower() == "s3:":
        bucket, slash, key = where[len(scheme[0]) :].removeprefix("//").partition("/")
        return f"s3://{bucket.rpartition('@')[2]}{slash}{key}"
    try:
        return str(URL(where).with_user(None).with_query(None).with_fragment(None))
    except ValueError:  # which aiohttp refuses, too; what is what in it is a guess: rather too little is shown
        head = where.partition("?")[0].partition("#")[0]
        return head.rpartition("@")[2] if "@" in head or "@" not in where else "a URL that is none"


def is_local(place: str) -> bool:
    """Tell whether a place that `checked_href` returned is on this machine."""
    return place.startswith("/")


def _beside(href: str, base: str, said_by: str) -> str:
    """Return a file of a local Item; absolute paths are what tools write for files on one machine."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(base), href))
    if not href.startswith("/") and not path.startswith(posixpath.dirname(base).rstrip("/") + "/"):
        raise _refused(said_by, href, "it leads out of the Item's folder")
    return path


def _on_s3(href: str, said_by: str) -> str:
    found = _S3.fullmatch(href)
    if found is None or ".." in found["key"].split("/"):
        raise _refused(said_by, href, "s3://BUCKET/KEY is expected")
    return href


def _below_s3(href: str, base: str, said_by: str) -> str:
    bucket, _, key = base.removeprefix("s3://").partition("/")
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(key), href))
    if href.startswith("//"):
        raise _refused(said_by, href, "s3://BUCKET/KEY or a relative link is expected")
    return _on_s3(f"s3://{bucket}{joined}", said_by)


def _on_the_web(href: str, base: str, said_by: str) -> str:
    try:
        # Signed links are kept as they are written: their encoding is part of what is signed.
        has_scheme = _SCHEME.match(href) is not None
        url = URL(href, encoded=True) if has_scheme else URL(base).join(URL(href))
        names_server = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError as error:  # whose text may show the password
        raise _refused(said_by, href, "it is no URL") from error
    if not names_server:
        raise _refused(said_by, href, "it names no server")
    return str(url)


def _refused(said_by: str, href: str, why: str) -> ProductError:
    shown = shown_url(href).partition("?")[0][:200]
    return ProductError(f"{said_by}: the link {shown!r} is not followed: {why}")
