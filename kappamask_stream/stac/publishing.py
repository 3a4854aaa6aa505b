"""Writes the catalogue around masks: the Collection and the models' Items."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kappamask_stream.destinations import OutputFile
from kappamask_stream.errors import OutputError
from kappamask_stream.stac.collection import COLLECTION_FILE, ItemEntry, collection, merged, without
from kappamask_stream.stac.model import model_file, model_item
from kappamask_stream.stac.vocabulary import GEOJSON, encode
from kappamask_stream.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from kappamask_stream.contract import ModelContract
    from kappamask_stream.destinations import Destination


async def publish_catalogue(
    root: Destination, contracts: Sequence[ModelContract], items: Mapping[str, bytes] | None = None
) -> list[str]:
    """Write ``collection.json`` and the models' Items; once at the end of a run, however many products it had.

    What is there is kept and grown; where nothing is new, nothing is written. Two runs that end in the same folder
    at the same moment may lose links of one of them: the next run of either brings them back, as the Items of
    skipped products are given too. Workers, of which many run at once, give no Items.

    Parameters
    ----------
    root : the folder that the products' folders lie in, ``Destination`` of a directory or of an object store.
    contracts : of the models that were used, at least one.
    items : path of each Item relative to `root` (``<product>/<stem>.json``) -> its bytes.

    Returns
    -------
    The names of the files that were written.

    Raises
    ------
    OutputError
        If a file cannot be read or written, or what is there is not ours.
    ContractError
        If a model's name cannot be part of a file name.
    """
    entries = [item_entry(root.href(path), path, data) for path, data in sorted((items or {}).items())]
    written, _ = await _write(root, contracts, entries, gone=())
    return written


async def write_catalogue(
    root: Destination, contracts: Sequence[ModelContract], entries: Sequence[ItemEntry], *, gone: Collection[str]
) -> frozenset[str]:
    """Do what `publish_catalogue` does with Items that were read, and drop links to those that are no more.

    The extents and summaries of the Collection stay as large as they were.

    Parameters
    ----------
    gone : paths of Items relative to `root`.

    Returns
    -------
    Paths of all Items that the Collection links.
    """
    _, document = await _write(root, contracts, entries, gone=gone)
    return await in_thread(None, _linked, document)


async def checked_collection(root: Destination) -> frozenset[str]:
    """Return the paths of all Items, relative to `root`, that its Collection links; none where there is none.

    Raises
    ------
    OutputError
        If it cannot be read, or is not ours.
    """
    known = (await _present(root, [COLLECTION_FILE])).get(COLLECTION_FILE)
    if known is None:
        return frozenset()
    whole = await in_thread(None, _grown, root.href(COLLECTION_FILE), known, collection([]), ())
    return await in_thread(None, _linked, whole)


async def _write(
    root: Destination, contracts: Sequence[ModelContract], entries: Sequence[ItemEntry], *, gone: Collection[str]
) -> tuple[list[str], bytes]:
    """Return the names of the files that were written, and the Collection as it is now."""
    wanted = {model_file(contract): encode(model_item(contract)) for contract in contracts}
    there = await _present(root, [*wanted, COLLECTION_FILE])
    # In a thread: of thousands of Items it takes long enough to hold up everything else.
    document = await in_thread(None, collection, contracts, entries)
    known = there.get(COLLECTION_FILE)
    # Last: it points to the others.
    wanted[COLLECTION_FILE] = await in_thread(None, _grown, root.href(COLLECTION_FILE), known, document, gone)
    files = [
        OutputFile(name=name, content=[data], media_type="application/json" if name == COLLECTION_FILE else GEOJSON)
        for name, data in wanted.items()
        if there.get(name) != data
    ]
    if files:
        await root.prepare([file.name for file in files])
        await root.tidy([file.name for file in files])
        await root.publish(files)
    return [file.name for file in files], wanted[COLLECTION_FILE]


async def _present(root: Destination, names: Sequence[str]) -> dict[str, bytes]:
    missing = set(await root.missing(names))
    return {name: await root.read(name) for name in names if name not in missing}


def item_entry(href: str, path: str, data: bytes) -> ItemEntry:
    """Read an Item of ours.

    Parameters
    ----------
    href : where it was read, for messages.
    path : relative to the Collection.

    Raises
    ------
    OutputError
        If it is none.
    """
    try:
        return ItemEntry.of(json.loads(data), f"./{path}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise OutputError(
            f"{href} is no STAC Item of a mask ({ascii(error)[:200]}): remove it and run the product again"
        ) from error


def _grown(href: str, known: bytes | None, document: dict[str, Any], gone: Collection[str]) -> bytes:
    if known is None:
        return encode(document)
    try:
        grown = merged(json.loads(known), document)
        return encode(without(grown, {f"./{path}" for path in gone}) if gone else grown)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise OutputError(
            f"{href} is no Collection of cloud masks of ours ({ascii(error)[:200]}): remove it, or give another "
            "--output"
        ) from error


def _linked(document: bytes) -> frozenset[str]:
    links = json.loads(document)["links"]
    return frozenset(link["href"].removeprefix("./") for link in links if link["rel"] == "item")
