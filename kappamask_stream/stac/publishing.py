"""Writes the catalogue around masks: the Collection and the models' Items."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kappamask_stream.destinations import OutputFile
from kappamask_stream.errors import OutputError
from kappamask_stream.stac.collection import COLLECTION_FILE, ItemEntry, collection, merged
from kappamask_stream.stac.model import model_file, model_item
from kappamask_stream.stac.vocabulary import GEOJSON, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    entries = [_entry(root, path, data) for path, data in sorted((items or {}).items())]
    wanted = {model_file(contract): encode(model_item(contract)) for contract in contracts}
    there = await _present(root, [*wanted, COLLECTION_FILE])
    # Last: it points to the others.
    wanted[COLLECTION_FILE] = _grown(root, there.get(COLLECTION_FILE), collection(contracts, entries))
    files = [
        OutputFile(name=name, content=[data], media_type="application/json" if name == COLLECTION_FILE else GEOJSON)
        for name, data in wanted.items()
        if there.get(name) != data
    ]
    if files:
        await root.prepare([file.name for file in files])
        await root.publish(files)
    return [file.name for file in files]


async def _present(root: Destination, names: Sequence[str]) -> dict[str, bytes]:
    missing = set(await root.missing(names))
    return {name: await root.read(name) for name in names if name not in missing}


def _entry(root: Destination, path: str, data: bytes) -> ItemEntry:
    try:
        return ItemEntry.of(json.loads(data), f"./{path}")
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{root.href(path)} is no STAC Item of a mask ({error!r}): remove it and run the product again"
        ) from error


def _grown(root: Destination, known: bytes | None, document: dict[str, Any]) -> bytes:
    if known is None:
        return encode(document)
    try:
        return encode(merged(json.loads(known), document))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{root.href(COLLECTION_FILE)} is no Collection of cloud masks of ours ({error!r}): remove it, or give "
            "another --output"
        ) from error
