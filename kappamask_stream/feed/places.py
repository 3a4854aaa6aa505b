"""Which places a message may have read: a list of them, so that a message cannot make a worker ask anybody. Pure.

What is compared is what will be asked: the URL as aiohttp reads it, the S3 key as it is sent. Hosts are compared as
names: an allowed name that its owner lets point at an address of yours is not noticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from yarl import URL

from kappamask_stream.errors import MessageError, UsageError
from kappamask_stream.sources.hrefs import shown_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kappamask_stream.feed.types import ProductRef

#: Amazon's Sentinel-2 buckets, those of Earth Search's COGs, CDSE's; Earth Search's API and the web addresses of its
#: buckets; CDSE's catalogue.
DEFAULT_PLACES = (
    "s3://sentinel-s2-l1c",
    "s3://sentinel-s2-l2a",
    "s3://sentinel-cogs",
    "s3://e84-earth-search-sentinel-data",
    "s3://eodata",
    "https://earth-search.aws.element84.com",
    "https://sentinel-cogs.s3.us-west-2.amazonaws.com",
    "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com",
    "https://stac.dataspace.copernicus.eu",
)
#: The word that stands for them in a list of places.
DEFAULT = "default"
_LONGEST = 4096
_S3 = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:/(?P<key>.*))?", re.DOTALL)
_CDSE_BUCKET = "s3://eodata/"
_WEB = ("https://", "http://")


@dataclass(frozen=True)
class _Place:
    """Where something is, in parts that are compared whole.

    Attributes
    ----------
    scheme, host : ``https`` and ``host:port`` (the port as the scheme has it by default, too), ``s3`` and the bucket.
    parts : of the path or key, without empty ones at its end.
    """

    scheme: str
    host: str
    parts: tuple[str, ...]

    def holds(self, other: _Place) -> bool:
        """Tell whether another place is this one, or below it."""
        is_same = (self.scheme, self.host) == (other.scheme, other.host)
        return is_same and other.parts[: len(self.parts)] == self.parts


@dataclass(frozen=True, kw_only=True)
class AllowedPlaces:
    """Places that may be read for a message: `allowed` is a `sources.hrefs.MayRead`.

    Attributes
    ----------
    places : as they were given, for messages.
    """

    places: tuple[str, ...]
    _parsed: tuple[_Place, ...]

    @classmethod
    def parse(cls, texts: Iterable[str] = ()) -> AllowedPlaces:
        """Read a list of places; an empty one means `DEFAULT_PLACES`, the word ``default`` in it adds them.

        Parameters
        ----------
        texts : ``s3://BUCKET/PREFIX``, ``https://HOST/PATH``. ``http://HOST:PORT/PATH``, addresses and names of this
            machine are allowed where they are listed so.

        Raises
        ------
        UsageError
            If one is no such place.
        """
        listed = [inner for text in texts for inner in (DEFAULT_PLACES if text == DEFAULT else (text,))]
        places = tuple(listed or DEFAULT_PLACES)
        parsed = []
        for text in places:
            place = _parse(text)
            if place is None or "?" in text or "#" in text:
                raise UsageError(
                    f"--allow names {shown_url(text)[:200]!r}: s3://BUCKET/PREFIX, https://HOST/PATH or the word "
                    f"{DEFAULT} is expected"
                )
            parsed.append(place)
        return cls(places=places, _parsed=tuple(parsed))

    def allowed(self, location: str) -> bool:
        """Tell whether a location, of a message, of a link in an Item or of a redirect, may be read."""
        place = _parse(location)
        return place is not None and bool(place.parts) and any(listed.holds(place) for listed in self._parsed)


def where_of(ref: ProductRef, places: AllowedPlaces, source: str | None) -> tuple[str, str | None]:
    """Return what to open for a product, and where names are looked up: the arguments of `sources.locate.open_source`.

    Parameters
    ----------
    places : that a message may name. What it names elsewhere is not followed; the product is found by its name.
    source : where names are looked up, ``--source``; None: nowhere.

    Raises
    ------
    MessageError
        If the message names no place that may be read, and names are looked up nowhere.
    """
    location = ref.location
    if location is not None and places.allowed(location) and _is_readable(location):
        # By its name CDSE's store is asked, with its quota; by the address it would be a bucket of Amazon's.
        return (ref.name.text, "cdse") if location.startswith(_CDSE_BUCKET) else (location, None)
    if source is not None:
        return ref.name.text, source
    named = "no place" if location is None else f"{shown_url(location)[:200]!r}, which may not be read"
    raise MessageError(
        f"the message names {ref.name.text} and {named}: give --source, so that it is found by its name, or --allow"
    )


def _is_readable(location: str) -> bool:
    """Tell whether a location is of a kind that is read: of what is on the web, STAC Items only."""
    return location.startswith("s3://") or not location.partition("?")[0].lower().endswith((".zip", ".safe", ".safe/"))


def _parse(text: str) -> _Place | None:
    """Read a place; None of what is none, or may be meant to be read in two ways."""
    if len(text) > _LONGEST or not text.isprintable() or "\\" in text or text != text.strip():
        return None
    if text.startswith("s3://"):
        found = _S3.fullmatch(text)
        parts = None if found is None else _parts(found["key"] or "")
        return None if found is None or parts is None else _Place("s3", found["bucket"], parts)
    if not text.lower().startswith(_WEB) or "@" in text.partition("://")[2].partition("/")[0]:
        return None
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError:
        return None
    parts = _parts(url.raw_path.removeprefix("/"))
    if not host or port is None or parts is None or not all(map(_is_plain, parts)):
        return None
    return _Place(url.scheme, f"{host.lower()}:{port}", parts)


def _parts(path: str) -> tuple[str, ...] | None:
    """Split a path; None where it has parts that some servers take for others."""
    parts = tuple(path.removesuffix("/").split("/")) if path.removesuffix("/") else ()
    return None if any(part in {"", ".", ".."} for part in parts) else parts


def _is_plain(part: str) -> bool:
    """Tell whether a part of a URL's path is still one part when a server has decoded it, once or twice.

    Some servers look at what comes before ``;`` only, and read ``..;x`` as ``..``.
    """
    once = unquote(part)
    twice = unquote(once)
    return all(text.partition(";")[0] not in {"", ".", ".."} and not set("/\\") & set(text) for text in (once, twice))
