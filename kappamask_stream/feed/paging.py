"""From page to page of a search: which link leads on, and whether that ever ends. Pure."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from kappamask_stream.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: An API that filters after it has cut its pages may give some without Items; so many in a row lead nowhere.
_MOST_EMPTY = 100
#: Bytes that stand for a link: a search of a million products follows ten thousand.
_DIGEST = 16
#: What makes a link another one; its title, say, does not.
_PARTS = ("href", "method", "body", "headers", "merge")


class Paging:
    """Follows the links to the next pages of one search.

    Parameters
    ----------
    shown : the API, as it may be shown.

    State: what the pages so far had, and the links that were followed.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._last: list[object] = []
        self._followed: set[bytes] = set()
        self._empty = 0

    def after(self, page: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the link to the page after this one; None where this is the last.

        Raises
        ------
        StoreError
            If pages come again, or many in a row are empty.
        """
        link = _next(page)
        if link is None:
            return None
        ids = [item.get("id") for item in page["features"] if isinstance(item, dict)]
        self._empty = 0 if page["features"] else self._empty + 1
        if self._empty > _MOST_EMPTY:
            raise StoreError(f"{self._shown} gives page after page without Items ({self._empty}): its paging is broken")
        said = json.dumps([link.get(part) for part in _PARTS], sort_keys=True)
        digest = blake2b(said.encode(), digest_size=_DIGEST).digest()
        if digest in self._followed or (ids and ids == self._last):
            raise StoreError(f"{self._shown} gives the same pages again and again: its paging is broken")
        self._followed.add(digest)
        self._last = ids or self._last
        return link


def _next(page: Mapping[str, Any]) -> dict[str, Any] | None:
    links = page.get("links")
    listed = links if isinstance(links, list) else []
    return next((link for link in listed if isinstance(link, dict) and link.get("rel") == "next"), None)
