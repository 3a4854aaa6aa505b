"""Masks of a scene's older versions point to the newest one's.

Products of one scene are made anew, with a higher processing baseline or just again. Their masks lie side by side,
nothing is deleted, and the Items of all but the newest say that they are deprecated and which one to use instead.

Any number of workers finish versions of a scene in any order: each looks for all of them when its own Item is there,
and again after each write, until nothing is to be changed. So the last of two that finish at the same moment sees both,
and what is there in the end depends on the versions alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kappamask_stream.destinations import OutputFile
from kappamask_stream.destinations.sets import item_of, pause
from kappamask_stream.errors import OutputUnavailableError, ProductError
from kappamask_stream.names import parse_product_name, same_scene, version_order
from kappamask_stream.stac import deprecated_item
from kappamask_stream.stac.vocabulary import GEOJSON, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kappamask_stream.destinations import Destination
    from kappamask_stream.names import ProductName

#: Rounds after which it is given up: in each of them another worker has changed something.
_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The masks of one scene.

    Attributes
    ----------
    items : the Items by product, as they are now.
    newest : product whose mask is to be used.
    changed : products whose Items were changed.
    """

    items: Mapping[str, bytes] = field(repr=False)
    newest: str
    changed: frozenset[str] = frozenset()


async def supersede(root: Destination, own: ProductName, stem: str) -> Versions:
    """Have the Items of all but the newest version of a scene say so.

    Parameters
    ----------
    root : folder of the variant.
    own : product whose Item is there.
    stem : of the scene's masks.

    Raises
    ------
    OutputError
        If an Item cannot be read or written.
    OutputUnavailableError
        If others keep writing the same Items.
    """
    changed: set[str] = set()
    for attempt in range(_ROUNDS):
        if attempt > 1:  # the second round is to see that the first one holds
            await pause(attempt)
        items = await _items(root, own, stem)
        if own.text not in items:
            raise OutputUnavailableError(f"{root.href(_path(own.text, stem))} is gone again: try again later")
        newest = max(map(parse_product_name, items), key=version_order).text
        pending = _outdated(items, newest, stem)
        if not pending:
            return Versions(items=items, newest=newest, changed=frozenset(changed))
        for file in pending:
            product = file.name.partition("/")[0]
            if await root.replace(items[product], file):
                changed.add(product)
    raise OutputUnavailableError(
        f"{root.href(own.text)}: others write the Items of its versions at the same time: try again later"
    )


async def _items(root: Destination, own: ProductName, stem: str) -> dict[str, bytes]:
    """Return the Items of a scene's versions, by product, whose masks are finished."""
    candidates = [own.text]
    for folder in await root.folders(f"{own.satellite}_MSI{own.level}_{own.sensing_time}_"):
        try:
            name = parse_product_name(folder)
        except ProductError:
            continue
        if name.text == folder and folder != own.text and same_scene(name, own):
            candidates.append(folder)
    missing = set(await root.missing([_path(product, stem) for product in candidates]))
    there = {product: path for product in candidates if (path := _path(product, stem)) not in missing}
    read = {product: await root.read(path) for product, path in there.items()}
    # Whoever masks a product next whose Item is none makes it anew.
    return {product: data for product, data in read.items() if item_of(data, product) is not None}


def _outdated(items: Mapping[str, bytes], newest: str, stem: str) -> list[OutputFile]:
    """Return the Items, as they are to be, that do not say yet that there is a newer one."""
    files: list[OutputFile] = []
    for product, data in items.items():
        if product == newest:
            continue
        item = deprecated_item(json.loads(data), href=f"../{_path(newest, stem)}", title=newest)
        wanted = encode(item)
        if wanted != data:
            metadata = {"fingerprint": str(item["properties"].get("kappamask:fingerprint", ""))}
            file = OutputFile(name=_path(product, stem), content=[wanted], media_type=GEOJSON, metadata=metadata)
            files.append(file)
    return files


def _path(product: str, stem: str) -> str:
    """Return where an Item is, relative to the variant's folder."""
    return f"{product}/{stem}.json"
