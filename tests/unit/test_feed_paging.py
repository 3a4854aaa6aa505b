"""From page to page of a search: every API's way of paging ends."""

from __future__ import annotations

from typing import Any

import pytest

from kappamask_stream.errors import StoreError
from kappamask_stream.feed.paging import Paging


def page(*ids: str, leads_to: dict[str, Any] | None = None) -> dict[str, Any]:
    links = [] if leads_to is None else [{"rel": "self", "href": "x"}, {"rel": "next", **leads_to}]
    return {"features": [{"id": one} for one in ids], "links": links}


def post(token: int) -> dict[str, Any]:
    """As APIs link pages that are posted for: one address, another body."""
    return {"href": "https://stac.example/search", "method": "POST", "body": {"token": token}, "merge": True}


def test_last_page_leads_nowhere() -> None:
    paging = Paging("https://stac.example")
    assert paging.after(page("a", leads_to=post(1))) == {"rel": "next", **post(1)}
    assert paging.after(page("b")) is None
    assert paging.after({"features": [], "links": "none"}) is None


def test_links_that_differ_in_their_body_only_are_others() -> None:
    paging = Paging("https://stac.example")
    for number in range(500):
        assert paging.after(page(f"{number}", leads_to=post(number))) is not None


def test_pages_that_lead_to_each_other_are_noticed() -> None:
    paging = Paging("https://stac.example")
    for ids, leads_to in (("first", 1), ("a", 2), ("b", 3)):
        paging.after(page(ids, leads_to=post(leads_to)))
    with pytest.raises(StoreError, match=r"https://stac\.example gives the same pages again and again"):
        paging.after(page("a", leads_to=post(2)))


def test_same_page_under_ever_new_links_is_noticed() -> None:
    paging = Paging("https://stac.example")
    paging.after(page("a", "b", leads_to=post(1)))
    paging.after(page(leads_to=post(2)))  # an empty one between
    with pytest.raises(StoreError, match="again and again"):
        paging.after(page("a", "b", leads_to=post(3)))


def test_empty_pages_are_followed_and_have_an_end() -> None:
    paging = Paging("https://stac.example")
    for number in range(100):
        assert paging.after(page(leads_to=post(number))) is not None
    assert paging.after(page("a", leads_to=post(100))) is not None  # a page with Items begins the count anew
    for number in range(101, 201):
        assert paging.after(page(leads_to=post(number))) is not None
    with pytest.raises(StoreError, match=r"page after page without Items \(101\)"):
        paging.after(page(leads_to=post(201)))
