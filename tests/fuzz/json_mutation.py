"""Mutation of JSON by its structure: most changes of bytes only make it unreadable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 256, 65536, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, "", " ", "0", "..",
    "../a", "a\nb", "\ud800", "\u202e", "a" * 300, [], {}, [[]], [None], {"": None}, float("inf"), float("nan"),
)  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return JSON with a few places replaced, doubled, removed or swapped; what is no JSON comes back as it is."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.randint(1, 3)):
        places = _places(document)
        if not places:
            return json.dumps(rng.choice(_STRANGE)).encode()
        holder, key = rng.choice(places)
        _change(holder, key, places, rng)
    try:
        return json.dumps(document).encode()
    except (ValueError, RecursionError):
        return data


def _change(holder: Any, key: Any, places: list[tuple[Any, Any]], rng: random.Random) -> None:
    act = rng.randrange(6)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif act == 2 and isinstance(holder, dict):
        other, name = rng.choice(places)
        holder[str(name)] = _copy(other[name])
    elif act == 3:
        other, name = rng.choice(places)
        holder[key] = _copy(other[name])
    elif act == 4 and isinstance(holder[key], str):
        text = holder[key]
        at = rng.randint(0, len(text))
        holder[key] = text[:at] + rng.choice(("/", "..", "%2F", "\n", "é", "0", ":", "?", "@", "\0", text)) + text[at:]
    else:
        holder[key] = _copy(rng.choice(_STRANGE))


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Return every place that holds a value: a list or object, and the index or name in it."""
    found: list[tuple[Any, Any]] = []
    pending = [document]
    while pending and len(found) < 5000:
        holder = pending.pop()
        keys = range(len(holder)) if isinstance(holder, list) else list(holder) if isinstance(holder, dict) else ()
        found += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys]
    return found


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))
