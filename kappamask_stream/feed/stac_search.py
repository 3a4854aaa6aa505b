"""Searches in STAC APIs, page by page: each page is asked for again where that may help, and none is held."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from kappamask_stream.errors import InputError, StoreError, UsageError
from kappamask_stream.feed.catalogue_events import of_item
from kappamask_stream.feed.paging import Paging
from kappamask_stream.feed.search_guard import RefusedAnswerError, hold, require_own
from kappamask_stream.s3.retry import Patience, TryLaterError, persist
from kappamask_stream.sources.hrefs import shown_url
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from pystac import Link
    from pystac_client import Client, ItemSearch

    from kappamask_stream.feed.filter import FeedFilter
    from kappamask_stream.feed.types import ProductRef

_PAGE = 100
#: A product's name has the begin of its datatake, an Item the time of its tile, which is up to half an hour later.
_LATER = timedelta(hours=1)
_EARLIER = timedelta(minutes=1)
_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT,
}  # fmt: skip
_OVERLOADED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_CLOUD = "eo:cloud_cover"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of a search.

    Attributes
    ----------
    refs : the products of its Items.
    unread : why an Item is none of a product, for each that is not.
    """

    refs: tuple[ProductRef, ...]
    unread: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class StacSearch:
    """A search for the products that a filter wants.

    What an API can tell by itself - place, time, cloud cover - it is asked; the rest, and the exact limits, are for
    the filter.

    Attributes
    ----------
    url : of the API's landing page.
    collections : that are searched.
    parameters : of Item Search: ``datetime``, ``intersects``, ``query``.
    """

    url: str
    collections: tuple[str, ...]
    parameters: Mapping[str, Any]

    @classmethod
    def of_filter(cls, url: str, collections: tuple[str, ...], wanted: FeedFilter) -> StacSearch:
        """Make the search for a filter.

        Raises
        ------
        UsageError
            If the URL is none, or the filter would have the whole archive searched.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"--stac-api is {shown_url(url)[:200]!r}: https://HOST/PATH of a STAC API is expected")
        from kappamask_stream.feed.search_area import search_geometry

        place, times = search_geometry(wanted), _datetime(wanted, datetime.now(UTC))
        if place is None and times is None:
            raise UsageError(
                "--stac-api would be searched for all that it has: give --since or --until, --within, or --tile "
                "without wildcards"
            )
        cloud = None if wanted.max_cloud_cover is None else {_CLOUD: {"lte": wanted.max_cloud_cover}}
        said = {"datetime": times, "intersects": place, "query": cloud}
        return cls(url=url, collections=collections, parameters={k: v for k, v in said.items() if v is not None})

    async def pages(
        self, patience: Patience | None = None, on_retry: Callable[[str, str], None] = lambda _cause, _text: None
    ) -> AsyncGenerator[Page]:
        """Yield the pages; the next one is asked for when this one is done with. An async generator: close it.

        Raises
        ------
        UsageError
            If there is no API that can be searched.
        StoreError, StoreUnavailableError
            If it refuses, or fails again and again.
        """
        patience, shown = patience or Patience(), shown_url(self.url)

        async def asked(work: Callable[..., Any], *args: Any) -> Any:
            async def attempt() -> Any:
                return await in_thread(None, _called, work, shown, *args)

            return await persist(attempt, what=shown, patience=patience, on_retry=on_retry)

        client: Client = await asked(_open, self.url, patience)
        search = await asked(_search, client, self)
        page, paging = await asked(_first, client, search), Paging(shown)
        while True:
            if page["features"]:
                yield _read(page)
            following = paging.after(page)
            if following is None:
                return
            page = await asked(_following, client, search, following)


def _datetime(wanted: FeedFilter, now: datetime) -> str | None:
    if wanted.since is None and wanted.until is None:
        return None
    first = ".." if wanted.since is None else _rfc3339(wanted.since.at(now), -_EARLIER)
    last = ".." if wanted.until is None else _rfc3339(wanted.until.at(now), _LATER)
    return f"{first}/{last}"


def _rfc3339(moment: datetime, shift: timedelta) -> str:
    with suppress(OverflowError):  # the first and the last day that there are
        moment += shift
    return f"{moment.replace(microsecond=0, tzinfo=None).isoformat()}Z"


def _open(url: str, patience: Patience) -> Client:
    from pystac_client import Client
    from pystac_client.stac_api_io import StacApiIO

    # Trying again is for `persist`, which says so, and can be cancelled in between.
    requests = StacApiIO(timeout=(patience.connect_s, patience.read_s), max_retries=None)
    hold(requests.session, url)
    return Client.open(url, stac_io=requests)


def _search(client: Client, search: StacSearch) -> ItemSearch:
    from pystac_client import ConformanceClasses
    from pystac_client.warnings import PystacClientWarning

    links = client.get_links("search")
    if not links:
        raise UsageError(f"{shown_url(search.url)} is no STAC API that can be searched: it has no link `search`")
    for link in links:
        require_own(link.absolute_href, search.url, method=link.extra_fields.get("method", "GET"))
    parameters = dict(search.parameters)
    if not client.conforms_to(ConformanceClasses.QUERY):  # what it cannot do by itself the filter does
        parameters.pop("query", None)
    methods = {link.extra_fields.get("method", "GET") for link in links}
    client.add_conforms_to("ITEM_SEARCH")  # the link says so
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PystacClientWarning)
        method = "POST" if "POST" in methods else "GET"
        return client.search(collections=list(search.collections), limit=_PAGE, method=method, **parameters)


def _first(client: Client, search: ItemSearch) -> dict[str, Any]:
    return _page(client, search.url, method=search.method, parameters=search.get_parameters())


def _following(client: Client, search: ItemSearch, link: dict[str, Any]) -> dict[str, Any]:
    from pystac import Link

    href = urljoin(search.url, link["href"])
    require_own(href, search.url, method=link.get("method", "GET"))
    resolved = Link.from_dict({**link, "href": href})
    return _page(client, resolved, parameters=search.get_parameters())


def _page(client: Client, source: str | Link, **how: Any) -> dict[str, Any]:
    # pystac-client pages through this object, and offers no page by itself.
    page: Any = client._stac_io.read_json(source, **how)  # type: ignore[union-attr]  # noqa: SLF001
    if not isinstance(page, dict) or not isinstance(page.get("features"), list):
        raise TypeError("it has no list of features")
    return page


def _called(work: Callable[..., Any], shown: str, *args: Any) -> Any:
    """Call pystac-client (in a thread), and say what its failures mean."""
    from pystac.errors import STACError
    from pystac_client.errors import ClientTypeError
    from pystac_client.exceptions import APIError
    from pystac_client.warnings import PystacClientWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)
            return work(*args)
    except RefusedAnswerError as error:
        raise StoreError(f"{shown}: {error}") from error
    except APIError as error:
        if isinstance(error.__context__, RefusedAnswerError):  # as pystac-client tells all that goes wrong in a request
            raise StoreError(f"{shown}: {error.__context__}") from error
        status = getattr(error, "status_code", None)
        if status is None:
            raise TryLaterError("the API cannot be reached, or broke off") from error
        if status in _PASSING:
            raise TryLaterError(f"the API answers {status}", overloaded=status in _OVERLOADED) from error
        raise StoreError(f"{shown}: the API answers {status}: {str(error)[:200]}") from error
    except (STACError, ClientTypeError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{shown} is no STAC API: its answer is not what one says ({str(error)[:200]})") from error


def _read(page: Mapping[str, Any]) -> Page:
    refs: list[ProductRef] = []
    unread: list[str] = []
    for item in page["features"]:
        if not isinstance(item, dict):
            unread.append(f"a feature is {repr(item)[:80]}, a STAC Item is expected")
            continue
        try:
            found = of_item(item)
        except InputError as error:
            unread.append(str(error))
            continue
        refs += found
        if not found:  # whoever names collections meant products of Sentinel-2
            unread.append(f"the STAC Item {str(item.get('id'))[:100]!r} is of no Sentinel-2 product")
    return Page(refs=tuple(refs), unread=tuple(unread))
