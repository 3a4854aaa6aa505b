"""``kappamask-stream submit``."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kappamask_stream.cli import options as given
from kappamask_stream.cli.feed_options import FILTER_FLAGS, split_filter
from kappamask_stream.cli.queue_options import QUEUE_FLAGS
from kappamask_stream.cli.setting_flags import NO_FLAGS, SettingFlags, takes_setting_flags
from kappamask_stream.errors import QueueError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from kappamask_stream.cli.submit_telling import SubmitTelling
    from kappamask_stream.feed import FeedFilter, ProductRef
    from kappamask_stream.feed.stac_search import StacSearch
    from kappamask_stream.settings import Settings

_SEARCH = "Search in a STAC API"
_SENDING = "What is sent"
_FLAGS = {name: QUEUE_FLAGS[name] for name in ("queue", "queue_endpoint", "queue_region", "queue_profile")}
_WEB = re.compile(r"(?:s3|https?)://\S+")
#: What Earth Search and the Copernicus Data Space call them.
_COLLECTIONS = {"L1C": "sentinel-2-l1c", "L2A": "sentinel-2-l2a"}
_EVERY_LEVEL = "L2A"
_MIXED, _NOTHING = 1, 3

Products = Annotated[
    list[str] | None,
    typer.Argument(
        help="Products: names, s3:// addresses of SAFE directories and zips, https:// and s3:// ones of STAC Items "
        "that end with a name; of files and globs here the names. - reads more from stdin, one a line.",
        metavar="PRODUCT",
        show_default=False,
    ),
]
StacApi = Annotated[
    str | None,
    typer.Option(
        "--stac-api",
        metavar="URL",
        help="Search here for the products that are wanted, e.g. https://earth-search.aws.element84.com/v1; workers "
        "read them where their Items link them. Needs --since or --until, --within, or --tile.",
        rich_help_panel=_SEARCH,
    ),
]
Collections = Annotated[
    list[str] | None,
    typer.Option(
        "--collection",
        metavar="ID",
        help="Collection to search; may be given again. [default: sentinel-2-l2a, with --level L1C sentinel-2-l1c]",
        rich_help_panel=_SEARCH,
        show_default=False,
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="Remember in this file what was sent; the same command with it goes on where it was interrupted, and "
        "sends nothing twice.",
        dir_okay=False,
        rich_help_panel=_SENDING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Send nothing; print the names of the products that would be.", rich_help_panel=_SENDING
    ),
]


@takes_setting_flags(_FLAGS, FILTER_FLAGS)
def submit(
    products: Products = None,
    products_file: given.ProductsFile = None,
    stac_api: StacApi = None,
    collection: Collections = None,
    flags: SettingFlags = NO_FLAGS,
    state: State = None,
    dry_run: DryRun = False,
    as_json: given.AsJson = False,
) -> None:
    """Fill a queue with products for workers to mask: a list of them, or what a search in a STAC API finds.

    A message names one product, and where it is if that is known. Products are searched and sent in small batches, so
    hundreds of thousands take no more memory than a few. Each is sent once.

    Example: kappamask-stream submit --queue https://sqs.eu-central-1.amazonaws.com/1234/products S2A_MSIL2A_…
             kappamask-stream submit --products-file archive.txt --state archive.sent
             kappamask-stream submit --stac-api https://earth-search.aws.element84.com/v1 --within estonia.geojson
                 --since 2026-05-01 --until 2026-08-31 --cloud-below 60 --state summer.sent --dry-run
    """
    from kappamask_stream.cli.event_loop import run_command
    from kappamask_stream.cli.product_list import products_of
    from kappamask_stream.cli.submit_telling import SubmitTelling
    from kappamask_stream.feed.stac_search import StacSearch
    from kappamask_stream.settings import load_settings

    wanted, flags = split_filter(flags)
    listed: list[str] = []
    if products or products_file is not None or stac_api is None:
        listed = products_of(products or (), products_file)
    refs = [_ref(where) for where in listed]
    search = None
    if stac_api is not None:
        collections = tuple(collection or (_COLLECTIONS[wanted.level or _EVERY_LEVEL],))
        search = StacSearch.of_filter(stac_api, collections, wanted)
    elif collection:
        raise UsageError("--collection is for a search: give --stac-api URL, too")
    telling = SubmitTelling(as_json=as_json, is_dry=dry_run)
    order = _Order(
        refs=refs, search=search, wanted=wanted, state=state, dry_run=dry_run, settings=load_settings(**flags)
    )
    run_command(_submit(order, telling))
    telling.finish()
    if telling.failed:
        code = QueueError.exit_code if telling.refused else _NOTHING
        raise typer.Exit(_MIXED if telling.done else code)


@dataclass(frozen=True, kw_only=True)
class _Order:
    """What is asked for: see `submit`."""

    refs: Sequence[ProductRef]
    search: StacSearch | None
    wanted: FeedFilter
    state: Path | None
    dry_run: bool
    settings: Settings


async def _submit(order: _Order, telling: SubmitTelling) -> None:
    from kappamask_stream.feed.backfill import submit as fill
    from kappamask_stream.feed.sent import SentProducts
    from kappamask_stream.queues import QueueClients, SqsQueue, queue_options, queue_url

    url = queue_url(order.settings)
    async with AsyncExitStack() as stack:
        clients = QueueClients(queue_options(order.settings), on_retry=telling.retried)
        queue = SqsQueue(url, await stack.enter_async_context(clients))
        sent = await stack.enter_async_context(SentProducts(order.state, url, keep=not order.dry_run))
        pages = await stack.enter_async_context(aclosing(_pages(order, telling)))
        await fill(pages, None if order.dry_run else queue, wanted=order.wanted, sent=sent, tell=telling.tell)


async def _pages(order: _Order, telling: SubmitTelling) -> AsyncGenerator[Sequence[ProductRef]]:
    """Yield what was listed, then what the search finds."""
    if order.refs:
        yield order.refs
    if order.search is None:
        return
    patience = order.settings.s3_options.patience
    async with aclosing(order.search.pages(patience, telling.retried)) as pages:
        async for page in pages:
            for reason in page.unread:
                telling.unread(reason)
            yield page.refs


def _ref(where: str) -> ProductRef:
    """Read what a command line names."""
    from kappamask_stream.feed import ProductRef
    from kappamask_stream.feed.naming import product_at
    from kappamask_stream.sources.hrefs import shown_url

    name, is_address = product_at(where), "://" in where
    if name is None:
        raise UsageError(
            f"{shown_url(where)[:200]!r} ends with no product's name, and a message must have it: give the name, the "
            "address of a SAFE directory, a zip or an Item that ends with it, or search with --stac-api"
        )
    if is_address and _WEB.fullmatch(where) is None:
        raise UsageError(f"{shown_url(where)[:200]!r}: s3://, https:// or a name is expected")
    return ProductRef(name=name, kind="name", location=where if is_address else None)
