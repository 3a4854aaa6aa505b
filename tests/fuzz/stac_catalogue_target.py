"""Items and the Collection that lie in an output folder, where others may write: `kappamask_stream.stac.publishing`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kappamask_stream.errors import OutputError
from kappamask_stream.stac.collection import collection
from kappamask_stream.stac.publishing import _grown, _linked, item_entry
from tests.fuzz.json_mutation import mutated

if TYPE_CHECKING:
    import random

_ITEM = {
    "type": "Feature", "id": "L2A_T29UNU_20221005T115411_KZ_10m", "bbox": [-9.0, 52.2, -7.4, 53.3],
    "properties": {
        "datetime": "2022-10-05T11:54:11Z", "platform": "sentinel-2a", "gsd": 10, "processing:level": "L2A",
        "kappamask:model": "csmask_l2a", "eo:cloud_cover": 12.5,
    },
}  # fmt: skip
_EMPTY = collection([])

#: A Collection of ours has 100 bytes for each Item.
LONGEST = 1 << 16


def seeds() -> list[bytes]:
    """Return an Item, Collections with and without it, and some that are none."""
    entry = item_entry("item", "a/b.json", json.dumps(_ITEM).encode())
    documents = [_ITEM, _EMPTY, collection([], [entry]), {}, [], {**_ITEM, "bbox": [10**400] * 4}]
    return [*(json.dumps(document).encode() for document in documents), b"[" * 100_000, b"9" * 5000]


def large() -> dict[str, bytes]:
    """Return a Collection of 10,000 Items, one whose links are of one Item, and Items of megabytes."""
    entry = item_entry("item", "a/b.json", json.dumps(_ITEM).encode())
    links = [{"rel": "item", "href": f"./{number}/a.json", "type": "application/geo+json"} for number in range(10_000)]
    whole = collection([], [entry])
    found = {
        "items": {**whole, "links": [*whole["links"], *links]},
        "one item": {**whole, "links": whole["links"] + links[:1] * 20_000},
        "properties": {
            **_ITEM,
            "properties": {**_ITEM["properties"], **{f"a{number}": 1 for number in range(100_000)}},
        },
        "a box": {**_ITEM, "bbox": [0.5] * 500_000},
    }
    texts = {what: json.dumps(document).encode() for what, document in found.items()}
    return texts | {"lists in lists": b"[" * 4_000_000, "a number": b'{"links": ' + b"9" * 4_000_000 + b"}"}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Replace something in the JSON."""
    return mutated(data, rng)


def one_input(data: bytes) -> None:
    """Read what is there as an Item, and as the Collection that is to grow."""
    new = []
    try:
        new.append(item_entry("item", "a/b.json", data))
    except OutputError as error:
        str(error).encode()
    try:
        whole = _grown("collection.json", data, collection([], new) if new else _EMPTY, {"gone.json"})
        known = _grown("collection.json", whole, _EMPTY, ())
    except OutputError as error:
        str(error).encode()
        return
    assert _linked(whole) == _linked(known)
